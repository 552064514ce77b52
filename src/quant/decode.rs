//! From bytes to float32, and whether the bytes hold finite numbers.

use super::block::{Block, F16Bytes, blocks};
use super::float::{Bf16Bytes, F32Bytes};
use super::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, Error, TensorType,
};
use super::{apr_q4, apr_q8, lattice_q4};

/// The types that [`decode_row`] knows.
const DECODABLE: &str =
    "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, APR's AprQ4 and AprQ8, and LatticeQ4";

/// Decodes one row, or several that lie one after the other, into `out.len()` values. Exact: every product and sum is
/// rounded once, as in ggml.
///
/// AprQ4, AprQ8 and LatticeQ4 have no rows: `bytes` and `out` are the whole tensor.
///
/// # Errors
/// `bytes` is not as long as `out.len()` values are in this type, `out.len()` is not a number of whole blocks, or there
/// is no decoder for the type. `out` is then unchanged.
pub fn decode_row(tensor_type: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    match tensor_type {
        TensorType::F32 => decode_blocks::<F32Bytes>(bytes, out),
        TensorType::F16 => decode_blocks::<F16Bytes>(bytes, out),
        TensorType::BF16 => decode_blocks::<Bf16Bytes>(bytes, out),
        TensorType::Q4_0 => decode_blocks::<BlockQ4_0>(bytes, out),
        TensorType::Q4_1 => decode_blocks::<BlockQ4_1>(bytes, out),
        TensorType::Q5_0 => decode_blocks::<BlockQ5_0>(bytes, out),
        TensorType::Q5_1 => decode_blocks::<BlockQ5_1>(bytes, out),
        TensorType::Q8_0 => decode_blocks::<BlockQ8_0>(bytes, out),
        TensorType::Q4_K => decode_blocks::<BlockQ4K>(bytes, out),
        TensorType::Q5_K => decode_blocks::<BlockQ5K>(bytes, out),
        TensorType::Q6_K => decode_blocks::<BlockQ6K>(bytes, out),
        TensorType::AprQ4 => apr_q4::decode(bytes, out),
        TensorType::AprQ8 => apr_q8::decode(bytes, out),
        TensorType::LatticeQ4 => lattice_q4::decode(bytes, out),
        _ => Err(Error::Unsupported { tensor_type, action: "decoded", supported: DECODABLE }),
    }
}

/// Checks that no scale or minimum in these blocks is NaN or infinite (for float types: no element).
///
/// # Errors
/// [`Error::NotFinite`] with the index of the first such block; also where `bytes` is not a number of whole blocks or
/// there is no decoder for the type.
pub fn finite_scales(tensor_type: TensorType, bytes: &[u8]) -> Result<(), Error> {
    let not_finite = match tensor_type {
        TensorType::F32 => first_not_finite::<F32Bytes>(bytes)?,
        TensorType::F16 => first_not_finite::<F16Bytes>(bytes)?,
        TensorType::BF16 => first_not_finite::<Bf16Bytes>(bytes)?,
        TensorType::Q4_0 => first_not_finite::<BlockQ4_0>(bytes)?,
        TensorType::Q4_1 => first_not_finite::<BlockQ4_1>(bytes)?,
        TensorType::Q5_0 => first_not_finite::<BlockQ5_0>(bytes)?,
        TensorType::Q5_1 => first_not_finite::<BlockQ5_1>(bytes)?,
        TensorType::Q8_0 => first_not_finite::<BlockQ8_0>(bytes)?,
        TensorType::Q4_K => first_not_finite::<BlockQ4K>(bytes)?,
        TensorType::Q5_K => first_not_finite::<BlockQ5K>(bytes)?,
        TensorType::Q6_K => first_not_finite::<BlockQ6K>(bytes)?,
        TensorType::AprQ4 => apr_q4::first_not_finite(bytes),
        TensorType::AprQ8 => (!apr_q8::is_finite(bytes)).then_some(0),
        TensorType::LatticeQ4 => lattice_q4::first_not_finite(bytes),
        _ => return Err(Error::Unsupported { tensor_type, action: "checked", supported: DECODABLE }),
    };
    not_finite.map_or(Ok(()), |block| Err(Error::NotFinite { tensor_type, block }))
}

fn decode_blocks<B: Block>(bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    B::decode_row(blocks(bytes, out.len())?, out);
    Ok(())
}

fn first_not_finite<B: Block>(bytes: &[u8]) -> Result<Option<usize>, Error> {
    // A partial block at the end is counted as a whole one, so that the error says how many bytes are missing.
    let values = bytes.len().div_ceil(B::TYPE.block_bytes()).saturating_mul(B::TYPE.block_len());
    Ok(blocks::<B>(bytes, values)?.iter().position(|block| !block.is_finite()))
}
