//! A tensor of the output: the source's rows, copied, reordered, or decoded and encoded in another type.
//!
//! Work goes in pieces of some million values, whose source pages are given back to the system as soon as they are done:
//! memory does not grow with the tensor. Within a piece, threads take parts of its rows; the result does not depend on
//! their number.

use super::{Progress, Reencoded, Report};
use crate::format::{Error, Tensor, TensorSpec};
use crate::quant::{self, BlockAprQ4, BlockLatticeQ4, BlockQ4_0, TensorType};
use half::{bf16, f16};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes copied at a time.
const CHUNK: usize = 4 << 20;
/// Values encoded between two writes.
const PIECE: usize = 4 << 20;
/// Values that a thread takes at a time.
const PART: usize = 1 << 16;

/// A tensor to write.
#[derive(Clone, Debug)]
pub(super) struct Output {
    pub(super) spec: TensorSpec,
    pub(super) source: Tensor,
    how: How,
    /// The source's rows that are written.
    rows: Range<usize>,
    order: Order,
    /// A weight per column, for types whose encoder looks for the best scale.
    importance: Option<Arc<[f32]>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// As they are.
    Copy,
    /// AprQ4 blocks as Q4_0 blocks: the same scale and nibbles, in another order.
    AprQ4ToQ4_0,
    /// LatticeQ4 blocks as Q4_1 blocks: the same numbers, in another order.
    LatticeToQ4_1,
    /// Decoded, and encoded in the type that `spec` names.
    Encode,
}

/// Which of the source's rows is which of the output's, in heads of so many rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    AsStored,
    /// From Hugging Face's order to that of NORM RoPE.
    ToNorm(usize),
    /// And back.
    FromNorm(usize),
}

impl Order {
    /// The source's row that is row `to`, both counted from the first that is written.
    fn source(self, to: usize) -> usize {
        match self {
            Self::AsStored => to,
            Self::ToNorm(head_rows) => {
                let (head, within) = (to / head_rows, to % head_rows);
                head * head_rows + (within % 2) * (head_rows / 2) + within / 2
            }
            Self::FromNorm(head_rows) => {
                let (head, within) = (to / head_rows, to % head_rows);
                let half = head_rows / 2;
                head * head_rows + 2 * (within % half) + within / half
            }
        }
    }

    /// Pieces hold whole numbers of so many rows, so that a piece's rows come from its own range of the source.
    fn unit(self) -> usize {
        match self {
            Self::AsStored => 1,
            Self::ToNorm(head_rows) | Self::FromNorm(head_rows) => head_rows,
        }
    }
}

impl Output {
    /// The source's bytes under another name.
    pub(super) fn copy(source: &Tensor, name: &str) -> Self {
        let spec = TensorSpec { name: name.to_owned(), ..TensorSpec::of(source) };
        let (rows, source) = (0..matrix_rows(source), source.clone());
        Self { spec, source, how: How::Copy, rows, order: Order::AsStored, importance: None }
    }

    /// The source's values as floats: F32 if `exact` or where F16 would overflow, F16 otherwise.
    pub(super) fn decode(source: &Tensor, name: &str, exact: bool) -> Result<Self, Error> {
        let output = Self::copy(source, name);
        if exact { output.encoded(TensorType::F32, None) } else { output.into_float() }
    }

    /// The same values as floats: F16, or F32 where F16 would overflow.
    pub(super) fn into_float(self) -> Result<Self, Error> {
        let to = if overflows_f16(&self.source)? { TensorType::F32 } else { TensorType::F16 };
        self.encoded(to, None)
    }

    /// What a GGUF file can hold of the source: its own bytes wherever that is possible.
    pub(super) fn for_gguf(source: &Tensor, name: &str) -> Result<Self, Error> {
        // llama.cpp wants vectors (norms, biases, frequencies) in F32.
        if source.shape.len() <= 1 && source.tensor_type != TensorType::F32 {
            return Self::decode(source, name, true);
        }
        match source.tensor_type {
            TensorType::AprQ4 if source.row_bytes().is_some() => {
                let mut output = Self::copy(source, name).encoded(TensorType::Q4_0, None)?;
                output.how = How::AprQ4ToQ4_0;
                Ok(output)
            }
            TensorType::LatticeQ4 if source.row_bytes().is_some() => {
                let mut output = Self::copy(source, name).encoded(TensorType::Q4_1, None)?;
                output.how = How::LatticeToQ4_1;
                Ok(output)
            }
            TensorType::AprQ4 | TensorType::AprQ8 | TensorType::LatticeQ4 => {
                Self::decode(source, name, false)
            }
            _ if source.is_row_padded() => Self::decode(source, name, false),
            _ => Ok(Self::copy(source, name)),
        }
    }

    /// The same in another type; the source's own type is copied where its rows are whole blocks.
    pub(super) fn encoded(mut self, to: TensorType, importance: Option<Arc<[f32]>>) -> Result<Self, Error> {
        self.spec = TensorSpec::new(&self.spec.name, to, &self.spec.shape)
            .ok_or_else(|| error(&self.source, format!("its size as {to} overflows")))?;
        let as_it_is = to == self.source.tensor_type && !self.source.is_row_padded();
        self.how = if as_it_is { How::Copy } else { How::Encode };
        self.importance = importance;
        Ok(self)
    }

    /// Whether a vector's values are all values of this float type.
    pub(super) fn is_exact_in(&self, to: TensorType) -> Result<bool, Error> {
        let mut values = vec![0.0; self.source.cols()];
        decode_row(&self.source, 0, &mut values)?;
        Ok(match to {
            TensorType::F16 => values.iter().all(|&v| f16::from_f32(v).to_f32() == v),
            TensorType::BF16 => values.iter().all(|&v| bf16::from_f32(v).to_f32() == v),
            _ => to == TensorType::F32,
        })
    }

    /// The same under another name.
    pub(super) fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.spec.name);
        self
    }

    /// Only these rows, under another name: one part of matrices (or biases) that were stored as one.
    pub(super) fn part(&self, name: &str, rows: Range<usize>) -> Result<Self, Error> {
        let outside = || error(&self.source, format!("rows {rows:?} do not lie in its {}", self.rows.len()));
        if rows.start > rows.end || rows.end > self.rows.len() {
            return Err(outside());
        }
        let shape = match self.source.shape.split_last() {
            Some((&cols, [_])) => vec![rows.len(), cols],
            Some((_, [])) => vec![rows.len()],
            _ => {
                return Err(error(
                    &self.source,
                    format!("expected a matrix, found shape {:?}", self.source.shape),
                ));
            }
        };
        let spec = TensorSpec::new(name, self.spec.tensor_type, &shape).ok_or_else(outside)?;
        Ok(Self { spec, rows, ..self.clone() })
    }

    /// Moves rows from Hugging Face's order to that of NORM RoPE: within each head, row `i` of the first half and row
    /// `i` of the second half become neighbours.
    pub(super) fn permuted(self, heads: usize) -> Result<Self, Error> {
        self.reordered(heads, Order::ToNorm)
    }

    /// Moves rows back, from the order of NORM RoPE to Hugging Face's.
    pub(super) fn unpermuted(self, heads: usize) -> Result<Self, Error> {
        self.reordered(heads, Order::FromNorm)
    }

    fn reordered(mut self, heads: usize, order: fn(usize) -> Order) -> Result<Self, Error> {
        let rows = self.rows.len();
        match rows.checked_div(heads) {
            Some(head_rows) if head_rows > 0 && head_rows * heads == rows && head_rows.is_multiple_of(2) => {
                self.order = match (self.order, order(head_rows)) {
                    (Order::AsStored, order) => order,
                    (Order::ToNorm(a), Order::FromNorm(b)) if a == b => Order::AsStored,
                    _ => return Err(error(&self.source, "its rows would be moved twice".to_owned())),
                };
                Ok(self)
            }
            _ => {
                Err(error(&self.source, format!("its {rows} rows do not make {heads} heads of an even size")))
            }
        }
    }

    /// Writes the tensor's bytes to `sink`, in pieces.
    pub(super) fn write(
        &self,
        threads: NonZeroUsize,
        sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let all = self.rows == (0..matrix_rows(&self.source));
        if self.how == How::Copy && self.order == Order::AsStored && all {
            return self.source.bytes().chunks(CHUNK).try_for_each(sink);
        }
        if self.source.shape.len() <= 1 {
            return self.write_vector(sink);
        }
        let cols = self.source.cols();
        let row_bytes = self.spec.bytes.checked_div(self.rows.len()).unwrap_or(0);
        let unit = self.order.unit();
        let piece = (PIECE / cols.max(1) / unit).max(1) * unit;
        let mut bytes = Vec::new();
        for first in (0..self.rows.len()).step_by(piece) {
            let rows = first..(first + piece).min(self.rows.len());
            bytes.resize(rows.len() * row_bytes, 0);
            self.write_rows(rows.start, row_bytes, threads, &mut bytes)?;
            sink(&bytes)?;
            if let Some(stored) = self.source.row_bytes() {
                let start = self.source.range.start + (self.rows.start + rows.start) * stored;
                self.source.map.release(start..start + rows.len() * stored);
            }
        }
        Ok(())
    }

    /// Fills `out` with the output's rows from number `first` on.
    fn write_rows(
        &self,
        first: usize,
        row_bytes: usize,
        threads: NonZeroUsize,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let cols = self.source.cols();
        let part_rows = (PART / cols.max(1)).max(1);
        let threads = threads.get().min(out.len() / row_bytes.max(1) / part_rows + 1);
        let parts = Mutex::new(out.chunks_mut((part_rows * row_bytes).max(1)).enumerate());
        let work = || {
            let mut values = vec![0.0; cols];
            loop {
                let part = parts.lock().unwrap_or_else(PoisonError::into_inner).next();
                let (p, part) = part?;
                for (r, out) in part.chunks_mut(row_bytes).enumerate() {
                    let row = self.rows.start + self.order.source(first + p * part_rows + r);
                    if let Err(error) = self.row(row, &mut values, out) {
                        return Some((p, error));
                    }
                }
            }
        };
        let faults = std::thread::scope(|scope| {
            // Where the system refuses a thread, the others do its work.
            let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
            let others: Vec<_> = (1..threads).filter_map(spawn).collect();
            let mut faults: Vec<_> = work().into_iter().collect();
            for thread in others {
                faults.extend(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            faults
        });
        // Parts are taken in order, so the first fault is always among those found.
        faults.into_iter().min_by_key(|(p, _)| *p).map_or(Ok(()), |(_, error)| Err(error))
    }

    /// A bias: each element goes with a row of its matrix.
    fn write_vector(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let cols = self.source.cols();
        let (mut values, mut bytes) = (vec![0.0; cols], Vec::new());
        let to = self.spec.tensor_type;
        let whole = to.row_bytes(cols);
        let whole =
            whole.ok_or_else(|| error(&self.source, format!("{cols} values are no whole blocks of {to}")))?;
        bytes.resize(whole, 0);
        self.row(0, &mut values, &mut bytes)?;
        if to.block_len() > 1 {
            return sink(&bytes);
        }
        let elements: Vec<&[u8]> = bytes.chunks_exact(to.block_bytes()).collect();
        let order = (0..self.rows.len()).map(|row| self.rows.start + self.order.source(row));
        sink(&order.filter_map(|from| elements.get(from).copied()).collect::<Vec<_>>().concat())
    }

    /// One row of the source, in the output's type.
    fn row(&self, row: usize, values: &mut [f32], out: &mut [u8]) -> Result<(), Error> {
        let wrong = |cause: String| error(&self.source, format!("row {row}: {cause}"));
        match self.how {
            How::Copy => {
                let bytes = source_row(&self.source, row)?;
                if bytes.len() != out.len() {
                    return Err(wrong(format!("expected {} bytes, found {}", out.len(), bytes.len())));
                }
                out.copy_from_slice(bytes);
            }
            How::AprQ4ToQ4_0 => {
                let blocks: &[BlockAprQ4] = bytemuck::try_cast_slice(source_row(&self.source, row)?)
                    .map_err(|cause| wrong(cause.to_string()))?;
                for (block, out) in blocks.iter().zip(out.chunks_mut(size_of::<BlockQ4_0>())) {
                    out.copy_from_slice(bytemuck::bytes_of(&apr_q4_to_q4_0(block)));
                }
            }
            How::LatticeToQ4_1 => {
                let blocks: &[BlockLatticeQ4] = bytemuck::try_cast_slice(source_row(&self.source, row)?)
                    .map_err(|cause| wrong(cause.to_string()))?;
                for (block, out) in blocks.iter().zip(out.chunks_mut(size_of::<BlockLatticeQ4>())) {
                    out.copy_from_slice(bytemuck::bytes_of(&block.to_q4_1()));
                }
            }
            How::Encode => {
                decode_row(&self.source, row, values)?;
                quant::encode_row(self.spec.tensor_type, values, self.importance.as_deref(), out)
                    .map_err(|cause| wrong(cause.to_string()))?;
            }
        }
        Ok(())
    }

    /// The values of the rows that are written, decoded one row at a time.
    pub(super) fn values(&self) -> Result<Values<'_>, Error> {
        let vector = self.source.shape.len() <= 1;
        let mut row = vec![0.0; self.source.cols()];
        if vector {
            decode_row(&self.source, 0, &mut row)?;
            let order = (0..self.rows.len()).map(|to| self.rows.start + self.order.source(to));
            row = order.filter_map(|from| row.get(from).copied()).collect();
        }
        Ok(Values { output: self, vector, row })
    }

    /// The source's bytes that go into this tensor.
    pub(super) fn bytes_read(&self) -> u64 {
        let (part, all) = (self.rows.len() as u128, matrix_rows(&self.source).max(1) as u128);
        (self.source.range.len() as u128 * part / all) as u64
    }

    /// What the report says of it, if it changed.
    fn reencoded(&self) -> Option<Reencoded> {
        let from = self.source.tensor_type;
        let to = self.spec.tensor_type;
        (self.how != How::Copy).then(|| Reencoded {
            name: self.source.name.clone(),
            from,
            to,
            bytes_read: self.bytes_read(),
            bytes_written: self.spec.bytes as u64,
            exact: to == TensorType::F32 || matches!(self.how, How::AprQ4ToQ4_0 | How::LatticeToQ4_1),
        })
    }
}

/// A tensor's values in the order of the output, whatever the source's.
#[derive(Debug)]
pub(super) struct Values<'a> {
    output: &'a Output,
    vector: bool,
    row: Vec<f32>,
}

impl Values<'_> {
    /// Row number `row`; a vector is one row.
    pub(super) fn row(&mut self, row: usize) -> Result<&[f32], Error> {
        if !self.vector {
            let from = self.output.rows.start + self.output.order.source(row);
            decode_row(&self.output.source, from, &mut self.row)?;
        }
        Ok(&self.row)
    }
}

/// Rows of a matrix; for a bias, its elements: one per row of the matrix that it belongs to.
fn matrix_rows(tensor: &Tensor) -> usize {
    if tensor.shape.len() <= 1 { tensor.cols() } else { tensor.rows() }
}

/// Writes all outputs, one after the other, and adds them to the report.
pub(super) fn write_all(
    outputs: &[Output],
    threads: NonZeroUsize,
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let total = outputs.iter().map(|output| output.spec.bytes as u64).sum();
    let mut done = 0;
    progress(Progress { done, total });
    for output in outputs {
        output.write(threads, &mut |bytes| {
            sink(bytes)?;
            done += bytes.len() as u64;
            progress(Progress { done, total });
            Ok(())
        })?;
        output.source.map.release(output.source.range.clone());
        report.tensors += 1;
        report.bytes_read += output.bytes_read();
        report.bytes_written += output.spec.bytes as u64;
        report.reencoded.extend(output.reencoded());
    }
    Ok(())
}

fn error(tensor: &Tensor, what: String) -> Error {
    Error::Key { path: tensor.map.path().to_owned(), key: tensor.name.clone(), what }
}

fn source_row(tensor: &Tensor, row: usize) -> Result<&[u8], Error> {
    tensor.row(row).ok_or_else(|| error(tensor, format!("row {row} does not lie in the tensor")))
}

/// Whether a value of the tensor is finite but too large for F16.
fn overflows_f16(tensor: &Tensor) -> Result<bool, Error> {
    let mut values = vec![0.0; tensor.cols()];
    for row in 0..tensor.rows() {
        decode_row(tensor, row, &mut values)?;
        if values.iter().any(|&v| v.is_finite() && !f16::from_f32(v).is_finite()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One row's values, also where rows do not start on a byte of their own.
fn decode_row(tensor: &Tensor, row: usize, values: &mut [f32]) -> Result<(), Error> {
    let outside = || error(tensor, format!("row {row} does not lie in the tensor"));
    let cols = values.len();
    let first = row.checked_mul(cols).ok_or_else(outside)?;
    let after = first.checked_add(cols).ok_or_else(outside)?;
    let decode = |bytes: &[u8], values: &mut [f32]| {
        quant::decode_row(tensor.tensor_type, bytes, values).map_err(|cause| error(tensor, cause.to_string()))
    };
    match tensor.tensor_type {
        // One scale before all values; with it, each row is a tensor of its own.
        TensorType::AprQ8 => {
            let (scale, weights) = tensor.bytes().split_first_chunk::<4>().ok_or_else(outside)?;
            let weights = weights.get(first..after).ok_or_else(outside)?;
            decode(&[scale, weights].concat(), values)
        }
        // Blocks run over the ends of rows: all that the row touches.
        flat if flat.ignores_rows() && tensor.row_bytes().is_none() => {
            let (len, block_bytes) = (flat.block_len(), flat.block_bytes());
            let blocks = first / len..after.div_ceil(len);
            let bytes = tensor.bytes().get(blocks.start * block_bytes..blocks.end * block_bytes);
            let bytes = bytes.ok_or_else(outside)?;
            let mut touched = vec![0.0; blocks.len() * len];
            decode(bytes, &mut touched)?;
            values
                .copy_from_slice(touched.get(first % len..).and_then(|v| v.get(..cols)).ok_or_else(outside)?);
            Ok(())
        }
        _ if tensor.is_row_padded() => {
            let mut padded = vec![0.0; cols.next_multiple_of(tensor.tensor_type.block_len())];
            decode(source_row(tensor, row)?, &mut padded)?;
            values.copy_from_slice(padded.get(..cols).ok_or_else(outside)?);
            Ok(())
        }
        _ => decode(source_row(tensor, row)?, values),
    }
}

/// The same scale and the same integers, in the order of Q4_0.
fn apr_q4_to_q4_0(block: &BlockAprQ4) -> BlockQ4_0 {
    let value = |at: usize| block.qs[at / 2] >> (4 * (at % 2)) & 15;
    BlockQ4_0 { d: block.d, qs: std::array::from_fn(|j| value(j) | value(j + 16) << 4) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apr_q4_and_q4_0_decode_to_the_same_values() {
        let bytes: Vec<u8> =
            [0x00, 0x3c].into_iter().chain((0..16).map(|i: u8| i.wrapping_mul(37) ^ 0x5a)).collect();
        let block: BlockAprQ4 = bytemuck::pod_read_unaligned(&bytes);
        let (mut before, mut after) = ([0.0; 32], [0.0; 32]);
        quant::decode_row(TensorType::AprQ4, &bytes, &mut before).unwrap();
        quant::decode_row(TensorType::Q4_0, bytemuck::bytes_of(&apr_q4_to_q4_0(&block)), &mut after).unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn rows_of_a_head_are_interleaved() {
        // Two heads of four rows: halves (0, 1) and (2, 3) become (0, 2, 1, 3).
        let order = |order: Order| -> Vec<usize> { (0..8).map(|to| order.source(to)).collect() };
        assert_eq!(order(Order::ToNorm(4)), [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(order(Order::FromNorm(4)), [0, 2, 1, 3, 4, 6, 5, 7]);
        let there_and_back: Vec<usize> =
            (0..12).map(|to| Order::ToNorm(6).source(Order::FromNorm(6).source(to))).collect();
        assert_eq!(there_and_back, (0..12).collect::<Vec<_>>());
    }
}
