//! The CPU backend: `twin/` is the specification of every op, scalar; `simd/` is the fast path beside it.

pub mod pool;
pub mod simd;
