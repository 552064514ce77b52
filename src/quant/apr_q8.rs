//! AprQ8 (codes 129 and 9 of APR files): one float32 scale for a whole tensor, then a signed byte per value, so
//! `4 + values` bytes. `value = scale * q`. Decoding only: nothing here writes this type.
//!
//! Layout: `add_q8_tensor` of the crate `apr-format`.

use super::{Error, TensorType};

/// Decodes a whole tensor of `out.len()` values.
pub(crate) fn decode(bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    let values = out.len();
    match bytes.split_first_chunk::<4>() {
        Some((scale, quants)) if quants.len() == values => {
            let scale = f32::from_le_bytes(*scale);
            for (out, &q) in out.iter_mut().zip(quants) {
                *out = scale * f32::from(q as i8);
            }
            Ok(())
        }
        _ => Err(Error::WrongBytes {
            tensor_type: TensorType::AprQ8,
            values,
            expected: values.saturating_add(4),
            found: bytes.len(),
        }),
    }
}

/// Whether the tensor's scale is finite (also where there is none).
pub(crate) fn is_finite(bytes: &[u8]) -> bool {
    bytes.first_chunk::<4>().is_none_or(|scale| f32::from_le_bytes(*scale).is_finite())
}
