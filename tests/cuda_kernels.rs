//! PTX kernels, run directly in the simulator with every check on: the products against the specification of the dot products
//! (`quant/dot.rs`) and of the records (`quant/q8.rs`), attention over several rows against attention over one. Memory is surrounded by guards in the simulator; what an
//! output buffer has past its end of rows is a sentinel that must survive.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "a test may fail; its files share")]

#[path = "cuda_kernels/attention.rs"]
mod attention;
#[path = "cuda_kernels/bench.rs"]
mod bench;
#[path = "cuda_kernels/gate_up.rs"]
mod gate_up;
#[path = "cuda_kernels/head.rs"]
mod head;
#[path = "cuda_kernels/linear.rs"]
mod linear;
#[path = "cuda_kernels/qkv_rope.rs"]
mod qkv_rope;
#[path = "cuda_kernels/quantize.rs"]
mod quantize;
