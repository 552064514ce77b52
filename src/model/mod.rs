//! What a file means: its configuration, its weights by role, its tokenizer and chat template.

mod architecture;
pub mod chat_template;
mod config;
pub mod tokenizer;

pub use architecture::Architecture;
pub use config::{ModelConfig, RopeConfig, RopePairing, RopeScaling};
