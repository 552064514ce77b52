//! Q5_K: a super-block of 256 values of 5 bits, 176 bytes. Its eight blocks of 32 have a 6-bit scale and minimum each,
//! in units of two floats: `value = d * scale * q - dmin * minimum`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..4 | `dmin`, float16 |
//! | 4..16 | scales and minimums, see `k_scales.rs` |
//! | 16..48 | `qh`: bit `b` of byte `j` is the fifth (highest) bit of `q[32 b + j]` |
//! | 48..176 | the low four bits: group `g` of 32 bytes, byte `j` holds those of `q[64 g + j]`, and of `q[64 g + 32 + j]` in its high half |
//!
//! Layout: `block_q5_K` in `ggml/src/ggml-common.h`.

use super::block::{Block, DotQ8, DotQ8K, Encode, F16Bytes};
use super::fit::Trials;
use super::k_scales;
use super::q4_k::{self, SuperBlock};
use super::q8::Q8Blocks;
use super::q8_k::Q8KBlock;
use super::{SegmentSum, TensorType};
use bytemuck::{Pod, Zeroable};

/// A super-block of 256 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ5K {
    /// The unit of the scales.
    pub d: F16Bytes,
    /// The unit of the minimums.
    pub dmin: F16Bytes,
    /// Eight scales and eight minimums of 6 bits.
    pub scales: [u8; 12],
    /// The highest bits: bit `b` of byte `j` belongs to value `32 b + j`.
    pub qh: [u8; 32],
    /// The low four bits, two values per byte, in groups of 64.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ5K>() == TensorType::Q5_K.block_bytes());

impl BlockQ5K {
    /// The integers: 0..=31.
    #[inline]
    pub fn quants(&self) -> [i8; 256] {
        let mut q = [0; 256];
        for (g, (q, qs)) in q.as_chunks_mut::<64>().0.iter_mut().zip(self.qs.as_chunks::<32>().0).enumerate()
        {
            for j in 0..32 {
                let high = self.qh[j] >> (2 * g);
                q[j] = ((qs[j] & 15) | ((high & 1) << 4)) as i8;
                q[j + 32] = ((qs[j] >> 4) | ((high & 2) << 3)) as i8;
            }
        }
        q
    }

    /// The scales and minimums of the eight blocks of 32, each 0..=63.
    #[inline]
    pub fn scales_and_minimums(&self) -> ([u8; 8], [u8; 8]) {
        k_scales::unpack(&self.scales)
    }
}

impl Block for BlockQ5K {
    const TYPE: TensorType = TensorType::Q5_K;

    fn decode(&self, out: &mut [f32]) {
        q4_k::decode(self.d, self.dmin, &self.scales, &self.quants(), out);
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.dmin.is_finite()
    }
}

impl DotQ8 for BlockQ5K {
    fn dot_q8(&self, x: Q8Blocks<'_>, sum: &mut SegmentSum) {
        q4_k::dot_q8(self.d, self.dmin, &self.scales, &self.quants(), x, sum);
    }
}

impl DotQ8K for BlockQ5K {
    fn dot_q8_k(&self, x: Q8KBlock<'_>, acc: f32) -> f32 {
        q4_k::dot_q8_k(self.d, self.dmin, &self.scales, &self.quants(), x, acc)
    }
}

impl Encode for BlockQ5K {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let trials = Trials { first: -0.5, step: 0.1, last: 15 };
        q4_k::encode_row(x, importance, 31, trials, out, |SuperBlock { d, dmin, scales, q }| {
            let (mut qh, mut qs) = ([0; 32], [0; 128]);
            q4_k::pack_low(&q, &mut qs);
            for (b, q) in q.as_chunks::<32>().0.iter().enumerate() {
                for j in 0..32 {
                    qh[j] |= (q[j] >> 4 & 1) << b;
                }
            }
            Self { d, dmin, scales, qh, qs }
        });
    }
}
