//! The fast path of the CPU backend: weights in panels of 16 interleaved rows, one row per vector lane.
//!
//! # Why panels
//!
//! A vector instruction that multiplies bytes needs no reduction across lanes if every lane belongs to another row: a
//! panel holds the same four columns of 16 rows in 64 bytes, the activations are broadcast, and a row's dot grows in
//! its own lane. So a row's sum has one order, block after block, whatever the instruction set, the number of tokens
//! in a tile or of threads: results are equal bit for bit to the scalar specification in `quant`.
//!
//! # The parts
//!
//! | file | what |
//! |---|---|
//! | `lanes` | sixteen lanes as a trait; `scalar`, `avx2`, `avx512`, `neon` implement it |
//! | `panel` | weights repacked at load, byte for byte reversible |
//! | `block` | one file per family of layouts would repeat the loop: here each type only says how a block of a panel becomes bytes and scales |
//! | `tile` | activations of up to 16 tokens, interleaved for broadcasts |
//! | `dot` | a panel times a tile, for each kind of activations |
//! | `matmul` | a phase: several matrices over the workers, with what happens to each result |
//! | `quantize` | RMSNorm and quantization of activations into tiles |
//! | `attention` | softmax(q k) v over the cache |
//!
//! `unsafe` is confined to the intrinsics, to the one call per instruction set in [`Isa::run`] and to the pool's
//! shared buffers.

mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod block;
mod cache;
mod dot;
mod isa;
mod lanes;
mod matmul;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panel;
mod quantize;
mod scalar;
mod tile;

pub use attention::{Attention, AttentionScratch, MAX_HEAD_DIM, attend};
pub use cache::{KvCache, SPLIT};
pub use isa::{Isa, Task};
pub use lanes::Lanes;
pub use matmul::{Epilogue, Matrix, Product, multiply};
pub use panel::{PackError, Panels, ROWS};
pub use quantize::{Norm, Source, quantize_tile, rms, rms_norm};
pub use tile::{MAX_TILE, Tile, TileKind, Tiles};
