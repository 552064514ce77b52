//! `Down`: the feed-forward layer's second half, added to the residual stream.

use super::matmul::{Affine, matmul};
use crate::plan::Numerics;

/// Reads `gated` [M, intermediate_size], adds to `residual` [M, hidden_size].
pub(super) fn down(numerics: Numerics, down: Affine<'_>, gated: &[f32], residual: &mut [f32]) {
    let mut projected = vec![0.0; residual.len()];
    matmul(numerics.activations, down, None, gated, &mut projected);
    for i in 0..residual.len() {
        residual[i] += projected[i];
    }
}
