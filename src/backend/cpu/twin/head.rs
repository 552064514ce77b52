//! `Head`: the final norm and the logits of the rows that ask for them.

use super::matmul::{Affine, Matrix, matmul};
use super::rms_norm::rms_norm;
use crate::plan::{Numerics, Row, Shape};

/// Reads `residual` [M, hidden_size], writes `logits` [rows that asked, vocab_size].
pub(super) fn head(
    shape: &Shape,
    numerics: Numerics,
    (norm, output): (&[f32], Matrix<'_>),
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
    let mut normed = vec![0.0; asked.len()];
    rms_norm(&asked, norm, shape.rms_norm_eps, &mut normed);
    matmul(numerics.activations, Affine { matrix: output, bias: None }, &normed, logits);
}
