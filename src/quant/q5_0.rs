//! Q5_0: 32 values of 5 bits and a scale, 22 bytes. `value = d * (q - 16)`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..6 | `qh`: bit `j` of this little-endian u32 is the fifth (highest) bit of `q[j]` |
//! | 6..22 | byte `j` holds the low four bits of `q[j]`, and of `q[j + 16]` in its high half |
//!
//! Layout: `block_q5_0` in `ggml/src/ggml-common.h`.

use super::TensorType;
use super::block::{Block, DotQ8, F16Bytes, dot_i8};
use super::q8::Q8Blocks;
use bytemuck::{Pod, Zeroable};

/// A block of 32 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ5_0 {
    /// The scale.
    pub d: F16Bytes,
    /// The highest bits, one per value.
    pub qh: [u8; 4],
    /// The low four bits, two values per byte: `j` in the low, `j + 16` in the high bits.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockQ5_0>() == TensorType::Q5_0.block_bytes());

impl BlockQ5_0 {
    /// The integers, offset removed: -16..=15.
    #[inline]
    pub fn quants(&self) -> [i8; 32] {
        unpack(self.qh, &self.qs).map(|q| q - 16)
    }
}

/// The 5-bit integers of a Q5_0 or Q5_1 block: 0..=31.
#[inline]
pub(crate) fn unpack(qh: [u8; 4], qs: &[u8; 16]) -> [i8; 32] {
    let high = u32::from_le_bytes(qh);
    let mut q = [0; 32];
    for j in 0..16 {
        q[j] = ((qs[j] & 15) | (((high >> j) & 1) << 4) as u8) as i8;
        q[j + 16] = ((qs[j] >> 4) | (((high >> (j + 16)) & 1) << 4) as u8) as i8;
    }
    q
}

impl Block for BlockQ5_0 {
    const TYPE: TensorType = TensorType::Q5_0;

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

impl DotQ8 for BlockQ5_0 {
    fn dot_q8(&self, x: Q8Blocks<'_>, acc: f32) -> f32 {
        let (scale, values, _) = x.block(0);
        let dot = dot_i8(&self.quants(), values);
        (dot as f32 * self.d.to_f32()).mul_add(scale, acc)
    }
}
