//! One measurement as a record: llama-bench's field names where it has them, so that its readers read ours.

use super::Error;
use super::check::{Oracle, check};
use super::environment::{Environment, now};
use super::stats::Summary;
use super::subject::Subject;
use super::workload::{Measured, Test, Workload};
use crate::compare::metric::quantile;
use crate::engine::{Device, Settings};
use crate::plan::{Plan, Rows};
use serde::{Deserialize, Serialize};

/// A measurement with everything that is needed to repeat it. All figures are of one run of `reps` repetitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    /// See [`Environment::build_commit`].
    pub build_commit: String,
    /// Version of the package.
    pub version: String,
    /// The CPU.
    pub cpu_info: String,
    /// The GPU with its driver, empty without one.
    pub gpu_info: String,
    /// The backend that ran.
    pub backends: String,
    /// The device and its paths, in the backend's words.
    pub device: String,
    /// The file, or the preset's name.
    pub model_filename: String,
    /// Family and size.
    pub model_type: String,
    /// Bytes of weights.
    pub model_size: u64,
    /// Number of weights.
    pub model_n_params: u64,
    /// CRC-32 of the file.
    pub file_hash: Option<String>,
    /// Largest prompt that could be given at once: the context.
    pub n_batch: usize,
    /// Tokens of a prompt that run together.
    pub n_ubatch: usize,
    /// CPU threads.
    pub n_threads: usize,
    /// Type of the keys.
    pub type_k: String,
    /// Type of the values.
    pub type_v: String,
    /// Kind of activations.
    pub activations: String,
    /// Tokens of the prompt; 0 in a decode test.
    pub n_prompt: usize,
    /// Tokens generated; 0 in a prefill test.
    pub n_gen: usize,
    /// Positions in the cache before.
    pub n_depth: usize,
    /// Sequences side by side.
    pub n_sequences: usize,
    /// When the test began.
    pub test_time: String,
    /// Mean of the repetitions in nanoseconds.
    pub avg_ns: f64,
    /// Their standard deviation.
    pub stddev_ns: f64,
    /// Mean of the repetitions in tokens per second.
    pub avg_ts: f64,
    /// Their standard deviation.
    pub stddev_ts: f64,
    /// Each repetition in nanoseconds.
    pub samples_ns: Vec<u64>,
    /// Each repetition in tokens per second.
    pub samples_ts: Vec<f64>,
    /// Median of the repetitions in tokens per second.
    pub median_ts: f64,
    /// Median time of a step (of all sequences) in microseconds; of a token in a prefill test.
    pub us_per_token: f64,
    /// The 95th percentile of the same.
    pub us_per_token_p95: f64,
    /// Milliseconds to the first token of the prompt, or of the depth before decode.
    pub ttft_ms: Option<f64>,
    /// Bytes of weights and cache that a step reads.
    pub bytes_per_step: u64,
    /// `bytes_per_step` over the median step; for a prefill test over a tile.
    pub gb_per_s: f64,
    /// Multiplications and additions, in 10^9 per second.
    pub gflops: f64,
    /// Read bandwidth of the device, measured or stated, in GB/s.
    pub bandwidth_gb_per_s: Option<f64>,
    /// `gb_per_s` as a percentage of it.
    pub bandwidth_percent: Option<f64>,
    /// Phases, kernels or dispatches per step.
    pub launches_per_token: f64,
    /// Graph launches, submits or task lists per step.
    pub submits_per_token: f64,
    /// CRC-32 of the tokens.
    pub checksum: String,
    /// What the result was held against.
    pub checked: String,
    /// See [`Environment::load_average`].
    pub load_average: Vec<f64>,
    /// Kernel release.
    pub kernel: String,
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Repetitions after one that does not count.
    pub reps: usize,
    /// What results are held against.
    pub oracle: Oracle,
    /// Read bandwidth of the device in GB/s, where known.
    pub bandwidth: Option<f64>,
}

impl Record {
    /// Measures a workload.
    ///
    /// # Errors
    /// A device that cannot be set up; [`Error::WrongResult`].
    pub fn measure(
        subject: &Subject,
        settings: &Settings,
        workload: &Workload,
        options: &Options,
    ) -> Result<Self, Error> {
        let (test_time, environment) = (now(), Environment::probe());
        let context = settings.context.unwrap_or_else(|| workload.context()).max(workload.context());
        let settings = Settings { context: Some(context), slots: workload.batch(), ..settings.clone() };
        let (mut device, _) = subject.start(&settings)?;
        let checked = check(subject, &mut device, &settings, options.oracle)?;
        let measured = workload.run(&mut device, options.reps)?;
        Ok(Self::new(subject, &device, &settings, workload, &measured).finish(
            environment,
            test_time,
            checked,
            options.bandwidth,
        ))
    }

    fn new(
        subject: &Subject,
        device: &Device,
        settings: &Settings,
        workload: &Workload,
        measured: &Measured,
    ) -> Self {
        let tokens = workload.tokens() as f64;
        let ns: Vec<f64> = measured.samples_ns.iter().map(|&ns| ns as f64).collect();
        let ts: Vec<f64> = ns.iter().map(|ns| tokens * 1e9 / ns.max(1.0)).collect();
        let (ns, rate) = (Summary::of(&ns), Summary::of(&ts));
        // Time of one token of a prompt, or of one step of decode.
        let per_step: Vec<f64> = match workload.test {
            Test::Prefill { .. } => ts.iter().map(|ts| 1e6 / ts).collect(),
            Test::Decode { .. } => {
                measured.submit_ns.iter().map(|&(ns, times)| ns as f64 / 1e3 / times.max(1) as f64).collect()
            }
        };
        let median_us = quantile(&per_step, 0.5);
        let cost = cost(device, workload);
        let steps = match workload.test {
            Test::Prefill { n } => n,
            Test::Decode { n, .. } => n,
        };
        let numerics = device.numerics();
        let kv = numerics.kv.name();
        let (backend, description) = device.describe();
        let (n_prompt, n_gen) = match workload.test {
            Test::Prefill { n } => (n, 0),
            Test::Decode { n, .. } => (0, n),
        };
        // The CPU's own name is in `cpu_info`; what any other backend says of itself names the device and its driver.
        let gpu_info = if matches!(backend, "cpu" | "twin") { String::new() } else { description.clone() };
        let path = subject.path.as_ref().map(|path| path.display().to_string());
        Self {
            backends: backend.to_owned(),
            gpu_info,
            device: description,
            model_filename: path.unwrap_or_else(|| subject.name.clone()),
            model_type: subject.model_type.clone(),
            model_size: subject.model_size,
            model_n_params: subject.parameters,
            file_hash: subject.file_hash.clone(),
            n_batch: device.context(),
            n_ubatch: device.chunk(),
            n_threads: settings.threads.unwrap_or_else(crate::backend::cpu::physical_cores),
            type_k: kv.to_owned(),
            type_v: kv.to_owned(),
            activations: numerics.activations.name().to_owned(),
            n_prompt,
            n_gen,
            n_depth: workload.depth,
            n_sequences: workload.batch(),
            avg_ns: ns.mean,
            stddev_ns: ns.stddev,
            avg_ts: rate.mean,
            stddev_ts: rate.stddev,
            samples_ns: measured.samples_ns.clone(),
            samples_ts: ts,
            median_ts: rate.median,
            us_per_token: median_us,
            us_per_token_p95: quantile(&per_step, 0.95),
            ttft_ms: measured.first_token_ns.map(|ns| ns as f64 / 1e6),
            bytes_per_step: cost.bytes,
            gb_per_s: cost.bytes as f64 / (median_us * 1e3 * cost.tokens).max(1.0),
            gflops: cost.flops as f64 / (median_us * 1e3 * cost.tokens).max(1.0),
            launches_per_token: measured.counters.launches as f64 / steps as f64,
            submits_per_token: measured.counters.submits as f64 / steps as f64,
            checksum: format!("crc32:{:08x}", measured.checksum),
            ..Self::default()
        }
    }

    fn finish(
        self,
        environment: Environment,
        test_time: String,
        checked: String,
        bandwidth: Option<f64>,
    ) -> Self {
        Self {
            build_commit: environment.build_commit,
            version: environment.version,
            cpu_info: environment.cpu_info,
            load_average: environment.load_average,
            kernel: environment.kernel,
            test_time,
            checked,
            ..match bandwidth {
                Some(ceiling) => self.with_bandwidth(ceiling),
                None => self,
            }
        }
    }

    /// The same with the device's read bandwidth in GB/s.
    pub fn with_bandwidth(self, ceiling: f64) -> Self {
        let percent = 100.0 * self.gb_per_s / ceiling;
        Self { bandwidth_gb_per_s: Some(ceiling), bandwidth_percent: Some(percent), ..self }
    }

    /// The test as llama-bench writes it: `pp512`, `tg128 @ d1024`; several sequences as `tg128 x8`.
    pub fn test(&self) -> String {
        let batch = if self.n_sequences > 1 { format!(" x{}", self.n_sequences) } else { String::new() };
        let depth = if self.n_depth > 0 { format!(" @ d{}", self.n_depth) } else { String::new() };
        match (self.n_prompt, self.n_gen) {
            (0, n) => format!("tg{n}{batch}{depth}"),
            (n, _) => format!("pp{n}{depth}"),
        }
    }

    /// Half the distance between the fastest and the slowest repetition, over the median.
    pub fn spread(&self) -> f64 {
        Summary::of(&self.samples_ts).spread()
    }
}

/// What a timed unit moves and computes: one step of decode, or one full tile of prefill.
struct UnitCost {
    bytes: u64,
    flops: u64,
    /// Tokens that `us_per_token` has to be multiplied with.
    tokens: f64,
}

fn cost(device: &Device, workload: &Workload) -> UnitCost {
    let (rows, logit_rows, tokens) = match workload.test {
        Test::Prefill { n } => (n.min(device.chunk()), 1, n.min(device.chunk()) as f64),
        Test::Decode { batch, .. } => (batch, batch, 1.0),
    };
    let plan = device.decoder().plan(Rows { rows, logit_rows, sample: true }, device.numerics());
    // Positions that the average token sees, itself included.
    let seen = workload.depth + workload.tokens() / workload.batch().max(1) / 2 + 1;
    let seen = plan.shape.sliding_window.map_or(seen, |window| seen.min(window)) as u64;
    let (bytes, flops) = bytes_and_flops(&plan, seen);
    UnitCost { bytes, flops, tokens }
}

/// Bytes of weights and cache that a run of the plan reads, and its operations, with `seen` positions per row. The rows of
/// a prompt share what they read of the cache; sequences do not.
pub fn bytes_and_flops(plan: &Plan, seen: u64) -> (u64, u64) {
    let kv_rows = if plan.logit_rows == plan.rows { 1 } else { plan.rows.max(1) as u64 };
    plan.steps.iter().fold((0, 0), |(bytes, flops), step| {
        let c = step.cost;
        (
            bytes + c.weight_bytes + c.kv_bytes_per_position * seen / kv_rows,
            flops + c.flops + c.flops_per_position * seen,
        )
    })
}
