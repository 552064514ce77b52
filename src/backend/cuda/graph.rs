//! A plan turned into launches: kernels, arguments and buffers, made once. A pass only queues them, or replays them as
//! one captured graph.
//!
//! | op | launches |
//! |---|---|
//! | `embed` | one |
//! | `qkv_rope` | one (one per type where the three matrices do not go together), and `head_norm` where heads have norms |
//! | `attention` | two: parts of 256 positions (of a row, or of several rows of a sequence: `attention.rs`), then their join |
//! | `attn_out`, `gate_up`, `down`, `head` | one |
//! | `sample` | one |
//!
//! Six per layer in the usual case, seven with head norms. Norms and quantization have no launch: whoever writes a row of
//! activations writes it in the form that its reader wants (`kernels/shared/write_record.ptx`). In the mode `q8_k` the norm comes
//! before the rounding, so that `quantize` runs before `qkv_rope`, `gate_up` and `head`: eight per layer, nine with head norms.
//! `quantize` also runs before a step that is run by itself.

use super::Cache;
use super::attention::{Heads, Tile};
use super::budget::{self, GraphSizes};
use super::device::Gpu;
use super::driver::{DeviceMemory, Pinned};
use super::forms::{self, Form, lower, mixture, product, product_key, unit_columns};
use super::launch::{Bound, Draft, Launch};
use super::persistent::Persistent;
use super::sources::{self, Target};
use super::upload::{Part, Weights};
use crate::backend::Error;
use crate::backend::gpu::grid::{Grid, When};
use crate::backend::gpu::params::{
    FLAG_GATE, FLAG_HEAD_NORM, FLAG_NORM, FLAG_RECORDS, FLAG_SCAN, FLAG_SUPER_BLOCKS, FLAG_UP, FLAG_ZERO,
    NONE, Params,
};
use crate::backend::gpu::state::StateLayout;
use crate::backend::gpu::weights::matrices;
use crate::backend::gpu::{MAX_M, RING, SPLIT};
use crate::plan::{Activations, BufferId, KvType, Linear, Op, Plan, WeightId};
use crate::quant::TensorType;
use std::collections::HashMap;
use std::sync::Arc;

/// Columns that a block of the kernels that work on rows of activations has.
const COLUMNS_PER_BLOCK: usize = 256;
/// Threads of `sample`.
const SAMPLE_THREADS: u32 = 1024;

/// The buffers of a graph that the host touches.
pub(super) struct GraphBuffers {
    /// By `BufferId`.
    pub(super) activations: Vec<Arc<DeviceMemory>>,
    pub(super) state: Arc<DeviceMemory>,
    pub(super) ring: Arc<DeviceMemory>,
    /// The ring's copy on the host.
    pub(super) pinned: Pinned,
}

/// A compiled plan.
pub(super) struct Compiled {
    pub(super) launches: Vec<Launch>,
    /// What captured passes run in place of all launches but the last.
    pub(super) persistent: Option<Persistent>,
    pub(super) buffers: GraphBuffers,
    /// Bytes of all buffers of this graph.
    pub(super) bytes: u64,
}

/// Sets what is an op's own in the parameters of a product, and gives its own buffers.
type Finish<'f, 'a> = dyn Fn(&Builder<'a>, &mut Params) -> Vec<Bound> + 'f;

/// Everything that is the same for all steps while a graph is built.
struct Builder<'a> {
    gpu: &'a Gpu,
    plan: &'a Plan,
    weights: &'a Weights,
    cache: &'a Cache,
    layout: StateLayout,
    sizes: GraphSizes,
    buffers: GraphBuffers,
    best: Arc<DeviceMemory>,
    partial: Arc<DeviceMemory>,
    raw: Option<Arc<DeviceMemory>>,
    marked: Arc<DeviceMemory>,
    records: HashMap<(BufferId, Form), Arc<DeviceMemory>>,
    drafts: Vec<Draft>,
    bytes: u64,
}

/// Compiles a plan.
pub(super) fn compile(gpu: &Gpu, plan: &Plan, weights: &Weights, cache: &Cache) -> Result<Compiled, Error> {
    let sizes = budget::check_graph(gpu, plan, cache)?;
    let mut builder = Builder::new(gpu, plan, weights, cache, sizes)?;
    for step in 0..plan.steps.len() {
        builder.step(step)?;
    }
    builder.finish()
}

impl<'a> Builder<'a> {
    fn new(
        gpu: &'a Gpu,
        plan: &'a Plan,
        weights: &'a Weights,
        cache: &'a Cache,
        sizes: GraphSizes,
    ) -> Result<Self, Error> {
        let mut bytes = 0;
        let mut zeroed = |what: &str, size: usize| {
            let memory = gpu.zeroed(what, size as u64)?;
            bytes += memory.bytes();
            Ok::<_, Error>(memory)
        };
        let layout = StateLayout { rows: plan.rows, logit_rows: plan.logit_rows };
        let mut activations = Vec::new();
        for (buffer, &size) in plan.buffers.iter().zip(&sizes.activations) {
            activations.push(zeroed(buffer.name, size)?);
        }
        let state = zeroed("state", 4 * layout.words())?;
        let ring = zeroed("token ring", sizes.ring)?;
        let best = zeroed("best of each panel", sizes.best)?;
        let marked = zeroed("penalized tokens", sizes.marked)?;
        let partial = zeroed("parts of attention", sizes.partial)?;
        let raw = sizes.raw.map(|size| zeroed("heads before their norm", size)).transpose()?;
        let pinned = Pinned::new(&gpu.context, RING * plan.logit_rows)
            .map_err(|error| gpu.error("pinned memory for tokens", error))?;
        let buffers = GraphBuffers { activations, state, ring, pinned };
        Ok(Self {
            gpu,
            plan,
            weights,
            cache,
            layout,
            sizes,
            buffers,
            best,
            partial,
            raw,
            marked,
            records: HashMap::new(),
            drafts: Vec::new(),
            bytes,
        })
    }

    fn activation(&self, id: BufferId) -> Arc<DeviceMemory> {
        Arc::clone(&self.buffers.activations[id.0 as usize])
    }

    fn width(&self, id: BufferId) -> usize {
        self.plan.buffers[id.0 as usize].width
    }

    /// The buffer of a buffer's records in some form. Zeros, because decode kernels read the records of all rows of the
    /// plan, also of those that a run does not have.
    fn records(&mut self, of: BufferId, form: Form) -> Result<Arc<DeviceMemory>, Error> {
        if let Some(memory) = self.records.get(&(of, form)) {
            return Ok(Arc::clone(memory));
        }
        let memory = self.gpu.zeroed("records", self.sizes.records[of.0 as usize] as u64)?;
        self.bytes += memory.bytes();
        self.records.insert((of, form), Arc::clone(&memory));
        Ok(memory)
    }

    /// Whether producers write the records of the ops that follow with their norm.
    fn producers_quantize(&self) -> bool {
        self.plan.numerics.activations != Activations::Q8K
    }

    /// The form of the records that a step finds, where the step before it writes them.
    fn written(&self, step: usize) -> Option<Form> {
        if self.producers_quantize() {
            return Some(Form::Q8);
        }
        let of_type = |id: WeightId| self.plan.weights.get(id.0 as usize).map(|weight| weight.tensor_type);
        let before = step.checked_sub(1).and_then(|step| self.plan.steps.get(step))?.op;
        let reader = match (before, self.plan.steps.get(step)?.op) {
            (Op::Attention, Op::AttnOut { output }) => output,
            // The kernels of float weights have no epilogue for it.
            (Op::GateUp { gate, up, .. }, Op::Down { down }) => {
                let floats = [gate, up].map(|linear| of_type(linear.weight).is_none_or(|t| t.is_float()));
                (floats == [false; 2]).then_some(down)?
            }
            _ => return None,
        };
        Some(Form::new(Activations::Q8K, of_type(reader.weight)?))
    }

    fn fault(&self, step: usize, what: impl Into<String>) -> Error {
        let op = self.plan.steps.get(step).map_or("?", |step| step.op.kind().name());
        Error::Plan { step, op, what: what.into() }
    }

    /// The fields that all launches share.
    fn params(&self, columns: usize) -> Params {
        let cache = &self.cache;
        Params::of_plan(self.plan, self.layout.asked_at(), (cache.context, cache.splits()), columns)
    }

    /// A launch of 256 threads without weights.
    fn push(&mut self, step: usize, key: String, params: Params, buffers: Vec<Bound>, grid: Grid) {
        let draft = self.draft(step, key, params, buffers, grid);
        self.drafts.push(draft);
    }

    fn draft(&self, step: usize, key: String, params: Params, buffers: Vec<Bound>, grid: Grid) -> Draft {
        // The newest text that there is for this chip.
        let newer = sources::find(&key).is_some_and(|variant| variant.targets.contains(&Target::Sm90));
        let target = if newer { self.gpu.target } else { Target::Sm80 };
        Draft {
            step,
            when: When::Always,
            key: (key, target),
            params,
            buffers,
            grid,
            threads: COLUMNS_PER_BLOCK as u32,
            shared_bytes: 0,
            weight_bytes: 0,
        }
    }

    /// The define of attention and `head_norm` for the type of the cache.
    fn kv(&self) -> &'static str {
        match self.plan.numerics.kv {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
        }
    }

    /// A `quantize` launch for the records that `step` reads.
    fn quantize(
        &mut self,
        step: usize,
        of: BufferId,
        form: Form,
        norm: Option<WeightId>,
    ) -> Result<(), Error> {
        let records = self.records(of, form)?;
        let width = self.width(of);
        let mut params = self.params(width);
        params.norm = self.weights.place(norm);
        if norm.is_some() {
            params.flags |= FLAG_NORM;
        }
        let buffers = vec![
            ("vectors", Arc::clone(&self.weights.vectors)),
            ("x", self.activation(of)),
            ("state", Arc::clone(&self.buffers.state)),
            ("acts_out", records),
        ];
        let x = width.div_ceil(COLUMNS_PER_BLOCK) as u32;
        let grid = Grid::ByRows { x, first: 0, most: u32::MAX };
        let draft = self.draft(step, format!("quantize X={}", form.name()), params, buffers, grid);
        let when = if self.written(step) == Some(form) { When::First } else { When::Always };
        self.drafts.push(Draft { when, ..draft });
        Ok(())
    }

    /// The launches of an op that multiplies: one, or one per matrix where no kernel takes their types together.
    fn products(
        &mut self,
        step: usize,
        input: BufferId,
        norm: Option<WeightId>,
        finish: &Finish<'_, 'a>,
    ) -> Result<(), Error> {
        let op = self.plan.steps[step].op;
        let activations = self.plan.numerics.activations;
        let weights = self.weights;
        let Some(matrices) = weights.matrices(&matrices(&op)) else {
            return Err(self.fault(step, "its weights were not uploaded"));
        };
        let columns = self.width(input);
        let rows = if matches!(op, Op::Head { .. }) { self.plan.logit_rows } else { self.plan.rows };
        if rows == 0 {
            return Ok(());
        }
        let kind = match rows {
            ..=MAX_M => forms::Rows::Decode(rows as u32),
            _ => forms::Rows::Tile,
        };
        let mut quantized = Vec::new();
        for parts in matrices.launches() {
            let used: Vec<&Part> = parts.iter().filter(|part| part.panels > 0).collect();
            let types: Vec<TensorType> = used.iter().map(|part| part.tensor_type).collect();
            let Some((a, b)) = mixture(&types) else {
                return Err(self.fault(step, format!("no kernel multiplies {types:?} together")));
            };
            let x = product(activations, a);
            let form = Form::new(activations, a);
            if !quantized.contains(&form) {
                self.quantize(step, input, form, norm)?;
                quantized.push(form);
            }
            let mut params = self.params(columns);
            if norm.is_some() && self.producers_quantize() {
                params.flags |= FLAG_NORM;
            }
            params.units_a = (columns as u32).div_ceil(unit_columns(a, x));
            params.units_b = b.map_or(0, |b| (columns as u32).div_ceil(unit_columns(b, x)));
            for (index, part) in parts.iter().enumerate().take(3) {
                params.base[index] = part.base;
                params.panels[index] = part.panels;
                if part.panels > 0 {
                    if Some(part.tensor_type) == b {
                        params.second |= 1 << index;
                        params.stride_b = part.stride;
                    } else {
                        params.stride_a = part.stride;
                    }
                }
            }
            let panels: u32 = match op {
                Op::GateUp { .. } => params.panels[0].max(params.panels[1]),
                _ => params.panels.iter().sum(),
            };
            params.segments = self.plan.segments(&op) as u32;
            let mut buffers = finish(self, &mut params);
            if matches!(op, Op::GateUp { .. }) {
                match params.panels {
                    [0, ..] => params.flags = params.flags & !(FLAG_RECORDS | FLAG_SUPER_BLOCKS) | FLAG_UP,
                    [_, 0, _] => params.flags |= FLAG_GATE,
                    _ => {}
                }
            }
            buffers.extend([
                ("weights", Arc::clone(&matrices.memory)),
                ("vectors", Arc::clone(&weights.vectors)),
                ("acts", self.records(input, form)?),
                ("state", Arc::clone(&self.buffers.state)),
            ]);
            let grid = match (kind, op) {
                (forms::Rows::Decode(_), _) => Grid::Panels(panels),
                (forms::Rows::Tile, Op::Head { .. }) => Grid::PanelsByAskedTiles(panels),
                (forms::Rows::Tile, _) => Grid::PanelsByRowTiles(panels),
            };
            let forms::Geometry { threads, shared_bytes } = forms::geometry(op.kind(), kind, params.segments);
            let weight_bytes = used.iter().map(|part| part.bytes).sum();
            let draft = self.draft(step, product_key(op.kind(), a, b, x, kind), params, buffers, grid);
            self.drafts.push(Draft { threads, shared_bytes, weight_bytes, ..draft });
        }
        Ok(())
    }

    fn step(&mut self, step: usize) -> Result<(), Error> {
        match self.plan.steps[step].op {
            Op::Embed { table } => self.embed(step, table),
            Op::QkvRope { norm, q, k, v, q_norm, k_norm } => {
                self.qkv_rope(step, norm, [q, k, v], q_norm.zip(k_norm))
            }
            Op::Attention => self.attention(step),
            Op::AttnOut { output } => self.linear(step, Plan::ATTENTION, output),
            Op::GateUp { norm, gate, up } => self.gate_up(step, norm, gate, up),
            Op::Down { down } => self.linear(step, Plan::GATED, down),
            Op::Head { norm, .. } => self.head(step, norm),
            Op::Sample => {
                self.sample(step);
                Ok(())
            }
        }
    }

    fn embed(&mut self, step: usize, table: WeightId) -> Result<(), Error> {
        let records = self.records(Plan::RESIDUAL, Form::Q8)?;
        let width = self.width(Plan::RESIDUAL);
        let weights = self.weights;
        let table = weights.matrices(&[table]);
        let Some((table, [part])) = table.map(|table| (table, table.parts())) else {
            return Err(self.fault(step, "its table was not uploaded"));
        };
        let mut params = self.params(width);
        params.base[0] = part.base;
        params.panels[0] = part.panels;
        params.stride_a = part.stride;
        params.norm = weights.place(self.plan.next_norm(step));
        if self.producers_quantize() && params.norm != NONE {
            params.flags |= FLAG_RECORDS;
        }
        let buffers = vec![
            ("weights", Arc::clone(&table.memory)),
            ("vectors", Arc::clone(&weights.vectors)),
            ("state", Arc::clone(&self.buffers.state)),
            ("residual", self.activation(Plan::RESIDUAL)),
            ("acts_out", records),
        ];
        let x = width.div_ceil(COLUMNS_PER_BLOCK) as u32;
        let grid = Grid::ByRows { x, first: 0, most: u32::MAX };
        self.push(step, format!("embed A={}", lower(part.tensor_type)), params, buffers, grid);
        Ok(())
    }

    /// Keys and values of a step's layer.
    fn layer(&self, step: usize) -> Result<(Arc<DeviceMemory>, Arc<DeviceMemory>), Error> {
        let layer = self.plan.steps[step].layer.unwrap_or(0);
        let missing = || self.fault(step, format!("the cache has no layer {layer}"));
        self.cache.layers.get(layer).cloned().ok_or_else(missing)
    }

    fn qkv_rope(
        &mut self,
        step: usize,
        norm: WeightId,
        linears: [Linear; 3],
        head_norms: Option<(WeightId, WeightId)>,
    ) -> Result<(), Error> {
        let (keys, values) = self.layer(step)?;
        let rope = Arc::clone(&self.cache.rope);
        let bias = linears.map(|linear| self.weights.place(linear.bias));
        self.products(step, Plan::RESIDUAL, Some(norm), &|builder, params| {
            params.bias = bias;
            if head_norms.is_some() {
                params.flags |= FLAG_HEAD_NORM;
            }
            let query = builder.raw.clone().filter(|_| head_norms.is_some());
            vec![
                ("rope", Arc::clone(&rope)),
                ("query", query.unwrap_or_else(|| builder.activation(Plan::QUERY))),
                ("keys", Arc::clone(&keys)),
                ("values", Arc::clone(&values)),
            ]
        })?;
        if let (Some((q_norm, k_norm)), Some(raw)) = (head_norms, self.raw.clone()) {
            let mut params = self.params(self.width(Plan::RESIDUAL));
            params.bias = [self.weights.place(Some(q_norm)), self.weights.place(Some(k_norm)), NONE];
            let buffers = vec![
                ("vectors", Arc::clone(&self.weights.vectors)),
                ("raw", raw),
                ("state", Arc::clone(&self.buffers.state)),
                ("rope", rope),
                ("query", self.activation(Plan::QUERY)),
                ("keys", keys),
            ];
            let x = params.num_heads + params.num_kv_heads;
            let grid = Grid::ByRows { x, first: 0, most: u32::MAX };
            let draft = self.draft(step, format!("head_norm KV={}", self.kv()), params, buffers, grid);
            self.drafts.push(Draft { threads: 32, ..draft });
        }
        Ok(())
    }

    fn attention(&mut self, step: usize) -> Result<(), Error> {
        let (keys, values) = self.layer(step)?;
        let written = self.written(step + 1);
        let form = written.unwrap_or(Form::Q8);
        let records = self.records(Plan::ATTENTION, form)?;
        let width = self.width(Plan::ATTENTION);
        let heads = Heads::new(self.gpu, self.plan);
        let rows = self.sizes.attention_rows;
        for first in (0..self.plan.rows).step_by(rows) {
            let mut params = self.params(width);
            params.first_row = first as u32;
            params.rows = (first + rows) as u32;
            if written.is_some() {
                params.flags |= FLAG_RECORDS;
            }
            let buffers = vec![
                ("query", self.activation(Plan::QUERY)),
                ("keys", Arc::clone(&keys)),
                ("values", Arc::clone(&values)),
                ("state", Arc::clone(&self.buffers.state)),
                ("partial", Arc::clone(&self.partial)),
            ];
            let (first, most, blocks) = (first as u32, rows as u32, heads.blocks);
            let mut grid = Grid::Splits { heads: blocks, first, most };
            if let Some(Tile { key, rows, shared_bytes, fill }) = &heads.tile {
                let (tile, fill, shared_bytes) = (*rows, *fill, *shared_bytes);
                let of = |tiles| Grid::SplitsOr { heads: blocks, first, most, tile, fill, tiles };
                let draft = self.draft(step, key.clone(), params, buffers.clone(), of(true));
                self.drafts.push(Draft { shared_bytes, ..draft });
                grid = of(false);
            }
            self.push(step, heads.key.clone(), params, buffers, grid);
            let buffers = vec![
                ("partial", Arc::clone(&self.partial)),
                ("state", Arc::clone(&self.buffers.state)),
                ("attention", self.activation(Plan::ATTENTION)),
                ("acts_out", Arc::clone(&records)),
            ];
            let grid = Grid::ByRows { x: width.div_ceil(COLUMNS_PER_BLOCK) as u32, first, most };
            let key = match form {
                Form::Q8 => "attention_join".to_owned(),
                form => format!("attention_join X={}", form.name()),
            };
            self.push(step, key, params, buffers, grid);
        }
        Ok(())
    }

    fn linear(&mut self, step: usize, input: BufferId, linear: Linear) -> Result<(), Error> {
        let next = self.plan.next_norm(step);
        let records = self.records(Plan::RESIDUAL, Form::Q8)?;
        let (bias, norm) = (self.weights.place(linear.bias), self.weights.place(next));
        self.products(step, input, None, &|builder, params| {
            params.rows = builder.width(Plan::RESIDUAL) as u32;
            params.bias[0] = bias;
            params.norm = norm;
            if builder.producers_quantize() && norm != NONE {
                params.flags |= FLAG_RECORDS;
            }
            vec![("residual", builder.activation(Plan::RESIDUAL)), ("acts_out", Arc::clone(&records))]
        })
    }

    fn gate_up(&mut self, step: usize, norm: WeightId, gate: Linear, up: Linear) -> Result<(), Error> {
        let written = self.written(step + 1);
        let records = self.records(Plan::GATED, written.unwrap_or(Form::Q8))?;
        let bias = [self.weights.place(gate.bias), self.weights.place(up.bias), NONE];
        self.products(step, Plan::RESIDUAL, Some(norm), &|builder, params| {
            params.rows = builder.width(Plan::GATED) as u32;
            params.bias = bias;
            params.flags |= match written {
                Some(Form::Q8) => FLAG_RECORDS,
                Some(Form::Q8Zero) => FLAG_RECORDS | FLAG_ZERO,
                Some(Form::Q8K) => FLAG_SUPER_BLOCKS,
                None => 0,
            };
            vec![("gated", builder.activation(Plan::GATED)), ("acts_out", Arc::clone(&records))]
        })
    }

    fn head(&mut self, step: usize, norm: WeightId) -> Result<(), Error> {
        self.products(step, Plan::RESIDUAL, Some(norm), &|builder, params| {
            params.rows = builder.plan.shape.vocab_size as u32;
            vec![("logits", builder.activation(Plan::LOGITS)), ("best", Arc::clone(&builder.best))]
        })
    }

    fn sample(&mut self, step: usize) {
        let mut params = self.params(self.width(Plan::RESIDUAL));
        params.rows = self.plan.shape.vocab_size as u32;
        params.plan_rows = self.plan.logit_rows as u32;
        params.context = self.cache.recent_capacity as u32;
        params.splits = RING as u32;
        let buffers = vec![
            ("logits", self.activation(Plan::LOGITS)),
            ("best", Arc::clone(&self.best)),
            ("sampling", Arc::clone(&self.cache.sampling)),
            ("state", Arc::clone(&self.buffers.state)),
            ("recent", Arc::clone(&self.cache.recent)),
            ("marked", Arc::clone(&self.marked)),
            ("ring", Arc::clone(&self.buffers.ring)),
        ];
        // Run by itself, it cannot rely on what `head` left besides the logits.
        for (when, flags) in [(When::Later, params.flags), (When::First, params.flags | FLAG_SCAN)] {
            let params = Params { flags, ..params };
            let draft = self.draft(step, "sample".to_owned(), params, buffers.clone(), Grid::Asked);
            self.drafts.push(Draft { when, threads: SAMPLE_THREADS, ..draft });
        }
    }

    /// Compiles the kernels and puts their arguments in order.
    fn finish(self) -> Result<Compiled, Error> {
        let gpu = self.gpu;
        let keys: Vec<_> = self.drafts.iter().map(|draft| draft.key.clone()).collect();
        gpu.modules.compile(&keys)?;
        let launches = self.drafts.into_iter().map(|draft| draft.load(gpu)).collect::<Result<_, _>>()?;
        Ok(Compiled { launches, persistent: None, buffers: self.buffers, bytes: self.bytes })
    }
}

/// Parts of attention per row, at most, for a context.
pub(super) fn splits(context: usize) -> usize {
    context.div_ceil(SPLIT)
}
