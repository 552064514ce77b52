//! Each op alone: by shape, type of weights, number of rows and backend.
//!
//! A model of one type of weights is made with as many layers as make it larger than any cache, and the op under test runs
//! in one layer after the other, so that no run finds its weights where the last one left them. What it writes is held
//! against the twin first.

use super::Error;
use super::clock::measure;
use super::preset::Preset;
use super::stats::Summary;
use super::synth::SynthWeights;
use crate::backend::{Backend, GraphId};
use crate::compare::metric::Difference;
use crate::compare::{Random, ops};
use crate::engine::{self, BackendChoice, Device, Settings};
use crate::model::Role;
use crate::plan::{Decoder, OpKind, Plan, RopeTable, Row, Rows};
use crate::quant::TensorType;
use serde::Serialize;
use std::sync::Arc;

/// A model whose ops are measured.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// The name in reports.
    pub name: &'static str,
    /// Sizes; layers and types are chosen here.
    pub preset: Preset,
}

/// What is run on one model.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rows: 1 is decode, more a batch or a tile of a prompt.
    pub rows: usize,
    /// Positions that attention sees.
    pub depth: usize,
    /// Bytes of weights that all layers together have at least.
    pub at_least: u64,
    /// Warm-up runs, counted runs, and the seconds to go on for.
    pub runs: (usize, usize, f64),
}

impl Default for Options {
    fn default() -> Self {
        Self { rows: 1, depth: 512, at_least: 256 << 20, runs: (3, 20, 0.3) }
    }
}

/// An op measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelResult {
    /// The backend.
    pub backend: String,
    /// The op.
    pub op: &'static str,
    /// Type of its weights.
    pub tensor_type: &'static str,
    /// The shape's name.
    pub shape: &'static str,
    /// Rows.
    pub rows: usize,
    /// Bytes of weights and cache read by one run.
    pub bytes: u64,
    /// Operations of one run.
    pub flops: u64,
    /// Median of one run in microseconds.
    pub us: f64,
    /// Fastest run.
    pub us_min: f64,
    /// Runs counted.
    pub runs: usize,
    /// Bytes over the median, in GB/s.
    pub gb_per_s: f64,
    /// Operations over the median, in 10^9 per second.
    pub gflops: f64,
    /// `gb_per_s` as a percentage of what the device was seen to read, where that is known.
    pub bandwidth_percent: Option<f64>,
    /// NMSE from the twin.
    pub nmse: f64,
}

/// The shapes: one whose rows super-blocks divide, one whose rows they do not.
pub fn shapes() -> Vec<Shape> {
    let of = |name: &'static str, preset: &str| Some(Shape { name, preset: Preset::find(preset)? });
    [of("1.5B", "qwen2.5-1.5b"), of("0.5B", "qwen2.5-0.5b")].into_iter().flatten().collect()
}

/// The types that rows of a shape can have.
pub fn types(shape: &Shape) -> Vec<TensorType> {
    let fits = |t: &TensorType| {
        t.is_weight_type()
            && t.row_bytes(shape.preset.hidden_size).is_some()
            && t.row_bytes(shape.preset.intermediate_size).is_some()
    };
    TensorType::ALL.iter().copied().filter(fits).collect()
}

/// A model of one type of weights on a backend, ready to run its ops.
pub struct Bench {
    device: Device,
    twin: Device,
    plan: Plan,
    graph: GraphId,
    twin_graph: GraphId,
    rows: Vec<Row>,
    shape: Shape,
    tensor_type: TensorType,
    options: Options,
}

impl Bench {
    /// Sets the model up.
    ///
    /// # Errors
    /// A backend that is not there, or a model that does not fit.
    pub fn new(
        shape: Shape,
        tensor_type: TensorType,
        (choice, threads): (BackendChoice, Option<usize>),
        options: Options,
    ) -> Result<Self, Error> {
        let layer = Preset { num_layers: 1, vocab_size: 32, ..shape.preset };
        let layer_bytes: u64 =
            decoder(&layer, tensor_type)?.weights().iter().map(|weight| weight.bytes()).sum();
        let num_layers = options.at_least.div_ceil(layer_bytes.max(1)).clamp(2, 256) as usize;
        let vocab_size = shape.preset.vocab_size.min(32_768);
        let preset = Preset { num_layers, vocab_size, context_length: 1 << 20, ..shape.preset };
        let decoder = decoder(&preset, tensor_type)?;
        let context = options.depth + options.rows;
        let settings = Settings {
            backend: choice,
            threads,
            context: Some(context),
            chunk: options.rows,
            ..Settings::default()
        };
        let source = Arc::new(SynthWeights::of(&decoder)?);
        let config = preset.config();
        let start = |settings: &Settings| {
            let rope = RopeTable::new(&config.rope, context);
            let parts = (rope, config.context_length);
            engine::start(decoder.clone(), source.clone(), parts, settings, &mut |_, _| {})
        };
        let (mut device, _) = start(&settings)?;
        let (mut twin, _) = start(&Settings { backend: BackendChoice::Twin, ..settings.clone() })?;
        let rows = Rows { rows: options.rows, logit_rows: options.rows, sample: true };
        let plan = decoder.plan(rows, settings.numerics);
        let (graph, twin_graph) = (device.graph(rows)?, twin.graph(rows)?);
        let row = |i: usize| Row {
            token: (i % vocab_size) as u32,
            slot: 0,
            position: (options.depth + i) as u32,
            logits: true,
        };
        let rows = (0..options.rows).map(row).collect();
        let mut bench = Self { device, twin, plan, graph, twin_graph, rows, shape, tensor_type, options };
        bench.fill()?;
        Ok(bench)
    }

    /// Puts random values into every buffer.
    fn fill(&mut self) -> Result<(), Error> {
        let mut random = Random::new(3);
        // The first run tells the backend how many rows there are.
        self.device.backend_mut().run_steps(self.graph, &self.rows, 0..1)?;
        self.twin.backend_mut().run_steps(self.twin_graph, &self.rows, 0..1)?;
        for (id, buffer) in (0..).map(crate::plan::BufferId).zip(&self.plan.buffers) {
            let values = random.values(buffer.width * buffer.rows);
            self.device.backend_mut().set_buffer(self.graph, id, &values)?;
            self.twin.backend_mut().set_buffer(self.twin_graph, id, &values)?;
        }
        Ok(())
    }

    /// Ops that the plan has, without `Sample`, whose cost is the host's on some backends.
    pub fn ops(&self) -> Vec<OpKind> {
        let has = |op: &OpKind| *op != OpKind::Sample && self.steps(*op).next().is_some();
        OpKind::ALL.into_iter().filter(has).collect()
    }

    fn steps(&self, op: OpKind) -> impl Iterator<Item = usize> + '_ {
        let steps = self.plan.steps.iter().enumerate();
        steps.filter(move |(_, step)| step.op.kind() == op).map(|(index, _)| index)
    }

    /// The backend's name and one line about the device.
    pub fn describe(&self) -> (&'static str, String) {
        self.device.describe()
    }

    /// Runs the op once in its `run`-th layer, and waits for it.
    ///
    /// # Errors
    /// A backend that fails.
    pub fn run(&mut self, op: OpKind, run: usize) -> Result<(), Error> {
        let steps: Vec<usize> = self.steps(op).collect();
        let Some(&step) = steps.get(run % steps.len().max(1)) else { return Ok(()) };
        Ok(self.device.backend_mut().run_steps(self.graph, &self.rows, step..step + 1)?)
    }

    /// NMSE of what the op writes in the first layer, from the twin.
    ///
    /// # Errors
    /// [`Error::WrongResult`] above the op's limit.
    pub fn check(&mut self, op: OpKind) -> Result<f64, Error> {
        let Some(index) = self.steps(op).next() else { return Ok(0.0) };
        let Some(step) = self.plan.steps.get(index).cloned() else { return Ok(0.0) };
        self.fill()?;
        let run = |backend: &mut dyn Backend, graph: GraphId| -> Result<Vec<f32>, Error> {
            backend.run_steps(graph, &self.rows, index..index + 1)?;
            let mut written = Vec::new();
            for &id in &step.writes {
                written.extend(backend.buffer(graph, id)?);
            }
            Ok(written)
        };
        let found = run(self.device.backend_mut(), self.graph)?;
        let truth = run(self.twin.backend_mut(), self.twin_graph)?;
        let nmse = Difference::of(&found, &truth).nmse;
        let limit = ops::limit(op, self.plan.numerics.activations);
        if nmse > limit {
            let (name, tensor_type) = (op.name(), self.tensor_type);
            return Err(Error::WrongResult(format!(
                "{name}, {tensor_type}, {}: NMSE {nmse:.1e} from the twin, the limit is {limit:.0e}",
                self.shape.name
            )));
        }
        Ok(nmse)
    }

    /// Measures an op.
    ///
    /// # Errors
    /// See [`Self::check`].
    pub fn measure(&mut self, op: OpKind) -> Result<KernelResult, Error> {
        let nmse = self.check(op)?;
        let runs = self.options.runs;
        let samples = measure(runs, |run| {
            // Residuals would grow without end.
            if run % 64 == 63 {
                self.fill()?;
            }
            self.run(op, run)
        })?;
        let summary = Summary::of(&samples);
        let cost = self.steps(op).next().and_then(|index| self.plan.steps.get(index)).map(|step| step.cost);
        let cost = cost.unwrap_or_default();
        let seen = (self.options.depth + 1) as u64;
        // Rows of one sequence share what they read of the cache.
        let bytes = cost.weight_bytes + cost.kv_bytes_per_position * seen / self.options.rows.max(1) as u64;
        let flops = cost.flops + cost.flops_per_position * seen;
        Ok(KernelResult {
            backend: self.describe().0.to_owned(),
            op: op.name(),
            tensor_type: self.tensor_type.name(),
            shape: self.shape.name,
            rows: self.options.rows,
            bytes,
            flops,
            us: summary.median / 1e3,
            us_min: summary.min / 1e3,
            runs: samples.len(),
            gb_per_s: bytes as f64 / summary.median.max(1.0),
            gflops: flops as f64 / summary.median.max(1.0),
            bandwidth_percent: None,
            nmse,
        })
    }
}

/// The preset's decoder with all matrices of one type.
fn decoder(preset: &Preset, tensor_type: TensorType) -> Result<Decoder, Error> {
    let lookup = |role: Role, layer: Option<usize>| {
        let weight = preset.weight(role, layer)?;
        let tensor_type = if weight.is_vector() { TensorType::F32 } else { tensor_type };
        Some(crate::plan::Weight { tensor_type, ..weight })
    };
    Ok(Decoder::new(&preset.config(), &lookup)?)
}
