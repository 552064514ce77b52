//! `Head`: the final norm and the logits of the rows that ask for them.

use super::matmul::{Affine, Norm, matmul};
use crate::plan::{Numerics, Row, Shape};

/// Reads `residual` [M, hidden_size], writes `logits` [rows that asked, vocab_size].
pub(super) fn head(
    shape: &Shape,
    numerics: Numerics,
    (norm, output): (Norm<'_>, Affine<'_>),
    rows: &[Row],
    residual: &[f32],
    logits: &mut [f32],
) {
    let mut asked = Vec::new();
    for (row, hidden) in rows.iter().zip(residual.chunks_exact(shape.hidden_size)) {
        if row.logits {
            asked.extend_from_slice(hidden);
        }
    }
    matmul(numerics.activations, output, Some(norm), &asked, logits);
}
