//! `Embed`: a row of the embedding table for each token.

use super::matmul::Matrix;
use crate::plan::Row;

/// Writes `residual` [M, hidden_size].
pub(super) fn embed(rows: &[Row], table: Matrix<'_>, residual: &mut [f32]) {
    let hidden_size = table.weight.cols;
    for (row, out) in rows.iter().zip(residual.chunks_exact_mut(hidden_size)) {
        table.decode_row(row.token as usize, out);
    }
}
