//! Executes plans. One trait; the folders below are the only places that name a device's API.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(any(feature = "cuda", feature = "wgpu"))]
mod gpu;
#[cfg(any(feature = "cuda", test))]
mod preprocess;
#[cfg(test)]
mod preprocess_tests;
mod sampling;
#[cfg(feature = "wgpu")]
pub mod wgpu;

pub use sampling::Sampling;

use crate::plan::{BufferId, Plan, Row};
use std::ops::Range;

/// A graph that a backend has compiled from a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub u32);

impl GraphId {
    /// The graph's place among a backend's `graphs`.
    fn index(self, graphs: usize) -> Result<usize, Error> {
        let index = self.0 as usize;
        if index < graphs {
            return Ok(index);
        }
        Err(Error::Misuse(format!("graph {index} was never compiled")))
    }
}

/// What really ran: proof that a result came from this backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Phases, kernels or dispatches started.
    pub launches: u64,
    /// Graph launches, queue submits or task lists handed out.
    pub submits: u64,
    /// Rows processed.
    pub rows: u64,
    /// Bytes that went from the device to the host through mapped buffers.
    pub mapped_bytes: u64,
    /// CPU time spent to record and submit, in nanoseconds, where the backend measures it.
    pub host_nanoseconds: u64,
}

impl Counters {
    /// What has run since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            launches: self.launches - before.launches,
            submits: self.submits - before.submits,
            rows: self.rows - before.rows,
            mapped_bytes: self.mapped_bytes - before.mapped_bytes,
            host_nanoseconds: self.host_nanoseconds - before.host_nanoseconds,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            launches: self.launches + other.launches,
            submits: self.submits + other.submits,
            rows: self.rows + other.rows,
            mapped_bytes: self.mapped_bytes + other.mapped_bytes,
            host_nanoseconds: self.host_nanoseconds + other.host_nanoseconds,
        }
    }
}

/// How long one kernel took, by the device's own clock.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelTime {
    /// The kernel: its op and variant.
    pub kernel: String,
    /// The op that it belongs to.
    pub op: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// Time of all runs, in nanoseconds.
    pub nanoseconds: f64,
    /// Bytes of weights that all runs read.
    pub weight_bytes: u64,
}

/// Keys and values of one position, `[num_kv_heads, head_dim]` each.
pub type KeysAndValues = (Vec<f32>, Vec<f32>);

/// A device with a model on it: weights, KV cache, compiled graphs.
///
/// Weights and cache are set up by each backend's own constructor; from then on every backend is driven alike.
pub trait Backend: Send {
    /// The name that `--backend` takes.
    fn name(&self) -> &'static str;

    /// One line about the device: what it is, which paths it takes.
    fn describe(&self) -> String;

    /// Compiles a plan; the graph owns every buffer that it touches.
    fn compile(&mut self, plan: &Plan) -> Result<GraphId, Error>;

    /// Sets how the sequence in `slot` is sampled. `recent` is the text so far that penalties look at, oldest first.
    fn set_sampling(&mut self, slot: u32, sampling: &Sampling, recent: &[u32]) -> Result<(), Error>;

    /// Runs the graph over `rows` (at most the plan's): tokens enter the cache at their slots and positions, and the
    /// `Sample` step, where the plan has one, picks a token for each row with `logits`.
    fn run(&mut self, graph: GraphId, rows: &[Row]) -> Result<(), Error> {
        self.run_steps(graph, rows, 0..usize::MAX)
    }

    /// Runs only `steps` of the plan: with [`Self::buffer`] and [`Self::set_buffer`], the way to compare two backends
    /// step by step.
    fn run_steps(&mut self, graph: GraphId, rows: &[Row], steps: Range<usize>) -> Result<(), Error>;

    /// Runs the graph `times` more times, each row continued with the token it sampled, one position on: nothing passes
    /// between host and device in between. Needs a plan that ends in `Sample`.
    fn replay(&mut self, graph: GraphId, times: u32) -> Result<(), Error>;

    /// Takes the tokens sampled by the graph's passes since the last call: one `Vec` per pass, in the order of the rows
    /// that asked for logits.
    fn sampled(&mut self, graph: GraphId) -> Result<Vec<Vec<u32>>, Error>;

    /// Whether passes run while the host goes on, so that a caller gains by queueing several ahead of the one whose
    /// tokens it takes with [`Self::sampled_first`].
    fn runs_ahead(&self) -> bool {
        false
    }

    /// Takes tokens like [`Self::sampled`], but waits for no more than the passes that were queued first: those of one
    /// call of [`Self::run`] or [`Self::replay`], or of a part of it. Empty where nothing is queued.
    fn sampled_first(&mut self, graph: GraphId) -> Result<Vec<Vec<u32>>, Error> {
        self.sampled(graph)
    }

    /// A buffer's values for the rows of the last pass: `[rows, width]`, or `[rows that asked, vocab_size]` for logits.
    fn buffer(&mut self, graph: GraphId, buffer: BufferId) -> Result<Vec<f32>, Error>;

    /// Fills the first `values.len()` values of a buffer.
    fn set_buffer(&mut self, graph: GraphId, buffer: BufferId, values: &[f32]) -> Result<(), Error>;

    /// The keys and values that the cache holds for a position. `None` from a backend whose cache cannot be asked: a
    /// comparison then sees it only through `Attention`.
    fn cached(&mut self, _layer: usize, _slot: u32, _position: u32) -> Result<Option<KeysAndValues>, Error> {
        Ok(None)
    }

    /// Takes what a user should know of what was done since the last call: a cache of compiled kernels that was damaged or
    /// cannot be written. Each is said once.
    fn take_notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// What has run since the backend was made.
    fn counters(&self) -> Counters;

    /// Times every kernel from now on, or no longer; whether the backend can.
    fn set_profiling(&mut self, _on: bool) -> bool {
        false
    }

    /// Takes the times since profiling began or since the last call.
    fn kernel_times(&mut self) -> Result<Vec<KernelTime>, Error> {
        Ok(Vec::new())
    }
}

/// Why a backend could not do its work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device or its driver is not there.
    #[error("backend {backend} is not available: {reason}")]
    Unavailable {
        /// The backend's name.
        backend: &'static str,
        /// What was looked for and what to do.
        reason: String,
    },
    /// Weights, cache or buffers do not fit.
    #[error("out of memory: {what} needs {needed} bytes, {available} are available; {advice}")]
    OutOfMemory {
        /// What was being allocated.
        what: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes there are.
        available: u64,
        /// What would fit.
        advice: String,
    },
    /// A weight that cannot be used: a block scale that is not a number.
    #[error("{name}: {what}")]
    BadWeight {
        /// The weight.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// A row's token, slot or position is outside of what the plan allows.
    #[error("row {row}: {what}")]
    Row {
        /// Index of the row.
        row: usize,
        /// Expected and found.
        what: String,
    },
    /// The plan cannot be compiled here.
    #[error("step {step} ({op}): {what}")]
    Plan {
        /// Index of the step.
        step: usize,
        /// The op's name.
        op: &'static str,
        /// Expected and found.
        what: String,
    },
    /// A value that is not a number came out of a step.
    #[error(
        "{op}{} wrote a value that is not finite into `{buffer}`, row {row}, column {column}",
        layer.map_or(String::new(), |layer| format!(" of layer {layer}"))
    )]
    NotFinite {
        /// The op's name.
        op: &'static str,
        /// The layer, for ops that belong to one.
        layer: Option<usize>,
        /// The buffer's name.
        buffer: &'static str,
        /// Row of the run.
        row: usize,
        /// Column in the buffer.
        column: usize,
    },
    /// The device or its driver refused or broke off.
    #[error("{kernel} on {adapter}: {reason}")]
    Device {
        /// What was being made or run.
        kernel: String,
        /// The device.
        adapter: String,
        /// What the driver said.
        reason: String,
    },
    /// A call out of order: a graph that was never compiled, a replay without a run.
    #[error("{0}")]
    Misuse(String),
}
