//! How far two results are apart, and where they part.
//!
//! [`metric`] is the one vocabulary. [`ops`] runs each op of a backend alone beside its twin, over a table of shapes
//! and types; [`steps`] runs a whole model step by step on two backends and names the first step, layer and buffer over
//! its limit; [`text`] compares logits over a text: perplexity, KL divergence, best tokens.

pub mod dump;
mod error;
pub mod files;
pub mod metric;
pub mod ops;
pub mod plot;
mod random;
pub mod selftest;
pub mod steps;
pub mod text;

pub use error::Error;
pub use random::Random;
