//! `QkvRope`: norm, three projections, biases, head norms, rotation, and the append to the cache.

use super::kv_cache::KvCache;
use super::matmul::{Affine, Norm, matmul};
use super::rms_norm::head_norm;
use crate::plan::{Numerics, Pairing, RopeTable, Row, Shape};

/// The op's weights.
pub(super) struct Weights<'a> {
    /// `hidden_size` values.
    pub(super) norm: Norm<'a>,
    /// `[num_heads * head_dim, hidden_size]`.
    pub(super) q: Affine<'a>,
    /// `[num_kv_heads * head_dim, hidden_size]`.
    pub(super) k: Affine<'a>,
    /// `[num_kv_heads * head_dim, hidden_size]`.
    pub(super) v: Affine<'a>,
    /// `head_dim` values.
    pub(super) q_norm: Option<&'a [f32]>,
    /// `head_dim` values.
    pub(super) k_norm: Option<&'a [f32]>,
}

/// Reads `residual` [M, hidden_size], writes `query` [M, num_heads * head_dim] and the cache at each row's slot and
/// position.
#[expect(clippy::too_many_arguments, reason = "a kernel's bindings, in the order of its GPU twins")]
pub(super) fn qkv_rope(
    shape: &Shape,
    numerics: Numerics,
    weights: &Weights<'_>,
    rope: &RopeTable,
    rows: &[Row],
    residual: &[f32],
    query: &mut [f32],
    (kv_cache, layer): (&mut KvCache, usize),
) {
    let (head_dim, kv_width) = (shape.head_dim, shape.num_kv_heads * shape.head_dim);
    let mut key = vec![0.0; rows.len() * kv_width];
    let mut value = vec![0.0; rows.len() * kv_width];
    matmul(numerics.activations, weights.q, Some(weights.norm), residual, query);
    matmul(numerics.activations, weights.k, Some(weights.norm), residual, &mut key);
    matmul(numerics.activations, weights.v, Some(weights.norm), residual, &mut value);

    for (m, row) in rows.iter().enumerate() {
        let query = &mut query[m * shape.num_heads * head_dim..][..shape.num_heads * head_dim];
        let key = &mut key[m * kv_width..][..kv_width];
        for (heads, norm) in [(query, weights.q_norm), (&mut *key, weights.k_norm)] {
            for head in heads.chunks_exact_mut(head_dim) {
                if let Some(norm) = norm {
                    head_norm(shape, norm, head);
                }
                rotate(head, shape, rope, row.position as usize);
            }
        }
        for h in 0..shape.num_kv_heads {
            let (k, v) =
                (&key[h * head_dim..][..head_dim], &value[m * kv_width + h * head_dim..][..head_dim]);
            kv_cache.append(layer, row.slot as usize, h, row.position as usize, k, v);
        }
    }
}

/// Rotates the pairs of one head; dimensions past `2 * pairs` stay.
fn rotate(head: &mut [f32], shape: &Shape, rope: &RopeTable, position: usize) {
    for i in 0..rope.pairs {
        let (a, b) = dimensions(shape, i);
        let (cos, sin) = (rope.cos[position * rope.pairs + i], rope.sin[position * rope.pairs + i]);
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
    }
}

/// The two dimensions of pair `pair` of a head: those that RoPE turns together, or neighbours past them. GPUs keep heads
/// in this order, so it is that of the sums over a head.
pub(super) fn dimensions(shape: &Shape, pair: usize) -> (usize, usize) {
    let pairs = shape.rope_dim / 2;
    match shape.rope_pairing {
        Pairing::Neox if pair < pairs => (pair, pair + pairs),
        _ => (2 * pair, 2 * pair + 1),
    }
}
