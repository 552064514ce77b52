//! Configuration from a Hugging Face folder's `config.json`. Keys and their meaning: transformers' configuration classes.

use super::fields::{Fields, Stated, StatedTie};
use super::json::Object;
use super::{DefaultTaken, ModelConfig};
use crate::format::huggingface::HuggingFace;
use crate::model::Architecture;
use crate::model::architecture::{ArchitectureRow, HuggingFaceName, Presence};
use crate::model::error::Error;
use crate::model::table::TensorTable;
use std::path::Path;

impl ModelConfig {
    /// The configuration of a Hugging Face folder, with every default that was taken.
    ///
    /// `rope.pairing` is that of the architecture's GGUF files: where it is NORM, the rows of q and k, which are NEOX in
    /// Hugging Face's files, are to be taken in permuted order, as [`crate::model::Weights`] does.
    ///
    /// # Errors
    /// An unknown architecture, RoPE scaling or activation; a key that is missing without a default, absurd, or in
    /// contradiction to another key or to the tensors.
    pub fn from_hf(folder: &HuggingFace) -> Result<(Self, Vec<DefaultTaken>), Error> {
        let path = folder.path().join("config.json");
        let table = TensorTable::new(folder.path(), folder.tensors())?;
        let top = Object::new(&path, folder.config.as_object());
        let (row, name) = architecture(&path, &top)?;
        refuse_foreign(&path, &top)?;
        let mut defaults = Vec::new();
        let rope = top.rope()?;
        let tie = top.bool("tie_word_embeddings")?;
        let tie = tie.value.unwrap_or_else(|| {
            let (value, why) =
                (row.default_tied_embeddings.to_string(), "the configuration class".to_owned());
            defaults.push(DefaultTaken { key: tie.key, value, why });
            row.default_tied_embeddings
        });
        let num_layers = top.usize("num_hidden_layers")?;
        let sliding_window = window(&path, &top, name, num_layers.value.unwrap_or(0), &mut defaults)?;
        let mut bias = |key: &str, presence: Presence| -> Result<Stated<bool>, Error> {
            let mut stated = top.bool(key)?;
            if stated.value.is_none() && presence == Presence::Optional {
                let (value, why) = ("false".to_owned(), "the configuration class".to_owned());
                defaults.push(DefaultTaken { key: stated.key.clone(), value, why });
                stated.value = Some(false);
            }
            Ok(stated)
        };
        let fields = Fields {
            row,
            hidden_size: top.usize("hidden_size")?,
            intermediate_size: top.usize("intermediate_size")?,
            num_layers,
            num_heads: top.usize("num_attention_heads")?,
            num_kv_heads: top.usize("num_key_value_heads")?,
            head_dim: top.usize("head_dim")?,
            vocab_size: top.usize("vocab_size")?,
            context_length: top.usize("max_position_embeddings")?,
            rms_norm_eps: top.f32("rms_norm_eps")?,
            rope_theta: rope.theta,
            default_rope_theta: Some(row.hugging_face_default_rope_theta),
            rope_dim: Stated::new("partial_rotary_factor", None),
            rope_fraction: rope.fraction,
            rope_pairing: Stated::new("", None),
            default_rope_pairing: (row.rope_pairing, "the architecture's order"),
            scaling_prefix: rope.scaling_prefix,
            scaling: rope.scaling,
            sliding_window,
            tie: StatedTie::Key(tie),
            attention_bias: bias("attention_bias", row.qkv_bias)?,
            mlp_bias: bias("mlp_bias", row.mlp_bias)?,
        };
        fields.build(&path, &table, defaults)
    }
}

/// The row that `model_type` names, which `architectures` must not contradict.
fn architecture(
    path: &Path,
    top: &Object<'_>,
) -> Result<(&'static ArchitectureRow, &'static HuggingFaceName), Error> {
    let unknown = |key: String, name: &str| {
        let what = format!("unknown architecture `{name}`; known are {}", Architecture::known());
        Err(Error::unsupported(path, key, what))
    };
    let (model_type, classes) = (top.string("model_type")?, top.strings("architectures")?);
    let class = classes.value.as_ref().and_then(|classes| classes.first().copied());
    let by_class = match class {
        None => None,
        Some(class) => match Architecture::from_class(class) {
            None => return unknown(classes.key, class),
            found => found,
        },
    };
    let by_type = match model_type.value {
        None => None,
        Some(name) => match Architecture::from_model_type(name) {
            None => return unknown(model_type.key, name),
            found => found,
        },
    };
    match (by_type, by_class) {
        (Some(a), Some(b)) if a.0.architecture != b.0.architecture => {
            let what = format!("{}, but architectures is {}", a.1.model_type, b.1.class);
            Err(Error::invalid(path, model_type.key, what))
        }
        (Some(found), _) | (None, Some(found)) => Ok(found),
        (None, None) => {
            Err(Error::invalid(path, "model_type", "missing; config.json does not say what the model is"))
        }
    }
}

/// Refuses what changes the forward pass in ways that are not computed here.
fn refuse_foreign(path: &Path, top: &Object<'_>) -> Result<(), Error> {
    let act = top.string("hidden_act")?;
    if let Some(name) = act.value.filter(|name| !matches!(*name, "silu" | "swish")) {
        return Err(Error::unsupported(path, act.key, format!("activation `{name}`; only silu is computed")));
    }
    if top.get("quantization_config").is_some() {
        let what = "weights quantized in this way are not read; use the original model or a GGUF file of it";
        return Err(Error::unsupported(path, "quantization_config", what));
    }
    for key in ["num_local_experts", "num_experts"] {
        let experts = top.usize(key)?;
        if let Some(count) = experts.value.filter(|count| *count > 0) {
            let what = format!("{count} experts; mixtures of experts are not computed here");
            return Err(Error::unsupported(path, experts.key, what));
        }
    }
    Ok(())
}

/// The window that all layers share.
///
/// Qwen's configuration has a window that `use_sliding_window` turns on, from layer `max_window_layers` on; transformers
/// also writes out the kind of each layer (`layer_types`). Mistral's has a window unless it is null.
fn window(
    path: &Path,
    top: &Object<'_>,
    name: &HuggingFaceName,
    num_layers: usize,
    defaults: &mut Vec<DefaultTaken>,
) -> Result<Stated<usize>, Error> {
    let mut window = top.usize("sliding_window")?;
    if window.value.is_none()
        && !top.has("sliding_window")
        && let Some(value) = name.default_sliding_window
    {
        let (key, why) = (window.key.clone(), "the configuration class".to_owned());
        defaults.push(DefaultTaken { key, value: value.to_string(), why });
        window.value = Some(value);
    }
    // Of the known configurations, those without a window by default (qwen) have the switch; it is off unless set.
    let switch = top.bool("use_sliding_window")?.value;
    let switched_off = name.default_sliding_window.is_none() && switch != Some(true) || switch == Some(false);
    if window.value.is_none() || switched_off {
        return Ok(Stated::new(window.key, None));
    }
    let (sliding, of) = match top.strings("layer_types")?.value {
        Some(types) => (types.iter().filter(|kind| **kind == "sliding_attention").count(), types.len()),
        None if name.default_sliding_window.is_some() => (num_layers, num_layers),
        None => {
            let from = top.usize("max_window_layers")?.value.unwrap_or(28);
            (num_layers.saturating_sub(from), num_layers)
        }
    };
    match sliding {
        0 => Ok(Stated::new(window.key, None)),
        all if all == of => Ok(window),
        some => {
            let what = format!("a window in {some} of {of} layers; only one for all layers is computed here");
            Err(Error::unsupported(path, window.key, what))
        }
    }
}
