//! One tensor of a file, whatever the format: a name, a type, a shape and a range of bytes.

use super::Map;
use crate::quant::TensorType;
use std::ops::Range;

/// A tensor in a mapped file. The reader that made it has checked that `range` lies inside the map and that its length
/// is what type and shape ask for.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// The name in the file.
    pub name: String,
    /// The type of its elements.
    pub tensor_type: TensorType,
    /// The shape, slowest dimension first: `[rows, cols]` for a matrix, whatever order the file uses.
    pub shape: Vec<usize>,
    /// The file that holds it.
    pub map: Map,
    /// Where its bytes lie in the file.
    pub range: Range<usize>,
}

impl Tensor {
    /// The tensor's bytes, in the layout of its type.
    pub fn bytes(&self) -> &[u8] {
        self.map.bytes().get(self.range.clone()).unwrap_or_default()
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the tensor holds no bytes (APR files mark a tied head so).
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Rows of a matrix: the product of all dimensions but the last; 1 for a vector.
    pub fn rows(&self) -> usize {
        self.shape.split_last().map_or(1, |(_, outer)| outer.iter().product())
    }

    /// Columns: the last dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Bytes from one row to the next. `None` where rows do not start on a byte of their own: AprQ8 (one scale before
    /// the whole tensor), and AprQ4 and LatticeQ4 whose blocks run on over the ends of rows.
    pub fn row_bytes(&self) -> Option<usize> {
        row_bytes(self.tensor_type, self.cols())
    }

    /// The bytes of one row, in the layout of the tensor's type (see [`Tensor::row_bytes`]).
    pub fn row(&self, row: usize) -> Option<&[u8]> {
        let bytes = self.row_bytes()?;
        let start = row.checked_mul(bytes)?;
        self.bytes().get(start..start.checked_add(bytes)?)
    }

    /// Whether each row is padded to whole blocks: the last block of a row holds values behind the last column. The
    /// peer's `apr` stores Q4_K and Q6_K matrices so where 256 does not divide the columns; no GGUF file can.
    pub fn is_row_padded(&self) -> bool {
        self.row_bytes().is_some() && !self.cols().is_multiple_of(self.tensor_type.block_len())
    }
}

/// What a writer must know of a tensor before its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name in the file.
    pub name: String,
    /// The type of its elements.
    pub tensor_type: TensorType,
    /// The shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// How many bytes it takes, without padding behind it.
    pub bytes: usize,
}

impl TensorSpec {
    /// A tensor whose bytes are what type and shape ask for; `None` where the product overflows.
    pub fn new(name: &str, tensor_type: TensorType, shape: &[usize]) -> Option<Self> {
        let bytes = stored_bytes(tensor_type, shape)?;
        Some(Self { name: name.to_owned(), tensor_type, shape: shape.to_vec(), bytes })
    }

    /// The same as a tensor of a file.
    pub fn of(tensor: &Tensor) -> Self {
        Self {
            name: tensor.name.clone(),
            tensor_type: tensor.tensor_type,
            shape: tensor.shape.clone(),
            bytes: tensor.range.len(),
        }
    }
}

/// Number of elements; `None` where the product of the dimensions overflows. Readers refuse dimensions of zero, so no
/// partial product overflows either.
pub(super) fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))
}

fn row_bytes(tensor_type: TensorType, cols: usize) -> Option<usize> {
    match tensor_type {
        TensorType::AprQ8 => None,
        _ if tensor_type.ignores_rows() => tensor_type.row_bytes(cols),
        _ => cols.div_ceil(tensor_type.block_len()).checked_mul(tensor_type.block_bytes()),
    }
}

/// Bytes that a tensor of this type and shape takes: rows of whole blocks, each padded where the block does not divide
/// it; AprQ4 and LatticeQ4 in blocks over the whole tensor; AprQ8 one float32 scale and a byte per element. `None` on overflow.
pub(super) fn stored_bytes(tensor_type: TensorType, shape: &[usize]) -> Option<usize> {
    let count = element_count(shape)?;
    match tensor_type {
        TensorType::AprQ8 => count.checked_add(4),
        _ if tensor_type.ignores_rows() => {
            count.div_ceil(tensor_type.block_len()).checked_mul(tensor_type.block_bytes())
        }
        _ => {
            let (cols, outer) = shape.split_last().map_or((1, shape), |(&cols, outer)| (cols, outer));
            element_count(outer)?.checked_mul(row_bytes(tensor_type, cols)?)
        }
    }
}
