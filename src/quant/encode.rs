//! From float32 to bytes, byte for byte as ggml encodes them.

use super::block::{Encode, F16Bytes, blocks_mut, check_row};
use super::float::{Bf16Bytes, F32Bytes};
use super::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, Error, TensorType,
    importance,
};
use std::num::NonZeroUsize;

/// Encodes one row. `importance`, where given, has a weight per column; F32, F16, BF16 and Q8_0 make no use of it.
///
/// # Errors
/// `row` is not a number of whole blocks, `out` is not [`TensorType::row_bytes`] long, a value is NaN or infinite, the
/// importance matrix does not fit or holds a weight that is negative or not finite, or there is no encoder for the type.
pub fn encode_row(
    tensor_type: TensorType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Error> {
    check(tensor_type, row, row.len(), importance, out.len())?;
    encode_checked(tensor_type, row, row.len(), importance, out)
}

/// Encodes a matrix `[rows, cols]`, whose rows all take the same `importance`, on up to `threads` threads. The result
/// does not depend on their number.
///
/// # Errors
/// As [`encode_row`]; also where `values` is not a number of whole rows. An element's index counts from the first row.
pub fn encode_rows(
    tensor_type: TensorType,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    threads: NonZeroUsize,
) -> Result<(), Error> {
    check(tensor_type, values, cols, importance, out.len())?;
    let (Some(row_bytes), true) = (tensor_type.row_bytes(cols), cols > 0) else { return Ok(()) };
    let rows_per_thread = (values.len() / cols).div_ceil(threads.get()).max(1);
    let parts = values.chunks(rows_per_thread * cols).zip(out.chunks_mut(rows_per_thread * row_bytes));
    std::thread::scope(|scope| {
        let mut running = Vec::new();
        let mut first = None;
        for (values, out) in parts {
            if first.is_none() {
                first = Some((values, out));
            } else {
                running.push(scope.spawn(move || encode_checked(tensor_type, values, cols, importance, out)));
            }
        }
        let mut result = Ok(());
        if let Some((values, out)) = first {
            result = encode_checked(tensor_type, values, cols, importance, out);
        }
        for thread in running {
            match thread.join() {
                Ok(part) => result = result.and(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })
}

fn check(
    tensor_type: TensorType,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out_len: usize,
) -> Result<(), Error> {
    if !tensor_type.is_weight_type() {
        let supported = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";
        return Err(Error::Unsupported { tensor_type, action: "encoded", supported });
    }
    if cols == 0 && !values.is_empty() || cols > 0 && !values.len().is_multiple_of(cols) {
        return Err(Error::PartialRow { values: values.len(), cols });
    }
    if !cols.is_multiple_of(tensor_type.block_len()) {
        return Err(Error::PartialBlock { tensor_type, values: cols, block_len: tensor_type.block_len() });
    }
    check_row(tensor_type, values.len(), out_len)?;
    if let Some(importance) = importance {
        importance::check(importance, cols)?;
    }
    match first_not_finite(values) {
        Some((index, value)) => Err(Error::NotFiniteInput { index, value }),
        None => Ok(()),
    }
}

/// The first NaN or infinity. Blocks first: the loop over a block has no exit and runs in vector registers.
fn first_not_finite(values: &[f32]) -> Option<(usize, f32)> {
    let largest = |block: &[f32]| block.iter().fold(0, |max, v| max.max(v.to_bits() & 0x7fff_ffff));
    let block = values.chunks(1024).position(|block| largest(block) >= f32::INFINITY.to_bits())?;
    let start = block * 1024;
    values[start..].iter().position(|v| !v.is_finite()).map(|i| (start + i, values[start + i]))
}

fn encode_checked(
    tensor_type: TensorType,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Error> {
    match tensor_type {
        TensorType::F32 => encode_blocks::<F32Bytes>(values, cols, importance, out),
        TensorType::F16 => encode_blocks::<F16Bytes>(values, cols, importance, out),
        TensorType::BF16 => encode_blocks::<Bf16Bytes>(values, cols, importance, out),
        TensorType::Q4_0 => encode_blocks::<BlockQ4_0>(values, cols, importance, out),
        TensorType::Q4_1 => encode_blocks::<BlockQ4_1>(values, cols, importance, out),
        TensorType::Q5_0 => encode_blocks::<BlockQ5_0>(values, cols, importance, out),
        TensorType::Q5_1 => encode_blocks::<BlockQ5_1>(values, cols, importance, out),
        TensorType::Q8_0 => encode_blocks::<BlockQ8_0>(values, cols, importance, out),
        TensorType::Q4_K => encode_blocks::<BlockQ4K>(values, cols, importance, out),
        TensorType::Q5_K => encode_blocks::<BlockQ5K>(values, cols, importance, out),
        _ => encode_blocks::<BlockQ6K>(values, cols, importance, out),
    }
}

fn encode_blocks<B: Encode>(
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Error> {
    let blocks = blocks_mut::<B>(out, values.len())?;
    let blocks_per_row = cols / B::TYPE.block_len();
    if blocks_per_row > 0 {
        for (row, out) in values.chunks(cols).zip(blocks.chunks_mut(blocks_per_row)) {
            B::encode_row(row, importance, out);
        }
    }
    Ok(())
}
