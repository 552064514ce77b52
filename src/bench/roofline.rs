//! What bounds a token: bytes, operations and launches of each op, and what devices would make of them.
//!
//! A token takes `bytes / readable bandwidth + launches * gap`: with bandwidths from the makers' data sheets, the share of
//! them that anybody has read, and the gap between two dependent kernels, this fits what is published for batch 1.

use super::Error;
use super::clock::Clock;
use super::record::bytes_and_flops;
use crate::compare::metric::quantile;
use crate::compare::plot::{Axis, Chart, Series};
use crate::engine::Device;
use crate::plan::{OpKind, Plan, Row, Rows};
use serde::Serialize;

/// A device that can be bought.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Hardware {
    /// The maker's name.
    pub name: &'static str,
    /// Bandwidth in GB/s by the data sheet.
    pub gb_per_s: f64,
    /// The share of it that kernels have been seen to read.
    pub readable: f64,
    /// Memory in 10^9 bytes.
    pub memory_gb: f64,
    /// Dense int8 multiplications and additions, in 10^12 per second, by the data sheet.
    pub int8_tops: f64,
}

/// Devices by their data sheets.
pub const HARDWARE: [Hardware; 7] = [
    Hardware { name: "RTX 4090", gb_per_s: 1008.0, readable: 0.94, memory_gb: 24.0, int8_tops: 660.6 },
    Hardware { name: "L40S", gb_per_s: 864.0, readable: 0.94, memory_gb: 48.0, int8_tops: 733.0 },
    Hardware { name: "RTX 5090", gb_per_s: 1792.0, readable: 0.93, memory_gb: 32.0, int8_tops: 838.0 },
    Hardware { name: "H100", gb_per_s: 3350.0, readable: 0.90, memory_gb: 80.0, int8_tops: 1979.0 },
    Hardware { name: "H200", gb_per_s: 4800.0, readable: 0.90, memory_gb: 141.0, int8_tops: 1979.0 },
    Hardware { name: "B200", gb_per_s: 8000.0, readable: 0.90, memory_gb: 180.0, int8_tops: 4500.0 },
    Hardware { name: "GB10", gb_per_s: 273.0, readable: 0.89, memory_gb: 128.0, int8_tops: 250.0 },
];

/// Microseconds between dependent kernels: launches of a captured graph; launches that overlap, or one kernel with
/// barriers that prefetches weights; the best that anybody claims.
pub const GAPS_US: [f64; 3] = [3.5, 1.5, 0.8];

impl Hardware {
    /// The device whose name contains `name`, whatever its case.
    pub fn find(name: &str) -> Option<Self> {
        let name = name.to_lowercase();
        HARDWARE.into_iter().find(|hardware| hardware.name.to_lowercase().contains(&name))
    }
}

/// What a device can do at most: what an op is bounded by depends on it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limits {
    /// The device.
    pub device: String,
    /// Readable bandwidth in GB/s.
    pub gb_per_s: f64,
    /// Operations in 10^9 per second.
    pub gflops: f64,
    /// Microseconds that a launch takes however little it does.
    pub launch_us: f64,
}

impl Limits {
    /// The data sheet's, with launches of the middle of [`GAPS_US`].
    pub fn of(hardware: Hardware) -> Self {
        Self {
            device: hardware.name.to_owned(),
            gb_per_s: hardware.gb_per_s * hardware.readable,
            gflops: hardware.int8_tops * 1e3,
            launch_us: GAPS_US[1],
        }
    }

    /// Whether reading, computing or launching takes longest of one launch.
    pub fn bound(&self, bytes: f64, flops: f64) -> &'static str {
        let memory = bytes / self.gb_per_s / 1e3;
        let compute = flops / self.gflops / 1e3;
        match memory.max(compute) {
            longest if longest < self.launch_us => "launch",
            longest if longest > memory => "compute",
            _ => "memory",
        }
    }
}

/// What a device would give.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Prediction {
    /// The device.
    pub hardware: Hardware,
    /// Tokens per second at the data sheet's bandwidth, with no time lost.
    pub ceiling: f64,
    /// Tokens per second at the readable bandwidth with each of [`GAPS_US`].
    pub predicted: [f64; 3],
    /// Whether weights, cache and buffers fit its memory.
    pub fits: bool,
}

/// The totals of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Totals {
    /// Steps, each one launch where a backend can.
    pub launches: usize,
    /// Bytes of weights and cache per step of decode.
    pub bytes: u64,
    /// Operations.
    pub flops: u64,
    /// Bytes of weights on the device.
    pub weights: u64,
    /// Bytes of the cache.
    pub cache: u64,
    /// Bytes of activation buffers.
    pub buffers: u64,
    /// Rows per step.
    pub rows: usize,
}

impl Totals {
    /// Of a decode plan whose rows each see `seen` positions, over a cache of `cache` bytes.
    pub fn of(plan: &Plan, seen: u64, cache: u64) -> Self {
        let (bytes, flops) = bytes_and_flops(plan, seen);
        let buffers = plan.buffers.iter().map(|buffer| 4 * (buffer.rows * buffer.width) as u64).sum();
        let weights = plan.weights.iter().map(|weight| weight.bytes()).sum();
        Self { launches: plan.steps.len(), bytes, flops, weights, cache, buffers, rows: plan.rows }
    }

    /// Memory needed on a device.
    pub fn memory(&self) -> u64 {
        self.weights + self.cache + self.buffers
    }

    /// What a device would give.
    pub fn predict(&self, hardware: Hardware) -> Prediction {
        let rows = self.rows as f64;
        let bytes = self.bytes as f64;
        let at = |gap: f64| {
            let memory_us = bytes / (hardware.gb_per_s * hardware.readable * 1e3);
            rows * 1e6 / (memory_us + self.launches as f64 * gap)
        };
        Prediction {
            hardware,
            ceiling: rows * hardware.gb_per_s * 1e9 / bytes.max(1.0),
            predicted: GAPS_US.map(at),
            fits: self.memory() as f64 <= hardware.memory_gb * 1e9,
        }
    }
}

/// One op over all layers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpLine {
    /// The op.
    pub op: &'static str,
    /// Steps of the plan.
    pub steps: usize,
    /// Bytes of weights and cache of all of them.
    pub bytes: u64,
    /// Operations of all of them.
    pub flops: u64,
    /// Operations per byte.
    pub intensity: f64,
    /// What takes longest on the device at hand: `memory`, `compute` or `launch`.
    pub bound: &'static str,
    /// Median microseconds of all of them, where measured.
    pub us: Option<f64>,
    /// Bytes over that time, in GB/s.
    pub gb_per_s: Option<f64>,
}

/// The plan's ops, summed over layers, and what bounds each; `times` in nanoseconds by step, if measured.
pub fn lines(plan: &Plan, seen: u64, limits: &Limits, times: Option<&[f64]>) -> Vec<OpLine> {
    let mut lines = Vec::new();
    for op in OpKind::ALL {
        let steps = plan.steps.iter().enumerate().filter(|(_, step)| step.op.kind() == op);
        let (mut count, mut bytes, mut flops, mut ns) = (0, 0, 0, 0.0);
        for (index, step) in steps {
            count += 1;
            bytes += step.cost.weight_bytes + step.cost.kv_bytes_per_position * seen;
            flops += step.cost.flops + step.cost.flops_per_position * seen;
            ns += times.and_then(|times| times.get(index)).copied().unwrap_or(0.0);
        }
        if count > 0 {
            let us = times.map(|_| ns / 1e3);
            let gb_per_s = us.filter(|us| *us > 0.0).map(|us| bytes as f64 / us / 1e3);
            let intensity = flops as f64 / bytes.max(1) as f64;
            let bound = limits.bound(bytes as f64 / count as f64, flops as f64 / count as f64);
            lines.push(OpLine { op: op.name(), steps: count, bytes, flops, intensity, bound, us, gb_per_s });
        }
    }
    lines
}

/// Runs a decode step of `batch` sequences at `depth`, each step of the plan alone; the median nanoseconds of each.
///
/// # Errors
/// A device that fails.
pub fn profile(device: &mut Device, batch: usize, depth: usize, reps: usize) -> Result<Vec<f64>, Error> {
    let rows = Rows { rows: batch, logit_rows: batch, sample: true };
    let steps = device.decoder().plan(rows, device.numerics()).steps.len();
    let graph = device.graph(rows)?;
    let backend = device.backend_mut();
    let row =
        |slot: usize| Row { token: slot as u32, slot: slot as u32, position: depth as u32, logits: true };
    let rows: Vec<Row> = (0..batch).map(row).collect();
    let mut samples = vec![Vec::new(); steps];
    for repetition in 0..=reps {
        for (step, samples) in samples.iter_mut().enumerate() {
            let mut clock = Clock::start();
            backend.run_steps(graph, &rows, step..step + 1)?;
            let ns = clock.lap();
            if repetition > 0 {
                samples.push(ns as f64);
            }
        }
        backend.sampled(graph)?;
    }
    Ok(samples.iter().map(|samples| quantile(samples, 0.5)).collect())
}

/// Rows that a device computes with when it is asked how fast it can.
const TILE: usize = 64;

/// What the device with this model on it can do: its read bandwidth, which is given; the operations per second of its best op
/// over a tile of a prompt; the time of the step that does least. Needs a context of 64 positions.
///
/// # Errors
/// A device that fails.
pub fn measured_limits(device: &mut Device, gb_per_s: f64, times: &[f64]) -> Result<Limits, Error> {
    let rows = Rows { rows: TILE, logit_rows: 1, sample: true };
    let plan = device.decoder().plan(rows, device.numerics());
    let graph = device.graph(rows)?;
    let backend = device.backend_mut();
    let row = |i: usize| Row { token: i as u32, slot: 0, position: i as u32, logits: i + 1 == TILE };
    let rows: Vec<Row> = (0..TILE).map(row).collect();
    let mut gflops = 1.0f64;
    for repetition in 0..3 {
        for (index, step) in plan.steps.iter().enumerate() {
            let mut clock = Clock::start();
            backend.run_steps(graph, &rows, index..index + 1)?;
            let ns = clock.lap().max(1) as f64;
            if repetition > 0 && step.layer.is_some() {
                gflops = gflops.max(step.cost.flops as f64 / ns);
            }
        }
        backend.sampled(graph)?;
    }
    let launch_us = times.iter().copied().fold(f64::INFINITY, f64::min) / 1e3;
    let (name, description) = device.describe();
    Ok(Limits { device: format!("{name}: {description}"), gb_per_s, gflops, launch_us })
}

/// Operations per byte against operations per second: the roofs of bandwidth and arithmetic, and each op under them.
pub fn svg(title: &str, lines: &[OpLine], limits: &Limits) -> String {
    let (gb_per_s, gflops) = (limits.gb_per_s, limits.gflops);
    let ridge = gflops / gb_per_s;
    let (low, high) = lines
        .iter()
        .filter(|line| line.intensity > 0.0)
        .fold((0.5, 16.0), |(low, high), line| (line.intensity.min(low), line.intensity.max(high)));
    let roof = |x: f64| (x, (x * gb_per_s).min(gflops));
    let mut series = vec![Series {
        name: format!("{gb_per_s:.0} GB/s, {gflops:.0} GFLOP/s"),
        line: true,
        points: vec![roof(low / 2.0), roof(ridge), roof((high * 2.0).max(ridge * 2.0))],
    }];
    for line in lines.iter().filter(|line| line.flops > 0) {
        let achieved = line.gb_per_s.map(|achieved| achieved * line.intensity);
        let name = match achieved {
            Some(_) => line.op.to_owned(),
            None => format!("{} (bound)", line.op),
        };
        let y = achieved.unwrap_or(roof(line.intensity).1);
        series.push(Series { name, line: false, points: vec![(line.intensity, y)] });
    }
    let axis = |label: &str| Axis { label: label.to_owned(), logarithmic: true };
    Chart { title: title.to_owned(), x: axis("operations per byte"), y: axis("GFLOP/s"), series }.svg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::preset::Preset;
    use crate::plan::{Activations, KvType, Numerics};

    /// The table that the project's targets come from: 1.5B on a 4090 has a ceiling of 1029 tokens/s at context 0, and the
    /// three gaps give 652, 801 and 871.
    #[test]
    fn predictions_match_the_table_of_targets() {
        let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
        let decoder = Preset::find("qwen2.5-1.5b").unwrap().decoder().unwrap();
        let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: true }, numerics);
        let totals = Totals::of(&plan, 0, 0);
        assert_eq!(totals.launches, 5 * 28 + 3);
        for (name, ceiling, predicted) in
            [("4090", 1029.0, [652.0, 801.0, 871.0]), ("h200", 4898.0, [1375.0, 2266.0, 2930.0])]
        {
            let found = totals.predict(Hardware::find(name).unwrap());
            assert!((found.ceiling - ceiling).abs() < 1.0, "{found:?}");
            for (found, expected) in found.predicted.iter().zip(predicted) {
                assert!((found / expected - 1.0).abs() < 0.01, "{name}: {found} for {expected}");
            }
            assert!(found.fits);
        }
    }

    #[test]
    fn what_bounds_a_launch_depends_on_its_size_and_its_rows() {
        let limits = Limits { device: String::new(), gb_per_s: 1000.0, gflops: 10_000.0, launch_us: 2.0 };
        // 1 MB takes a microsecond, 10 MB ten; 10^9 operations take a hundred.
        assert_eq!(limits.bound(1e6, 4e6), "launch");
        assert_eq!(limits.bound(1e7, 4e7), "memory");
        assert_eq!(limits.bound(1e7, 1e9), "compute");
        // A quarter of Qwen 1.5B's phases are too small for an H100, and none for a 4090.
        let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
        let decoder = Preset::find("qwen2.5-1.5b").unwrap().decoder().unwrap();
        let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: true }, numerics);
        let bounds = |name: &str| -> Vec<&str> {
            let limits = Limits::of(Hardware::find(name).unwrap());
            let lines = lines(&plan, 1, &limits, None);
            lines.iter().filter(|l| ["qkv_rope", "gate_up"].contains(&l.op)).map(|l| l.bound).collect()
        };
        assert_eq!((bounds("h100"), bounds("4090")), (vec!["launch", "memory"], vec!["memory", "memory"]));
    }
}
