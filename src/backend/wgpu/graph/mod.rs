//! A plan turned into dispatches: pipelines, bind groups and buffers, made once. A pass only sets them and dispatches.
//!
//! | op | dispatches |
//! |---|---|
//! | `embed` | one per piece of the table |
//! | `qkv_rope` | one (one per piece or type where the three matrices do not go together), and `head_norm` where heads have norms |
//! | `attention` | two: parts of 256 positions, then their join |
//! | `gate_up` | one per piece; two where gate and up are of different types |
//! | `attn_out`, `down`, `head` | one per piece |
//! | `sample` | one |
//!
//! Six per layer in the usual case. Norms and quantization have no dispatch: whoever writes a row of activations writes
//! it in the form that its reader wants (`shaders/shared/record.wgsl`). In the mode `q8_k`, whose blocks of 256 values no
//! producer holds, `quantize` runs before each projection: ten per layer. `quantize` also runs before a step that is
//! run by itself.

mod bind;
mod products;
mod steps;

use super::cache::Cache;
use super::dispatch::{Bound, Dispatch, Draft};
use super::forms::Form;
use super::gpu::Gpu;
use super::pipelines::PipelineKey;
use super::shaders;
use super::upload::Weights;
use crate::backend::Error;
use crate::backend::gpu::grid::{Grid, When};
use crate::backend::gpu::params::{FLAG_NORM, Params};
use crate::backend::gpu::state::StateLayout;
use crate::backend::gpu::{MAX_M, RECORD_BYTES, RING, TILE};
use crate::plan::{Activations, BufferId, Op, Plan, WeightId};
use crate::quant::PANEL_ROWS;
use std::collections::HashMap;

/// Bytes that partial results of attention may take; more rows take turns.
const PARTIAL_BYTES: usize = 32 << 20;

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

    /// The fields that all dispatches share.
    fn params(&self, columns: usize) -> Params {
        let cache = &self.cache;
        Params::of_plan(self.plan, self.layout.asked_at(), (cache.context, cache.splits()), columns)
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
}

fn find(gpu: &Gpu, key: &str) -> Result<&'static str, Error> {
    let missing = || gpu.error(key, "there is no such shader; see shaders/variants");
    shaders::find_with(key, gpu.subgroups).map(|variant| variant.key).ok_or_else(missing)
}
