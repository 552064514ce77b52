//! The wgpu backend: every op in hand-written WGSL, on Vulkan, Metal and DX12.
//!
//! Pipelines, bind groups and buffers are made once per plan (`graph.rs`). A pass is one encoder, one compute pass and
//! one submit; tokens and positions live in device memory, `sample` writes the next ones there, and the host reads a
//! ring of token ids. Several tokens may be queued in one submit ([`Backend::replay`]).
//!
//! A lane is a row of weights, so no reduction needs a subgroup of any size, and half precision is only stored:
//! the shaders run on every device that WebGPU allows.

mod adapter;
mod dispatch;
mod forms;
mod graph;
mod params;
mod pipelines;
mod preprocess_tests;
mod profile;
mod shaders;
mod state;
mod upload;

pub use adapter::{AdapterChoice, AdapterSummary, Gpu, list_adapters};

use super::{Backend, Counters, Error, GraphId, KernelTime, Sampling};
use crate::plan::{BufferId, KvLayout, KvType, Op, Plan, RopeTable, Row, WeightSource};
use bytemuck::{Pod, Zeroable};
use dispatch::Extent;
use graph::{Compiled, RING};
use profile::Profile;
use state::{StateLayout, buffer_len, check_rows};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use upload::Weights;

/// Positions per part of attention; the cache has room for whole tiles of positions.
const POSITIONS_PER_TILE: usize = 32;

/// What the graphs of a model share besides its weights.
struct Cache {
    /// Keys and values of each layer.
    layers: Vec<(wgpu::Buffer, wgpu::Buffer)>,
    /// Cosines and sines, `[context, pairs]`.
    rope: wgpu::Buffer,
    /// How each slot is sampled.
    sampling: wgpu::Buffer,
    /// The text of each slot that penalties look at: a count, then a ring.
    recent: wgpu::Buffer,
    recent_capacity: usize,
    /// Positions per slot, whole tiles.
    context: usize,
}

impl Cache {
    /// Parts of attention per row, at most.
    fn splits(&self) -> usize {
        self.context.div_ceil(256)
    }
}

/// `Sampling` as `shaders/sample.wgsl` declares it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct SamplingWords {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    log_min_p: f32,
    penalty: f32,
    window: u32,
    seed: [u32; 2],
    sequence: u32,
    padding: [u32; 3],
}

impl SamplingWords {
    fn new(sampling: &Sampling) -> Self {
        let small = |n: usize| n.min(u32::MAX as usize) as u32;
        Self {
            temperature: sampling.temperature,
            top_k: small(sampling.top_k),
            top_p: sampling.top_p,
            log_min_p: if sampling.min_p > 0.0 { sampling.min_p.min(1.0).ln() } else { -3.0e38 },
            penalty: sampling.repeat_penalty,
            window: small(sampling.repeat_window),
            seed: [sampling.seed as u32, (sampling.seed >> 32) as u32],
            sequence: sampling.sequence,
            padding: [0; 3],
        }
    }
}

/// A compiled plan and where its run stands.
struct Graph {
    plan: Plan,
    compiled: Compiled,
    layout: StateLayout,
    /// Rows of the last pass, with the tokens that the host knows of.
    rows: Vec<Row>,
    /// Whether the last pass sampled, so that it can be continued.
    continues: bool,
    /// Passes since the state was written, and how many of them the host has not read the tokens of.
    passes: usize,
    unread: usize,
    /// Tokens of the last pass read.
    last: Vec<u32>,
    /// Tokens read and not yet taken.
    sampled: Vec<Vec<u32>>,
    /// The ring's copy that the host maps.
    staging: wgpu::Buffer,
}

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
        let cache = Self::cache(&gpu, plan, &kv_layout, rope)?;
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

    fn cache(gpu: &Gpu, plan: &Plan, kv: &KvLayout, rope: &RopeTable) -> Result<Cache, Error> {
        let words = match kv.kv_type {
            KvType::F16 => kv.head_dim / 2,
            KvType::F32 => kv.head_dim,
        };
        let whole = |what: String| Err(Error::Plan { step: 0, op: "attention", what });
        if !kv.head_dim.is_multiple_of(8) || words > 256 || kv.head_dim > 1024 {
            return whole(format!("heads of {}: the shaders want a multiple of 8 up to 256", kv.head_dim));
        }
        if plan.numerics.kv != kv.kv_type {
            return whole("the plan and the cache differ in the type of keys and values".to_owned());
        }
        let context = kv.context.next_multiple_of(POSITIONS_PER_TILE);
        let bytes = [kv.slots, kv.num_kv_heads, context, words, 4]
            .into_iter()
            .try_fold(1usize, usize::checked_mul)
            .ok_or_else(|| Error::OutOfMemory {
                what: "a KV cache".to_owned(),
                needed: u64::MAX,
                available: gpu.limits.max_storage_buffer_binding_size,
                advice: "use a smaller --ctx or fewer sequences".to_owned(),
            })?;
        let mut layers = Vec::new();
        for _ in 0..kv.num_layers {
            let keys = gpu.storage("the keys of a layer", bytes as u64)?;
            let values = gpu.storage("the values of a layer", bytes as u64)?;
            layers.push((keys, values));
        }
        let pairs: Vec<[f32; 2]> = rope.cos.iter().zip(&rope.sin).map(|(&cos, &sin)| [cos, sin]).collect();
        let rope = gpu.storage("cosines and sines", 8 * pairs.len() as u64)?;
        gpu.queue.write_buffer(&rope, 0, bytemuck::cast_slice(&pairs));
        let sampling = gpu.storage("sampling", (size_of::<SamplingWords>() * kv.slots) as u64)?;
        let words = vec![SamplingWords::new(&Sampling::default()); kv.slots];
        gpu.queue.write_buffer(&sampling, 0, bytemuck::cast_slice(&words));
        let recent_capacity = kv.context + 1;
        let recent = gpu.storage("recent tokens", 4 * ((recent_capacity + 1) * kv.slots) as u64)?;
        Ok(Cache { layers, rope, sampling, recent, recent_capacity, context })
    }

    fn graph_index(&self, id: GraphId) -> Result<usize, Error> {
        let index = id.0 as usize;
        if index < self.graphs.len() {
            return Ok(index);
        }
        Err(Error::Misuse(format!("graph {index} was never compiled")))
    }

    /// Bytes of device memory in use by weights, cache and graphs.
    pub fn device_bytes(&self) -> u64 {
        let cache: u64 = self.cache.layers.iter().map(|(keys, values)| keys.size() + values.size()).sum();
        self.weights.bytes + cache + self.graphs.iter().map(|graph| graph.compiled.bytes).sum::<u64>()
    }

    /// Dispatches of one pass over the whole plan.
    pub fn dispatches(&self, graph: GraphId) -> usize {
        let graph = self.graphs.get(graph.0 as usize);
        graph.map_or(0, |graph| graph.compiled.dispatches.iter().filter(|d| d.runs(0)).count())
    }

    /// Records and submits `passes` passes over `steps`, each one position on. Where they sample, the tokens of the ring
    /// are copied to where the host can map them, in the same submit.
    fn submit(&mut self, index: usize, steps: &Range<usize>, passes: u32) -> Result<(), Error> {
        let clock = Instant::now();
        let graph = &mut self.graphs[index];
        let label = wgpu::CommandEncoderDescriptor { label: Some("pass") };
        let mut encoder = self.gpu.device.create_command_encoder(&label);
        let mut launches = 0;
        let timing = self.profile.as_mut().map(|profile| profile.begin(&self.gpu));
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for ahead in 0..passes {
                let extent = Extent::new(&graph.rows, ahead);
                for (i, dispatch) in graph.compiled.dispatches.iter().enumerate() {
                    if !steps.contains(&dispatch.step) || !dispatch.runs(steps.start) {
                        continue;
                    }
                    if let Some(profile) = &mut self.profile {
                        profile.mark(&mut pass, (index, i));
                    }
                    launches += u64::from(dispatch.record(&mut pass, extent));
                    if let Some(profile) = &mut self.profile {
                        profile.mark(&mut pass, (index, i));
                    }
                }
            }
        }
        let samples = graph.plan.steps.iter().position(|step| step.op == Op::Sample);
        graph.continues = samples.is_some_and(|step| steps.contains(&step));
        if graph.continues {
            graph.unread += passes as usize;
            graph.passes += passes as usize;
            let width = 4 * graph.plan.logit_rows as u64;
            for (place, pass) in (graph.passes - graph.unread..graph.passes).enumerate() {
                let from = (pass % RING) as u64 * width;
                let (ring, to) = (&graph.compiled.buffers.ring, &graph.staging);
                encoder.copy_buffer_to_buffer(ring, from, to, place as u64 * width, width);
            }
        }
        if let (Some(profile), Some(_)) = (&mut self.profile, timing) {
            profile.resolve(&mut encoder);
        }
        for row in &mut graph.rows {
            row.position += passes - 1;
        }
        let rows = graph.rows.len() as u64 * u64::from(passes);
        self.gpu.queue.submit([encoder.finish()]);
        self.counters.launches += launches;
        self.counters.submits += 1;
        self.counters.rows += rows;
        self.counters.host_nanoseconds += clock.elapsed().as_nanos() as u64;
        self.gpu.check("a pass")?;
        if let Some(profile) = &mut self.profile {
            self.counters.mapped_bytes += profile.collect(&self.gpu)?;
        }
        Ok(())
    }

    /// Reads `bytes` of a mappable buffer.
    fn map(&mut self, buffer: &wgpu::Buffer, bytes: u64, what: &str) -> Result<Vec<u32>, Error> {
        let words = map(&self.gpu, buffer, bytes, what)?;
        self.counters.mapped_bytes += bytes;
        Ok(words)
    }

    /// Reads the tokens that were sampled and not yet read.
    fn fetch(&mut self, index: usize) -> Result<(), Error> {
        let graph = &self.graphs[index];
        if graph.unread == 0 {
            return Ok(());
        }
        let (width, unread) = (graph.plan.logit_rows, graph.unread);
        let asked = graph.rows.iter().filter(|row| row.logits).count();
        let staging = graph.staging.clone();
        let words = self.map(&staging, 4 * (width * unread) as u64, "the token ring")?;
        let graph = &mut self.graphs[index];
        graph.unread = 0;
        for (pass, tokens) in words.chunks_exact(width.max(1)).enumerate() {
            let tokens = tokens[..asked].to_vec();
            if tokens.contains(&params::NONE) {
                let back = (unread - 1 - pass) as u32;
                return Err(self.locate(index, back)?);
            }
            let graph = &mut self.graphs[index];
            graph.last.clone_from(&tokens);
            graph.sampled.push(tokens);
        }
        Ok(())
    }

    /// Finds the step that wrote the value that is not finite, in the pass `back` passes before the last: runs it again
    /// one step at a time.
    fn locate(&mut self, index: usize, back: u32) -> Result<Error, Error> {
        let graph = &mut self.graphs[index];
        graph.continues = false;
        let last = graph.last.clone();
        let mut rows = graph.rows.clone();
        let mut tokens = last.into_iter();
        for row in &mut rows {
            row.position = row.position.saturating_sub(back);
            if row.logits
                && graph.passes > 1
                && let Some(token) = tokens.next()
            {
                row.token = token;
            }
        }
        let id = GraphId(index as u32);
        let steps = self.graphs[index].plan.steps.clone();
        for (number, step) in steps.iter().enumerate().filter(|(_, step)| step.op != Op::Sample) {
            self.run_steps(id, &rows, number..number + 1)?;
            for &buffer in &step.writes {
                let values = self.read(index, buffer)?;
                let described = &self.graphs[index].plan.buffers[buffer.0 as usize];
                if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                    return Ok(Error::NotFinite {
                        op: step.op.kind().name(),
                        layer: step.layer,
                        buffer: described.name,
                        row: at / described.width,
                        column: at % described.width,
                    });
                }
            }
        }
        Ok(self.gpu.error("head", "a logit was not finite, and is when the pass is run step by step"))
    }

    /// A buffer's values for the rows of the last pass.
    fn read(&mut self, index: usize, buffer: BufferId) -> Result<Vec<f32>, Error> {
        let graph = &self.graphs[index];
        let bytes = 4 * buffer_len(&graph.plan, &graph.rows, buffer)? as u64;
        let from = graph.compiled.buffers.activations[buffer.0 as usize].clone();
        let words = self.read_back(&from, bytes)?;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }

    fn read_back(&mut self, from: &wgpu::Buffer, bytes: u64) -> Result<Vec<u32>, Error> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.gpu.buffer("a copy for the host", bytes, usage)?;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(from, 0, &staging, 0, bytes);
        self.gpu.queue.submit([encoder.finish()]);
        self.map(&staging, bytes, "a copy for the host")
    }
}

/// Reads the first `bytes` of a mappable buffer once everything submitted is done.
fn map(gpu: &Gpu, buffer: &wgpu::Buffer, bytes: u64, what: &str) -> Result<Vec<u32>, Error> {
    let slice = buffer.slice(..bytes);
    slice.map_async(wgpu::MapMode::Read, |_| {});
    gpu.wait(what)?;
    let words = match slice.get_mapped_range() {
        Ok(view) => bytemuck::pod_collect_to_vec(&view[..]),
        Err(error) => return Err(gpu.error(what, format!("cannot be read: {error}"))),
    };
    buffer.unmap();
    Ok(words)
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
        let compiled = graph::compile(&self.gpu, plan, &self.weights, &self.cache)?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.gpu.buffer("tokens for the host", 4 * (RING * plan.logit_rows) as u64, usage)?;
        self.graphs.push(Graph {
            plan: plan.clone(),
            compiled,
            layout: StateLayout { rows: plan.rows, logit_rows: plan.logit_rows },
            rows: Vec::new(),
            continues: false,
            passes: 0,
            unread: 0,
            last: Vec::new(),
            sampled: Vec::new(),
            staging,
        });
        Ok(GraphId(self.graphs.len() as u32 - 1))
    }

    fn set_sampling(&mut self, slot: u32, sampling: &Sampling, recent: &[u32]) -> Result<(), Error> {
        if slot as usize >= self.kv_layout.slots {
            return Err(Error::Misuse(format!("slot {slot}: the cache has {}", self.kv_layout.slots)));
        }
        let words = SamplingWords::new(sampling);
        let at = u64::from(slot) * size_of::<SamplingWords>() as u64;
        self.gpu.queue.write_buffer(&self.cache.sampling, at, bytemuck::bytes_of(&words));
        // The last tokens, as many as the ring holds, from its beginning.
        let capacity = self.cache.recent_capacity;
        let kept = &recent[recent.len().saturating_sub(capacity)..];
        let mut ring = vec![kept.len() as u32];
        ring.extend_from_slice(kept);
        let at = 4 * u64::from(slot) * (capacity as u64 + 1);
        self.gpu.queue.write_buffer(&self.cache.recent, at, bytemuck::cast_slice(&ring));
        self.gpu.check("the sampling parameters")
    }

    fn run_steps(&mut self, graph: GraphId, rows: &[Row], steps: Range<usize>) -> Result<(), Error> {
        let index = self.graph_index(graph)?;
        check_rows(&self.graphs[index].plan, &self.kv_layout, rows, 0)?;
        self.fetch(index)?;
        let graph = &mut self.graphs[index];
        graph.rows = rows.to_vec();
        graph.passes = 0;
        let words = graph.layout.encode(rows);
        self.gpu.queue.write_buffer(&graph.compiled.buffers.state, 0, bytemuck::cast_slice(&words));
        self.submit(index, &steps, 1)
    }

    fn replay(&mut self, graph: GraphId, times: u32) -> Result<(), Error> {
        let index = self.graph_index(graph)?;
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
            let asking = state.rows.iter().filter(|row| row.logits);
            let next = |(row, &token): (&Row, &u32)| Row { token, position: row.position + 1, ..*row };
            let rows: Vec<Row> = asking.zip(&state.last).map(next).collect();
            self.run_steps(graph, &rows, 0..usize::MAX)?;
            left -= 1;
        }
        while left > 0 {
            if self.graphs[index].unread >= RING {
                self.fetch(index)?;
            }
            let state = &mut self.graphs[index];
            let room = (RING - state.unread) as u32;
            let now = if self.profile.is_some() { 1 } else { left.min(room) };
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
        let index = self.graph_index(graph)?;
        self.fetch(index)?;
        Ok(std::mem::take(&mut self.graphs[index].sampled))
    }

    fn buffer(&mut self, graph: GraphId, buffer: BufferId) -> Result<Vec<f32>, Error> {
        let index = self.graph_index(graph)?;
        let values = self.read(index, buffer)?;
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        Err(self.locate(index, 0)?)
    }

    fn set_buffer(&mut self, graph: GraphId, buffer: BufferId, values: &[f32]) -> Result<(), Error> {
        let index = self.graph_index(graph)?;
        let graph = &self.graphs[index];
        let described = graph.plan.buffers.get(buffer.0 as usize);
        if described.is_none_or(|described| values.len() > described.rows * described.width) {
            return Err(Error::Misuse(format!("buffer {} cannot take {} values", buffer.0, values.len())));
        }
        let into = &graph.compiled.buffers.activations[buffer.0 as usize];
        self.gpu.queue.write_buffer(into, 0, bytemuck::cast_slice(values));
        self.gpu.check("a buffer that the host fills")
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
            Some((dispatch.pipeline.variant.key, op, dispatch.weight_bytes))
        };
        Ok(profile.take(&describe))
    }
}
