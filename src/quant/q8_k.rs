//! Q8_K: activations in 8 bits, 256 values at a time, as ggml multiplies them with Q4_K, Q5_K and Q6_K weights.
//!
//! For each super-block of 256 values x:
//!
//! ```text
//! m       = the first x of largest magnitude, with its sign
//! inverse = -127 / m                  float32 division; where all x are 0: scale = 0, all q = 0
//! q       = min(127, round_half_to_even(inverse * x))
//! scale   = 1 / inverse
//! sums    = the sums of 16 consecutive q
//! ```
//!
//! As bytes (`block_q8_K` in `ggml/src/ggml-common.h`, 292 bytes): `scale` float32, 256 signed bytes, 16 signed 16-bit
//! sums. Source of the formula: `quantize_row_q8_K_ref` in `ggml/src/ggml-quants.c`.

use super::fit::{nearest_int, quants};
use super::q8::sum_of_16;
use super::{Error, TensorType};
use bytemuck::{Pod, Zeroable};

/// A super-block as ggml lays it out.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockQ8K {
    /// The scale, float32.
    pub d: [u8; 4],
    /// The integers.
    pub qs: [i8; 256],
    /// The sums of 16 integers, signed 16 bits each.
    pub sums: [[u8; 2]; 16],
}

const _: () = assert!(size_of::<BlockQ8K>() == TensorType::Q8_K.block_bytes());

/// A row of activations in super-blocks of 256 values. The buffers are reused from call to call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Q8KRow {
    /// One scale per 256 values; it may be negative.
    pub scales: Vec<f32>,
    /// The integers, -127..=127.
    pub values: Vec<i8>,
    /// The sums of 16 integers: sixteen per super-block.
    pub sums: Vec<i16>,
}

impl Q8KRow {
    /// An empty row, to be filled by [`quantize`](Self::quantize).
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the row by `x`, whose length must be a multiple of 256.
    pub fn quantize(&mut self, x: &[f32]) -> Result<(), Error> {
        let (blocks, rest) = x.as_chunks::<256>();
        if !rest.is_empty() {
            return Err(Error::PartialBlock {
                tensor_type: TensorType::Q8_K,
                values: x.len(),
                block_len: 256,
            });
        }
        self.scales.clear();
        self.values.clear();
        self.sums.clear();
        for x in blocks {
            let (scale, q) = quantize_block(x);
            self.scales.push(scale);
            self.values.extend_from_slice(&q);
            self.sums.extend(q.as_chunks::<16>().0.iter().map(sum_of_16));
        }
        Ok(())
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether the row holds no values.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Writes the values that the integers stand for; `out` has [`len`](Self::len) places.
    pub fn decode(&self, out: &mut [f32]) {
        let blocks = out.chunks_mut(256).zip(self.values.as_chunks::<256>().0).zip(&self.scales);
        for ((out, q), scale) in blocks {
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * f32::from(q);
            }
        }
    }

    /// The row as ggml's blocks.
    pub fn blocks(&self) -> impl Iterator<Item = BlockQ8K> + '_ {
        let values = self.values.as_chunks::<256>().0;
        let sums = self.sums.as_chunks::<16>().0;
        self.scales.iter().zip(values).zip(sums).map(|((scale, values), sums)| BlockQ8K {
            d: scale.to_le_bytes(),
            qs: *values,
            sums: sums.map(i16::to_le_bytes),
        })
    }
}

/// One super-block: its scale and its integers.
#[inline]
pub fn quantize_block(x: &[f32; 256]) -> (f32, [i8; 256]) {
    let max_bits = x.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7fff_ffff));
    if max_bits == 0 {
        return (0.0, [0; 256]);
    }
    let max = x.iter().copied().find(|v| v.to_bits() & 0x7fff_ffff == max_bits).unwrap_or(0.0);
    let inverse = -127.0 / max;
    let q = quants(x, |v| nearest_int(inverse * v).min(127) as i8);
    (1.0 / inverse, q)
}

/// One super-block of a [`Q8KRow`].
#[derive(Clone, Copy)]
pub(crate) struct Q8KBlock<'a> {
    pub(crate) scale: f32,
    pub(crate) values: &'a [i8; 256],
    pub(crate) sums: &'a [i16; 16],
}
