//! `QkvRope`: norm, three projections, biases, head norms, rotation, and the append to the cache.

use super::kv_cache::KvCache;
use super::matmul::{Affine, matmul};
use super::rms_norm::rms_norm;
use crate::plan::{Numerics, Pairing, RopeTable, Row, Shape};

/// The op's weights.
pub(super) struct Weights<'a> {
    /// `hidden_size` values.
    pub(super) norm: &'a [f32],
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
    let mut normed = vec![0.0; residual.len()];
    rms_norm(residual, weights.norm, shape.rms_norm_eps, &mut normed);

    let mut key = vec![0.0; rows.len() * kv_width];
    let mut value = vec![0.0; rows.len() * kv_width];
    matmul(numerics.activations, weights.q, &normed, query);
    matmul(numerics.activations, weights.k, &normed, &mut key);
    matmul(numerics.activations, weights.v, &normed, &mut value);

    for (m, row) in rows.iter().enumerate() {
        let query = &mut query[m * shape.num_heads * head_dim..][..shape.num_heads * head_dim];
        let key = &mut key[m * kv_width..][..kv_width];
        for (heads, norm) in [(query, weights.q_norm), (&mut *key, weights.k_norm)] {
            for head in heads.chunks_exact_mut(head_dim) {
                if let Some(norm) = norm {
                    let unnormed = head.to_vec();
                    rms_norm(&unnormed, norm, shape.rms_norm_eps, head);
                }
                rotate(head, shape.rope_pairing, rope, row.position as usize);
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
fn rotate(head: &mut [f32], pairing: Pairing, rope: &RopeTable, position: usize) {
    for i in 0..rope.pairs {
        let (a, b) = match pairing {
            Pairing::Norm => (2 * i, 2 * i + 1),
            Pairing::Neox => (i, i + rope.pairs),
        };
        let (cos, sin) = (rope.cos[position * rope.pairs + i], rope.sin[position * rope.pairs + i]);
        (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
    }
}
