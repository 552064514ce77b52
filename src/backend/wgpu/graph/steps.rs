//! The dispatches of each op.

use super::super::dispatch::Draft;
use super::super::forms::{Form, lower};
use super::super::pipelines::PipelineKey;
use super::{Builder, find};
use crate::backend::Error;
use crate::backend::gpu::RING;
use crate::backend::gpu::grid::{Grid, When};
use crate::backend::gpu::params::{FLAG_HEAD_NORM, FLAG_RECORDS, FLAG_SCAN, NONE, Params};
use crate::plan::{BufferId, KvType, Linear, Op, Plan, WeightId};

impl Builder<'_> {
    pub(super) fn step(&mut self, step: usize) -> Result<(), Error> {
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
            params.norm = self.weights.place(self.plan.next_norm(step));
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
            // Only a cache in float16 can be read as float16.
            let key = if self.plan.numerics.kv == KvType::F16 { "attention" } else { "attention KV=f32" };
            let variant = find(self.gpu, key)?;
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
}
