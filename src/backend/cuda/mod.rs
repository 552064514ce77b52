//! The CUDA backend: every op in hand-written PTX, through the driver API alone. No toolkit is needed to build it, no
//! file beside the program to run it, and where there is no driver it says so.
//!
//! Kernels, arguments and buffers are made once per plan (`graph.rs`). Tokens and positions live in device memory,
//! `sample` writes the next ones there, so a pass that continues the last one takes no parameters: it is captured once
//! per bucket of positions and replayed as one graph launch. A pass ends with a copy of the ring of tokens to pinned
//! memory, and with an event, so the host can read a token while later passes run. Where it is asked for, a captured
//! decode pass is one cooperative launch over a table of the same launches (`persistent.rs`).
//!
//! `driver/` is the only place that calls the driver. Layouts are those of the wgpu backend (`backend/gpu/`).

mod attention;
mod body;
mod budget;
mod device;
mod driver;
pub mod forms;
mod graph;
mod launch;
mod modules;
mod persistent;
mod profile;
mod replay;
pub mod sources;
mod upload;

pub use device::{DeviceChoice, DeviceSummary, Gpu, list_devices};
pub use persistent::Pass;

use super::gpu::cache::{keys_and_values, places, words_per_head};
use super::gpu::grid::Extent;
use super::gpu::params::NONE;
use super::gpu::passes::{first_not_finite, next_rows, rows_of_pass};
use super::gpu::sampling::{SamplingWords, recent_words};
use super::gpu::state::{StateLayout, buffer_len, check_rows, check_values};
use super::gpu::{MAX_M, POSITIONS_PER_TILE, RING};
use super::{Backend, Counters, Error, GraphId, KernelTime, KeysAndValues, Sampling};
use crate::plan::{BufferId, KvLayout, Op, Plan, RopeTable, Row, Shape, WeightSource};
use driver::DeviceMemory;
use graph::Compiled;
use launch::Launch;
use persistent::Persistent;
use profile::Profile;
use replay::Replays;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use upload::Weights;

impl From<sources::SourceError> for Error {
    fn from(error: sources::SourceError) -> Self {
        Self::Misuse(error.to_string())
    }
}

/// What the graphs of a model share besides its weights.
struct Cache {
    /// Keys and values of each layer.
    layers: Vec<(Arc<DeviceMemory>, Arc<DeviceMemory>)>,
    /// Cosines and sines, `[context, pairs]`.
    rope: Arc<DeviceMemory>,
    /// How each slot is sampled.
    sampling: Arc<DeviceMemory>,
    /// The text of each slot that penalties look at: a count, then a ring.
    recent: Arc<DeviceMemory>,
    recent_capacity: usize,
    /// Positions per slot, whole tiles.
    context: usize,
}

impl Cache {
    fn new(gpu: &Gpu, kv: &KvLayout, rope: &RopeTable) -> Result<Self, Error> {
        let context = kv.context.next_multiple_of(POSITIONS_PER_TILE);
        let bytes = budget::cache_bytes(kv, context).ok_or_else(|| Error::OutOfMemory {
            what: "a KV cache".to_owned(),
            needed: u64::MAX,
            available: gpu.summary.memory_bytes,
            advice: "use a smaller --ctx or fewer sequences".to_owned(),
        })?;
        let mut layers = Vec::new();
        for _ in 0..kv.num_layers {
            layers.push((
                gpu.zeroed("the keys of a layer", bytes)?,
                gpu.zeroed("the values of a layer", bytes)?,
            ));
        }
        let pairs: Vec<[f32; 2]> = rope.cos.iter().zip(&rope.sin).map(|(&cos, &sin)| [cos, sin]).collect();
        let rope = gpu.uninitialized("cosines and sines", 8 * pairs.len() as u64)?;
        gpu.write(&rope, 0, bytemuck::cast_slice(&pairs))?;
        let sampling = gpu.zeroed("sampling", (size_of::<SamplingWords>() * kv.slots) as u64)?;
        let words = vec![SamplingWords::new(&Sampling::default()); kv.slots];
        gpu.write(&sampling, 0, bytemuck::cast_slice(&words))?;
        let recent_capacity = kv.context + 1;
        let recent = gpu.zeroed("recent tokens", 4 * ((recent_capacity + 1) * kv.slots) as u64)?;
        Ok(Self { layers, rope, sampling, recent, recent_capacity, context })
    }

    /// Parts of attention per row, at most.
    fn splits(&self) -> usize {
        graph::splits(self.context)
    }

    /// Where a slot's recent tokens begin, in bytes.
    fn recent_at(&self, slot: usize) -> u64 {
        4 * slot as u64 * (self.recent_capacity as u64 + 1)
    }

    fn bytes(&self) -> u64 {
        let layers = self.layers.iter().map(|(keys, values)| keys.bytes() + values.bytes()).sum::<u64>();
        layers + self.rope.bytes() + self.sampling.bytes() + self.recent.bytes()
    }
}

/// A compiled plan and where its run stands.
struct Graph {
    // Captured passes go before the memory that they touch.
    replays: Replays,
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
}

/// The backend.
pub struct CudaBackend {
    graphs: Vec<Graph>,
    weights: Weights,
    cache: Cache,
    kv_layout: KvLayout,
    shape: Shape,
    counters: Counters,
    profile: Option<Profile>,
    pass: Pass,
    gpu: Arc<Gpu>,
}

impl CudaBackend {
    /// Uploads the weights that `plan` names (any plan of the model names all) and sets up the cache, in a stream of its
    /// own.
    ///
    /// # Errors
    /// A model that will not fit, refused before anything is allocated; a weight that no kernel can read; a device that
    /// breaks off.
    pub fn new(
        gpu: &Gpu,
        plan: &Plan,
        source: &Arc<dyn WeightSource + Send + Sync>,
        kv_layout: KvLayout,
        rope: &RopeTable,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let whole = |what: String| Err(Error::Plan { step: 0, op: "attention", what });
        let (head_dim, words) = (kv_layout.head_dim, words_per_head(&kv_layout));
        if !head_dim.is_multiple_of(8) || words > 256 {
            return whole(format!("heads of {head_dim}: the kernels want a multiple of 8 up to 256"));
        }
        if plan.numerics.kv != kv_layout.kv_type {
            return whole("the plan and the cache differ in the type of keys and values".to_owned());
        }
        let gpu = Arc::new(gpu.with_own_stream()?);
        budget::check_model(&gpu, plan, &kv_layout, rope.pairs)?;
        let cache = Cache::new(&gpu, &kv_layout, rope)?;
        let weights = Weights::upload(&gpu, plan, source, progress)?;
        Ok(Self {
            graphs: Vec::new(),
            weights,
            cache,
            kv_layout,
            shape: plan.shape.clone(),
            counters: Counters::default(),
            profile: None,
            pass: Pass::default(),
            gpu,
        })
    }

    /// How captured passes of the decode graphs that are compiled from now on are launched.
    ///
    /// # Errors
    /// A persistent pass, where the device has no cooperative launches.
    pub fn set_pass(&mut self, pass: Pass) -> Result<(), Error> {
        if pass == Pass::Persistent && !self.gpu.cooperative {
            let what = "the device has no cooperative launches, which a persistent pass is";
            return Err(self.gpu.error("decode", format!("{what}; use --cuda-pass launches")));
        }
        self.pass = pass;
        Ok(())
    }

    /// Bytes of device memory in use by weights, cache and graphs.
    pub fn device_bytes(&self) -> u64 {
        let graphs =
            self.graphs.iter().map(|graph| graph.compiled.bytes + graph.replays.bytes()).sum::<u64>();
        self.weights.bytes + self.cache.bytes() + graphs
    }

    /// Launches of one captured pass over the whole plan, all its rows being of one sequence.
    pub fn launches(&self, graph: GraphId) -> usize {
        let Some(Graph { compiled, plan, .. }) = self.graphs.get(graph.0 as usize) else { return 0 };
        let (rows, asked) = (plan.rows as u32, plan.logit_rows as u32);
        let extent = Extent { rows, asked, splits: 1, one_sequence: plan.rows > MAX_M };
        let present = |launch: &&Launch| launch.runs(0) && launch.grid.size(extent).is_some();
        let listed = compiled.launches.iter().filter(present).count();
        compiled.persistent.as_ref().map_or(listed, |persistent| listed - persistent.replaces() + 1)
    }

    /// Captured passes that a graph holds: one per bucket of positions that it was replayed in.
    pub fn captures(&self, graph: GraphId) -> usize {
        self.graphs.get(graph.0 as usize).map_or(0, |graph| graph.replays.len())
    }

    /// Queues one pass over `steps`, not captured.
    fn queue(&mut self, index: usize, steps: &Range<usize>) -> Result<(), Error> {
        let clock = Instant::now();
        let gpu = Arc::clone(&self.gpu);
        let graph = &mut self.graphs[index];
        let samples = graph.plan.steps.iter().position(|step| step.op == Op::Sample);
        graph.continues = samples.is_some_and(|step| steps.contains(&step));
        let extent = Extent::new(&graph.rows, 0);
        let mut launches = 0;
        for (i, launch) in graph.compiled.launches.iter().enumerate() {
            if !steps.contains(&launch.step) || !launch.runs(steps.start) {
                continue;
            }
            let queued = match &mut self.profile {
                None => launch.queue(&gpu.stream, extent),
                Some(profile) => profile
                    .time((&gpu.context, &gpu.stream), (index, i), || launch.queue(&gpu.stream, extent)),
            };
            launches += u64::from(queued.map_err(|error| gpu.error(&launch.kernel.key, error))?);
        }
        if graph.continues {
            let buffers = &graph.compiled.buffers;
            let copied =
                buffers.ring.read_into(&gpu.stream, &buffers.pinned, 4 * RING * graph.plan.logit_rows);
            copied.map_err(|error| gpu.error("the token ring", error))?;
            graph.replays.mark(&gpu, graph.passes)?;
            (graph.passes, graph.unread) = (graph.passes + 1, graph.unread + 1);
        }
        let rows = self.graphs[index].rows.len() as u64;
        self.counters.launches += launches;
        self.counters.submits += 1;
        self.counters.rows += rows;
        self.counters.host_nanoseconds += clock.elapsed().as_nanos() as u64;
        if let Some(profile) = &mut self.profile {
            profile.collect().map_err(|error| gpu.error("timing", error))?;
        }
        Ok(())
    }

    /// Reads the tokens of the `first` passes that were not yet read, or of all.
    fn fetch(&mut self, index: usize, first: usize) -> Result<(), Error> {
        let gpu = Arc::clone(&self.gpu);
        let graph = &mut self.graphs[index];
        let many = graph.unread.min(first);
        if many == 0 {
            return Ok(());
        }
        let width = graph.plan.logit_rows;
        let asked = graph.rows.iter().filter(|row| row.logits).count();
        let begin = graph.passes - graph.unread;
        graph.replays.wait(&gpu, begin + many - 1)?;
        self.counters.mapped_bytes += (4 * asked * many) as u64;
        for pass in begin..begin + many {
            let graph = &mut self.graphs[index];
            graph.unread -= 1;
            let at = (pass % RING) * width;
            let tokens: Vec<u32> =
                (at..at + asked).map(|at| graph.compiled.buffers.pinned.word(at)).collect();
            if tokens.contains(&NONE) {
                graph.unread = 0;
                return Err(self.locate(index, pass)?);
            }
            graph.last.clone_from(&tokens);
            graph.sampled.push(tokens);
        }
        Ok(())
    }

    /// Finds the step that wrote the value that is not finite, in a pass counted from when the state was written: runs it
    /// again one step at a time.
    fn locate(&mut self, index: usize, pass: usize) -> Result<Error, Error> {
        let graph = &mut self.graphs[index];
        graph.continues = false;
        let rows = rows_of_pass(&graph.rows, &graph.last, pass, graph.passes);
        let (id, plan) = (GraphId(index as u32), graph.plan.clone());
        let found = first_not_finite(self, id, &plan, &rows, |backend, buffer| backend.read(index, buffer))?;
        let nothing = "a logit was not finite, and is when the pass is run step by step";
        Ok(found.unwrap_or_else(|| self.gpu.error("head", nothing)))
    }

    /// A buffer's values for the rows of the last pass.
    fn read(&mut self, index: usize, buffer: BufferId) -> Result<Vec<f32>, Error> {
        let graph = &self.graphs[index];
        let len = buffer_len(&graph.plan, &graph.rows, buffer)?;
        let words = self.gpu.read(&graph.compiled.buffers.activations[buffer.0 as usize], 0, len)?;
        self.counters.mapped_bytes += 4 * len as u64;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }
}

impl Drop for CudaBackend {
    fn drop(&mut self) {
        // Nothing may be under way when its memory goes. There is nobody to tell of a failure.
        let _ = self.gpu.stream.wait();
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn describe(&self) -> String {
        let summary = self.gpu.summary();
        let simulated =
            if summary.simulated { ", a simulator: a check of the kernels, not a fast path" } else { "" };
        let pass = if self.pass == Pass::Persistent { ", decoding in a persistent kernel" } else { "" };
        format!("{} (sm_{}{simulated}); {}{pass}", summary.name, summary.capability, summary.variants)
    }

    fn compile(&mut self, plan: &Plan) -> Result<GraphId, Error> {
        if plan.numerics.kv != self.kv_layout.kv_type {
            return Err(Error::Misuse("the plan's cache type is not the backend's".to_owned()));
        }
        let mut compiled = graph::compile(&self.gpu, plan, &self.weights, &self.cache)?;
        let decodes = plan.rows <= MAX_M && plan.steps.iter().any(|step| step.op == Op::Sample);
        if self.pass == Pass::Persistent && decodes {
            compiled.persistent = Some(Persistent::new(&self.gpu, &compiled.launches)?);
        }
        self.graphs.push(Graph {
            replays: Replays::new(&self.gpu)?,
            plan: plan.clone(),
            compiled,
            layout: StateLayout { rows: plan.rows, logit_rows: plan.logit_rows },
            rows: Vec::new(),
            continues: false,
            passes: 0,
            unread: 0,
            last: Vec::new(),
            sampled: Vec::new(),
        });
        Ok(GraphId(self.graphs.len() as u32 - 1))
    }

    fn set_sampling(&mut self, slot: u32, sampling: &Sampling, recent: &[u32]) -> Result<(), Error> {
        if slot as usize >= self.kv_layout.slots {
            return Err(Error::Misuse(format!("slot {slot}: the cache has {}", self.kv_layout.slots)));
        }
        let words = SamplingWords::new(sampling);
        let at = u64::from(slot) * size_of::<SamplingWords>() as u64;
        self.gpu.write(&self.cache.sampling, at, bytemuck::bytes_of(&words))?;
        let ring = recent_words(recent, self.cache.recent_capacity);
        self.gpu.write(&self.cache.recent, self.cache.recent_at(slot as usize), bytemuck::cast_slice(&ring))
    }

    fn run_steps(&mut self, graph: GraphId, rows: &[Row], steps: Range<usize>) -> Result<(), Error> {
        let index = graph.index(self.graphs.len())?;
        check_rows(&self.graphs[index].plan, &self.kv_layout, rows, 0)?;
        self.fetch(index, usize::MAX)?;
        let graph = &mut self.graphs[index];
        graph.rows = rows.to_vec();
        graph.passes = 0;
        let words = graph.layout.encode(rows);
        self.gpu.write(&graph.compiled.buffers.state, 0, bytemuck::cast_slice(&words))?;
        self.queue(index, &steps)
    }

    fn replay(&mut self, graph: GraphId, times: u32) -> Result<(), Error> {
        let index = graph.index(self.graphs.len())?;
        if times == 0 {
            return Ok(());
        }
        let state = &self.graphs[index];
        if !state.continues || !state.rows.iter().any(|row| row.logits) {
            let what = "nothing to continue: run the graph first, on a plan that samples";
            return Err(Error::Misuse(what.to_owned()));
        }
        let mut left = times;
        if state.rows.iter().any(|row| !row.logits) {
            // Rows that did not ask have no next token: the others go on without them, and the host says so once.
            self.fetch(index, usize::MAX)?;
            let state = &self.graphs[index];
            let rows = next_rows(&state.rows, &state.last);
            self.run_steps(graph, &rows, 0..usize::MAX)?;
            left -= 1;
        }
        let state = &self.graphs[index];
        check_rows(&state.plan, &self.kv_layout, &state.rows, left)?;
        (0..left).try_for_each(|_| self.replay_one(index))
    }

    fn sampled(&mut self, graph: GraphId) -> Result<Vec<Vec<u32>>, Error> {
        let index = graph.index(self.graphs.len())?;
        self.fetch(index, usize::MAX)?;
        Ok(std::mem::take(&mut self.graphs[index].sampled))
    }

    fn runs_ahead(&self) -> bool {
        true
    }

    fn sampled_first(&mut self, graph: GraphId) -> Result<Vec<Vec<u32>>, Error> {
        let index = graph.index(self.graphs.len())?;
        if self.graphs[index].sampled.is_empty() {
            self.fetch(index, 1)?;
        }
        Ok(std::mem::take(&mut self.graphs[index].sampled))
    }

    fn buffer(&mut self, graph: GraphId, buffer: BufferId) -> Result<Vec<f32>, Error> {
        let index = graph.index(self.graphs.len())?;
        let values = self.read(index, buffer)?;
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        let last = self.graphs[index].passes.saturating_sub(1);
        Err(self.locate(index, last)?)
    }

    fn set_buffer(&mut self, graph: GraphId, buffer: BufferId, values: &[f32]) -> Result<(), Error> {
        let index = graph.index(self.graphs.len())?;
        let graph = &self.graphs[index];
        check_values(&graph.plan, buffer, values)?;
        let into = &graph.compiled.buffers.activations[buffer.0 as usize];
        self.gpu.write(into, 0, bytemuck::cast_slice(values))
    }

    fn cached(&mut self, layer: usize, slot: u32, position: u32) -> Result<Option<KeysAndValues>, Error> {
        let kv = &self.kv_layout;
        let inside = (slot as usize) < kv.slots && (position as usize) < kv.context;
        let Some((keys, values)) = self.cache.layers.get(layer).filter(|_| inside) else {
            let place = format!("layer {layer}, slot {slot}, position {position}");
            return Err(Error::Misuse(format!("{place} lies outside of the cache")));
        };
        let mut words = Vec::new();
        for (memory, is_keys) in [(keys, true), (values, false)] {
            for at in places(kv, self.cache.context, (slot, position), is_keys) {
                words.extend(self.gpu.read(memory, at, 4)?);
            }
        }
        Ok(Some(keys_and_values(kv, &self.shape, &words)))
    }

    fn take_notes(&mut self) -> Vec<String> {
        self.gpu.take_notes()
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn set_profiling(&mut self, on: bool) -> bool {
        self.profile = on.then(Profile::default);
        on
    }

    fn kernel_times(&mut self) -> Result<Vec<KernelTime>, Error> {
        let Some(profile) = &mut self.profile else { return Ok(Vec::new()) };
        let graphs = &self.graphs;
        let describe = |(graph, launch): (usize, usize)| {
            let graph: &Graph = graphs.get(graph)?;
            let launch = graph.compiled.launches.get(launch)?;
            let op = graph.plan.steps.get(launch.step)?.op.kind().name();
            Some((launch.kernel.key.clone(), op, launch.weight_bytes))
        };
        Ok(profile.take(&describe))
    }
}
