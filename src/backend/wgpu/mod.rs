//! The wgpu backend: every op in hand-written WGSL, on Vulkan, Metal and DX12.
//!
//! Pipelines, bind groups and buffers are made once per plan (`graph.rs`). A pass is one encoder, one compute pass and
//! one submit; tokens and positions live in device memory, `sample` writes the next ones there, and the host reads a
//! ring of token ids. Several tokens may be queued in one submit ([`Backend::replay`]).
//!
//! A lane is a row of weights, so no product needs a subgroup of any size, and half precision is only stored: there is a
//! set of shaders that runs on every device that WebGPU allows, and a variant of attention for large subgroups.

mod adapter;
mod cache;
mod dispatch;
mod forms;
mod gpu;
mod graph;
mod passes;
mod pipeline_cache;
mod pipelines;
mod profile;
mod shaders;
mod trusted;
mod upload;

pub use adapter::{AdapterChoice, AdapterSummary, list_adapters};
pub use gpu::Gpu;

pub use shaders::{ShaderSummary, list_shaders};

use super::gpu::RING;
use super::gpu::passes::next_rows;
use super::gpu::state::{check_rows, check_values};
use super::{Backend, Counters, Error, GraphId, KernelTime, KeysAndValues, Sampling};
use crate::plan::{BufferId, KvLayout, Plan, RopeTable, Row, WeightSource};
use cache::Cache;
use passes::Graph;
use profile::Profile;
use std::ops::Range;
use std::sync::Arc;
use upload::Weights;

/// How a backend is set up beside its model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// A limit on the size of a binding below the adapter's own: weights are cut at it. For tests.
    pub max_binding: Option<u64>,
}

/// The backend.
pub struct WgpuBackend {
    gpu: Arc<Gpu>,
    weights: Weights,
    cache: Cache,
    kv_layout: KvLayout,
    graphs: Vec<Graph>,
    counters: Counters,
    profile: Option<Profile>,
}

impl WgpuBackend {
    /// Uploads the weights that `plan` names (any plan of the model names all) and sets up the cache.
    ///
    /// # Errors
    /// Weights or cache that do not fit, a weight that no shader can read, a device that breaks off.
    pub fn new(
        gpu: Arc<Gpu>,
        plan: &Plan,
        source: &Arc<dyn WeightSource + Send + Sync>,
        kv_layout: KvLayout,
        rope: &RopeTable,
        options: Options,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let cache = Cache::new(&gpu, plan, &kv_layout, rope)?;
        let weights = Weights::upload(&gpu, plan, source, options.max_binding, progress)?;
        Ok(Self {
            gpu,
            weights,
            cache,
            kv_layout,
            graphs: Vec::new(),
            counters: Counters::default(),
            profile: None,
        })
    }

    /// Bytes of device memory in use by weights, cache and graphs.
    pub fn device_bytes(&self) -> u64 {
        self.weights.bytes
            + self.cache.bytes()
            + self.graphs.iter().map(|graph| graph.compiled.bytes).sum::<u64>()
    }

    /// Dispatches of one pass over the whole plan.
    pub fn dispatches(&self, graph: GraphId) -> usize {
        let graph = self.graphs.get(graph.0 as usize);
        graph.map_or(0, |graph| graph.compiled.dispatches.iter().filter(|d| d.runs(0)).count())
    }
}

impl Backend for WgpuBackend {
    fn name(&self) -> &'static str {
        "wgpu"
    }

    fn describe(&self) -> String {
        let summary = self.gpu.summary();
        let software = if summary.software { ", a software adapter" } else { "" };
        format!("{} through {}{software}; {}", summary.name, summary.api, summary.variants)
    }

    fn compile(&mut self, plan: &Plan) -> Result<GraphId, Error> {
        if plan.numerics.kv != self.kv_layout.kv_type {
            return Err(Error::Misuse("the plan's cache type is not the backend's".to_owned()));
        }
        self.graphs.push(Graph::new(&self.gpu, plan, &self.weights, &self.cache)?);
        Ok(GraphId(self.graphs.len() as u32 - 1))
    }

    fn set_sampling(&mut self, slot: u32, sampling: &Sampling, recent: &[u32]) -> Result<(), Error> {
        self.cache.set_sampling(&self.gpu, slot, sampling, recent)
    }

    fn run_steps(&mut self, graph: GraphId, rows: &[Row], steps: Range<usize>) -> Result<(), Error> {
        let index = graph.index(self.graphs.len())?;
        check_rows(&self.graphs[index].plan, &self.kv_layout, rows, 0)?;
        self.fetch(index)?;
        self.graphs[index].set_rows(&self.gpu, rows);
        self.submit(index, &steps, 1)
    }

    fn replay(&mut self, graph: GraphId, times: u32) -> Result<(), Error> {
        let index = graph.index(self.graphs.len())?;
        if times == 0 {
            return Ok(());
        }
        let nothing =
            || Error::Misuse("nothing to continue: run the graph first, on a plan that samples".to_owned());
        let state = &self.graphs[index];
        if !state.continues || !state.rows.iter().any(|row| row.logits) {
            return Err(nothing());
        }
        let mut left = times;
        if state.rows.iter().any(|row| !row.logits) {
            // Rows that did not ask have no next token: the others go on without them, and the host says so once.
            self.fetch(index)?;
            let state = &self.graphs[index];
            let rows = next_rows(&state.rows, &state.last);
            self.run_steps(graph, &rows, 0..usize::MAX)?;
            left -= 1;
        }
        while left > 0 {
            let state = &mut self.graphs[index];
            let now = if self.profile.is_some() { 1 } else { left.min(RING as u32) };
            check_rows(&state.plan, &self.kv_layout, &state.rows, now)?;
            for row in &mut state.rows {
                row.position += 1;
            }
            self.submit(index, &(0..usize::MAX), now)?;
            left -= now;
        }
        Ok(())
    }

    fn sampled(&mut self, graph: GraphId) -> Result<Vec<Vec<u32>>, Error> {
        let index = graph.index(self.graphs.len())?;
        self.fetch(index)?;
        Ok(std::mem::take(&mut self.graphs[index].sampled))
    }

    fn runs_ahead(&self) -> bool {
        true
    }

    fn sampled_first(&mut self, graph: GraphId) -> Result<Vec<Vec<u32>>, Error> {
        let index = graph.index(self.graphs.len())?;
        if self.graphs[index].sampled.is_empty() {
            self.land(index)?;
        }
        Ok(std::mem::take(&mut self.graphs[index].sampled))
    }

    fn buffer(&mut self, graph: GraphId, buffer: BufferId) -> Result<Vec<f32>, Error> {
        let index = graph.index(self.graphs.len())?;
        self.read_finite(index, buffer)
    }

    fn set_buffer(&mut self, graph: GraphId, buffer: BufferId, values: &[f32]) -> Result<(), Error> {
        let index = graph.index(self.graphs.len())?;
        let graph = &self.graphs[index];
        check_values(&graph.plan, buffer, values)?;
        let into = &graph.compiled.buffers.activations[buffer.0 as usize];
        self.gpu.queue.write_buffer(into, 0, bytemuck::cast_slice(values));
        self.gpu.check("a buffer that the host fills")
    }

    fn cached(&mut self, layer: usize, slot: u32, position: u32) -> Result<Option<KeysAndValues>, Error> {
        self.cache.read(&self.gpu, layer, slot, position).map(Some)
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn set_profiling(&mut self, on: bool) -> bool {
        let possible = on && self.gpu.timestamps;
        self.profile = possible.then(Profile::default);
        possible
    }

    fn kernel_times(&mut self) -> Result<Vec<KernelTime>, Error> {
        let Some(profile) = &mut self.profile else { return Ok(Vec::new()) };
        let graphs = &self.graphs;
        let describe = |(graph, dispatch): (usize, usize)| {
            let graph: &Graph = graphs.get(graph)?;
            let dispatch = graph.compiled.dispatches.get(dispatch)?;
            let op = graph.plan.steps.get(dispatch.step)?.op.kind().name();
            Some((dispatch.pipeline.variant.key.to_owned(), op, dispatch.weight_bytes))
        };
        Ok(profile.take(&describe))
    }
}
