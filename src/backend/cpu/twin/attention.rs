//! `Attention`: softmax(q k / sqrt(head_dim)) v, each query head over the keys and values of its sequence.
//!
//! Positions are taken in splits of [`SPLIT`], which start at its multiples, so a row's result depends on its own
//! position only: not on the batch, the chunk or the number of workers. The order of every sum:
//!
//! - a score is a dot over the dimensions, by fma, in the order of RoPE's pairs (`qkv_rope::dimensions`), then times 1 /
//!   sqrt(head_dim);
//! - a part is the largest score m of a split, the sum of w = e^(score - m), and the values weighted by w. Weights are
//!   added up 32 positions at a time by halves (16 + 16, 8 + 8, ..., 1 + 1), then the eight sums in order. Values go to
//!   [`KvLayout::value_sums`](crate::plan::KvLayout::value_sums) sums in turn, by fma in the order of positions; then
//!   these are added in order;
//! - parts are merged in the order of positions, and the last step divides by the sum.

use super::exp::exp;
use super::kv_cache::KvCache;
use super::qkv_rope::dimensions;
use super::rms_norm::halves;
use crate::plan::{Row, Shape};

/// Positions per part.
const SPLIT: usize = 256;

/// Reads `query` [M, num_heads * head_dim] and the cache, writes `attention` of the same shape.
pub(super) fn attention(
    shape: &Shape,
    rows: &[Row],
    query: &[f32],
    kv_cache: &KvCache,
    layer: usize,
    attention: &mut [f32],
) {
    let head_dim = shape.head_dim;
    let group = shape.num_heads / shape.num_kv_heads;
    let sums = kv_cache.value_sums();
    let scale = 1.0 / (head_dim as f32).sqrt();
    let mut key = vec![0.0; head_dim];
    let mut value = vec![0.0; head_dim];
    for (m, row) in rows.iter().enumerate() {
        let end = row.position as usize + 1;
        let start = shape.sliding_window.map_or(0, |window| end.saturating_sub(window));
        for h in 0..shape.num_heads {
            let at = (m * shape.num_heads + h) * head_dim;
            let query = &query[at..][..head_dim];
            let (slot, kv_head) = (row.slot as usize, h / group);
            let mut total: Option<Part> = None;
            for split in (start / SPLIT * SPLIT..end).step_by(SPLIT) {
                let positions = split.max(start)..(split + SPLIT).min(end);
                let mut scores = Vec::with_capacity(SPLIT);
                for position in positions.clone() {
                    kv_cache.key(layer, slot, kv_head, position, &mut key);
                    let mut dot = 0.0f32;
                    for pair in 0..head_dim.div_ceil(2) {
                        let (a, b) = dimensions(shape, pair);
                        dot = query[a].mul_add(key[a], dot);
                        if b < head_dim {
                            dot = query[b].mul_add(key[b], dot);
                        }
                    }
                    scores.push(dot * scale);
                }
                let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let mut weights = [0.0f32; SPLIT];
                for (position, score) in positions.clone().zip(&scores) {
                    weights[position - split] = exp(score - max);
                }
                let sum = weights.as_chunks::<32>().0.iter().map(|weights| halves(*weights));
                let sum = sum.fold(0.0, |sum, part| sum + part);
                let mut values = vec![0.0f32; head_dim];
                for first in 0..sums {
                    let mut part = vec![0.0f32; head_dim];
                    for position in (split + first..split + SPLIT).step_by(sums) {
                        if positions.contains(&position) {
                            kv_cache.value(layer, slot, kv_head, position, &mut value);
                            for i in 0..head_dim {
                                part[i] = weights[position - split].mul_add(value[i], part[i]);
                            }
                        }
                    }
                    for i in 0..head_dim {
                        values[i] += part[i];
                    }
                }
                let part = Part { max, sum, values };
                total = Some(match total {
                    None => part,
                    Some(before) => before.merge(&part),
                });
            }
            if let Some(total) = total {
                for i in 0..head_dim {
                    attention[at + i] = total.values[i] / total.sum;
                }
            }
        }
    }
}

/// Softmax over some positions, before the division: weights are relative to `exp(max)`.
struct Part {
    max: f32,
    sum: f32,
    values: Vec<f32>,
}

impl Part {
    /// This part with the one at the positions after it.
    fn merge(&self, next: &Self) -> Self {
        let max = if next.max > self.max { next.max } else { self.max };
        let (before, after) = (exp(self.max - max), exp(next.max - max));
        let mut values = vec![0.0; self.values.len()];
        for i in 0..values.len() {
            values[i] = next.values[i].mul_add(after, self.values[i] * before);
        }
        Self { max, sum: next.sum.mul_add(after, self.sum * before), values }
    }
}
