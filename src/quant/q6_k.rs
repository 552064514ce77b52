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

use super::TensorType;
use super::block::{Block, DotQ8, DotQ8K, F16Bytes, dot_i8};
use super::q8::Q8Blocks;
use super::q8_k::Q8KBlock;
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
    fn dot_q8(&self, x: Q8Blocks<'_>, mut acc: f32) -> f32 {
        let d = self.d.to_f32();
        let q = self.quants();
        for (b, (q, scales)) in q.as_chunks::<32>().0.iter().zip(self.scales.as_chunks::<2>().0).enumerate() {
            let (x_scale, values, _) = x.block(b);
            let first = i32::from(scales[0]) * dot_i8(&q[..16], &values[..16]);
            let second = i32::from(scales[1]) * dot_i8(&q[16..], &values[16..]);
            acc = ((first + second) as f32 * d).mul_add(x_scale, acc);
        }
        acc
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
