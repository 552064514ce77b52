//! Stand-in.
use super::Isa;
use crate::backend::cpu::kv_cache::{KvCache, Storage};
use crate::backend::cpu::pool::{SharedBuffer, share};
use crate::plan::{Row, Shape};

/// tmp
/// # Safety
/// tmp
#[expect(clippy::too_many_arguments, reason = "tmp")]
pub(in crate::backend::cpu) unsafe fn attention(
    _: Isa,
    shape: &Shape,
    rows: &[Row],
    query: &[f32],
    kv: &KvCache,
    layer: usize,
    out: &SharedBuffer<f32>,
    worker: usize,
    workers: usize,
) {
    let d = shape.head_dim;
    let group = shape.num_heads / shape.num_kv_heads;
    let scale = 1.0 / (d as f32).sqrt();
    let read = |s: &Storage, at: usize, to: &mut [f32]| match s {
        // SAFETY: tmp
        Storage::F16(b) => {
            for (t, v) in to.iter_mut().zip(unsafe { b.slice(at..at + d) }) {
                *t = v.to_f32();
            }
        }
        // SAFETY: tmp
        Storage::F32(b) => to.copy_from_slice(unsafe { b.slice(at..at + d) }),
    };
    for item in share(rows.len() * shape.num_heads, worker, workers) {
        let (m, h) = (item / shape.num_heads, item % shape.num_heads);
        let row = rows[m];
        let end = row.position as usize + 1;
        let start = shape.sliding_window.map_or(0, |w| end.saturating_sub(w));
        let q = &query[item * d..][..d];
        let mut k = vec![0.0; d];
        let scores: Vec<f32> = (start..end)
            .map(|p| {
                read(&kv.keys, kv.layout.at(layer, row.slot as usize, h / group, p), &mut k);
                q.iter().zip(&k).map(|(a, b)| a * b).sum::<f32>() * scale
            })
            .collect();
        let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut acc = vec![0.0f32; d];
        let mut sum = 0.0;
        for (p, s) in (start..end).zip(&scores) {
            let w = (s - max).exp();
            sum += w;
            read(&kv.values, kv.layout.at(layer, row.slot as usize, h / group, p), &mut k);
            for i in 0..d {
                acc[i] += w * k[i];
            }
        }
        // SAFETY: tmp
        let o = unsafe { out.slice_mut(item * d..item * d + d) };
        for i in 0..d {
            o[i] = acc[i] / sum;
        }
    }
}
