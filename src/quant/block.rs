//! What all block layouts have in common: how bytes become blocks, and what a block can do.
//!
//! Every field of a block is a byte or an array of bytes, so that a block has alignment 1 and any slice of a mapped
//! file can be seen as blocks without a copy. All numbers are little-endian.

use super::q8::Q8Blocks;
use super::q8_k::Q8KBlock;
use super::{Error, SegmentSum, TensorType};
use bytemuck::{Pod, Zeroable};
use half::f16;

/// A float16 in a file: two bytes, little-endian, unaligned.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct F16Bytes(pub [u8; 2]);

impl F16Bytes {
    /// The value as float32 (exact).
    #[inline]
    pub fn to_f32(self) -> f32 {
        f16::from_le_bytes(self.0).to_f32()
    }

    /// The float16 nearest to `value`, ties to even.
    #[inline]
    pub fn from_f32(value: f32) -> Self {
        Self(f16::from_f32(value).to_le_bytes())
    }

    /// Whether the value is neither NaN nor infinite.
    #[inline]
    pub fn is_finite(self) -> bool {
        const EXPONENT: u16 = 0x7c00;
        u16::from_le_bytes(self.0) & EXPONENT != EXPONENT
    }
}

/// A block of quantized weights.
pub(crate) trait Block: Pod {
    /// The type whose rows consist of this block.
    const TYPE: TensorType;

    /// Writes the block's values; `out` has [`TensorType::block_len`] places.
    fn decode(&self, out: &mut [f32]);

    /// Writes the values of several blocks; `out` has a place for each.
    fn decode_row(blocks: &[Self], out: &mut [f32]) {
        for (block, out) in blocks.iter().zip(out.chunks_exact_mut(Self::TYPE.block_len())) {
            block.decode(out);
        }
    }

    /// Whether every float in the block is finite.
    fn is_finite(&self) -> bool;
}

/// A block whose product with 8-bit activations is an exact integer per 32 values (or per 16).
pub(crate) trait DotQ8: Block {
    /// Adds the block's product with `x`, which covers the same columns, to `sum`.
    fn dot_q8(&self, x: Q8Blocks<'_>, sum: &mut SegmentSum);
}

/// A super-block of 256 values, whose product with a Q8_K block is an exact integer.
pub(crate) trait DotQ8K: Block {
    /// Adds the super-block's product with `x`, which covers the same columns, to `acc`.
    fn dot_q8_k(&self, x: Q8KBlock<'_>, acc: f32) -> f32;
}

/// A block that values can be encoded as.
pub(crate) trait Encode: Block {
    /// Whether a value that is not finite always makes a block that is not finite, without an importance matrix: then
    /// values need not be looked at beforehand.
    const SHOWS_FAULTS: bool = false;

    /// Encodes a row: `out` has a place for each block of `x`, and `importance`, where given, a weight per column.
    fn encode_row(x: &[f32], importance: Option<&[f32]>, out: &mut [Self]);
}

/// A row's bytes as blocks; `values` is the length of the row.
pub(crate) fn blocks<B: Block>(bytes: &[u8], values: usize) -> Result<&[B], Error> {
    check_row(B::TYPE, values, bytes.len())?;
    bytemuck::try_cast_slice(bytes).map_err(|_| wrong_bytes(B::TYPE, values, bytes.len()))
}

/// A row's bytes as blocks that are to be written; `values` is the length of the row.
pub(crate) fn blocks_mut<B: Block>(bytes: &mut [u8], values: usize) -> Result<&mut [B], Error> {
    let found = bytes.len();
    check_row(B::TYPE, values, found)?;
    bytemuck::try_cast_slice_mut(bytes).map_err(|_| wrong_bytes(B::TYPE, values, found))
}

/// Checks that `values` are whole blocks and that they take `found` bytes.
pub(crate) fn check_row(tensor_type: TensorType, values: usize, found: usize) -> Result<(), Error> {
    let block_len = tensor_type.block_len();
    if !values.is_multiple_of(block_len) {
        return Err(Error::PartialBlock { tensor_type, values, block_len });
    }
    if tensor_type.row_bytes(values) != Some(found) {
        return Err(wrong_bytes(tensor_type, values, found));
    }
    Ok(())
}

fn wrong_bytes(tensor_type: TensorType, values: usize, found: usize) -> Error {
    let expected = tensor_type.row_bytes(values).unwrap_or(usize::MAX);
    Error::WrongBytes { tensor_type, values, expected, found }
}

/// The exact dot product of 8-bit integers. No caller passes more than 256 values, so an i32 holds it.
#[inline]
pub(crate) fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    a.iter().zip(b).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum()
}
