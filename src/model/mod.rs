//! What a file means: its configuration, its weights by role, its tokenizer and chat template.

mod architecture;
pub mod chat_template;
mod config;
mod error;
mod inspect;
pub(crate) mod names;
mod open;
mod table;
mod text;
pub mod tokenizer;
mod weights;

pub use architecture::{Architecture, ArchitectureRow, HuggingFaceName, Presence};
pub use chat_template::{ChatTemplate, TemplateOrigin};
pub use config::{DefaultTaken, ModelConfig, RopeConfig, RopePairing, RopeScaling};
pub use error::Error;
pub use inspect::{Inspection, NoteSummary, TensorSummary, TypeSummary, kernel_name};
pub use names::Role;
pub use open::{Model, Source};
pub use tokenizer::{StreamDecoder, Tokenizer};
pub use weights::{LoadNote, RowOrder, WeightTensor, Weights};
