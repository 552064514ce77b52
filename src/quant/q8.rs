//! Activations in 8 bits, 32 values at a time: the format `q8`, and Q8_0 as ggml uses it for activations.
//!
//! `q8`, the default of every backend. For each block of 32 values x:
//!
//! ```text
//! max   = max |x|                      (a NaN counts as larger than everything)
//! max < 2^-119:  scale = 0, all q = 0  (zero, or so small that 1 / scale would not be finite)
//! otherwise:     scale = max / 127                     float32 division
//!                q     = round_half_to_even(x * (1 / scale))    float32 division, then multiplication
//! sums  = the sums of q[0..16] and q[16..32]
//! ```
//!
//! `|q| <= 127` always. Where an x is NaN or infinite, so is the scale, and the integers do not matter: every product
//! with that block is NaN or infinite, and the fault stays visible.
//!
//! In the Q8_0 form the scale is rounded to float16 after the integers were computed, and they are rounded half away
//! from zero, as in ggml's `quantize_row_q8_0`. It serves `q8_k` for weights that are not in super-blocks.

use super::fit::{nearest_int, quants};
use super::q8_0::BlockQ8_0;
use super::{Error, TensorType};

/// Where the maximum of a block is below this, the block is stored as zeros: 2^-119.
pub const SMALLEST_MAXIMUM: f32 = f32::from_bits((127 - 119) << 23);

/// A row of activations, in blocks of 32 values. The buffers are reused from call to call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Q8Row {
    /// One scale per 32 values.
    pub scales: Vec<f32>,
    /// The integers, -127..=127.
    pub values: Vec<i8>,
    /// The sums of 16 integers: two per block.
    pub sums: Vec<i16>,
}

impl Q8Row {
    /// An empty row, to be filled by [`quantize`](Self::quantize).
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the row by `x` in the format `q8`. The length of `x` must be a multiple of 32.
    pub fn quantize(&mut self, x: &[f32]) -> Result<(), Error> {
        self.fill(x, quantize_block)
    }

    /// Replaces the row by `x` in the format Q8_0, scales rounded to float16. The length of `x` must be a multiple of 32.
    pub fn quantize_q8_0(&mut self, x: &[f32]) -> Result<(), Error> {
        self.fill(x, |x| {
            let block = BlockQ8_0::encode(x);
            (block.d.to_f32(), block.qs)
        })
    }

    fn fill(&mut self, x: &[f32], quantize: impl Fn(&[f32; 32]) -> (f32, [i8; 32])) -> Result<(), Error> {
        let (blocks, rest) = x.as_chunks::<32>();
        if !rest.is_empty() {
            return Err(Error::PartialBlock {
                tensor_type: TensorType::Q8_0,
                values: x.len(),
                block_len: 32,
            });
        }
        self.scales.clear();
        self.values.clear();
        self.sums.clear();
        for x in blocks {
            let (scale, q) = quantize(x);
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
        let blocks = out.chunks_mut(32).zip(self.values.as_chunks::<32>().0).zip(&self.scales);
        for ((out, q), scale) in blocks {
            for (out, &q) in out.iter_mut().zip(q) {
                *out = scale * f32::from(q);
            }
        }
    }
}

/// One block in the format `q8`: its scale and its integers.
#[inline]
pub fn quantize_block(x: &[f32; 32]) -> (f32, [i8; 32]) {
    // As integers, the bits of floats without a sign are ordered like the floats, and NaN comes last.
    let max = f32::from_bits(x.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7fff_ffff)));
    if max < SMALLEST_MAXIMUM {
        return (0.0, [0; 32]);
    }
    let scale = max / 127.0;
    let inverse = 1.0 / scale;
    (scale, quants(x, |v| nearest_int(v * inverse) as i8))
}

/// The sum of 16 integers.
#[inline]
pub(crate) fn sum_of_16(q: &[i8; 16]) -> i16 {
    q.iter().map(|&q| i16::from(q)).sum()
}

/// Some blocks of a [`Q8Row`] or of a part of it.
#[derive(Clone, Copy)]
pub(crate) struct Q8Blocks<'a> {
    pub(crate) scales: &'a [f32],
    pub(crate) values: &'a [[i8; 32]],
    pub(crate) sums: &'a [[i16; 2]],
}

impl<'a> Q8Blocks<'a> {
    /// Scale, integers and sum of the integers of block `b`.
    #[inline]
    pub(crate) fn block(&self, b: usize) -> (f32, &'a [i8; 32], i32) {
        let sums = self.sums[b];
        (self.scales[b], &self.values[b], i32::from(sums[0]) + i32::from(sums[1]))
    }
}
