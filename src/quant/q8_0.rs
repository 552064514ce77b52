//! Q8_0: 32 values of 8 bits and a scale, 34 bytes. `value = d * q`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..34 | `q`, 32 signed bytes in order |
//!
//! Layout: `block_q8_0` in `ggml/src/ggml-common.h`.

use super::block::{Block, DotQ8, Encode, F16Bytes, dot_i8};
use super::fit::{quants, reciprocal};
use super::q8::Q8Blocks;
use super::{SegmentSum, TensorType};
use bytemuck::{Pod, Zeroable};

/// A block of 32 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ8_0 {
    /// The scale.
    pub d: F16Bytes,
    /// The integers.
    pub qs: [i8; 32],
}

const _: () = assert!(size_of::<BlockQ8_0>() == TensorType::Q8_0.block_bytes());

impl BlockQ8_0 {
    /// The block whose values are nearest to `x`, as ggml chooses it: `d = max|x| / 127`, each value times `1 / d`
    /// (with the scale before its rounding to float16), rounded half away from zero.
    pub fn encode(x: &[f32; 32]) -> Self {
        let max = f32::from_bits(x.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7fff_ffff)));
        let d = max / 127.0;
        let inverse = reciprocal(d);
        // Adding the float below one half and dropping the fraction rounds half away from zero, in vector registers.
        let half = 0.5f32.next_down();
        let round = |v: f32| (v + half.copysign(v)) as i32 as i8;
        Self { d: F16Bytes::from_f32(d), qs: quants(x, |v| round(v * inverse)) }
    }
}

impl Block for BlockQ8_0 {
    const TYPE: TensorType = TensorType::Q8_0;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        for (out, q) in out.iter_mut().zip(self.qs) {
            *out = d * f32::from(q);
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl DotQ8 for BlockQ8_0 {
    fn dot_q8(&self, x: Q8Blocks<'_>, sum: &mut SegmentSum) {
        let (scale, values, _) = x.block(0);
        let dot = dot_i8(&self.qs, values);
        sum.add(1, |acc| (dot as f32 * self.d.to_f32()).mul_add(scale, acc));
    }
}

impl Encode for BlockQ8_0 {
    /// An importance matrix changes nothing.
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        for (x, out) in x.as_chunks::<32>().0.iter().zip(out) {
            *out = Self::encode(x);
        }
    }
}
