//! What a graph's passes leave the host to work out: the rows that go on, the rows of an earlier pass, and the step that
//! first wrote a value that is not finite.

use crate::backend::{Backend, Error, GraphId};
use crate::plan::{BufferId, Op, Plan, Row};

/// The rows of the pass after one over `rows` that sampled `tokens`: those that asked, one position on.
pub(in crate::backend) fn next_rows(rows: &[Row], tokens: &[u32]) -> Vec<Row> {
    let asking = rows.iter().filter(|row| row.logits);
    let next = |(row, &token): (&Row, &u32)| Row { token, position: row.position + 1, ..*row };
    asking.zip(tokens).map(next).collect()
}

/// The rows of pass `pass` of `passes` since the host wrote the state. `rows` are those of the last of them, with the
/// tokens of the first; `before` are the tokens that the pass before `pass` sampled, and say nothing to the first.
pub(in crate::backend) fn rows_of_pass(rows: &[Row], before: &[u32], pass: usize, passes: usize) -> Vec<Row> {
    let back = passes.saturating_sub(1 + pass) as u32;
    let mut tokens = before.iter().filter(|_| pass > 0);
    let earlier = |row: &Row| {
        let sampled = if row.logits { tokens.next() } else { None };
        Row {
            token: sampled.copied().unwrap_or(row.token),
            position: row.position.saturating_sub(back),
            ..*row
        }
    };
    rows.iter().map(earlier).collect()
}

/// Runs the steps over `rows` one by one and names the first that writes a value that is not finite; `None` where all
/// values are finite. `read` gives a buffer as it is, whatever it holds.
///
/// # Errors
/// A step that does not run, a buffer that cannot be read.
pub(in crate::backend) fn first_not_finite<B: Backend>(
    backend: &mut B,
    graph: GraphId,
    plan: &Plan,
    rows: &[Row],
    read: impl Fn(&mut B, BufferId) -> Result<Vec<f32>, Error>,
) -> Result<Option<Error>, Error> {
    for (number, step) in plan.steps.iter().enumerate().filter(|(_, step)| step.op != Op::Sample) {
        backend.run_steps(graph, rows, number..number + 1)?;
        for &buffer in &step.writes {
            let values = read(backend, buffer)?;
            let described = &plan.buffers[buffer.0 as usize];
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                return Ok(Some(Error::NotFinite {
                    op: step.op.kind().name(),
                    layer: step.layer,
                    buffer: described.name,
                    row: at / described.width,
                    column: at % described.width,
                }));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_pass_had_earlier_positions_and_the_tokens_before_it() {
        let row = |token, position, logits| Row { token, slot: 0, position, logits };
        let rows = [row(3, 13, true), row(4, 23, false), row(5, 33, true)];
        let of = |pass| rows_of_pass(&rows, &[7, 8], pass, 4);
        // The first pass had the host's tokens; what is left of a run before it is not its.
        assert_eq!(of(0), [row(3, 10, true), row(4, 20, false), row(5, 30, true)]);
        assert_eq!(of(2), [row(7, 12, true), row(4, 22, false), row(8, 32, true)]);
        assert_eq!(of(3), [row(7, 13, true), row(4, 23, false), row(8, 33, true)]);
        assert_eq!(next_rows(&rows, &[7, 8]), [row(7, 14, true), row(8, 34, true)]);
    }
}
