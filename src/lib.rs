//! Runs quantized decoder language models from one `.apr`, `.gguf` or Hugging Face folder, at the speed of
//! memory, and proves on any machine that every backend computes the same thing.
//!
//! The modules are the road of the data, in order:
//!
//! ```text
//! format ──> model ──> plan ──> backend ──> engine ──> bin
//! bytes      config    steps    cpu         tokens     aprgpu, aprbench
//!            weights   (data)
//! quant : the bit layouts of weights and activations, used by all of them
//! ```
//!
//! Beside the road: [`convert`] writes one format from another, [`compare`] says how far two results are apart,
//! [`mod@bench`] measures. Imports point one way; `tests/architecture.rs` holds the table of allowed edges.

pub mod backend;
pub mod bench;
pub mod compare;
pub mod convert;
pub mod engine;
pub mod format;
pub mod model;
pub mod plan;
pub mod quant;
