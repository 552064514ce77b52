//! Q5_0: 32 values of 5 bits and a scale, 22 bytes. `value = d * (q - 16)`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..6 | `qh`: bit `j` of this little-endian u32 is the fifth (highest) bit of `q[j]` |
//! | 6..22 | byte `j` holds the low four bits of `q[j]`, and of `q[j + 16]` in its high half |
//!
//! Layout: `block_q5_0` in `ggml/src/ggml-common.h`.

use super::block::{Block, DotQ8, Encode, F16Bytes, dot_i8};
use super::fit::{largest, quants, reciprocal, truncate};
use super::q4_0;
use super::q8::Q8Blocks;
use super::{SegmentSum, TensorType};
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
    fn dot_q8(&self, x: Q8Blocks<'_>, sum: &mut SegmentSum) {
        let (scale, values, _) = x.block(0);
        let dot = dot_i8(&self.quants(), values);
        sum.add(1, |acc| (dot as f32 * self.d.to_f32()).mul_add(scale, acc));
    }
}

impl Encode for BlockQ5_0 {
    const SHOWS_FAULTS: bool = true;

    /// Without an importance matrix the value of largest magnitude becomes exactly `q = 0`: `d = value / -16`.
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let block = |d, q: [u8; 32]| Self { d, qh: pack_high(&q), qs: q4_0::pack(&q) };
        match importance {
            None => {
                for (x, out) in x.as_chunks::<32>().0.iter().zip(out) {
                    let d = largest(x) / -16.0;
                    let inverse = reciprocal(d);
                    let q = quants(x, |v| truncate(v * inverse + 16.5).min(31));
                    *out = block(F16Bytes::from_f32(d), q);
                }
            }
            Some(importance) => q4_0::fit_row(x, importance, 16, out, block),
        }
    }
}

/// The fifth bits of 32 integers, as in [`BlockQ5_0::qh`].
pub(crate) fn pack_high(q: &[u8; 32]) -> [u8; 4] {
    // The product moves bit 0 of byte i to bit 56 + i, for all eight bytes at once.
    let gather = |bytes: &[u8; 8]| {
        let bits = (u64::from_le_bytes(*bytes) >> 4) & 0x0101_0101_0101_0101;
        (bits.wrapping_mul(0x0102_0408_1020_4080) >> 56) as u8
    };
    let mut high = [0; 4];
    for (high, q) in high.iter_mut().zip(q.as_chunks::<8>().0) {
        *high = gather(q);
    }
    high
}
