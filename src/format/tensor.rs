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
}
