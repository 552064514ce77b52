//! Q6_K: a super-block of 256 values of 6 bits, 210 bytes. Its sixteen blocks of 16 have a signed 8-bit scale each, in
//! units of one float: `value = d * scale * (q - 32)`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..128 | `ql`, the low four bits, 64 bytes per half `h` of 128 values: byte `j` holds those of `q[128 h + j]`, and of `q[128 h + 64 + j]` in its high half |
//! | 128..192 | `qh`, the high two bits, 32 bytes per half: bits `2 k` and `2 k + 1` of byte `j` belong to `q[128 h + 32 k + j]` |
//! | 192..208 | sixteen scales, signed bytes |
//! | 208..210 | `d`, float16 |
//!
//! Layout: `block_q6_K` in `ggml/src/ggml-common.h`.

use super::block::{Block, DotQ8, DotQ8K, Encode, F16Bytes, dot_i8};
use super::fit::{self, LANES, SMALLEST_GROUP, nearest_int};
use super::q8::Q8Blocks;
use super::q8_k::Q8KBlock;
use super::{SegmentSum, TensorType};
use bytemuck::{Pod, Zeroable};

/// A super-block of 256 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ6K {
    /// The low four bits, two values per byte.
    pub ql: [u8; 128],
    /// The high two bits, four values per byte.
    pub qh: [u8; 64],
    /// One scale per 16 values.
    pub scales: [i8; 16],
    /// The unit of the scales.
    pub d: F16Bytes,
}

const _: () = assert!(size_of::<BlockQ6K>() == TensorType::Q6_K.block_bytes());

impl BlockQ6K {
    /// The integers, offset removed: -32..=31.
    #[inline]
    pub fn quants(&self) -> [i8; 256] {
        let mut q = [0; 256];
        let halves = self.ql.as_chunks::<64>().0.iter().zip(self.qh.as_chunks::<32>().0);
        for (q, (ql, qh)) in q.as_chunks_mut::<128>().0.iter_mut().zip(halves) {
            for j in 0..32 {
                q[j] = ((ql[j] & 15) | ((qh[j] & 3) << 4)) as i8 - 32;
                q[j + 32] = ((ql[j + 32] & 15) | (((qh[j] >> 2) & 3) << 4)) as i8 - 32;
                q[j + 64] = ((ql[j] >> 4) | (((qh[j] >> 4) & 3) << 4)) as i8 - 32;
                q[j + 96] = ((ql[j + 32] >> 4) | ((qh[j] >> 6) << 4)) as i8 - 32;
            }
        }
        q
    }
}

impl Block for BlockQ6K {
    const TYPE: TensorType = TensorType::Q6_K;

    fn decode(&self, out: &mut [f32]) {
        let d = self.d.to_f32();
        let q = self.quants();
        for ((out, q), scale) in out.chunks_exact_mut(16).zip(q.as_chunks::<16>().0).zip(self.scales) {
            let scale = d * f32::from(scale);
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * f32::from(q);
            }
        }
    }

    fn is_finite(&self) -> bool {
        self.d.is_finite()
    }
}

impl DotQ8 for BlockQ6K {
    fn dot_q8(&self, x: Q8Blocks<'_>, sum: &mut SegmentSum) {
        let d = self.d.to_f32();
        let q = self.quants();
        for (b, (q, scales)) in q.as_chunks::<32>().0.iter().zip(self.scales.as_chunks::<2>().0).enumerate() {
            let (x_scale, values, _) = x.block(b);
            let first = i32::from(scales[0]) * dot_i8(&q[..16], &values[..16]);
            let second = i32::from(scales[1]) * dot_i8(&q[16..], &values[16..]);
            sum.add(1, |acc| ((first + second) as f32 * d).mul_add(x_scale, acc));
        }
    }
}

impl DotQ8K for BlockQ6K {
    fn dot_q8_k(&self, x: Q8KBlock<'_>, acc: f32) -> f32 {
        let q = self.quants();
        let mut dot = 0i32;
        for ((q, values), scale) in
            q.as_chunks::<16>().0.iter().zip(x.values.as_chunks::<16>().0).zip(self.scales)
        {
            dot += i32::from(scale) * dot_i8(q, values);
        }
        (dot as f32).mul_add(self.d.to_f32() * x.scale, acc)
    }
}

impl Encode for BlockQ6K {
    /// A scale is searched for each of the sixteen blocks of 16; `d` maps the one of largest magnitude to -128. Then the
    /// integers are chosen again, for what the rounded scales stand for. Without an importance matrix each value weighs
    /// its square.
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]) {
        let mut importance = importance.map(|w| w.as_chunks::<256>().0.iter());
        for (x, out) in x.as_chunks::<256>().0.iter().zip(out) {
            *out = encode(x, importance.as_mut().and_then(Iterator::next));
        }
    }
}

fn encode(x: &[f32; 256], importance: Option<&[f32; 256]>) -> BlockQ6K {
    let groups = x.as_chunks::<16>().0;
    let squares;
    let weights = match importance {
        Some(importance) => importance,
        None => {
            squares = fit::quants(x, |x| x * x);
            &squares
        }
    };
    let found: [fit::Symmetric; 2] = std::array::from_fn(|half| {
        let groups = |x: &[f32; 256]| fit::transpose(&x.as_chunks::<16>().0[half * LANES..][..LANES]);
        fit::fit_symmetric(&groups(x), &groups(weights), 32)
    });
    let scale = |b: usize| found[b / LANES].scale[b % LANES];
    let largest = (0..16).map(scale).fold(0.0f32, |max, s| if s.abs() > max.abs() { s } else { max });
    if largest.abs() < SMALLEST_GROUP {
        return BlockQ6K::zeroed();
    }
    let inverse = -128.0 / largest;
    let d = F16Bytes::from_f32(1.0 / inverse);
    let scales: [i8; 16] = std::array::from_fn(|b| nearest_int(inverse * scale(b)).min(127) as i8);
    let mut q = [0u8; 256];
    for (b, (x, q)) in groups.iter().zip(q.as_chunks_mut::<16>().0).enumerate() {
        let scale = d.to_f32() * f32::from(scales[b]);
        if scale == 0.0 {
            // Nothing to divide by: the integers of the search stay, as in ggml.
            *q = fit::quants(x, |x| found[b / LANES].quant(b % LANES, x));
        } else {
            *q = fit::quants(x, |x| (nearest_int(x / scale).clamp(-32, 31) + 32) as u8);
        }
    }
    let (mut ql, mut qh) = ([0; 128], [0; 64]);
    let halves = ql.as_chunks_mut::<64>().0.iter_mut().zip(qh.as_chunks_mut::<32>().0);
    for (q, (ql, qh)) in q.as_chunks::<128>().0.iter().zip(halves) {
        for j in 0..32 {
            let [a, b, c, d] = [q[j], q[j + 32], q[j + 64], q[j + 96]];
            ql[j] = (a & 15) | ((c & 15) << 4);
            ql[j + 32] = (b & 15) | ((d & 15) << 4);
            qh[j] = (a >> 4) | ((b >> 4) << 2) | ((c >> 4) << 4) | ((d >> 4) << 6);
        }
    }
    BlockQ6K { ql, qh, scales, d }
}
