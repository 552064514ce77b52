//! A configuration as a Hugging Face `config.json`.

use super::scaling::Llama3;
use super::{ModelConfig, RopeScaling};
use crate::model::Architecture;
use crate::model::error::Error;
use serde_json::{Map, Value, json};
use std::path::Path;

impl ModelConfig {
    /// The keys of `config.json`, in the spelling that transformers 4 and 5 both read; the caller adds what is no part
    /// of the forward pass. `path` is the file that errors name.
    ///
    /// # Errors
    /// The model has something that transformers' class has no key for.
    pub fn to_hf(&self, path: &Path) -> Result<Map<String, Value>, Error> {
        let row = self.architecture.row();
        // Of the names of an architecture, the one with a window is for models with a window.
        let windowed = self.sliding_window.is_some();
        let name = row.hugging_face.iter().find(|name| name.default_sliding_window.is_some() == windowed);
        let name = name.or(row.hugging_face.first()).ok_or_else(|| {
            Error::unsupported(path, "architecture", "it has no name in Hugging Face's libraries")
        })?;
        let mut keys = Map::new();
        let mut put = |key: &str, value: Value| keys.insert(key.to_owned(), value);
        put("architectures", json!([name.class]));
        put("model_type", name.model_type.into());
        put("hidden_act", "silu".into());
        put("hidden_size", self.hidden_size.into());
        put("intermediate_size", self.intermediate_size.into());
        put("num_hidden_layers", self.num_layers.into());
        put("num_attention_heads", self.num_heads.into());
        put("num_key_value_heads", self.num_kv_heads.into());
        if self.architecture != Architecture::Qwen2 {
            put("head_dim", self.head_dim.into());
        } else if self.num_heads * self.head_dim != self.hidden_size {
            let what = format!("{}: qwen2's class has only hidden_size / num_attention_heads", self.head_dim);
            return Err(Error::unsupported(path, "head_dim", what));
        }
        if self.rope.dim != self.head_dim {
            put("partial_rotary_factor", float(self.rope.dim as f32 / self.head_dim as f32));
        }
        put("vocab_size", self.vocab_size.into());
        put("max_position_embeddings", self.context_length.into());
        put("rms_norm_eps", float(self.rms_norm_eps));
        put("rope_theta", float(self.rope.theta));
        put("rope_scaling", self.scaling_keys(path)?);
        if let Some(window) = self.sliding_window {
            put("sliding_window", window.into());
            if name.default_sliding_window.is_none() {
                put("use_sliding_window", true.into());
                put("max_window_layers", 0.into());
            }
        } else if self.architecture != Architecture::Llama {
            put("sliding_window", Value::Null);
            put("use_sliding_window", false.into());
        }
        if self.architecture != Architecture::Qwen2 {
            if self.qkv_bias != self.output_bias {
                let what = "biases on some of q, k, v and o only; the class has one key for all four";
                return Err(Error::unsupported(path, "attention_bias", what));
            }
            put("attention_bias", self.qkv_bias.into());
        }
        if self.architecture == Architecture::Llama {
            put("mlp_bias", self.mlp_bias.into());
        }
        put("tie_word_embeddings", self.tied_embeddings.into());
        Ok(keys)
    }

    fn scaling_keys(&self, path: &Path) -> Result<Value, Error> {
        Ok(match &self.rope.scaling {
            RopeScaling::None => Value::Null,
            RopeScaling::Linear { factor } => {
                json!({ "rope_type": "linear", "type": "linear", "factor": float(*factor) })
            }
            RopeScaling::Yarn { factor, original_context_length, beta_fast, beta_slow, attention_factor } => {
                json!({
                    "rope_type": "yarn",
                    "type": "yarn",
                    "factor": float(*factor),
                    "original_max_position_embeddings": original_context_length,
                    "beta_fast": float(*beta_fast),
                    "beta_slow": float(*beta_slow),
                    "attention_factor": float(*attention_factor),
                })
            }
            RopeScaling::Factors(factors) => {
                let found = Llama3::of_factors(factors, self.rope.theta, self.rope.dim);
                let llama3 = found.ok_or_else(|| {
                    let what = "these frequency factors are not those of Llama 3's formula with parameters that \
                                models use, and config.json can only say the parameters";
                    Error::unsupported(path, "rope_freqs.weight", what)
                })?;
                json!({
                    "rope_type": "llama3",
                    "factor": float(llama3.factor),
                    "low_freq_factor": float(llama3.low_freq_factor),
                    "high_freq_factor": float(llama3.high_freq_factor),
                    "original_max_position_embeddings": llama3.original_context_length,
                })
            }
        })
    }
}

/// The shortest decimal that reads back as the same 32-bit float.
fn float(value: f32) -> Value {
    value.to_string().parse::<f64>().unwrap_or(f64::from(value)).into()
}
