//! `GateUp`: the feed-forward layer's first half, `SiLU(gate) * up` (arXiv 2002.05202).

use super::exp::exp;
use super::matmul::{Affine, matmul};
use super::rms_norm::rms_norm;
use crate::plan::{Numerics, Shape};

/// Reads `residual` [M, hidden_size], writes `gated` [M, intermediate_size].
pub(super) fn gate_up(
    shape: &Shape,
    numerics: Numerics,
    norm: &[f32],
    (gate, up): (Affine<'_>, Affine<'_>),
    residual: &[f32],
    gated: &mut [f32],
) {
    let mut normed = vec![0.0; residual.len()];
    rms_norm(residual, norm, shape.rms_norm_eps, &mut normed);
    let mut up_rows = vec![0.0; gated.len()];
    matmul(numerics.activations, gate, &normed, gated);
    matmul(numerics.activations, up, &normed, &mut up_rows);
    for i in 0..gated.len() {
        gated[i] = gated[i] / (1.0 + exp(-gated[i])) * up_rows[i];
    }
}
