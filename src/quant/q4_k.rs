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

use super::block::{Block, DotQ8, DotQ8K, Encode, F16Bytes, dot_i8};
use super::fit::{self, Trials, WEIGHTED_TRIALS, nearest_int};
use super::q8::Q8Blocks;
use super::q8_k::Q8KBlock;
use super::{SegmentSum, TensorType, k_scales};
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
    fn dot_q8(&self, x: Q8Blocks<'_>, sum: &mut SegmentSum) {
        dot_q8(self.d, self.dmin, &self.scales, &self.quants(), x, sum);
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
    total: &mut SegmentSum,
) {
    let (d, dmin) = (d.to_f32(), dmin.to_f32());
    let (scales, minimums) = k_scales::unpack(scales);
    for (b, q) in q.as_chunks::<32>().0.iter().enumerate() {
        let (x_scale, values, sum) = x.block(b);
        let dot = dot_i8(q, values);
        total.add(1, |acc| {
            let acc = (dot as f32 * (d * f32::from(scales[b]))).mul_add(x_scale, acc);
            (-(dmin * f32::from(minimums[b]))).mul_add(x_scale * sum as f32, acc)
        });
    }
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

impl Encode for BlockQ4K {
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let trials = Trials { first: -1.0, step: 0.1, last: 20 };
        encode_row(x, importance, 15, trials, out, |SuperBlock { d, dmin, scales, q }| {
            let mut qs = [0; 128];
            pack_low(&q, &mut qs);
            Self { d, dmin, scales, qs }
        });
    }
}

/// Packs the low four bits of 256 integers, as in [`BlockQ4K::qs`].
pub(crate) fn pack_low(q: &[u8; 256], qs: &mut [u8; 128]) {
    for (q, qs) in q.as_chunks::<64>().0.iter().zip(qs.as_chunks_mut::<32>().0) {
        for j in 0..32 {
            qs[j] = (q[j] & 15) | ((q[j + 32] & 15) << 4);
        }
    }
}

/// A super-block of Q4_K or Q5_K before its integers are packed.
pub(crate) struct SuperBlock {
    pub(crate) d: F16Bytes,
    pub(crate) dmin: F16Bytes,
    pub(crate) scales: [u8; 12],
    pub(crate) q: [u8; 256],
}

/// Encodes a row of Q4_K (`max_q` 15) or Q5_K (31).
///
/// A scale and a minimum are searched for each of the eight blocks of 32. The unit `d` of the eight scales maps the
/// largest to 63 (with an importance matrix it is searched as well), `dmin` likewise. Then the integers are chosen
/// again, for the scales and minimums that the rounded numbers stand for.
pub(crate) fn encode_row<B>(
    x: &[f32],
    importance: Option<&[f32]>,
    max_q: u8,
    trials: Trials,
    out: &mut [B],
    pack: impl Fn(SuperBlock) -> B,
) {
    let x = x.as_chunks::<256>().0.iter();
    match importance {
        None => {
            for (x, out) in x.zip(out) {
                *out = pack(encode(x, max_q, trials));
            }
        }
        Some(importance) => {
            for ((x, importance), out) in x.zip(importance.as_chunks::<256>().0).zip(out) {
                *out = pack(encode_weighted(x, importance, max_q));
            }
        }
    }
}

fn encode(x: &[f32; 256], max_q: u8, trials: Trials) -> SuperBlock {
    let lanes = fit::transpose(x.as_chunks::<32>().0);
    let mut mean = [0.0f32; fit::LANES];
    for x in &lanes {
        for k in 0..fit::LANES {
            mean[k] += x[k] * x[k];
        }
    }
    let mean = mean.map(|sum| (sum / 32.0).sqrt());
    let mut weights = lanes;
    for w in &mut weights {
        for k in 0..fit::LANES {
            w[k] = mean[k] + w[k].abs();
        }
    }
    let found = fit::fit_affine(&lanes, &weights, max_q, trials);
    let (scales, d) = to_six_bits(&found.scale);
    let (minimums, dmin) = to_six_bits(&found.minimum);
    finish(x, &found, max_q, (d, scales), (dmin, minimums))
}

fn encode_weighted(x: &[f32; 256], importance: &[f32; 256], max_q: u8) -> SuperBlock {
    let sigma2 = 2.0 * x.iter().fold(0.0, |sum, x| sum + x * x) / 256.0;
    let mut weights = *importance;
    for (w, x) in weights.iter_mut().zip(x) {
        *w *= (sigma2 + x * x).sqrt();
    }
    let weights = fit::transpose(weights.as_chunks::<32>().0);
    let mut sums = [0.0; fit::LANES];
    for w in &weights {
        for k in 0..fit::LANES {
            sums[k] += w[k];
        }
    }
    let found = fit::fit_affine(&fit::transpose(x.as_chunks::<32>().0), &weights, max_q, WEIGHTED_TRIALS);
    let (d, scales) = fit::fit_positive(&found.scale, &sums, 63);
    let (dmin, minimums) = fit::fit_positive(&found.minimum, &sums, 63);
    finish(x, &found, max_q, (d, scales), (dmin, minimums))
}

/// Eight numbers of at least 0 in units of a 63rd of the largest, and that unit.
fn to_six_bits(x: &[f32; 8]) -> ([u8; 8], f32) {
    let max = x.iter().fold(0.0f32, |max, &x| if x > max { x } else { max });
    let inverse = if max > 0.0 { 63.0 / max } else { 0.0 };
    (x.map(|x| (nearest_int(inverse * x) as u8).min(63)), max / 63.0)
}

/// Rounds the units to float16 and chooses the integers for what scales and minimums have become.
fn finish(
    x: &[f32; 256],
    found: &fit::Affine,
    max_q: u8,
    (d, scales): (f32, [u8; 8]),
    (dmin, minimums): (f32, [u8; 8]),
) -> SuperBlock {
    let (d, dmin) = (F16Bytes::from_f32(d), F16Bytes::from_f32(dmin));
    let mut q = [0; 256];
    for (b, (x, q)) in x.as_chunks::<32>().0.iter().zip(q.as_chunks_mut::<32>().0).enumerate() {
        let scale = d.to_f32() * f32::from(scales[b]);
        let minimum = dmin.to_f32() * f32::from(minimums[b]);
        if scale == 0.0 {
            // Nothing to divide by: the integers of the search stay, as in ggml.
            *q = fit::quants(x, |x| found.quant(b, x));
        } else {
            *q = fit::quants(x, |x| nearest_int((x + minimum) / scale).clamp(0, i32::from(max_q)) as u8);
        }
    }
    SuperBlock { d, dmin, scales: k_scales::pack(&scales, &minimums), q }
}
