//! The dispatches of the ops that multiply weights with activations.

use super::super::dispatch::{Bound, Draft};
use super::super::forms::{Form, lower, mixture, product, unit_columns};
use super::super::pipelines::PipelineKey;
use super::super::upload::{Chunk, Part};
use super::{Builder, find};
use crate::backend::Error;
use crate::backend::gpu::MAX_M;
use crate::backend::gpu::grid::{Grid, When};
use crate::backend::gpu::params::{FLAG_GATE, FLAG_NORM, FLAG_RECORDS, FLAG_UP, Params};
use crate::backend::gpu::weights::matrices;
use crate::plan::{BufferId, Op, WeightId};
use crate::quant::TensorType;

/// Activation rows of a prefill kernel per group of 32 invocations, and its invocations.
const TILE_M: u32 = 8;
const TILE_INVOCATIONS: u32 = 128;
/// Words of workgroup memory that hold parts of sums: see `shaders/shared/matvec.wgsl`.
const PARTS: u32 = 2048;
/// Sets what is an op's own in the parameters of a product, and gives its own buffers.
type Finish<'f, 'a> = dyn Fn(&Builder<'a>, &mut Params) -> Vec<Bound> + 'f;

impl<'a> Builder<'a> {
    /// The dispatches of an op that multiplies: one per chunk of its weights.
    ///
    /// `rows_of` gives the rows of the run that the op works on: those of the plan or those that ask.
    pub(super) fn products(
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
            let all: u32 = match op {
                Op::GateUp { .. } => params.panels[0].max(params.panels[1]),
                _ => params.panels.iter().sum(),
            };
            // A group of 32 invocations per segment; in several rounds of equal length where there are not so many.
            params.segments = self.plan.segments(&op) as u32;
            let rounds = params.segments.div_ceil(self.gpu.invocations / 32);
            let wide = 32 * params.segments.div_ceil(rounds);
            let squares = |tensor_type| unit_columns(tensor_type, x) / 32;
            params.squares = [squares(a), b.map_or(1, squares)];
            if let Op::GateUp { gate, .. } = op {
                params.squares[0] = squares(self.plan.weights[gate.weight.0 as usize].tensor_type);
            }
            let mut buffers = finish(self, &mut params);
            if matches!(op, Op::GateUp { .. }) {
                match params.panels {
                    [0, ..] => params.flags = params.flags & !FLAG_RECORDS | FLAG_UP,
                    [_, 0, _] => params.flags |= FLAG_GATE,
                    _ => {}
                }
            }
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
            let at_a_time = (PARTS / invocations).min(invocations / 32);
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
}
