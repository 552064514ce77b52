//! Model files as bytes: GGUF, APR and safetensors, read through a memory map with bounds-checked views, and written
//! so that an interrupted run leaves nothing half done. Knows nothing of models: names and keys are only strings here.

mod error;
mod map;
mod tensor;

pub use error::Error;
pub use map::Map;
pub use tensor::Tensor;
