//! The configuration of a model: every field that the forward pass depends on, and nothing else.

mod fields;
mod from_apr;
mod from_gguf;
mod from_hf;
mod json;
mod scaling;
mod to_hf;

use super::Architecture;
use serde::Serialize;

/// A value that no key of the file states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DefaultTaken {
    /// The key that could have stated it.
    pub key: String,
    /// The value taken.
    pub value: String,
    /// Where it comes from.
    pub why: String,
}

/// Everything that shapes the forward pass. Built from GGUF, APR and Hugging Face metadata, field for field equal for
/// the same model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Row of the architecture table.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Width of one head; not always `hidden_size / num_heads`.
    pub head_dim: usize,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// Added to the mean square inside RMSNorm.
    pub rms_norm_eps: f32,
    /// Rotary position embedding.
    pub rope: RopeConfig,
    /// Attention sees only this many positions back, itself included.
    pub sliding_window: Option<usize>,
    /// The head is the embedding matrix.
    pub tied_embeddings: bool,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// The attention output projection has a bias.
    pub output_bias: bool,
    /// Gate, up and down have biases.
    pub mlp_bias: bool,
    /// RMSNorm on every head of q and k before RoPE.
    pub qk_norm: bool,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RopeConfig {
    /// Base of the geometric series of frequencies.
    pub theta: f32,
    /// Leading dimensions of a head that are rotated.
    pub dim: usize,
    /// Which dimensions form a pair, in the order of the file's rows.
    pub pairing: RopePairing,
    /// How frequencies change for contexts longer than those trained on.
    pub scaling: RopeScaling,
}

/// Which two dimensions of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopePairing {
    /// `2i` and `2i + 1` (GGUF files of llama models; their q and k rows are permuted for it).
    Norm,
    /// `i` and `i + dim / 2` (Hugging Face, and GGUF files of qwen models).
    Neox,
}

/// How RoPE frequencies are changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Each of the `dim / 2` frequencies divided by its own factor (Llama 3.x: `rope_freqs.weight`).
    Factors(Vec<f32>),
    /// YaRN (arXiv 2309.00071): slow frequencies divided by `factor`, fast ones kept, a ramp between; scores scaled.
    Yarn {
        /// The divisor of slow frequencies.
        factor: f32,
        /// The context length before scaling.
        original_context_length: usize,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f32,
        /// Rotations below which a frequency is divided in full.
        beta_slow: f32,
        /// Factor on cos and sin: `0.1 ln(factor) + 1` unless the file says otherwise.
        attention_factor: f32,
    },
}
