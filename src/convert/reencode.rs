//! The bytes of an output tensor: copied, reordered, or decoded and stored as floats.

use super::{Progress, Reencoded, Report};
use crate::format::{Error, Tensor, TensorSpec};
use crate::quant::{self, BlockAprQ4, BlockQ4_0, TensorType};
use half::f16;
use std::ops::Range;

/// Bytes copied at a time.
const CHUNK: usize = 4 << 20;

/// A tensor to write.
#[derive(Clone, Debug)]
pub(super) struct Output<'a> {
    pub(super) spec: TensorSpec,
    pub(super) source: &'a Tensor,
    how: How,
    /// The source's rows that are written.
    rows: Range<usize>,
    /// Rows go from Hugging Face's order to that of NORM RoPE, in heads of so many rows.
    head_rows: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// As they are.
    Copy,
    /// AprQ4 blocks as Q4_0 blocks: the same scale and nibbles, in another order.
    AprQ4ToQ4_0,
    /// Decoded, and stored as floats of the type that `spec` names.
    Decode,
}

impl<'a> Output<'a> {
    /// The source's bytes under another name.
    pub(super) fn copy(source: &'a Tensor, name: &str) -> Self {
        let spec = TensorSpec { name: name.to_owned(), ..TensorSpec::of(source) };
        Self { spec, source, how: How::Copy, rows: 0..matrix_rows(source), head_rows: None }
    }

    /// The source's values as floats: F32 if `exact` or where F16 would overflow, F16 otherwise.
    pub(super) fn decode(source: &'a Tensor, name: &str, exact: bool) -> Result<Self, Error> {
        let to = if exact || overflows_f16(source)? { TensorType::F32 } else { TensorType::F16 };
        Self::with(source, name, to, How::Decode)
    }

    /// What a GGUF file can hold of the source: its own bytes wherever that is possible.
    pub(super) fn for_gguf(source: &'a Tensor, name: &str) -> Result<Self, Error> {
        // llama.cpp wants vectors (norms, biases, frequencies) in F32.
        if source.shape.len() <= 1 && source.tensor_type != TensorType::F32 {
            return Self::decode(source, name, true);
        }
        match source.tensor_type {
            TensorType::AprQ4 if source.row_bytes().is_some() => {
                Self::with(source, name, TensorType::Q4_0, How::AprQ4ToQ4_0)
            }
            TensorType::AprQ4 | TensorType::AprQ8 => Self::decode(source, name, false),
            _ if source.is_row_padded() => Self::decode(source, name, false),
            _ => Ok(Self::copy(source, name)),
        }
    }

    fn with(source: &'a Tensor, name: &str, to: TensorType, how: How) -> Result<Self, Error> {
        let spec = TensorSpec::new(name, to, &source.shape)
            .ok_or_else(|| error(source, format!("its size as {to} overflows")))?;
        Ok(Self { spec, source, how, rows: 0..matrix_rows(source), head_rows: None })
    }

    /// Only these rows, under another name: one part of matrices (or biases) that were stored as one.
    pub(super) fn part(&self, name: &str, rows: Range<usize>) -> Result<Self, Error> {
        let outside = || error(self.source, format!("rows {rows:?} do not lie in its {}", self.rows.len()));
        if rows.start > rows.end || rows.end > self.rows.len() {
            return Err(outside());
        }
        let shape = match self.source.shape.split_last() {
            Some((&cols, [_])) => vec![rows.len(), cols],
            Some((_, [])) => vec![rows.len()],
            _ => {
                return Err(error(
                    self.source,
                    format!("expected a matrix, found shape {:?}", self.source.shape),
                ));
            }
        };
        let spec = TensorSpec::new(name, self.spec.tensor_type, &shape).ok_or_else(outside)?;
        Ok(Self { spec, rows, ..self.clone() })
    }

    /// Moves rows from Hugging Face's order to that of NORM RoPE: within each head, row `i` of the first half and row
    /// `i` of the second half become neighbours.
    pub(super) fn permuted(mut self, heads: usize) -> Result<Self, Error> {
        let rows = self.rows.len();
        match rows.checked_div(heads) {
            Some(head_rows) if head_rows * heads == rows && head_rows.is_multiple_of(2) => {
                self.head_rows = Some(head_rows);
                Ok(self)
            }
            _ => {
                Err(error(self.source, format!("its {rows} rows do not make {heads} heads of an even size")))
            }
        }
    }

    /// Writes the tensor's bytes to `sink`, in pieces.
    pub(super) fn write(&self, sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>) -> Result<(), Error> {
        let all = self.rows == (0..matrix_rows(self.source));
        if self.how == How::Copy && self.head_rows.is_none() && all {
            return self.source.bytes().chunks(CHUNK).try_for_each(sink);
        }
        let mut values = vec![0.0; self.source.cols()];
        let mut bytes = Vec::new();
        let order = (0..self.rows.len())
            .map(|to| self.rows.start + self.head_rows.map_or(to, |head_rows| hf_row(to, head_rows)));
        if self.source.shape.len() <= 1 {
            // A bias: each element goes with a row of its matrix. Vectors are of types without blocks by now.
            self.row(0, &mut values, &mut bytes)?;
            let width = self.spec.tensor_type.block_bytes();
            let elements: Vec<&[u8]> = bytes.chunks_exact(width).collect();
            return sink(&order.filter_map(|from| elements.get(from).copied()).collect::<Vec<_>>().concat());
        }
        for from in order {
            bytes.clear();
            self.row(from, &mut values, &mut bytes)?;
            sink(&bytes)?;
        }
        Ok(())
    }

    /// Appends one row, in the output's type.
    fn row(&self, row: usize, values: &mut [f32], out: &mut Vec<u8>) -> Result<(), Error> {
        match self.how {
            How::Copy => out.extend(source_row(self.source, row)?),
            How::AprQ4ToQ4_0 => {
                let blocks: &[BlockAprQ4] = bytemuck::try_cast_slice(source_row(self.source, row)?)
                    .map_err(|cause| error(self.source, cause.to_string()))?;
                out.extend(
                    blocks.iter().flat_map(|block| bytemuck::bytes_of(&apr_q4_to_q4_0(block)).to_vec()),
                );
            }
            How::Decode => {
                decode_row(self.source, row, values)?;
                if self.spec.tensor_type == TensorType::F16 {
                    out.extend(values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()));
                } else {
                    out.extend(values.iter().flat_map(|&v| v.to_le_bytes()));
                }
            }
        }
        Ok(())
    }

    /// The source's bytes that go into this tensor.
    fn bytes_read(&self) -> u64 {
        let (part, all) = (self.rows.len() as u128, matrix_rows(self.source).max(1) as u128);
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
            exact: to == TensorType::F32 || self.how == How::AprQ4ToQ4_0,
        })
    }
}

/// Rows of a matrix; for a bias, its elements: one per row of the matrix that it belongs to.
fn matrix_rows(tensor: &Tensor) -> usize {
    if tensor.shape.len() <= 1 { tensor.cols() } else { tensor.rows() }
}

/// The row of a Hugging Face matrix that is row `to` of a NORM one.
fn hf_row(to: usize, head_rows: usize) -> usize {
    let (head, within) = (to / head_rows, to % head_rows);
    head * head_rows + (within % 2) * (head_rows / 2) + within / 2
}

/// Writes all outputs, one after the other, and adds them to the report.
pub(super) fn write_all(
    outputs: &[Output<'_>],
    report: &mut Report,
    progress: &mut dyn FnMut(Progress),
    sink: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let total = outputs.iter().map(|output| output.spec.bytes as u64).sum();
    let mut done = 0;
    progress(Progress { done, total });
    for output in outputs {
        output.write(&mut |bytes| {
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
        TensorType::AprQ4 if tensor.row_bytes().is_none() => {
            const LEN: usize = TensorType::AprQ4.block_len();
            const BYTES: usize = TensorType::AprQ4.block_bytes();
            let blocks = first / LEN..after.div_ceil(LEN);
            let bytes = tensor.bytes().get(blocks.start * BYTES..blocks.end * BYTES).ok_or_else(outside)?;
            let mut touched = vec![0.0; blocks.len() * LEN];
            decode(bytes, &mut touched)?;
            values
                .copy_from_slice(touched.get(first % LEN..).and_then(|v| v.get(..cols)).ok_or_else(outside)?);
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
        let order: Vec<usize> = (0..8).map(|to| hf_row(to, 4)).collect();
        assert_eq!(order, [0, 2, 1, 3, 4, 6, 5, 7]);
    }
}
