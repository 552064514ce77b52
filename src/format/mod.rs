//! Model files and what goes with them as bytes: GGUF, APR and safetensors, read through a memory map with bounds-checked views, and written
//! so that an interrupted run leaves nothing half done. Knows nothing of models: names and keys are only strings here.

pub mod apr;
pub mod gguf;
pub mod huggingface;
pub mod imatrix;
pub mod lattice;
pub mod safetensors;
pub mod write;

mod cursor;
mod error;
mod json;
mod map;
mod names;
mod stream;
mod tensor;

pub use error::Error;
pub use map::Map;
pub use tensor::{Tensor, TensorSpec};
