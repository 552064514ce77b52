//! The executor: a warp at a time, 32 lanes an instruction, checks as it goes.

mod access;
mod approx;
mod async_copy;
mod atomic;
mod barrier;
mod block;
mod collective;
mod convert;
mod half;
mod lanes;
mod load_store;
mod matrix;
mod order;
mod profile;
mod schedule;
mod shared;
mod step;
mod warp;
mod wide;

pub(crate) use block::{Grid, Pass, Resident};
pub(crate) use lanes::has_vector_unit;
