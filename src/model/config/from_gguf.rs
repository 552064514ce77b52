//! Configuration from GGUF metadata. Keys: ggml's `docs/gguf.md`; meaning where that is silent: llama.cpp's loader.

use super::fields::{Fields, Stated, StatedTie};
use super::scaling::{StatedScaling, YarnAttention};
use super::{DefaultTaken, ModelConfig};
use crate::format::gguf::{Gguf, Metadata, Value};
use crate::model::Architecture;
use crate::model::architecture::ArchitectureRow;
use crate::model::error::Error;
use crate::model::table::TensorTable;

/// Keys that change the forward pass of models which are not computed here. A file that sets one is refused.
const FOREIGN: [&str; 9] = [
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
];

impl ModelConfig {
    /// The configuration in a GGUF file, with every default that was taken.
    ///
    /// # Errors
    /// One of several parts of a model; an unknown architecture or RoPE scaling; attention that is not causal; a key that
    /// is missing without an architecture default, absurd, or in
    /// contradiction to another key or to the tensors.
    pub fn from_gguf(gguf: &Gguf) -> Result<(Self, Vec<DefaultTaken>), Error> {
        gguf.refuse_parts()?;
        let table = TensorTable::new(gguf.path(), gguf.tensors())?;
        fields(gguf.typed_metadata())?.build(gguf.path(), &table, Vec::new())
    }
}

/// What GGUF metadata state, be they those of a GGUF file or carried along by another file.
pub(super) fn fields(metadata: &Metadata) -> Result<Fields, Error> {
    let path = metadata.path();
    let Some(name) = metadata.string("general.architecture")? else {
        return Err(Error::invalid(
            path,
            "general.architecture",
            "missing; the file does not say what it is",
        ));
    };
    let Some(row) = Architecture::from_gguf_name(name) else {
        let what = format!("unknown architecture `{name}`; known are {}", Architecture::known());
        return Err(Error::unsupported(path, "general.architecture", what));
    };
    for key in FOREIGN {
        let key = format!("{name}.{key}");
        if let Some(value) = metadata.get(&key).filter(|value| !is_zero(value)) {
            let what = format!("found {value:?}; no model with this key is computed here");
            return Err(Error::unsupported(path, key, what));
        }
    }
    let causal = format!("{name}.attention.causal");
    if metadata.bool(&causal)? == Some(false) {
        let what = "false: only attention to what came before is computed here";
        return Err(Error::unsupported(path, causal, what));
    }
    let keys = Keys { metadata, row };
    let head_dim = keys.usize("attention.key_length")?;
    let value_length = keys.usize("attention.value_length")?;
    if let (Some(k), Some(v)) = (head_dim.value, value_length.value)
        && k != v
    {
        let what = format!("{v}, but keys are {k} wide; only heads of one width are computed here");
        return Err(Error::unsupported(path, value_length.key, what));
    }
    Ok(Fields {
        row,
        hidden_size: keys.usize("embedding_length")?,
        intermediate_size: keys.usize("feed_forward_length")?,
        num_layers: keys.usize("block_count")?,
        num_heads: keys.usize("attention.head_count")?,
        num_kv_heads: keys.usize("attention.head_count_kv")?,
        head_dim,
        vocab_size: keys.usize("vocab_size")?,
        context_length: keys.usize("context_length")?,
        rms_norm_eps: keys.f32("attention.layer_norm_rms_epsilon")?,
        rope_theta: keys.f32("rope.freq_base")?,
        default_rope_theta: row.default_rope_theta,
        rope_dim: keys.usize("rope.dimension_count")?,
        rope_fraction: None,
        rope_pairing: Stated::new("", None),
        default_rope_pairing: (row.rope_pairing, "the architecture's order"),
        scaling_prefix: keys.key("rope.scaling."),
        scaling: keys.scaling()?,
        sliding_window: keys.window()?,
        tie: StatedTie::Absence,
        attention_bias: Stated::new("", None),
        mlp_bias: Stated::new("", None),
    })
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::F32(v) => *v == 0.0,
        Value::F64(v) => *v == 0.0,
        other => other.integer() == Some(0),
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    metadata: &'a Metadata,
    row: &'static ArchitectureRow,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.row.gguf_name)
    }

    fn usize(&self, key: &str) -> Result<Stated<usize>, Error> {
        let key = self.key(key);
        let value = self.metadata.usize(&key)?;
        Ok(Stated::new(key, value))
    }

    fn f32(&self, key: &str) -> Result<Stated<f32>, Error> {
        let key = self.key(key);
        let value = self.metadata.f32(&key)?;
        Ok(Stated::new(key, value))
    }

    fn window(&self) -> Result<Stated<usize>, Error> {
        let window = self.usize("attention.sliding_window")?;
        let pattern = self.key("attention.sliding_window_pattern");
        if window.value.is_some_and(|window| window > 0) && self.metadata.get(&pattern).is_some() {
            let what = "a window in some layers only is not computed here";
            return Err(Error::unsupported(self.metadata.path(), pattern, what));
        }
        Ok(window)
    }

    /// `rope.scaling.*`. The type says how frequencies change, never which dimensions form a pair.
    ///
    /// As llama.cpp has it, a factor without a type is linear, a factor of 0 is none, and the old key
    /// `rope.scale_linear` stands for the factor. YaRN's factor on cos and sin is `0.1 ln(factor) + 1` times
    /// `rope.scaling.attn_factor`; `rope.scaling.yarn_attn_factor` is Hugging Face's `attention_factor`, which replaces
    /// the first of the two.
    fn scaling(&self) -> Result<StatedScaling, Error> {
        let path = self.metadata.path();
        let type_key = self.key("rope.scaling.type");
        let name = self.metadata.string(&type_key)?;
        let mut factor = self.f32("rope.scaling.factor")?;
        if factor.value.is_none() {
            factor = self.f32("rope.scale_linear")?;
        }
        let factor_value = factor.value.filter(|factor| *factor != 0.0);
        let relative = self.f32("rope.scaling.attn_factor")?;
        if name != Some("yarn") && relative.value.is_some_and(|relative| relative != 1.0) {
            return Err(Error::unsupported(path, relative.key, "only computed together with yarn scaling"));
        }
        let relative = relative.value.unwrap_or(1.0);
        match name {
            Some("none") => Ok(StatedScaling::None),
            None | Some("linear") => Ok(match factor_value {
                Some(factor) => StatedScaling::Linear { factor },
                None => StatedScaling::None,
            }),
            Some("yarn") => {
                let Some(factor) = factor_value else {
                    let what = "missing; yarn scaling needs it";
                    return Err(Error::invalid(path, self.key("rope.scaling.factor"), what));
                };
                for (key, neutral) in
                    [("rope.scaling.yarn_ext_factor", 1.0), ("rope.scaling.yarn_log_multiplier", 0.0)]
                {
                    let other = self.f32(key)?;
                    if let Some(value) = other.value.filter(|value| *value != neutral) {
                        let what = format!("found {value}; only {neutral} is computed here");
                        return Err(Error::unsupported(path, other.key, what));
                    }
                }
                let total = self.f32("rope.scaling.yarn_attn_factor")?.value;
                Ok(StatedScaling::Yarn {
                    factor,
                    original_context_length: self.usize("rope.scaling.original_context_length")?,
                    beta_fast: self.f32("rope.scaling.yarn_beta_fast")?,
                    beta_slow: self.f32("rope.scaling.yarn_beta_slow")?,
                    attention: match total {
                        Some(total) => YarnAttention::Total(total * relative),
                        None => YarnAttention::Relative(relative),
                    },
                })
            }
            Some(other) => {
                let what = format!("unknown RoPE scaling `{other}`; known are none, linear, yarn");
                Err(Error::unsupported(path, type_key, what))
            }
        }
    }
}
