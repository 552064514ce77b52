//! The library's table of op cases as assertions: see `aprgpu::compare::ops`.

pub(crate) use aprgpu::compare::ops::Make;

use aprgpu::compare::ops::{Case, cases, run_every_op};
use aprgpu::plan::{Activations, OpKind};

/// [`check_every_op_of`] over all cases.
pub(crate) fn check_every_op(make: &Make<'_>, batches: &[usize], limit: &dyn Fn(OpKind, Activations) -> f64) {
    check_every_op_of(&cases(), make, batches, limit);
}

/// Runs every op alone for every one of `cases`, kind of activations and number of rows in `batches`. `limit` is the NMSE
/// allowed for an op: 0 where the bits must be equal.
pub(crate) fn check_every_op_of(
    cases: &[Case],
    make: &Make<'_>,
    batches: &[usize],
    limit: &dyn Fn(OpKind, Activations) -> f64,
) {
    let mut failures = Vec::new();
    for outcome in run_every_op(cases, make, batches).unwrap() {
        let (op, rows, activations) = (outcome.op, outcome.rows, outcome.activations);
        let (error, limit) = (outcome.difference.nmse, limit(op, activations));
        let place = format!("{}: {} with {activations:?} activations, {rows} rows", outcome.case, op.name());
        if error > limit {
            failures.push(format!("{place}: NMSE {error:e} from the twin, the limit is {limit:e}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
