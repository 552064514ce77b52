//! What the host side of a CPU backend keeps per sequence, and the checks that every run starts with.

use super::twin::{self, SampleScratch};
use crate::backend::{Error, Sampling};
use crate::plan::{BufferId, KvLayout, Plan, Row, Step};

/// Sampling state of each slot.
#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<(Sampling, Vec<u32>)>,
    scratch: SampleScratch,
}

impl Slots {
    pub(super) fn new(slots: usize) -> Self {
        Self { slots: vec![(Sampling::default(), Vec::new()); slots], scratch: SampleScratch::default() }
    }

    pub(super) fn set(&mut self, slot: u32, sampling: &Sampling, recent: &[u32]) -> Result<(), Error> {
        let count = self.slots.len();
        let missing = || Error::Misuse(format!("slot {slot}: the cache has {count}"));
        *self.slots.get_mut(slot as usize).ok_or_else(missing)? = (sampling.clone(), recent.to_vec());
        Ok(())
    }

    /// One token into `tokens` for each row that asked for logits; it joins its sequence's recent text.
    pub(super) fn sample(&mut self, rows: &[Row], logits: &[f32], vocab_size: usize, tokens: &mut Vec<u32>) {
        tokens.clear();
        for (row, logits) in rows.iter().filter(|row| row.logits).zip(logits.chunks_exact(vocab_size)) {
            let (sampling, recent) = &mut self.slots[row.slot as usize];
            let token = twin::sample_in(&mut self.scratch, logits, sampling, recent, row.position + 1);
            recent.push(token);
            tokens.push(token);
        }
    }
}

/// Tokens that passes sampled and nobody has taken.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    tokens: Vec<u32>,
    /// Tokens of each pass.
    passes: Vec<usize>,
}

impl Sampled {
    pub(super) fn push(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.passes.push(tokens.len());
    }

    /// The tokens of each pass; the memory stays.
    pub(super) fn take(&mut self) -> Vec<Vec<u32>> {
        let mut tokens = self.tokens.drain(..);
        self.passes.drain(..).map(|count| tokens.by_ref().take(count).collect()).collect()
    }
}

/// Moves each row on by the token it sampled last.
pub(super) fn advance(rows: &mut Vec<Row>, last: &[u32]) -> Result<(), Error> {
    rows.retain(|row| row.logits);
    if last.is_empty() || last.len() != rows.len() {
        return Err(Error::Misuse(
            "nothing to continue: run the graph first, on a plan that samples".to_owned(),
        ));
    }
    for (row, &token) in rows.iter_mut().zip(last) {
        row.token = token;
        row.position += 1;
    }
    Ok(())
}

/// Refuses rows that a graph cannot run: nothing past this point is checked again.
pub(super) fn check_rows(plan: &Plan, kv: &KvLayout, rows: &[Row]) -> Result<(), Error> {
    let asked = rows.iter().filter(|row| row.logits).count();
    if rows.len() > plan.rows || asked > plan.logit_rows {
        return Err(Error::Misuse(format!(
            "{} rows, {asked} with logits: the plan is for {} and {}",
            rows.len(),
            plan.rows,
            plan.logit_rows
        )));
    }
    for (index, row) in rows.iter().enumerate() {
        let limits = [
            ("token", row.token as usize, plan.shape.vocab_size),
            ("slot", row.slot as usize, kv.slots),
            ("position", row.position as usize, kv.context),
        ];
        if let Some((name, found, limit)) = limits.into_iter().find(|&(_, found, limit)| found >= limit) {
            return Err(Error::Row { row: index, what: format!("{name} {found} is not below {limit}") });
        }
    }
    Ok(())
}

/// How many values of a buffer a pass over `rows` writes.
pub(super) fn buffer_len(plan: &Plan, rows: &[Row], id: BufferId) -> Result<usize, Error> {
    let missing = || Error::Misuse(format!("the plan has no buffer {}", id.0));
    let buffer = plan.buffers.get(id.0 as usize).ok_or_else(missing)?;
    let asked = rows.iter().filter(|row| row.logits).count();
    Ok(buffer.width * if id == Plan::LOGITS { asked } else { rows.len() })
}

/// Looks for values that are not numbers in what a step has written; `values` gives a buffer's contents.
pub(super) fn check_finite<'a>(
    plan: &Plan,
    step: &Step,
    rows: &[Row],
    mut values: impl FnMut(BufferId) -> &'a [f32],
) -> Result<(), Error> {
    for &id in &step.writes {
        let written = buffer_len(plan, rows, id)?;
        let buffer = &plan.buffers[id.0 as usize];
        if let Some(at) = values(id).iter().take(written).position(|value| !value.is_finite()) {
            return Err(Error::NotFinite {
                op: step.op.kind().name(),
                layer: step.layer,
                buffer: buffer.name,
                row: at / buffer.width,
                column: at % buffer.width,
            });
        }
    }
    Ok(())
}
