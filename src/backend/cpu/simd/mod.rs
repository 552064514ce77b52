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
//! | `isa` | which instruction sets this CPU has; runs a piece of code compiled for one of them |
//! | `lanes` | sixteen lanes as a trait, with e^x and SiLU; `scalar`, `avx2`, `avx512`, `neon` implement it |
//! | `panel` | weights repacked at load, byte for byte reversible |
//! | `block` | how 32 columns of a panel become bytes and scales: one small type per layout |
//! | `tile` | activations of up to 16 tokens, interleaved for broadcasts |
//! | `quantize` | RMSNorm and quantization of activations into tiles |
//! | `dot` | a panel times a tile, for each kind of activations |
//! | `matmul` | a phase: several matrices over the workers, with what happens to each result |
//! | `cache` | keys and values, laid out for attention |
//! | `attention` | softmax(q k) v over the cache |
//!
//! A phase of a layer is: each worker fills tiles ([`quantize_tile`]), barrier, each worker computes its share
//! ([`multiply`] or [`attend`]), barrier.
//!
//! `unsafe` is confined to the intrinsics, to the one call per instruction set in [`Isa::run`], and to buffers that the
//! workers of a run share, whose obligations are handed up to the phases.
//!
//! # Speed
//!
//! One thread of a Zen 5 (EPYC, AVX-512 VNNI) that other work was running beside, matrices of 1536 columns; best of 20:
//! GB/s of weights with one token, where the matrix (190 to 370 MB) lies in memory and where it lies in the cache, and
//! GMAC/s with 256 tokens:
//!
//! | | Q4_K | Q6_K | Q5_0 | Q8_0 |
//! |---|--:|--:|--:|--:|
//! | GB/s, memory | 40 | 38 | 35 | 29 |
//! | GB/s, cache | 99 | 101 | 80 | 123 |
//! | GMAC/s | 306 | 276 | 307 | 303 |
//!
//! F16 and F32 weights: 40 and 37 GB/s (of 300 MB), 118 and 97 GMAC/s. AVX2 on the same core: Q4_K 37 GB/s, 107 GMAC/s.
//! `cargo test --release --test cpu_kernels -- --ignored --nocapture speed` prints such lines for each instruction set.

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
pub use matmul::{Epilogue, Matrix, Product, multiply, multiply_panels, shares};
pub use panel::{PackError, PanelMemory, PanelShape, Panels, ROWS};
pub use quantize::{Norm, Source, inverse_rms, quantize_tile};
pub use tile::{MAX_TILE, Tile, TileKind, Tiles};
