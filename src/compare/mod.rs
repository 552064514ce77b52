//! How far two results are apart, and where they part.
//!
//! [`metric`] is the one vocabulary. [`ops`] runs each op of a backend alone beside its twin, over a table of shapes
//! and types; [`steps`] runs a whole model step by step on two backends and names the first step, layer and buffer over
//! its limit; [`text`] compares logits over a text, [`perplexity`] says how well it is predicted; [`files`] compares two
//! model files; [`selftest`] is all of it for one backend of one machine, [`preflight`] all of it for a model that is to be
//! published.

pub mod dump;
mod error;
pub mod files;
pub mod metric;
pub mod model_checks;
pub mod ops;
pub mod perplexity;
pub mod plot;
pub mod preflight;
mod random;
pub mod selftest;
pub mod steps;
pub mod text;

pub use error::Error;
pub use random::Random;
