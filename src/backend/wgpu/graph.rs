//! A plan turned into dispatches: pipelines, bind groups and buffers, made once. A pass only sets them and dispatches.
//!
//! | op | dispatches |
//! |---|---|
//! | `embed` | one per piece of the table |
//! | `qkv_rope` | one (one per piece or type where the three matrices do not go together), and `head_norm` where heads have norms |
//! | `attention` | two: parts of 256 positions, then their join |
//! | `attn_out`, `gate_up`, `down`, `head` | one per piece |
//! | `sample` | one |
//!
//! Six per layer in the usual case. Norms and quantization have no dispatch: whoever writes a row of activations writes
//! it in the form that its reader wants (`shaders/shared/record.wgsl`). In the mode `q8_k`, whose blocks of 256 values no
//! producer holds, `quantize` runs before each projection: ten per layer. `quantize` also runs before a step that is
//! run by itself.

use super::adapter::Gpu;
use super::dispatch::{Bound, Dispatch, Draft, Grid, TILE, When};
use super::forms::{Form, lower, mixture, product, unit_columns};
use super::params::{
    FLAG_HEAD_NORM, FLAG_KV_F32, FLAG_NEOX, FLAG_NORM, FLAG_RECORDS, FLAG_SCAN, NONE, PARAMS_STRIDE, Params,
};
use super::pipelines::PipelineKey;
use super::state::StateLayout;
use super::upload::{Chunk, Part, Weights, matrices};
use super::{Cache, shaders};
use crate::backend::Error;
use crate::plan::{Activations, BufferId, KvType, Linear, Op, Pairing, Plan, WeightId};
use crate::quant::{PANEL_ROWS, TensorType};
use bytemuck::Zeroable;
use std::collections::HashMap;

/// Activation rows of a prefill kernel per group of 32 invocations, and its invocations.
const TILE_M: u32 = 8;
const TILE_INVOCATIONS: u32 = 128;
/// The largest decode batch.
const MAX_M: usize = 8;
/// Words of workgroup memory that hold parts of sums: see `shaders/shared/matvec.wgsl`.
const PARTS: u32 = 2048;
/// Panels from which on a matrix fills a device with the smallest workgroups.
const MANY_PANELS: u32 = 512;
/// Bytes of an activation record of 32 columns.
const RECORD_BYTES: usize = 176;
/// Bytes that partial results of attention may take; more rows take turns.
const PARTIAL_BYTES: usize = 32 << 20;
/// Passes whose tokens the ring holds.
pub(super) const RING: usize = 64;

/// The buffers of a graph that the host touches.
pub(super) struct GraphBuffers {
    /// By `BufferId`.
    pub(super) activations: Vec<wgpu::Buffer>,
    pub(super) state: wgpu::Buffer,
    pub(super) ring: wgpu::Buffer,
}

/// A compiled plan.
pub(super) struct Compiled {
    pub(super) dispatches: Vec<Dispatch>,
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
    buffers: GraphBuffers,
    best: wgpu::Buffer,
    partial: wgpu::Buffer,
    raw: Option<wgpu::Buffer>,
    marked: wgpu::Buffer,
    records: HashMap<(BufferId, Form), wgpu::Buffer>,
    /// Rows whose partial results of attention fit at a time.
    attention_rows: usize,
    drafts: Vec<Draft>,
    bytes: u64,
}

/// Compiles a plan.
pub(super) fn compile(gpu: &Gpu, plan: &Plan, weights: &Weights, cache: &Cache) -> Result<Compiled, Error> {
    let mut builder = Builder::new(gpu, plan, weights, cache)?;
    for step in 0..plan.steps.len() {
        builder.step(step)?;
    }
    builder.finish()
}

impl<'a> Builder<'a> {
    fn new(gpu: &'a Gpu, plan: &'a Plan, weights: &'a Weights, cache: &'a Cache) -> Result<Self, Error> {
        let shape = &plan.shape;
        let mut bytes = 0;
        let mut storage = |label: &str, size: usize| {
            bytes += size as u64;
            gpu.storage(label, size as u64)
        };
        let layout = StateLayout { rows: plan.rows, logit_rows: plan.logit_rows };
        let mut activations = Vec::new();
        for buffer in &plan.buffers {
            activations.push(storage(buffer.name, 4 * buffer.rows * buffer.width)?);
        }
        let state = storage("state", 4 * layout.words())?;
        let ring = storage("token ring", 4 * RING * plan.logit_rows)?;
        let best =
            storage("best of each panel", 8 * plan.logit_rows * shape.vocab_size.div_ceil(PANEL_ROWS))?;
        let marked = storage("penalized tokens", 4 * plan.logit_rows * shape.vocab_size.div_ceil(32))?;
        let per_row = 4 * shape.num_heads * cache.splits() * (shape.head_dim + 2);
        let attention_rows = (PARTIAL_BYTES / per_row).clamp(1, plan.rows.max(1));
        let partial = storage("parts of attention", attention_rows * per_row)?;
        let head_norm = plan.steps.iter().any(|step| matches!(step.op, Op::QkvRope { q_norm: Some(_), .. }));
        let raw_width = (shape.num_heads + shape.num_kv_heads) * shape.head_dim;
        let raw =
            head_norm.then(|| storage("heads before their norm", 4 * plan.rows * raw_width)).transpose()?;
        let buffers = GraphBuffers { activations, state, ring };
        Ok(Self {
            gpu,
            plan,
            weights,
            cache,
            layout,
            buffers,
            best,
            partial,
            raw,
            marked,
            records: HashMap::new(),
            attention_rows,
            drafts: Vec::new(),
            bytes,
        })
    }

    fn activation(&self, id: BufferId) -> wgpu::Buffer {
        self.buffers.activations[id.0 as usize].clone()
    }

    fn width(&self, id: BufferId) -> usize {
        self.plan.buffers[id.0 as usize].width
    }

    /// The buffer of a buffer's records in some form.
    fn records(&mut self, of: BufferId, form: Form) -> Result<wgpu::Buffer, Error> {
        if let Some(buffer) = self.records.get(&(of, form)) {
            return Ok(buffer.clone());
        }
        // Prefill kernels read whole tiles.
        let rows =
            if self.plan.rows > MAX_M { self.plan.rows.next_multiple_of(TILE) } else { self.plan.rows };
        let bytes = rows * self.width(of).div_ceil(32) * RECORD_BYTES;
        self.bytes += bytes as u64;
        let buffer = self.gpu.storage("records", bytes as u64)?;
        self.records.insert((of, form), buffer.clone());
        Ok(buffer)
    }

    /// Whether producers write the records of the ops that follow.
    fn producers_quantize(&self) -> bool {
        self.plan.numerics.activations != Activations::Q8K
    }

    fn fault(&self, step: usize, what: impl Into<String>) -> Error {
        let op = self.plan.steps.get(step).map_or("?", |step| step.op.kind().name());
        Error::Plan { step, op, what: what.into() }
    }

    /// The norm that the next op with one will want of the residual stream.
    fn next_norm(&self, step: usize) -> Option<WeightId> {
        self.plan.steps.iter().skip(step + 1).find_map(|step| match step.op {
            Op::QkvRope { norm, .. } | Op::GateUp { norm, .. } | Op::Head { norm, .. } => Some(norm),
            _ => None,
        })
    }

    /// The fields that all dispatches share.
    fn params(&self, columns: usize) -> Params {
        let shape = &self.plan.shape;
        let mut flags = 0;
        if shape.rope_pairing == Pairing::Neox {
            flags |= FLAG_NEOX;
        }
        if self.plan.numerics.kv == KvType::F32 {
            flags |= FLAG_KV_F32;
        }
        Params {
            records: columns.div_ceil(32) as u32,
            columns: columns as u32,
            segments: 1,
            bias: [NONE; 3],
            norm: NONE,
            num_heads: shape.num_heads as u32,
            num_kv_heads: shape.num_kv_heads as u32,
            head_dim: shape.head_dim as u32,
            rope_pairs: (shape.rope_dim / 2) as u32,
            context: self.cache.context as u32,
            window: shape.sliding_window.map_or(0, |window| window.min(u32::MAX as usize) as u32),
            splits: self.cache.splits() as u32,
            asked_at: self.layout.asked_at() as u32,
            flags,
            eps: shape.rms_norm_eps,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
            ..Params::zeroed()
        }
    }

    fn push(&mut self, step: usize, key: PipelineKey, params: Params, buffers: Vec<Bound>, grid: Grid) {
        self.drafts.push(Draft { step, when: When::Always, key, params, buffers, grid, weight_bytes: 0 });
    }

    /// A `quantize` dispatch for the records that `step` reads.
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
        let variant = find(self.gpu, &format!("quantize X={}", form.name()))?;
        let buffers = vec![
            ("vectors", self.weights.vectors().clone()),
            ("x", self.activation(of)),
            ("state", self.buffers.state.clone()),
            ("acts_out", records),
        ];
        let when = if self.producers_quantize() { When::First } else { When::Always };
        let grid = Grid::ByRows { x: width.div_ceil(256) as u32, first: 0, most: u32::MAX };
        let key = PipelineKey { variant, constants: vec![] };
        self.drafts.push(Draft { step, when, key, params, buffers, grid, weight_bytes: 0 });
        Ok(())
    }

    /// The dispatches of an op that multiplies: one per chunk of its weights.
    ///
    /// `rows_of` gives the rows of the run that the op works on: those of the plan or those that ask.
    fn products(
        &mut self,
        step: usize,
        input: BufferId,
        norm: Option<WeightId>,
        finish: &Finish<'_, 'a>,
    ) -> Result<(), Error> {
        let op = self.plan.steps[step].op;
        let activations = self.plan.numerics.activations;
        let ids = matrices(&op);
        let chunks: Vec<Chunk> = self.weights.chunks(&ids).to_vec();
        let columns = self.width(input);
        if chunks.is_empty() {
            return Err(self.fault(step, "its weights were not uploaded"));
        }
        let rows = if matches!(op, Op::Head { .. }) { self.plan.logit_rows } else { self.plan.rows };
        if rows == 0 {
            return Ok(());
        }
        let tile = rows > MAX_M;
        let mut quantized = Vec::new();
        for chunk in &chunks {
            let used: Vec<&Part> = chunk.parts.iter().filter(|part| part.panels > 0).collect();
            let types: Vec<TensorType> = used.iter().map(|part| part.tensor_type).collect();
            let Some((a, b)) = mixture(&types) else {
                return Err(self.fault(step, format!("no shader multiplies {types:?} together")));
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
            for (index, part) in chunk.parts.iter().enumerate() {
                params.base[index] = part.base;
                params.panels[index] = part.panels;
                if part.panels > 0 {
                    params.first_panel = part.first_panel;
                    if Some(part.tensor_type) == b {
                        params.second |= 1 << index;
                        params.stride_b = part.stride;
                    } else {
                        params.stride_a = part.stride;
                    }
                }
            }
            // The order of a row's sum must not depend on the batch: segments come from the matrix alone.
            let all: u32 = match op {
                Op::GateUp { .. } => params.panels[0],
                _ => params.panels.iter().sum(),
            };
            let total = ids
                .iter()
                .map(|id| self.plan.weights[id.0 as usize].rows.div_ceil(PANEL_ROWS))
                .sum::<usize>();
            let wide = if total as u32 >= MANY_PANELS { 256 } else { self.gpu.invocations };
            params.segments = wide / 32;
            let mut buffers = finish(self, &mut params);
            let records = self.records(input, form)?;
            buffers.extend([
                ("weights", chunk.buffer.clone()),
                ("vectors", self.weights.vectors().clone()),
                ("acts", records),
                ("state", self.buffers.state.clone()),
            ]);
            let mut variant = format!("{} A={}", op.kind().name(), lower(a));
            if tile {
                variant = b.map_or(variant.clone(), |b| format!("{variant} B={}", lower(b))) + " TILE=1";
            } else if let Some(b) = b {
                variant += &format!(" B={}", lower(b));
            }
            let variant = find(self.gpu, &format!("{variant} X={x}"))?;
            let (invocations, m) = if tile { (TILE_INVOCATIONS, TILE_M) } else { (wide, rows as u32) };
            let at_a_time = PARTS / invocations;
            let constants = match tile {
                true => vec![("M", m), ("WG", invocations)],
                false => vec![("M", m), ("WG", invocations), ("AT_A_TIME", at_a_time)],
            };
            let grid = match (tile, op) {
                (false, _) => Grid::Panels(all),
                (true, Op::Head { .. }) => Grid::PanelsByAskedTiles(all),
                (true, _) => Grid::PanelsByRowTiles(all),
            };
            let weight_bytes = chunk.buffer.size();
            let key = PipelineKey { variant, constants };
            self.drafts.push(Draft { step, when: When::Always, key, params, buffers, grid, weight_bytes });
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
            Op::Sample => self.sample(step),
        }
    }

    fn embed(&mut self, step: usize, table: WeightId) -> Result<(), Error> {
        let records = self.records(Plan::RESIDUAL, Form::Q8)?;
        let width = self.width(Plan::RESIDUAL);
        for chunk in self.weights.chunks(&[table]).to_vec() {
            let Some(part) = chunk.parts.first() else { continue };
            let mut params = self.params(width);
            params.base[0] = part.base;
            params.panels[0] = part.panels;
            params.first_panel = part.first_panel;
            params.stride_a = part.stride;
            params.norm = self.weights.place(self.next_norm(step));
            if self.producers_quantize() && params.norm != NONE {
                params.flags |= FLAG_RECORDS;
            }
            let variant = find(self.gpu, &format!("embed A={}", lower(part.tensor_type)))?;
            let buffers = vec![
                ("weights", chunk.buffer.clone()),
                ("vectors", self.weights.vectors().clone()),
                ("state", self.buffers.state.clone()),
                ("residual", self.activation(Plan::RESIDUAL)),
                ("acts_out", records.clone()),
            ];
            let grid = Grid::ByRows { x: width.div_ceil(256) as u32, first: 0, most: u32::MAX };
            self.push(step, PipelineKey { variant, constants: vec![] }, params, buffers, grid);
        }
        Ok(())
    }

    fn qkv_rope(
        &mut self,
        step: usize,
        norm: WeightId,
        linears: [Linear; 3],
        head_norms: Option<(WeightId, WeightId)>,
    ) -> Result<(), Error> {
        let layer = self.plan.steps[step].layer.unwrap_or(0);
        let Some((keys, values)) = self.cache.layers.get(layer).cloned() else {
            return Err(self.fault(step, format!("the cache has no layer {layer}")));
        };
        let rope = self.cache.rope.clone();
        let bias = linears.map(|linear| self.weights.place(linear.bias));
        self.products(step, Plan::RESIDUAL, Some(norm), &|builder, params| {
            params.bias = bias;
            if head_norms.is_some() {
                params.flags |= FLAG_HEAD_NORM;
            }
            let query = builder.raw.clone().filter(|_| head_norms.is_some());
            vec![
                ("rope", rope.clone()),
                ("query", query.unwrap_or_else(|| builder.activation(Plan::QUERY))),
                ("keys", keys.clone()),
                ("values", values.clone()),
            ]
        })?;
        if let (Some((q_norm, k_norm)), Some(raw)) = (head_norms, self.raw.clone()) {
            let mut params = self.params(self.width(Plan::RESIDUAL));
            params.bias = [self.weights.place(Some(q_norm)), self.weights.place(Some(k_norm)), NONE];
            let variant = find(self.gpu, "head_norm")?;
            let buffers = vec![
                ("vectors", self.weights.vectors().clone()),
                ("state", self.buffers.state.clone()),
                ("rope", rope),
                ("raw", raw),
                ("query", self.activation(Plan::QUERY)),
                ("keys", keys),
            ];
            let x = params.num_heads + params.num_kv_heads;
            let grid = Grid::ByRows { x, first: 0, most: u32::MAX };
            self.push(step, PipelineKey { variant, constants: vec![] }, params, buffers, grid);
        }
        Ok(())
    }

    fn attention(&mut self, step: usize) -> Result<(), Error> {
        let layer = self.plan.steps[step].layer.unwrap_or(0);
        let Some((keys, values)) = self.cache.layers.get(layer).cloned() else {
            return Err(self.fault(step, format!("the cache has no layer {layer}")));
        };
        let records = self.records(Plan::ATTENTION, Form::Q8)?;
        let width = self.width(Plan::ATTENTION);
        let shape = &self.plan.shape;
        // Up to eight heads of a group at a time, as many as workgroup memory has room for.
        let group = shape.num_heads / shape.num_kv_heads.max(1);
        let most = (1024 / shape.head_dim.max(1)).clamp(1, 8);
        let passes = group.div_ceil(most).max(1);
        let at_a_time = group.div_ceil(passes).max(1);
        let heads = (shape.num_kv_heads * passes) as u32;
        let rows = self.attention_rows;
        for first in (0..self.plan.rows).step_by(rows) {
            let mut params = self.params(width);
            params.first_row = first as u32;
            if self.producers_quantize() {
                params.flags |= FLAG_RECORDS;
            }
            let variant = find(self.gpu, "attention")?;
            let buffers = vec![
                ("query", self.activation(Plan::QUERY)),
                ("keys", keys.clone()),
                ("values", values.clone()),
                ("state", self.buffers.state.clone()),
                ("partial", self.partial.clone()),
            ];
            let (first, most) = (first as u32, rows as u32);
            let key = PipelineKey { variant, constants: vec![("GROUP", at_a_time as u32)] };
            self.push(step, key, params, buffers, Grid::Splits { heads, first, most });
            let variant = find(self.gpu, "attention_join")?;
            let buffers = vec![
                ("partial", self.partial.clone()),
                ("state", self.buffers.state.clone()),
                ("attention", self.activation(Plan::ATTENTION)),
                ("acts_out", records.clone()),
            ];
            let grid = Grid::ByRows { x: width.div_ceil(256) as u32, first, most };
            self.push(step, PipelineKey { variant, constants: vec![] }, params, buffers, grid);
        }
        Ok(())
    }

    fn linear(&mut self, step: usize, input: BufferId, linear: Linear) -> Result<(), Error> {
        let next = self.next_norm(step);
        let records = self.records(Plan::RESIDUAL, Form::Q8)?;
        let (bias, norm) = (self.weights.place(linear.bias), self.weights.place(next));
        self.products(step, input, None, &|builder, params| {
            params.rows = builder.width(Plan::RESIDUAL) as u32;
            params.bias[0] = bias;
            params.norm = norm;
            if builder.producers_quantize() && norm != NONE {
                params.flags |= FLAG_RECORDS;
            }
            vec![("residual", builder.activation(Plan::RESIDUAL)), ("acts_out", records.clone())]
        })
    }

    fn gate_up(&mut self, step: usize, norm: WeightId, gate: Linear, up: Linear) -> Result<(), Error> {
        let records = self.records(Plan::GATED, Form::Q8)?;
        let bias = [self.weights.place(gate.bias), self.weights.place(up.bias), NONE];
        self.products(step, Plan::RESIDUAL, Some(norm), &|builder, params| {
            params.rows = builder.width(Plan::GATED) as u32;
            params.bias = bias;
            if builder.producers_quantize() {
                params.flags |= FLAG_RECORDS;
            }
            vec![("gated", builder.activation(Plan::GATED)), ("acts_out", records.clone())]
        })
    }

    fn head(&mut self, step: usize, norm: WeightId) -> Result<(), Error> {
        self.products(step, Plan::RESIDUAL, Some(norm), &|builder, params| {
            params.rows = builder.plan.shape.vocab_size as u32;
            vec![("logits", builder.activation(Plan::LOGITS)), ("best", builder.best.clone())]
        })
    }

    fn sample(&mut self, step: usize) -> Result<(), Error> {
        let mut params = self.params(self.width(Plan::RESIDUAL));
        params.rows = self.plan.shape.vocab_size as u32;
        params.plan_rows = self.plan.logit_rows as u32;
        params.context = self.cache.recent_capacity as u32;
        params.splits = RING as u32;
        let variant = find(self.gpu, "sample")?;
        let buffers = vec![
            ("logits", self.activation(Plan::LOGITS)),
            ("best", self.best.clone()),
            ("sampling", self.cache.sampling.clone()),
            ("state", self.buffers.state.clone()),
            ("recent", self.cache.recent.clone()),
            ("marked", self.marked.clone()),
            ("ring", self.buffers.ring.clone()),
        ];
        // Run by itself, it cannot rely on what `head` left besides the logits.
        for (when, flags) in [(When::Later, params.flags), (When::First, params.flags | FLAG_SCAN)] {
            let key = PipelineKey { variant, constants: vec![] };
            let (params, buffers) = (Params { flags, ..params }, buffers.clone());
            self.drafts.push(Draft { step, when, key, params, buffers, grid: Grid::Asked, weight_bytes: 0 });
        }
        Ok(())
    }

    /// Compiles the pipelines, writes the parameters, makes the bind groups.
    fn finish(self) -> Result<Compiled, Error> {
        let gpu = self.gpu;
        let keys: Vec<PipelineKey> = self.drafts.iter().map(|draft| draft.key.clone()).collect();
        gpu.compile(&keys)?;
        let bytes = PARAMS_STRIDE * self.drafts.len() as u64;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let params = gpu.buffer("parameters", bytes, usage)?;
        let mut staged = vec![0u8; bytes as usize];
        for (draft, out) in self.drafts.iter().zip(staged.chunks_exact_mut(PARAMS_STRIDE as usize)) {
            out[..size_of::<Params>()].copy_from_slice(bytemuck::bytes_of(&draft.params));
        }
        gpu.queue.write_buffer(&params, 0, &staged);
        let mut dispatches = Vec::new();
        for (index, draft) in self.drafts.into_iter().enumerate() {
            let pipeline = gpu.pipeline(&draft.key)?;
            let mut entries = Vec::new();
            for binding in pipeline.variant.bindings {
                let resource = if binding.name == "params" {
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &params,
                        offset: PARAMS_STRIDE * index as u64,
                        size: wgpu::BufferSize::new(size_of::<Params>() as u64),
                    })
                } else {
                    let bound = draft.buffers.iter().find(|(name, _)| *name == binding.name);
                    let missing =
                        || gpu.error(draft.key.variant, format!("nothing is bound to {}", binding.name));
                    bound.ok_or_else(missing)?.1.as_entire_binding()
                };
                entries.push(wgpu::BindGroupEntry { binding: binding.index, resource });
            }
            let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(draft.key.variant),
                layout: &pipeline.layout,
                entries: &entries,
            });
            dispatches.push(Dispatch {
                step: draft.step,
                when: draft.when,
                pipeline,
                bind_group,
                grid: draft.grid,
                weight_bytes: draft.weight_bytes,
            });
        }
        gpu.check("the bind groups of a plan")?;
        Ok(Compiled { dispatches, buffers: self.buffers, bytes: self.bytes + bytes })
    }
}

fn find(gpu: &Gpu, key: &str) -> Result<&'static str, Error> {
    let missing = || gpu.error(key, "there is no such shader; see shaders/variants");
    shaders::find(key).map(|variant| variant.key).ok_or_else(missing)
}
