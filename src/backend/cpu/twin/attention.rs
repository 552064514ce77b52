//! `Attention`: each query head over the keys and values of its sequence.
//!
//! Positions are taken in splits of [`SPLIT`], each with its own maximum, sum and weighted values; the parts are joined
//! in the order of positions. Splits start at multiples of `SPLIT`, so a row's result depends on its own position only:
//! not on the batch, the chunk or the number of workers.

use super::kv_cache::KvCache;
use crate::plan::{Row, Shape};

/// Positions per part.
pub(super) const SPLIT: usize = 256;

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
            let mut total = Part::new(head_dim);
            for split in (start / SPLIT * SPLIT..end).step_by(SPLIT) {
                let positions = split.max(start)..(split + SPLIT).min(end);
                let mut scores = Vec::with_capacity(SPLIT);
                for position in positions.clone() {
                    kv_cache.key(layer, slot, kv_head, position, &mut key);
                    let mut dot = 0.0;
                    for i in 0..head_dim {
                        dot += query[i] * key[i];
                    }
                    scores.push(dot * scale);
                }
                let mut part = Part::new(head_dim);
                part.max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                for (position, score) in positions.zip(&scores) {
                    let weight = (score - part.max).exp();
                    kv_cache.value(layer, slot, kv_head, position, &mut value);
                    part.sum += weight;
                    for i in 0..head_dim {
                        part.values[i] += weight * value[i];
                    }
                }
                total.join(&part);
            }
            for i in 0..head_dim {
                attention[at + i] = total.values[i] / total.sum;
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
    fn new(head_dim: usize) -> Self {
        Self { max: f32::NEG_INFINITY, sum: 0.0, values: vec![0.0; head_dim] }
    }

    fn join(&mut self, next: &Self) {
        let max = self.max.max(next.max);
        let (old, new) = ((self.max - max).exp(), (next.max - max).exp());
        self.sum = self.sum * old + next.sum * new;
        for (value, next) in self.values.iter_mut().zip(&next.values) {
            *value = *value * old + next * new;
        }
        self.max = max;
    }
}
