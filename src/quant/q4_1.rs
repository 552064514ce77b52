//! Q4_1: 32 values of 4 bits, a scale and a minimum, 20 bytes. `value = d * q + m`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..4 | `m`, float16, the block's least value |
//! | 4..20 | byte `j` holds `q[j]` in its low and `q[j + 16]` in its high four bits |
//!
//! Layout: `block_q4_1` in `ggml/src/ggml-common.h`.

use super::TensorType;
use super::block::{Block, DotQ8, F16Bytes, dot_i8};
use super::q8::Q8Blocks;
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
    fn dot_q8(&self, x: Q8Blocks<'_>, acc: f32) -> f32 {
        let (scale, values, sum) = x.block(0);
        let dot = dot_i8(&self.quants(), values);
        let acc = (dot as f32 * self.d.to_f32()).mul_add(scale, acc);
        self.m.to_f32().mul_add(scale * sum as f32, acc)
    }
}
