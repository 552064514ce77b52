//! Q4_1: 32 values of 4 bits, a scale and a minimum, 20 bytes. `value = d * q + m`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..4 | `m`, float16, the block's least value |
//! | 4..20 | byte `j` holds `q[j]` in its low and `q[j + 16]` in its high four bits |
//!
//! Layout: `block_q4_1` in `ggml/src/ggml-common.h`.

use super::block::{Block, DotQ8, Encode, F16Bytes, dot_i8};
use super::fit::{self, LANES, WEIGHTED_TRIALS, reciprocal};
use super::importance::weigh;
use super::q4_0::pack;
use super::q8::Q8Blocks;
use super::{SegmentSum, TensorType};
use bytemuck::{Pod, Zeroable};

/// A block of 32 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ4_1 {
    /// The scale.
    pub d: F16Bytes,
    /// The value that `q = 0` stands for.
    pub m: F16Bytes,
    /// Two values per byte: `j` in the low, `j + 16` in the high bits.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ4_1>() == TensorType::Q4_1.block_bytes());

impl BlockQ4_1 {
    /// The integers: 0..=15.
    #[inline]
    pub fn quants(&self) -> [i8; 32] {
        let mut q = [0; 32];
        for j in 0..16 {
            q[j] = (self.qs[j] & 15) as i8;
            q[j + 16] = (self.qs[j] >> 4) as i8;
        }
        q
    }
}

impl Block for BlockQ4_1 {
    const TYPE: TensorType = TensorType::Q4_1;

    fn decode(&self, out: &mut [f32]) {
        let (d, m) = (self.d.to_f32(), self.m.to_f32());
        for (out, q) in out.iter_mut().zip(self.quants()) {
            *out = d * f32::from(q) + m;
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.m.is_finite()
    }
}

impl DotQ8 for BlockQ4_1 {
    fn dot_q8(&self, x: Q8Blocks<'_>, sum: &mut SegmentSum) {
        let (scale, values, of_values) = x.block(0);
        let dot = dot_i8(&self.quants(), values);
        sum.add(1, |acc| {
            let acc = (dot as f32 * self.d.to_f32()).mul_add(scale, acc);
            self.m.to_f32().mul_add(scale * of_values as f32, acc)
        });
    }
}

impl Encode for BlockQ4_1 {
    const SHOWS_FAULTS: bool = true;

    /// Without an importance matrix the integers 0 and 15 are the least and the largest value.
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let block = |d, m, q: [u8; 32]| Self { d, m, qs: pack(&q) };
        match importance {
            None => encode_range(x, 15, out, block),
            Some(importance) => fit_row(x, importance, 15, out, block),
        }
    }
}

/// Encodes a row of Q4_1 or Q5_1 from the least to the largest value of each block.
pub(crate) fn encode_range<B>(
    x: &[f32],
    max_q: u8,
    out: &mut [B],
    block: impl Fn(F16Bytes, F16Bytes, [u8; 32]) -> B,
) {
    for (x, out) in x.as_chunks::<32>().0.iter().zip(out) {
        let (min, max) = fit::range(x);
        let d = (max - min) / f32::from(max_q);
        let inverse = reciprocal(d);
        let q = fit::quants(x, |v| fit::truncate((v - min) * inverse + 0.5).min(max_q));
        *out = block(F16Bytes::from_f32(d), F16Bytes::from_f32(min), q);
    }
}

/// Encodes a row of Q4_1 or Q5_1 with an importance matrix.
pub(crate) fn fit_row<B>(
    x: &[f32],
    importance: &[f32],
    max_q: u8,
    out: &mut [B],
    block: impl Fn(F16Bytes, F16Bytes, [u8; 32]) -> B,
) {
    let weights = weigh(x, importance);
    let groups = x.as_chunks::<32>().0.chunks(LANES).zip(weights.as_chunks::<32>().0.chunks(LANES));
    for ((x, w), out) in groups.zip(out.chunks_mut(LANES)) {
        let found = fit::fit_affine(&fit::transpose(x), &fit::transpose(w), max_q, WEIGHTED_TRIALS);
        for (k, (x, out)) in x.iter().zip(out).enumerate() {
            let (d, m) = (F16Bytes::from_f32(found.scale[k]), F16Bytes::from_f32(-found.minimum[k]));
            *out = block(d, m, fit::quants(x, |x| found.quant(k, x)));
        }
    }
}
