//! Q5_1: 32 values of 5 bits, a scale and a minimum, 24 bytes. `value = d * q + m`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..4 | `m`, float16, the block's least value |
//! | 4..8 | `qh`: bit `j` of this little-endian u32 is the fifth (highest) bit of `q[j]` |
//! | 8..24 | byte `j` holds the low four bits of `q[j]`, and of `q[j + 16]` in its high half |
//!
//! Layout: `block_q5_1` in `ggml/src/ggml-common.h`.

use super::block::{Block, DotQ8, Encode, F16Bytes, dot_i8};
use super::q5_0::pack_high;
use super::q5_0::unpack;
use super::q8::Q8Blocks;
use super::{SegmentSum, TensorType};
use super::{q4_0, q4_1};
use bytemuck::{Pod, Zeroable};

/// A block of 32 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ5_1 {
    /// The scale.
    pub d: F16Bytes,
    /// The value that `q = 0` stands for.
    pub m: F16Bytes,
    /// The highest bits, one per value.
    pub qh: [u8; 4],
    /// The low four bits, two values per byte: `j` in the low, `j + 16` in the high bits.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_1>() == TensorType::Q5_1.block_bytes());

impl BlockQ5_1 {
    /// The integers: 0..=31.
    #[inline]
    pub fn quants(&self) -> [i8; 32] {
        unpack(self.qh, &self.qs)
    }
}

impl Block for BlockQ5_1 {
    const TYPE: TensorType = TensorType::Q5_1;

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

impl DotQ8 for BlockQ5_1 {
    fn dot_q8(&self, x: Q8Blocks<'_>, sum: &mut SegmentSum) {
        let (scale, values, of_values) = x.block(0);
        let dot = dot_i8(&self.quants(), values);
        sum.add(1, |acc| {
            let acc = (dot as f32 * self.d.to_f32()).mul_add(scale, acc);
            self.m.to_f32().mul_add(scale * of_values as f32, acc)
        });
    }
}

impl Encode for BlockQ5_1 {
    const SHOWS_FAULTS: bool = true;

    /// Without an importance matrix the integers 0 and 31 are the least and the largest value.
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let block = |d, m, q: [u8; 32]| Self { d, m, qh: pack_high(&q), qs: q4_0::pack(&q) };
        match importance {
            None => q4_1::encode_range(x, 31, out, block),
            Some(importance) => q4_1::fit_row(x, importance, 31, out, block),
        }
    }
}
