//! RMSNorm, the prologue of `QkvRope`, `GateUp` and `Head`: `(x / sqrt(mean(x^2) + eps)) * weight` (arXiv 1910.07467).
//!
//! The sum of squares has one order, that of 16 lanes: lane i adds up columns i, i + 16, i + 32, ... by fma, then halves
//! of the lanes are added, 8 + 8, 4 + 4, 2 + 2, 1 + 1. Quantization follows at once, and only equal sums give equal
//! integers.

const LANES: usize = 16;

/// Normalizes each row of `x` [M, len] into `out` of the same shape; `weight` has `len` values.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let len = weight.len();
    for (x, out) in x.chunks_exact(len).zip(out.chunks_exact_mut(len)) {
        let mut lanes = [0.0f32; LANES];
        for i in 0..len {
            lanes[i % LANES] = x[i].mul_add(x[i], lanes[i % LANES]);
        }
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
            half /= 2;
        }
        let scale = 1.0 / (lanes[0] / len as f32 + eps).sqrt();
        for i in 0..len {
            out[i] = x[i] * scale * weight[i];
        }
    }
}
