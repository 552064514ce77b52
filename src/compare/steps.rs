//! A model run step by step on two devices, every buffer compared: where do they part?
//!
//! With [`Inputs::Same`] each step of the device under test starts from what the other one has, so a difference belongs
//! to the step that shows it, and only the first one over its limit has to be looked at. With [`Inputs::Own`] each goes its
//! own way and differences add up, as in a real run.
//!
//! A buffer is compared row by row, and the worst row counts: a fault at one position is not averaged away. Where a step
//! adds to the residual, what it added is compared, which the sum would hide.

use super::Error;
use super::metric::Difference;
use super::ops;
use crate::backend;
use crate::engine::Device;
use crate::plan::{Activations, BufferId, KvType, OpKind, Plan, Row, Rows, Step};
use serde::Serialize;

/// What each step of the device under test starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inputs {
    /// The buffers of the device that counts as the truth.
    Same,
    /// Its own.
    Own,
}

/// Which steps run and what they may differ by.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What steps start from.
    pub inputs: Inputs,
    /// Runs no step after this op of this layer (`None`: of the first that has it).
    pub stop_after: Option<(OpKind, Option<usize>)>,
    /// Overrides the NMSE that each buffer may have.
    pub limit: Option<f64>,
}

impl Default for Options {
    fn default() -> Self {
        Self { inputs: Inputs::Same, stop_after: None, limit: None }
    }
}

/// One buffer that a step wrote, over all rows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BufferReport {
    /// Index of the step.
    pub step: usize,
    /// The op's name.
    pub op: &'static str,
    /// The layer, for ops that belong to one.
    pub layer: Option<usize>,
    /// The buffer's name; `keys` and `values` for the cache.
    pub buffer: &'static str,
    /// The worst row's difference.
    #[serde(flatten)]
    pub difference: Difference,
    /// The row's position in the text.
    pub position: usize,
    /// The NMSE allowed.
    pub limit: f64,
}

impl BufferReport {
    /// Whether the limit is broken.
    pub fn is_over(&self) -> bool {
        self.difference.nmse.is_nan() || self.difference.nmse > self.limit
    }
}

/// What a step wrote on both devices, for dumps.
#[derive(Clone, Copy, Debug)]
pub struct Written<'a> {
    /// Index of the step.
    pub step: usize,
    /// The op.
    pub op: OpKind,
    /// The layer.
    pub layer: Option<usize>,
    /// The buffer's name; `keys` and `values` for the cache.
    pub buffer: &'static str,
    /// Position of the first row in the text.
    pub position: usize,
    /// Values per row.
    pub width: usize,
    /// `[rows, width]`.
    pub values: &'a [f32],
    /// What the device that counts as the truth wrote.
    pub truth: &'a [f32],
}

/// Runs `tokens` on both devices and reports every buffer, in the order of steps. `observe` sees what `found` wrote.
///
/// # Errors
/// Devices of different models, a text that does not fit, a device that fails. A value that is not a number is no
/// error: it is reported as an infinite difference, and the comparison ends there.
pub fn compare_steps(
    truth: &mut Device,
    found: &mut Device,
    tokens: &[u32],
    options: &Options,
    observe: &mut dyn FnMut(&Written<'_>) -> Result<(), Error>,
) -> Result<Vec<BufferReport>, Error> {
    truth.check_tokens(tokens)?;
    found.check_tokens(tokens)?;
    if truth.decoder().shape() != found.decoder().shape() {
        let what = "two models of different shapes cannot be compared step by step";
        return Err(Error::Usage(what.to_owned()));
    }
    let tile = truth.chunk().min(found.chunk()).min(tokens.len());
    let rows = Rows { rows: tile, logit_rows: 1, sample: false };
    let plan = truth.decoder().plan(rows, truth.numerics());
    let last = last_step(&plan, options.stop_after)?;
    let graphs = (truth.graph(rows)?, found.graph(rows)?);
    let mut comparison = Comparison {
        plan: &plan,
        numerics: found.numerics(),
        options,
        reports: Vec::new(),
        other_cache: false,
    };
    let (truth, found) = (truth.backend_mut(), found.backend_mut());

    for (start, tile) in (0..).step_by(tile).zip(tokens.chunks(tile)) {
        let row = |(i, &token): (usize, &u32)| Row {
            token,
            slot: 0,
            position: (start + i) as u32,
            logits: start + i + 1 == tokens.len(),
        };
        let rows: Vec<Row> = tile.iter().enumerate().map(row).collect();
        for (index, step) in plan.steps.iter().enumerate().take(last + 1) {
            let mut before = None;
            if options.inputs == Inputs::Same {
                for &id in &step.reads {
                    let values = truth.buffer(graphs.0, id)?;
                    found.set_buffer(graphs.1, id, &values)?;
                    if step.writes.contains(&id) {
                        before = Some(values);
                    }
                }
            }
            truth.run_steps(graphs.0, &rows, index..index + 1)?;
            match found.run_steps(graphs.1, &rows, index..index + 1) {
                Err(backend::Error::NotFinite { buffer, row, .. }) => {
                    comparison.not_finite(index, buffer, start + row);
                    return Ok(comparison.reports);
                }
                other => other?,
            }
            for &id in &step.writes {
                let (a, b) = (truth.buffer(graphs.0, id)?, found.buffer(graphs.1, id)?);
                // Logits belong to the last row.
                let position = if id == Plan::LOGITS { tokens.len() - 1 } else { start };
                let written = Written { truth: &a, ..comparison.written(index, step, id, position, &b) };
                observe(&written)?;
                comparison.add(&written, before.as_deref());
            }
            if step.op.kind() == OpKind::QkvRope {
                let layer = step.layer.unwrap_or(0);
                for (name, a, b) in cached(truth, found, layer, &rows)? {
                    let width = a.len() / rows.len().max(1);
                    comparison.other_cache |= a != b;
                    let written = Written {
                        buffer: name,
                        width,
                        values: &b,
                        truth: &a,
                        ..comparison.written(index, step, Plan::QUERY, start, &[])
                    };
                    observe(&written)?;
                    comparison.add(&written, None);
                }
            }
        }
    }
    Ok(comparison.reports)
}

/// A cache's name with what both devices hold in it, `[rows, width]`.
type Cached = (&'static str, Vec<f32>, Vec<f32>);

/// Keys and values of `rows` where both devices can be asked.
fn cached(
    truth: &mut dyn backend::Backend,
    found: &mut dyn backend::Backend,
    layer: usize,
    rows: &[Row],
) -> Result<Vec<Cached>, Error> {
    let (mut keys, mut values) = (("keys", vec![], vec![]), ("values", vec![], vec![]));
    for row in rows {
        let a = truth.cached(layer, row.slot, row.position)?;
        let b = found.cached(layer, row.slot, row.position)?;
        let (Some(a), Some(b)) = (a, b) else { return Ok(Vec::new()) };
        keys.1.extend(a.0);
        keys.2.extend(b.0);
        values.1.extend(a.1);
        values.2.extend(b.1);
    }
    Ok(vec![keys, values])
}

fn last_step(plan: &Plan, stop_after: Option<(OpKind, Option<usize>)>) -> Result<usize, Error> {
    let Some((op, layer)) = stop_after else { return Ok(plan.steps.len().saturating_sub(1)) };
    let is_it = |step: &Step| step.op.kind() == op && (layer.is_none() || step.layer == layer);
    plan.steps.iter().position(is_it).ok_or_else(|| {
        let layers = plan.shape.num_layers;
        let of_layer = layer.map_or(String::new(), |layer| format!(" of layer {layer}"));
        Error::Usage(format!("no step {}{of_layer}: the model has {layers} layers", op.name()))
    })
}

/// The reports so far: one per step and buffer.
struct Comparison<'a> {
    plan: &'a Plan,
    numerics: crate::plan::Numerics,
    options: &'a Options,
    reports: Vec<BufferReport>,
    /// Whether the two caches differ, as far as both can be asked.
    other_cache: bool,
}

impl Comparison<'_> {
    fn written<'v>(
        &self,
        index: usize,
        step: &Step,
        id: BufferId,
        position: usize,
        values: &'v [f32],
    ) -> Written<'v> {
        let buffer = self.plan.buffers.get(id.0 as usize);
        let (name, width) = buffer.map_or(("unknown", 1), |buffer| (buffer.name, buffer.width));
        let (op, layer) = (step.op.kind(), step.layer);
        Written { step: index, op, layer, buffer: name, position, width, values, truth: &[] }
    }

    fn limit(&self, op: OpKind, buffer: &str) -> f64 {
        let activations = self.numerics.activations;
        let usual = match (self.options.inputs, activations) {
            // Values that are rounded to the other neighbour, in the cache or as activations, add up over layers.
            (Inputs::Own, Activations::F32) => 1e-6,
            (Inputs::Own, _) => 1e-3,
            (Inputs::Same, _) => ops::limit(op, activations),
        };
        // One key in a thousand that is rounded to the other neighbour in half precision is no fault, and attention sees it.
        let seen = op == OpKind::Attention && self.other_cache;
        let rounded = self.numerics.kv == KvType::F16 && (seen || matches!(buffer, "keys" | "values"));
        self.options.limit.unwrap_or(if rounded { usual.max(1e-7) } else { usual })
    }

    fn add(&mut self, written: &Written<'_>, before: Option<&[f32]>) {
        let width = written.width.max(1);
        let mut worst: Option<(Difference, usize)> = None;
        for (row, (found, truth)) in written.values.chunks(width).zip(written.truth.chunks(width)).enumerate()
        {
            let difference = match before.and_then(|before| before.chunks(width).nth(row)) {
                Some(before) => {
                    let added = |after: &[f32]| -> Vec<f32> {
                        after.iter().zip(before).map(|(after, before)| after - before).collect()
                    };
                    // What was added is known up to the rounding of the sum.
                    let difference = Difference::of(&added(found), &added(truth));
                    Difference { ulp: Difference::of(found, truth).ulp, ..difference }
                }
                None => Difference::of(found, truth),
            };
            if worst.is_none_or(|(known, _)| known.worse(difference) != known) {
                worst = Some((difference, written.position + row));
            }
        }
        if let Some((difference, position)) = worst {
            self.merge(written, difference, position);
        }
    }

    fn merge(&mut self, written: &Written<'_>, difference: Difference, position: usize) {
        let same =
            |report: &&mut BufferReport| report.step == written.step && report.buffer == written.buffer;
        if let Some(report) = self.reports.iter_mut().find(same) {
            if report.difference.worse(difference) != report.difference {
                (report.difference, report.position) = (difference, position);
            }
            return;
        }
        let limit = self.limit(written.op, written.buffer);
        let (step, layer, buffer) = (written.step, written.layer, written.buffer);
        let op = written.op.name();
        self.reports.push(BufferReport { step, op, layer, buffer, difference, position, limit });
    }

    fn not_finite(&mut self, index: usize, buffer: &'static str, position: usize) {
        if let Some(step) = self.plan.steps.get(index) {
            let written = Written { buffer, ..self.written(index, step, Plan::RESIDUAL, position, &[]) };
            let difference =
                Difference { nmse: f64::INFINITY, max_error: f32::INFINITY, at: 0, ulp: u32::MAX };
            self.merge(&written, difference, position);
        }
    }
}

/// The first report over its limit.
pub fn first_over(reports: &[BufferReport]) -> Option<&BufferReport> {
    reports.iter().filter(|report| report.is_over()).min_by_key(|report| report.step)
}
