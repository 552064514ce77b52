//! RMSNorm: `(x / sqrt(mean(x^2) + eps)) * weight` (arXiv 1910.07467).
//!
//! In front of a product, `x * weight` is quantized, and what comes out is multiplied by 1 / rms: whoever writes a row's
//! last columns does not know the rest of it yet, and the factor is the same for all. Only with `q8_k` activations is the
//! row normed before: a scale that is rounded to float16 must be that of the normed row.
//!
//! The sum of squares has one order in each place, that of the GPU kernel which has the numbers at hand:
//!
//! - in front of a product ([`inverse_rms`]): those of 32 columns are rounded, then halves of the 32 lanes are added (16 +
//!   16, 8 + 8, ..., 1 + 1); these sums are added up along the row as the product is, in the segments of its cut;
//! - before `q8_k` ([`rms_norm`]): 256 lanes, lane i adds up columns i, i + 256, ... by fma; 32 lanes at a time are added
//!   by halves, then the eight sums in order;
//! - over a head ([`head_norm`]): 32 lanes, lane i adds up by fma the two dimensions of pairs i, i + 32, ... that RoPE turns
//!   together, then halves are added.

use super::qkv_rope::dimensions;
use crate::plan::Shape;
use crate::quant::Cut;

/// 1 / rms of a row in front of a product whose columns are cut like this.
pub(super) fn inverse_rms(x: &[f32], cut: Cut, eps: f32) -> f32 {
    let mut sum = 0.0f32;
    for segment in 0..cut.segments() {
        let mut part = 0.0f32;
        for block in cut.start(x.len(), segment)..cut.start(x.len(), segment + 1) {
            let mut lanes = [0.0f32; 32];
            for (lane, x) in lanes.iter_mut().zip(&x[32 * block..]) {
                *lane = x * x;
            }
            part += halves(lanes);
        }
        sum += part;
    }
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

/// A whole row, normed, for `q8_k`.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut lanes = [0.0f32; 256];
    for i in 0..x.len() {
        lanes[i % 256] = x[i].mul_add(x[i], lanes[i % 256]);
    }
    let mut sum = 0.0f32;
    for lanes in lanes.as_chunks::<32>().0 {
        sum += halves(*lanes);
    }
    let scale = 1.0 / (sum / x.len() as f32 + eps).sqrt();
    x.iter().zip(weight).map(|(x, weight)| x * scale * weight).collect()
}

/// A head of queries or keys, normed in place.
pub(super) fn head_norm(shape: &Shape, weight: &[f32], head: &mut [f32]) {
    let mut lanes = [0.0f32; 32];
    for pair in 0..head.len() / 2 {
        let (a, b) = dimensions(shape, pair);
        let sum = head[a].mul_add(head[a], lanes[pair % 32]);
        lanes[pair % 32] = head[b].mul_add(head[b], sum);
    }
    let scale = 1.0 / (halves(lanes) / head.len() as f32 + shape.rms_norm_eps).sqrt();
    for (x, weight) in head.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

/// Adds halves of the lanes until one is left.
pub(super) fn halves(mut lanes: [f32; 32]) -> f32 {
    let mut half = 16;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    lanes[0]
}
