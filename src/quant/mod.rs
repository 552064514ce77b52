//! The bit layouts of weights and activations: the only place where they exist.
//!
//! A weight matrix is `[rows, cols]`, row-major; a row is a sequence of blocks of [`TensorType::block_len`] values in
//! [`TensorType::block_bytes`] bytes. Each `q*.rs` file describes one layout: the block, its scalar decoder, its exact
//! integer dot with quantized activations.

mod types;

pub use types::TensorType;
