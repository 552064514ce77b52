//! From float32 to bytes, byte for byte as ggml encodes them.

use super::block::{Encode, F16Bytes, blocks_mut, check_row};
use super::float::{Bf16Bytes, F32Bytes};
use super::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, Error, TensorType,
    importance,
};
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};

/// Values that a thread encodes before it asks for more: long enough that asking costs nothing.
const VALUES_PER_PART: usize = 1 << 16;

/// Encodes one row. `importance`, where given, has a weight per column; F32, F16, BF16 and Q8_0 make no use of it.
///
/// # Errors
/// `row` is not a number of whole blocks, `out` is not [`TensorType::row_bytes`] long, a value is NaN, infinite or too
/// large for the type, the importance matrix does not fit or holds a weight that is negative or not finite, or there is
/// no encoder for the type. The content of `out` is then not defined.
pub fn encode_row(
    tensor_type: TensorType,
    row: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Error> {
    check(tensor_type, row, row.len(), importance, out.len())?;
    encode_part(tensor_type, row, row.len(), importance, out, 0)
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
    let part_rows = (VALUES_PER_PART / cols).max(1);
    let values = values.chunks(part_rows * cols);
    let threads = threads.get().min(values.len());
    let parts = Mutex::new(values.zip(out.chunks_mut(part_rows * row_bytes)).enumerate());
    // Each thread takes the next part until there is none, or until one of its parts is at fault.
    let work = || loop {
        let part = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        let (p, (values, out)) = part?;
        if let Err(error) = encode_part(tensor_type, values, cols, importance, out, p * part_rows * cols) {
            return Some((p, error));
        }
    };
    let faults = std::thread::scope(|scope| {
        // Where the system refuses a thread, the others do its work.
        let others: Vec<_> =
            (1..threads).filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok()).collect();
        let mut faults: Vec<_> = work().into_iter().collect();
        for thread in others {
            faults.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        faults
    });
    // Parts are taken in order, so the first fault of the matrix is always among those found.
    faults.into_iter().min_by_key(|(p, _)| *p).map_or(Ok(()), |(_, error)| Err(error))
}

fn check(
    tensor_type: TensorType,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out_len: usize,
) -> Result<(), Error> {
    if !tensor_type.is_weight_type() {
        return Err(unsupported(tensor_type));
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
    Ok(())
}

/// The first NaN or infinity. Blocks first: the loop over a block has no exit and runs in vector registers.
fn first_not_finite(values: &[f32]) -> Option<(usize, f32)> {
    let largest =
        |block: &[f32]| block.iter().fold(0i32, |max, v| max.max((v.to_bits() & 0x7fff_ffff) as i32));
    let start =
        1024 * values.chunks(1024).position(|block| largest(block) >= f32::INFINITY.to_bits() as i32)?;
    values.iter().copied().enumerate().skip(start).find(|(_, v)| !v.is_finite())
}

/// Encodes whole rows, the first of whose elements is number `start` of the matrix.
fn encode_part(
    tensor_type: TensorType,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    start: usize,
) -> Result<(), Error> {
    let encode = match tensor_type {
        TensorType::F32 => encode_blocks::<F32Bytes>,
        TensorType::F16 => encode_blocks::<F16Bytes>,
        TensorType::BF16 => encode_blocks::<Bf16Bytes>,
        TensorType::Q4_0 => encode_blocks::<BlockQ4_0>,
        TensorType::Q4_1 => encode_blocks::<BlockQ4_1>,
        TensorType::Q5_0 => encode_blocks::<BlockQ5_0>,
        TensorType::Q5_1 => encode_blocks::<BlockQ5_1>,
        TensorType::Q8_0 => encode_blocks::<BlockQ8_0>,
        TensorType::Q4_K => encode_blocks::<BlockQ4K>,
        TensorType::Q5_K => encode_blocks::<BlockQ5K>,
        TensorType::Q6_K => encode_blocks::<BlockQ6K>,
        _ => return Err(unsupported(tensor_type)),
    };
    encode(values, cols, importance, out, start)
}

fn encode_blocks<B: Encode>(
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
    start: usize,
) -> Result<(), Error> {
    let blocks = blocks_mut::<B>(out, values.len())?;
    let blocks_per_row = cols / B::TYPE.block_len();
    let shows_faults = B::SHOWS_FAULTS && importance.is_none();
    if blocks_per_row > 0 {
        let rows = values.chunks(cols).zip(blocks.chunks_mut(blocks_per_row));
        for (r, (row, out)) in rows.enumerate() {
            let fault = || {
                let (index, value) = first_not_finite(row)?;
                Some(Error::NotFiniteInput { index: start + r * cols + index, value })
            };
            if !shows_faults && let Some(fault) = fault() {
                return Err(fault);
            }
            B::encode_row(row, importance, out);
            if !out.iter().fold(true, |finite, block| finite & block.is_finite()) {
                if let Some(fault) = fault() {
                    return Err(fault);
                }
                let block = out.iter().position(|block| !block.is_finite()).unwrap_or_default();
                let index = start + r * cols + block * B::TYPE.block_len();
                return Err(Error::TooLarge { tensor_type: B::TYPE, index });
            }
        }
    }
    Ok(())
}

fn unsupported(tensor_type: TensorType) -> Error {
    let supported = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";
    Error::Unsupported { tensor_type, action: "encoded", supported }
}
