//! Q4_0: 32 values of 4 bits and a scale, 18 bytes. `value = d * (q - 8)`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..18 | byte `j` holds `q[j]` in its low and `q[j + 16]` in its high four bits |
//!
//! Layout: `block_q4_0` in `ggml/src/ggml-common.h`.

use super::TensorType;
use super::block::{Block, DotQ8, F16Bytes, dot_i8};
use super::q8::Q8Blocks;
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
    fn dot_q8(&self, x: Q8Blocks<'_>, acc: f32) -> f32 {
        let (scale, values, _) = x.block(0);
        let dot = dot_i8(&self.quants(), values);
        (dot as f32 * self.d.to_f32()).mul_add(scale, acc)
    }
}
