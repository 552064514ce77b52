//! `AttnOut`: the output projection, added to the residual stream.

use super::matmul::{Affine, matmul};
use crate::plan::Numerics;

/// Reads `attention` [M, num_heads * head_dim], adds to `residual` [M, hidden_size].
pub(super) fn attn_out(numerics: Numerics, output: Affine<'_>, attention: &[f32], residual: &mut [f32]) {
    let mut projected = vec![0.0; residual.len()];
    matmul(numerics.activations, output, None, attention, &mut projected);
    for i in 0..residual.len() {
        residual[i] += projected[i];
    }
}
