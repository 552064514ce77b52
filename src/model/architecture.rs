//! The one table of architectures: everything that differs between them is a row here.

/// A family of models that share one forward pass up to the fields of [`super::ModelConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Qwen2 and Qwen2.5: biases on q, k and v; NEOX RoPE.
    Qwen2,
    /// Qwen3: norms on the heads of q and k; explicit head size; NEOX RoPE.
    Qwen3,
    /// Llama 2 and 3.x, Mistral, TinyLlama: NORM RoPE in GGUF files, NEOX in Hugging Face ones.
    Llama,
}
