//! Q4_0: 32 values of 4 bits and a scale, 18 bytes. `value = d * (q - 8)`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..18 | byte `j` holds `q[j]` in its low and `q[j + 16]` in its high four bits |
//!
//! Layout: `block_q4_0` in `ggml/src/ggml-common.h`.

use super::block::{Block, DotQ8, Encode, F16Bytes, dot_i8};
use super::fit::{self, LANES, largest, reciprocal};
use super::importance::weigh;
use super::q8::Q8Blocks;
use super::{SegmentSum, TensorType};
use bytemuck::{Pod, Zeroable};

/// A block of 32 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ4_0 {
    /// The scale.
    pub d: F16Bytes,
    /// Two values per byte: `j` in the low, `j + 16` in the high bits.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_0>() == TensorType::Q4_0.block_bytes());

impl BlockQ4_0 {
    /// The integers, offset removed: -8..=7.
    #[inline]
    pub fn quants(&self) -> [i8; 32] {
        let mut q = [0; 32];
        for j in 0..16 {
            q[j] = (self.qs[j] & 15) as i8 - 8;
            q[j + 16] = (self.qs[j] >> 4) as i8 - 8;
        }
        q
    }
}

impl Block for BlockQ4_0 {
    const TYPE: TensorType = TensorType::Q4_0;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (out, q) in out.iter_mut().zip(self.quants()) {
            *out = d * f32::from(q);
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl DotQ8 for BlockQ4_0 {
    fn dot_q8(&self, x: Q8Blocks<'_>, sum: &mut SegmentSum) {
        let (scale, values, _) = x.block(0);
        let dot = dot_i8(&self.quants(), values);
        sum.add(1, |acc| (dot as f32 * self.d.to_f32()).mul_add(scale, acc));
    }
}

impl Encode for BlockQ4_0 {
    const SHOWS_FAULTS: bool = true;

    /// Without an importance matrix the value of largest magnitude becomes exactly `q = 0`: `d = value / -8`.
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        match importance {
            None => {
                for (x, out) in x.as_chunks::<32>().0.iter().zip(out) {
                    let d = largest(x) / -8.0;
                    let inverse = reciprocal(d);
                    let q = fit::quants(x, |v| fit::truncate(v * inverse + 8.5).min(15));
                    *out = Self { d: F16Bytes::from_f32(d), qs: pack(&q) };
                }
            }
            Some(importance) => fit_row(x, importance, 8, out, |d, q| Self { d, qs: pack(&q) }),
        }
    }
}

/// Two integers of at most 15 per byte, as in [`BlockQ4_0::qs`]; higher bits are dropped.
pub(crate) fn pack(q: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|j| (q[j] & 15) | ((q[j + 16] & 15) << 4))
}

/// Encodes a row of Q4_0 or Q5_0 with an importance matrix.
pub(crate) fn fit_row<B>(
    x: &[f32],
    importance: &[f32],
    max_q: u8,
    out: &mut [B],
    block: impl Fn(F16Bytes, [u8; 32]) -> B,
) {
    let weights = weigh(x, importance);
    let groups = x.as_chunks::<32>().0.chunks(LANES).zip(weights.as_chunks::<32>().0.chunks(LANES));
    for ((x, w), out) in groups.zip(out.chunks_mut(LANES)) {
        let found = fit::fit_symmetric(&fit::transpose(x), &fit::transpose(w), max_q);
        for (k, (x, out)) in x.iter().zip(out).enumerate() {
            *out = block(F16Bytes::from_f32(found.scale[k]), fit::quants(x, |x| found.quant(k, x)));
        }
    }
}
