//! The bit layouts of weights and activations: the only place where they exist.
//!
//! A weight matrix is `[rows, cols]`, row-major; a row is a sequence of blocks of [`TensorType::block_len`] values in
//! [`TensorType::block_bytes`] bytes. Each `q*.rs` file describes one layout: the block, its scalar decoder, its
//! encoder (byte for byte ggml's), its exact integer dot with quantized activations.
//!
//! - weights: [`decode_row`], [`finite_scales`], [`encode_row`], [`encode_rows`]
//! - activations: [`Q8Row`] (32 values per scale), [`Q8KRow`] (256)
//! - products, the specification for every kernel: [`dot_q8`], [`dot_q8_k`], [`dot_f32`]

mod apr_q4;
mod apr_q8;
mod block;
mod cut;
mod decode;
mod dot;
mod encode;
mod error;
mod fit;
mod float;
mod importance;
mod k_scales;
mod lattice_q4;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
pub mod q8;
mod q8_0;
pub mod q8_k;
mod row_panels;
mod types;

pub use apr_q4::BlockAprQ4;
pub use block::F16Bytes;
pub(crate) use cut::SegmentSum;
pub use cut::{Cut, unit_columns};
pub use decode::{decode_row, finite_scales};
pub use dot::{dot_f32, dot_q8, dot_q8_k};
pub use encode::{encode_row, encode_rows};
pub use error::Error;
pub use float::{Bf16Bytes, F32Bytes};
pub use lattice_q4::{BlockLatticeQ4, LatticeMode, encode_lattice};
pub use q4_0::BlockQ4_0;
pub use q4_1::BlockQ4_1;
pub use q4_k::BlockQ4K;
pub use q5_0::BlockQ5_0;
pub use q5_1::BlockQ5_1;
pub use q5_k::BlockQ5K;
pub use q6_k::BlockQ6K;
pub use q8::Q8Row;
pub use q8_0::BlockQ8_0;
pub use q8_k::{BlockQ8K, Q8KRow};
pub use row_panels::{PANEL_ROWS, RowPanels};
pub use types::TensorType;
