//! A Hugging Face folder as a GGUF file: the metadata that llama.cpp's converter writes, tensors under GGUF's names, the
//! rows of q and k in the order of the architecture's RoPE, Llama 3's frequency factors as a tensor.

use super::plan::Plan;
use super::reencode::Output;
use super::{Report, gguf_keys, hf_tokenizer, mix, names};
use crate::format::gguf::Value;
use crate::format::huggingface::HuggingFace;
use crate::format::{Error as FormatError, Map, Tensor};
use crate::model::{Error, ModelConfig, RopePairing, RopeScaling};
use crate::quant::TensorType;
use std::path::Path;

/// Everything that is to be written, nothing quantized.
pub(super) fn plan(folder: &HuggingFace, report: &mut Report) -> Result<Plan, Error> {
    let (config, defaults) = ModelConfig::from_hf(folder)?;
    for default in defaults {
        report.notes.push(format!("default taken: {} = {}: {}", default.key, default.value, default.why));
    }
    let mut outputs = tensors(folder, &config, report)?;
    outputs.sort_by(|a, b| mix::listing_order(&a.spec.name).cmp(&mix::listing_order(&b.spec.name)));
    let metadata = metadata(folder, &config, &outputs, report)?;
    Ok(Plan { path: folder.path().to_owned(), version: 3, metadata, outputs, tail: None })
}

fn error(folder: &HuggingFace, key: &str, what: impl Into<String>) -> FormatError {
    FormatError::Key { path: folder.path().to_owned(), key: key.to_owned(), what: what.into() }
}

fn tensors(folder: &HuggingFace, config: &ModelConfig, report: &mut Report) -> Result<Vec<Output>, Error> {
    let permute = config.architecture.row().rope_pairing == RopePairing::Norm;
    if permute && config.rope.dim != config.head_dim {
        let what = format!(
            "{} of {} dimensions: GGUF has no order of rows for that",
            config.rope.dim, config.head_dim
        );
        return Err(error(folder, "partial_rotary_factor", what).into());
    }
    let mut outputs = Vec::with_capacity(folder.tensors().len() + 1);
    for tensor in folder.tensors() {
        if tensor.name.ends_with("rotary_emb.inv_freq") {
            report.notes.push(format!("{}: left out; it follows from rope_theta", tensor.name));
            continue;
        }
        if !names::is_hugging_face(&tensor.name) {
            let what = format!("no tensor of {} models goes by this name", config.architecture.name());
            return Err(error(folder, &tensor.name, what).into());
        }
        let name = names::gguf_name(&tensor.name);
        if name == "output.weight" && config.tied_embeddings {
            report.notes.push(format!("{}: left out; the head is the embedding", tensor.name));
            continue;
        }
        let mut output = Output::for_gguf(tensor, &name)?;
        let part = name.rsplit('.').nth(1).unwrap_or_default();
        if permute {
            match part {
                "attn_q" => output = output.permuted(config.num_heads)?,
                "attn_k" => output = output.permuted(config.num_kv_heads)?,
                _ => {}
            }
        }
        outputs.push(output);
    }
    if let RopeScaling::Factors(factors) = &config.rope.scaling {
        let bytes: Vec<u8> = factors.iter().flat_map(|factor| factor.to_le_bytes()).collect();
        let range = 0..bytes.len();
        let map = Map::from_bytes(&folder.path().join("config.json"), bytes);
        let name = "rope_freqs.weight".to_owned();
        let tensor = Tensor { name, tensor_type: TensorType::F32, shape: vec![factors.len()], map, range };
        outputs.push(Output::copy(&tensor, &tensor.name));
    }
    Ok(outputs)
}

fn metadata(
    folder: &HuggingFace,
    config: &ModelConfig,
    outputs: &[Output],
    report: &mut Report,
) -> Result<Vec<(String, Value)>, Error> {
    let architecture = config.architecture.name();
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut put = |key: &str, value: Value| entries.push((key.to_owned(), value));
    let size = |what: &str, value: usize| {
        u32::try_from(value).map(Value::U32).map_err(|_| error(folder, what, format!("{value} is too large")))
    };
    put("general.architecture", architecture.into());
    put("general.type", "model".into());
    put("general.name", name(folder.path()).as_str().into());
    let weights = outputs.iter().flat_map(|output| [&output.spec.shape]);
    let parameters: u64 = weights.map(|shape| shape.iter().map(|&dim| dim as u64).product::<u64>()).sum();
    put("general.size_label", size_label(parameters).as_str().into());
    let key = |rest: &str| format!("{architecture}.{rest}");
    put(&key("block_count"), size("num_hidden_layers", config.num_layers)?);
    put(&key("context_length"), size("max_position_embeddings", config.context_length)?);
    put(&key("embedding_length"), size("hidden_size", config.hidden_size)?);
    put(&key("feed_forward_length"), size("intermediate_size", config.intermediate_size)?);
    put(&key("attention.head_count"), size("num_attention_heads", config.num_heads)?);
    put(&key("attention.head_count_kv"), size("num_key_value_heads", config.num_kv_heads)?);
    rope_scaling(config, |rest, value| put(&key(rest), value));
    put(&key("rope.freq_base"), Value::F32(config.rope.theta));
    put(&key("attention.layer_norm_rms_epsilon"), Value::F32(config.rms_norm_eps));
    let stated = folder.config.get("head_dim").is_some_and(|value| !value.is_null());
    if stated || config.num_heads * config.head_dim != config.hidden_size {
        put(&key("attention.key_length"), size("head_dim", config.head_dim)?);
        put(&key("attention.value_length"), size("head_dim", config.head_dim)?);
    }
    if config.architecture.row().rope_pairing == RopePairing::Norm {
        put(&key("vocab_size"), size("vocab_size", config.vocab_size)?);
        put(&key("rope.dimension_count"), size("head_dim", config.rope.dim)?);
    }
    if let Some(window) = config.sliding_window {
        put(&key("attention.sliding_window"), size("sliding_window", window)?);
    }
    hf_tokenizer::add(folder.path(), Some(config.vocab_size), report, &mut put)?;
    put("general.quantization_version", Value::U32(2));
    if let Some(file_type) = gguf_keys::file_type(outputs.iter().map(|output| &output.spec)) {
        put(gguf_keys::FILE_TYPE_KEY, Value::U32(file_type));
    }
    Ok(entries)
}

/// RoPE scaling. llama.cpp's `attn_factor` comes on top of YaRN's usual factor, Hugging Face's replaces it.
fn rope_scaling(config: &ModelConfig, mut put: impl FnMut(&str, Value)) {
    match &config.rope.scaling {
        RopeScaling::None | RopeScaling::Factors(_) => {}
        RopeScaling::Linear { factor } => {
            put("rope.scaling.type", "linear".into());
            put("rope.scaling.factor", Value::F32(*factor));
        }
        RopeScaling::Yarn { factor, original_context_length, beta_fast, beta_slow, attention_factor } => {
            put("rope.scaling.type", "yarn".into());
            put("rope.scaling.factor", Value::F32(*factor));
            let original = u32::try_from(*original_context_length).unwrap_or(u32::MAX);
            put("rope.scaling.original_context_length", Value::U32(original));
            let usual = (0.1 * f64::from(*factor).ln() + 1.0) as f32;
            if *attention_factor != usual {
                put("rope.scaling.attn_factor", Value::F32(attention_factor / usual));
            }
            if *beta_fast != 32.0 {
                put("rope.scaling.yarn_beta_fast", Value::F32(*beta_fast));
            }
            if *beta_slow != 1.0 {
                put("rope.scaling.yarn_beta_slow", Value::F32(*beta_slow));
            }
        }
    }
}

/// The folder's name.
fn name(folder: &Path) -> String {
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    absolute.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A number of weights as model names have it: two digits at least, `5.8M`, `19M`, `1.5B`.
fn size_label(parameters: u64) -> String {
    let (scaled, unit) = match parameters as f64 {
        n if n > 1e12 => (n / 1e12, "T"),
        n if n > 1e9 => (n / 1e9, "B"),
        n if n > 1e6 => (n / 1e6, "M"),
        n => (n / 1e3, "K"),
    };
    let whole = format!("{scaled:.0}");
    let digits = 2_usize.saturating_sub(whole.trim_start_matches('0').len());
    format!("{scaled:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::size_label;

    #[test]
    fn sizes_have_two_digits() {
        for (parameters, label) in [
            (5_770_000, "5.8M"),
            (18_600_000, "19M"),
            (1_540_000_000, "1.5B"),
            (70_000, "70K"),
            (310, "0.31K"),
        ] {
            assert_eq!(size_label(parameters), label);
        }
    }
}
