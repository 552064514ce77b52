//! The order of the rows of q and k.
//!
//! RoPE turns pairs of dimensions of a head. Hugging Face's rows pair dimension `i` with `i + dim / 2` (NEOX). GGUF files
//! of llama models pair `2i` with `2i + 1` (NORM): their converter has interleaved the two halves of each head. Both give
//! the same scores, as long as rows and pairing go together.

use super::prepare::Data;
use std::sync::Arc;

/// Which row of the file is row `i` of the weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowOrder {
    /// Row `i`.
    AsStored,
    /// Stored for NEOX, taken for NORM: rows `2i` and `2i + 1` of a head are its stored rows `i` and `i + rope_dim / 2`.
    NormFromNeox {
        /// Rows of one head.
        head_dim: usize,
        /// Leading rows of a head that RoPE rotates; the others stay where they are.
        rope_dim: usize,
    },
}

impl RowOrder {
    /// The stored row that is row `index`.
    pub fn source(self, index: usize) -> usize {
        match self {
            Self::AsStored => index,
            Self::NormFromNeox { head_dim, rope_dim } => {
                let row = index % head_dim.max(1);
                if row < rope_dim { index - row + row / 2 + (row % 2) * (rope_dim / 2) } else { index }
            }
        }
    }

    /// The `len` values of a vector that starts at byte `start` of `data`, in this order.
    pub(super) fn reorder(self, start: &mut usize, data: &Data, len: usize) -> Data {
        let first = *start / size_of::<f32>();
        let values = data.values().and_then(|values| values.get(first..first + len)).unwrap_or_default();
        let reordered = (0..values.len()).filter_map(|i| values.get(self.source(i)).copied()).collect();
        *start = 0;
        Data::Values(Arc::new(reordered))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_each_head_are_interleaved() {
        let order = RowOrder::NormFromNeox { head_dim: 6, rope_dim: 6 };
        let sources: Vec<_> = (0..12).map(|i| order.source(i)).collect();
        assert_eq!(sources, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn rows_that_are_not_rotated_stay() {
        let order = RowOrder::NormFromNeox { head_dim: 6, rope_dim: 4 };
        let sources: Vec<_> = (0..12).map(|i| order.source(i)).collect();
        assert_eq!(sources, [0, 2, 1, 3, 4, 5, 6, 8, 7, 9, 10, 11]);
    }
}
