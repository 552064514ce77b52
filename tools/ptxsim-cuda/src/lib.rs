//! The CUDA driver API over the PTX simulator: see the README.
//!
//! Every entry point is a C function that takes raw pointers from its caller, so the unsafe code of this crate is
//! what the driver API asks of any implementation: writing through out-parameters, reading strings and argument
//! arrays, copying between host and device. It goes through the few functions of [`raw`]; handles are numbers that
//! are looked up, never pointers that are followed.

mod code;
mod context;
mod graph;
mod launch;
mod link;
mod memory;
mod module;
mod raw;
mod state;
mod stream;
