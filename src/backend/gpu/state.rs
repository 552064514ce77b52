//! The state of a run in device memory, and what the host keeps of it. `shaders/shared/state.wgsl` has the same layout:
//!
//! | words | hold |
//! |---|---|
//! | 0, 1 | rows of the run, rows of them that ask for logits |
//! | 8 + 4 row | token, slot, position, place among those that ask |
//! | then, per row that may ask | the index of its row |
//! | then, per row that may ask | passes done since the host last wrote |
//!
//! After a pass, `sample` has put the next token and position in: the next pass needs nothing from the host.

use super::params::NONE;
use crate::backend::Error;
use crate::plan::{BufferId, KvLayout, Plan, Row};

const FIRST: usize = 8;
const PER_ROW: usize = 4;

/// Sizes of the state of one graph.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) struct StateLayout {
    pub(in crate::backend) rows: usize,
    pub(in crate::backend) logit_rows: usize,
}

impl StateLayout {
    /// Words in all.
    pub(in crate::backend) fn words(self) -> usize {
        self.asked_at() + 2 * self.logit_rows
    }

    /// Where the list of rows that ask begins.
    pub(in crate::backend) fn asked_at(self) -> usize {
        FIRST + PER_ROW * self.rows
    }

    /// The words for a run over `rows`.
    pub(in crate::backend) fn encode(self, rows: &[Row]) -> Vec<u32> {
        let mut words = vec![0; self.words()];
        let mut asked = 0;
        for (index, row) in rows.iter().enumerate() {
            let place = if row.logits { asked } else { NONE };
            let at = FIRST + PER_ROW * index;
            words[at..at + PER_ROW].copy_from_slice(&[row.token, row.slot, row.position, place]);
            if row.logits {
                words[self.asked_at() + asked as usize] = index as u32;
                asked += 1;
            }
        }
        words[0] = rows.len() as u32;
        words[1] = asked;
        words
    }
}

/// Refuses rows that a graph cannot run, moved on by `passes` positions.
pub(in crate::backend) fn check_rows(
    plan: &Plan,
    kv: &KvLayout,
    rows: &[Row],
    passes: u32,
) -> Result<(), Error> {
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
        let position = row.position as usize + passes as usize;
        let limits = [
            ("token", row.token as usize, plan.shape.vocab_size),
            ("slot", row.slot as usize, kv.slots),
            ("position", position, kv.context),
        ];
        if let Some((name, found, limit)) = limits.into_iter().find(|&(_, found, limit)| found >= limit) {
            return Err(Error::Row { row: index, what: format!("{name} {found} is not below {limit}") });
        }
    }
    Ok(())
}

/// Refuses values that a buffer of a graph has no room for.
pub(in crate::backend) fn check_values(plan: &Plan, id: BufferId, values: &[f32]) -> Result<(), Error> {
    match plan.buffers.get(id.0 as usize) {
        Some(buffer) if values.len() <= buffer.rows * buffer.width => Ok(()),
        _ => Err(Error::Misuse(format!("buffer {} cannot take {} values", id.0, values.len()))),
    }
}

/// How many values of a buffer a pass over `rows` writes.
pub(in crate::backend) fn buffer_len(plan: &Plan, rows: &[Row], id: BufferId) -> Result<usize, Error> {
    let missing = || Error::Misuse(format!("the plan has no buffer {}", id.0));
    let buffer = plan.buffers.get(id.0 as usize).ok_or_else(missing)?;
    let asked = rows.iter().filter(|row| row.logits).count();
    Ok(buffer.width * if id == Plan::LOGITS { asked } else { rows.len() })
}
