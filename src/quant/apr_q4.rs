//! AprQ4 (codes 128 and 8 of APR files): 32 values of 4 bits and a scale, 18 bytes. `value = d * (q - 8)`.
//!
//! | bytes | holds |
//! |---|---|
//! | 0..2 | `d`, float16 |
//! | 2..18 | byte `j` holds `q[2 j]` in its low and `q[2 j + 1]` in its high four bits |
//!
//! As large as Q4_0, but neighbours share a byte. The blocks run over the whole tensor, not over rows, and the last one
//! may be partly used: its padding is there and is ignored. Decoding only: nothing here writes this type.
//!
//! Layout: `add_q4_tensor` of the crate `apr-format`.

use super::block::F16Bytes;
use super::{Error, TensorType};
use bytemuck::{Pod, Zeroable};

/// A block of 32 values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct BlockAprQ4 {
    /// The scale.
    pub d: F16Bytes,
    /// Two neighbouring values per byte.
    pub qs: [u8; 16],
}

const _: () = assert!(size_of::<BlockAprQ4>() == TensorType::AprQ4.block_bytes());

impl BlockAprQ4 {
    /// The integers, offset removed: -8..=7.
    #[inline]
    pub fn quants(&self) -> [i8; 32] {
        std::array::from_fn(|j| {
            let byte = self.qs[j / 2];
            (if j % 2 == 0 { byte & 15 } else { byte >> 4 }) as i8 - 8
        })
    }
}

/// Decodes a whole tensor: `out.len()` values from as many blocks as they need.
pub(crate) fn decode(bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    let values = out.len();
    let expected = values.div_ceil(32).checked_mul(size_of::<BlockAprQ4>());
    let blocks: &[BlockAprQ4] = match bytemuck::try_cast_slice(bytes) {
        Ok(blocks) if expected == Some(bytes.len()) => blocks,
        _ => {
            let (expected, found) = (expected.unwrap_or(usize::MAX), bytes.len());
            return Err(Error::WrongBytes { tensor_type: TensorType::AprQ4, values, expected, found });
        }
    };
    for (out, block) in out.chunks_mut(32).zip(blocks) {
        let d = block.d.to_f32();
        for (out, q) in out.iter_mut().zip(block.quants()) {
            *out = d * f32::from(q);
        }
    }
    Ok(())
}

/// The first block whose scale is not finite.
pub(crate) fn first_not_finite(bytes: &[u8]) -> Option<usize> {
    bytes.chunks(size_of::<BlockAprQ4>()).position(|block| match *block {
        [low, high, ..] => !F16Bytes([low, high]).is_finite(),
        _ => false,
    })
}
