//! From a tensor of a file to rows that kernels take.

use crate::format::{Map, Tensor};
use crate::model::error::Error;
use crate::model::table::decode_vector;
use crate::quant::{BlockAprQ4, BlockLatticeQ4, TensorType, decode_row};
use std::path::Path;
use std::sync::Arc;

/// Where the rows lie.
#[derive(Clone, Debug)]
pub(super) enum Data {
    /// In the file.
    Mapped(Map),
    /// In memory, in the layout of the weight's type.
    Bytes(Arc<Vec<u8>>),
    /// In memory, as float32.
    Values(Arc<Vec<f32>>),
}

impl Data {
    /// All bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map.bytes(),
            Self::Bytes(bytes) => bytes,
            Self::Values(values) => bytemuck::cast_slice(values),
        }
    }

    /// Decoded values, where that is what it holds.
    pub(super) fn values(&self) -> Option<&[f32]> {
        match self {
            Self::Values(values) => Some(values),
            _ => None,
        }
    }
}

/// A tensor in a type that kernels read.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) tensor_type: TensorType,
    pub(super) data: Data,
    /// Where row 0 starts in `data`, in bytes.
    pub(super) start: usize,
    pub(super) row_bytes: usize,
    /// What was done to the tensor, if anything.
    pub(super) converted: Option<&'static str>,
}

impl Prepared {
    /// A vector: decoded, at 4 bytes per value.
    pub(super) fn vector(path: &Path, tensor: &Tensor) -> Result<Self, Error> {
        let values = decode_vector(path, tensor)?;
        let row_bytes = size_of_val(values.as_slice());
        let data = Data::Values(Arc::new(values));
        Ok(Self { tensor_type: TensorType::F32, data, start: 0, row_bytes, converted: None })
    }

    /// A matrix `[rows, cols]`: as it lies in the file, if it can be.
    pub(super) fn matrix(path: &Path, tensor: &Tensor, rows: usize, cols: usize) -> Result<Self, Error> {
        let tensor_type = tensor.tensor_type;
        match (tensor_type, tensor_type.row_bytes(cols)) {
            (TensorType::AprQ4, _) if cols.is_multiple_of(32) => Self::q4_0_from_apr_q4(path, tensor, cols),
            (TensorType::LatticeQ4, _) if cols.is_multiple_of(32) => {
                Self::q4_1_from_lattice(path, tensor, cols)
            }
            (TensorType::AprQ4 | TensorType::AprQ8 | TensorType::LatticeQ4, _) => {
                let values = decode_all(path, tensor, rows.saturating_mul(cols))?;
                Ok(Self::expanded(values, cols, "decoded to F32: no kernel reads this type"))
            }
            (_, Some(row_bytes)) if tensor_type.is_weight_type() => {
                let found = tensor.bytes().len();
                if row_bytes.checked_mul(rows) != Some(found) {
                    let what = format!("expected {rows} rows of {row_bytes} bytes, found {found} bytes");
                    return Err(Error::invalid(path, &tensor.name, what));
                }
                let start = tensor.range.start;
                let data = Data::Mapped(tensor.map.clone());
                Ok(Self { tensor_type, data, start, row_bytes, converted: None })
            }
            (_, None) if tensor_type.is_weight_type() => Self::unpadded(path, tensor, rows, cols),
            _ => {
                let types = TensorType::ALL.iter().filter(|t| t.is_weight_type()).map(|t| t.name());
                let known = types.collect::<Vec<_>>().join(", ");
                let what = format!("weights of type {tensor_type} are not computed; {known} are");
                Err(Error::unsupported(path, &tensor.name, what))
            }
        }
    }

    fn expanded(values: Vec<f32>, cols: usize, how: &'static str) -> Self {
        Self {
            tensor_type: TensorType::F32,
            data: Data::Values(Arc::new(values)),
            start: 0,
            row_bytes: cols * size_of::<f32>(),
            converted: Some(how),
        }
    }

    /// AprQ4 has Q4_0's values and scales; only the order of the values within a block is another.
    fn q4_0_from_apr_q4(path: &Path, tensor: &Tensor, cols: usize) -> Result<Self, Error> {
        let blocks: &[BlockAprQ4] = bytemuck::try_cast_slice(tensor.bytes()).map_err(|error| {
            Error::invalid(path, &tensor.name, format!("not a number of blocks: {error}"))
        })?;
        let mut bytes = Vec::with_capacity(tensor.bytes().len());
        for block in blocks {
            let q = block.quants();
            bytes.extend_from_slice(&block.d.0);
            bytes.extend(
                std::iter::zip(&q[..16], &q[16..])
                    .map(|(low, high)| (low + 8).cast_unsigned() | ((high + 8).cast_unsigned() << 4)),
            );
        }
        Ok(Self {
            tensor_type: TensorType::Q4_0,
            data: Data::Bytes(Arc::new(bytes)),
            start: 0,
            row_bytes: cols / TensorType::Q4_0.block_len() * TensorType::Q4_0.block_bytes(),
            converted: Some("reordered to Q4_0, with the same values"),
        })
    }

    /// LatticeQ4 has Q4_1's numbers, too, in another order.
    fn q4_1_from_lattice(path: &Path, tensor: &Tensor, cols: usize) -> Result<Self, Error> {
        let blocks: &[BlockLatticeQ4] = bytemuck::try_cast_slice(tensor.bytes()).map_err(|error| {
            Error::invalid(path, &tensor.name, format!("not a number of blocks: {error}"))
        })?;
        let mut bytes = Vec::with_capacity(tensor.bytes().len());
        blocks.iter().for_each(|block| bytes.extend_from_slice(bytemuck::bytes_of(&block.to_q4_1())));
        Ok(Self {
            tensor_type: TensorType::Q4_1,
            data: Data::Bytes(Arc::new(bytes)),
            start: 0,
            row_bytes: cols / TensorType::Q4_1.block_len() * TensorType::Q4_1.block_bytes(),
            converted: Some("reordered to Q4_1, with the same values"),
        })
    }

    /// Rows that were padded to whole blocks, as `apr` writes Q4_K and Q6_K where 256 does not divide the columns.
    fn unpadded(path: &Path, tensor: &Tensor, rows: usize, cols: usize) -> Result<Self, Error> {
        let tensor_type = tensor.tensor_type;
        let blocks = cols.div_ceil(tensor_type.block_len());
        let padded_bytes = blocks * tensor_type.block_bytes();
        let found = tensor.bytes().len();
        if padded_bytes.checked_mul(rows) != Some(found) {
            let what = format!("expected {rows} rows of {blocks} {tensor_type} blocks, found {found} bytes");
            return Err(Error::invalid(path, &tensor.name, what));
        }
        let mut padded = vec![0.0; blocks * tensor_type.block_len()];
        let mut values = Vec::with_capacity(rows * cols);
        for row in tensor.bytes().chunks_exact(padded_bytes) {
            decode_row(tensor_type, row, &mut padded)
                .map_err(|error| Error::invalid(path, &tensor.name, error.to_string()))?;
            values.extend(padded.iter().take(cols));
        }
        Ok(Self::expanded(values, cols, "decoded to F32: its rows are not whole blocks"))
    }
}

/// All values of a tensor whose blocks run over rows.
fn decode_all(path: &Path, tensor: &Tensor, len: usize) -> Result<Vec<f32>, Error> {
    // A value takes at least four bits in the file: a shape that asks for more is refused before memory is.
    if len / 2 > tensor.bytes().len() {
        let what = format!("{} bytes cannot hold {len} values", tensor.bytes().len());
        return Err(Error::invalid(path, &tensor.name, what));
    }
    let mut values = vec![0.0; len];
    decode_row(tensor.tensor_type, tensor.bytes(), &mut values)
        .map_err(|error| Error::invalid(path, &tensor.name, error.to_string()))?;
    Ok(values)
}
