//! Q4_K: a super-block of 256 values of 4 bits, 144 bytes. Its eight blocks of 32 have a 6-bit scale and minimum each,
//! in units of two floats: `value = d * scale * q - dmin * minimum`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..4 | `dmin`, float16 |
//! | 4..16 | scales and minimums, see `k_scales.rs` |
//! | 16..144 | four groups of 32 bytes: group `g`, byte `j` holds `q[64 g + j]` in its low and `q[64 g + 32 + j]` in its high four bits |
//!
//! Layout: `block_q4_K` in `ggml/src/ggml-common.h`.

use super::block::{Block, DotQ8, DotQ8K, F16Bytes, dot_i8};
use super::q8::Q8Blocks;
use super::q8_k::Q8KBlock;
use super::{TensorType, k_scales};
use bytemuck::{Pod, Zeroable};

/// A super-block of 256 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ4K {
    /// The unit of the scales.
    pub d: F16Bytes,
    /// The unit of the minimums.
    pub dmin: F16Bytes,
    /// Eight scales and eight minimums of 6 bits.
    pub scales: [u8; 12],
    /// Two values per byte, in groups of 64.
    pub qs: [u8; 128],
}

const _: () = assert!(size_of::<BlockQ4K>() == TensorType::Q4_K.block_bytes());

impl BlockQ4K {
    /// The integers: 0..=15.
    #[inline]
    pub fn quants(&self) -> [i8; 256] {
        let mut q = [0; 256];
        for (q, qs) in q.as_chunks_mut::<64>().0.iter_mut().zip(self.qs.as_chunks::<32>().0) {
            for j in 0..32 {
                q[j] = (qs[j] & 15) as i8;
                q[j + 32] = (qs[j] >> 4) as i8;
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

impl Block for BlockQ4K {
    const TYPE: TensorType = TensorType::Q4_K;

    fn decode(&self, out: &mut [f32]) {
        decode(self.d, self.dmin, &self.scales, &self.quants(), out);
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite() && self.dmin.is_finite()
    }
}

impl DotQ8 for BlockQ4K {
    fn dot_q8(&self, x: Q8Blocks<'_>, acc: f32) -> f32 {
        dot_q8(self.d, self.dmin, &self.scales, &self.quants(), x, acc)
    }
}

impl DotQ8K for BlockQ4K {
    fn dot_q8_k(&self, x: Q8KBlock<'_>, acc: f32) -> f32 {
        dot_q8_k(self.d, self.dmin, &self.scales, &self.quants(), x, acc)
    }
}

/// Decodes the integers of a Q4_K or Q5_K super-block.
pub(crate) fn decode(d: F16Bytes, dmin: F16Bytes, scales: &[u8; 12], q: &[i8; 256], out: &mut [f32]) {
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let (scales, minimums) = k_scales::unpack(scales);
    for (b, (out, q)) in out.chunks_exact_mut(32).zip(q.as_chunks::<32>().0).enumerate() {
        let scale = d * f32::from(scales[b]);
        let minimum = dmin * f32::from(minimums[b]);
        for (out, &q) in out.iter_mut().zip(q) {
            *out = scale * f32::from(q) - minimum;
        }
    }
}

/// The product of a Q4_K or Q5_K super-block with eight blocks of q8 activations.
pub(crate) fn dot_q8(
    d: F16Bytes,
    dmin: F16Bytes,
    scales: &[u8; 12],
    q: &[i8; 256],
    x: Q8Blocks<'_>,
    mut acc: f32,
) -> f32 {
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let (scales, minimums) = k_scales::unpack(scales);
    for (b, q) in q.as_chunks::<32>().0.iter().enumerate() {
        let (x_scale, values, sum) = x.block(b);
        let dot = dot_i8(q, values);
        acc = (dot as f32 * (d * f32::from(scales[b]))).mul_add(x_scale, acc);
        acc = (-(dmin * f32::from(minimums[b]))).mul_add(x_scale * sum as f32, acc);
    }
    acc
}

/// The product of a Q4_K or Q5_K super-block with a Q8_K block: two exact integers, two multiplications.
pub(crate) fn dot_q8_k(
    d: F16Bytes,
    dmin: F16Bytes,
    scales: &[u8; 12],
    q: &[i8; 256],
    x: Q8KBlock<'_>,
    acc: f32,
) -> f32 {
    let (scales, minimums) = k_scales::unpack(scales);
    let (mut dot, mut sum) = (0i32, 0i32);
    for (b, (q, values)) in q.as_chunks::<32>().0.iter().zip(x.values.as_chunks::<32>().0).enumerate() {
        dot += i32::from(scales[b]) * dot_i8(q, values);
        sum += i32::from(minimums[b]) * (i32::from(x.sums[2 * b]) + i32::from(x.sums[2 * b + 1]));
    }
    let acc = (dot as f32).mul_add(d.to_f32() * x.scale, acc);
    (-(sum as f32)).mul_add(dmin.to_f32() * x.scale, acc)
}
