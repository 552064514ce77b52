//! What can be wrong with bytes or values that are to be decoded or encoded.

use super::TensorType;

/// Why a row could not be decoded, checked or encoded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// There is no decoder or encoder for this type.
    #[error("{tensor_type} cannot be {action}: supported are {supported}")]
    Unsupported {
        /// The type that was asked for.
        tensor_type: TensorType,
        /// What was to be done: `decoded`, `encoded`, ...
        action: &'static str,
        /// The types for which it can be done.
        supported: &'static str,
    },
    /// A row does not consist of whole blocks.
    #[error("a row of {values} values cannot be {tensor_type}: expected a multiple of {block_len}")]
    PartialBlock {
        /// The type of the row.
        tensor_type: TensorType,
        /// Values in the row.
        values: usize,
        /// Values in one block of this type.
        block_len: usize,
    },
    /// The values of a matrix are not whole rows.
    #[error("{values} values are not whole rows of {cols}")]
    PartialRow {
        /// Values that were given.
        values: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// The number of bytes does not fit the number of values.
    #[error("{values} values of {tensor_type} take {expected} bytes, found {found}")]
    WrongBytes {
        /// The type of the row.
        tensor_type: TensorType,
        /// Values in the row.
        values: usize,
        /// Bytes that this many values take.
        expected: usize,
        /// Bytes that were given.
        found: usize,
    },
    /// A block holds a scale or minimum that is NaN or infinite; for float types, an element is.
    #[error("block {block} of a {tensor_type} tensor has a scale or value that is NaN or infinite")]
    NotFinite {
        /// The type of the tensor.
        tensor_type: TensorType,
        /// Index of the first such block (of the first such element for float types).
        block: usize,
    },
    /// A value that is to be encoded is NaN or infinite.
    #[error("element {index} is {value}: only finite values can be encoded")]
    NotFiniteInput {
        /// Index of the first such element.
        index: usize,
        /// Its value.
        value: f32,
    },
    /// A block of finite values is too large for its type: its scale, minimum or value would be infinite.
    #[error(
        "the values from element {index} on are too large for {tensor_type}: expected a scale within float16"
    )]
    TooLarge {
        /// The type that was to be encoded.
        tensor_type: TensorType,
        /// Index of the block's first element.
        index: usize,
    },
    /// The importance matrix does not fit the row.
    #[error("the importance matrix has {found} weights, expected one per column ({expected})")]
    ImportanceLength {
        /// Columns of the row.
        expected: usize,
        /// Weights that were given.
        found: usize,
    },
    /// A weight of the importance matrix is negative, NaN or infinite.
    #[error("weight {index} of the importance matrix is {value}: expected a finite number of at least 0")]
    ImportanceValue {
        /// Index of the first such weight.
        index: usize,
        /// Its value.
        value: f32,
    },
}
