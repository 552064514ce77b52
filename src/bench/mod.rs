//! How fast, and how far from what the memory could do.
//!
//! [`preset`] and [`synth`] make models of true shapes out of nothing; [`subject`] is what is measured, [`workload`]
//! measures it and refuses wrong tokens, [`record`] and [`report`] write it down under llama-bench's names.
//! [`bandwidth`] is the ceiling, [`kernels`] the ops one by one, [`roofline`] what other devices would give, [`versus`]
//! another program in the same minutes, [`compare_records`] two files of records, [`targets`] what must be reached.

pub mod bandwidth;
pub mod check;
pub mod clock;
pub mod compare_records;
pub mod encode;
pub mod environment;
mod error;
pub mod kernels;
pub mod preset;
pub mod record;
pub mod report;
pub mod roofline;
pub mod stats;
pub mod subject;
pub mod synth;
pub mod table;
pub mod targets;
pub mod versus;
pub mod workload;

pub use error::Error;
