//! LatticeQ4: 32 values of 4 bits, a scale and a bias, 20 bytes, as in lattice's `.q4` files. `value = q * d + m`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..4 | `m`, float16, what `q = 0` stands for |
//! | 4..20 | byte `j` holds `q[2 j]` in its low and `q[2 j + 1]` in its high four bits |
//!
//! The same numbers as in a Q4_1 block; only neighbours share a byte, so that one becomes the other without loss. The
//! blocks run over the whole tensor, not over rows, and the last one may be partly used.
//!
//! Two ways to encode, both with the scale as float32 before it is rounded to float16, and ties away from zero:
//!
//! - asymmetric: `d = (max - min) / 15`, `m = min`, over the values that are there, not over the padding of the last block;
//! - symmetric: `d = max |v| / 7`, `m = -8 d`.
//!
//! A scale that float16 rounds to zero stands for a block without a range, and becomes 1. One that float16 cannot hold is
//! an error.
//!
//! Layout and rules: observed in files of the crate `lattice-weights` 0.15.0.

use super::block::F16Bytes;
use super::q4_0::pack;
use super::{BlockQ4_1, Error, TensorType};
use bytemuck::{Pod, Zeroable};

/// A block of 32 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockLatticeQ4 {
    /// The scale.
    pub d: F16Bytes,
    /// The value that `q = 0` stands for.
    pub m: F16Bytes,
    /// Two neighbouring values per byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockLatticeQ4>() == TensorType::LatticeQ4.block_bytes());
const _: () = assert!(size_of::<BlockLatticeQ4>() == size_of::<BlockQ4_1>());

/// What a block's scale and bias follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatticeMode {
    /// From the least to the largest value.
    Asymmetric,
    /// From minus to plus the largest magnitude.
    Symmetric,
}

impl BlockLatticeQ4 {
    /// The integers: 0..=15.
    #[inline]
    pub fn quants(&self) -> [u8; 32] {
        std::array::from_fn(|j| self.qs[j / 2] >> (4 * (j % 2)) & 15)
    }

    /// The same numbers as a Q4_1 block.
    pub fn to_q4_1(&self) -> BlockQ4_1 {
        BlockQ4_1 { d: self.d, m: self.m, qs: pack(&self.quants()) }
    }

    /// Encodes up to 32 values, the first of which is number `start` of its tensor; missing ones count as zeros.
    fn encode(values: &[f32], mode: LatticeMode, start: usize) -> Result<Self, Error> {
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::NotFiniteInput { index: start + index, value: values[index] });
        }
        let mut block = [0.0_f32; 32];
        block[..values.len()].copy_from_slice(values);
        let (scale, bias) = match mode {
            LatticeMode::Asymmetric => {
                let min = values.iter().copied().fold(f32::INFINITY, f32::min);
                let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                (usable((max - min) / 15.0), min)
            }
            LatticeMode::Symmetric => {
                let scale = usable(block.iter().fold(0.0_f32, |max, v| max.max(v.abs())) / 7.0);
                (scale, -8.0 * scale)
            }
        };
        let (d, m) = (F16Bytes::from_f32(scale), F16Bytes::from_f32(bias));
        if !d.is_finite() || !m.is_finite() {
            return Err(Error::TooLarge { tensor_type: TensorType::LatticeQ4, index: start });
        }
        let inverse = 1.0 / scale;
        let quant = |value: f32| match mode {
            LatticeMode::Asymmetric => ((value - bias) * inverse).round(),
            LatticeMode::Symmetric => (value * inverse).round() + 8.0,
        };
        let quant = |j: usize| quant(block[j]).clamp(0.0, 15.0) as u8;
        Ok(Self { d, m, qs: std::array::from_fn(|j| quant(2 * j) | quant(2 * j + 1) << 4) })
    }
}

/// The scale that a block is written with.
fn usable(scale: f32) -> f32 {
    if F16Bytes::from_f32(scale).to_f32() > 0.0 { scale } else { 1.0 }
}

/// Encodes values of a tensor from number `start` on, a multiple of 32: all of them, or a part that ends at a block's end.
///
/// # Errors
/// `out` is not as long as the blocks that the values need, a value is NaN or infinite, or a block's range is more than
/// float16 holds.
pub fn encode_lattice(values: &[f32], mode: LatticeMode, start: usize, out: &mut [u8]) -> Result<(), Error> {
    let found = out.len();
    let out = blocks(values.len(), found, bytemuck::try_cast_slice_mut(out).ok())?;
    for (b, (values, out)) in values.chunks(32).zip(out).enumerate() {
        *out = BlockLatticeQ4::encode(values, mode, start + 32 * b)?;
    }
    Ok(())
}

/// The blocks, if there are as many as `values` need.
fn blocks<T>(values: usize, found: usize, blocks: Option<T>) -> Result<T, Error> {
    let expected = values.div_ceil(32).checked_mul(size_of::<BlockLatticeQ4>());
    blocks.filter(|_| expected == Some(found)).ok_or(Error::WrongBytes {
        tensor_type: TensorType::LatticeQ4,
        values,
        expected: expected.unwrap_or(usize::MAX),
        found,
    })
}

/// Decodes a whole tensor: `out.len()` values from as many blocks as they need.
pub(crate) fn decode(bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    let blocks: &[BlockLatticeQ4] = blocks(out.len(), bytes.len(), bytemuck::try_cast_slice(bytes).ok())?;
    for (out, block) in out.chunks_mut(32).zip(blocks) {
        let (d, m) = (block.d.to_f32(), block.m.to_f32());
        for (out, q) in out.iter_mut().zip(block.quants()) {
            *out = f32::from(q) * d + m;
        }
    }
    Ok(())
}

/// The first block whose scale or bias is not finite.
pub(crate) fn first_not_finite(bytes: &[u8]) -> Option<usize> {
    bytes.chunks(size_of::<BlockLatticeQ4>()).position(|block| match *block {
        [a, b, c, d, ..] => !F16Bytes([a, b]).is_finite() || !F16Bytes([c, d]).is_finite(),
        _ => false,
    })
}
