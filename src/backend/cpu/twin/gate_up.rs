//! `GateUp`: the feed-forward layer's first half, `SiLU(gate) * up` (arXiv 2002.05202).

use super::exp::exp;
use super::matmul::{Affine, Norm, matmul};
use crate::plan::Numerics;

/// Reads `residual` [M, hidden_size], writes `gated` [M, intermediate_size].
pub(super) fn gate_up(
    numerics: Numerics,
    norm: Norm<'_>,
    (gate, up): (Affine<'_>, Affine<'_>),
    residual: &[f32],
    gated: &mut [f32],
) {
    let mut up_rows = vec![0.0; gated.len()];
    matmul(numerics.activations, gate, Some(norm), residual, gated);
    matmul(numerics.activations, up, Some(norm), residual, &mut up_rows);
    for i in 0..gated.len() {
        gated[i] = gated[i] / (1.0 + exp(-gated[i])) * up_rows[i];
    }
}
