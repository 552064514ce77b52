//! GGUF metadata from the canonical keys of an APR file that was not made of a GGUF file: everything that llama.cpp
//! needs to load the model and to compute what the model computes.

use super::Report;
use super::gguf_tokenizer;
use super::names::is_hugging_face;
use super::reencode::Output;
use crate::format::apr::Apr;
use crate::format::gguf::Value;
use crate::format::{Error, Tensor, TensorSpec};
use crate::quant::TensorType;

pub(super) const FILE_TYPE_KEY: &str = "general.file_type";

/// Numbers of the model, checked against the shapes of its tensors.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) architecture: &'static str,
    hidden_size: u32,
    num_layers: u32,
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
    intermediate_size: u32,
    max_position_embeddings: u32,
    pub(super) vocab_size: u32,
    rope_theta: f32,
    rms_norm_eps: f32,
    permute: bool,
}

pub(super) fn error(apr: &Apr, key: &str, what: impl Into<String>) -> Error {
    Error::Key { path: apr.path().to_owned(), key: key.to_owned(), what: what.into() }
}

/// The tensor of an APR file that has one of these names.
fn either<'a>(apr: &'a Apr, hugging_face: &str, gguf: &str) -> Option<&'a Tensor> {
    apr.tensor(hugging_face).or_else(|| apr.tensor(gguf))
}

impl Config {
    pub(super) fn read(apr: &Apr, report: &mut Report) -> Result<Self, Error> {
        let missing = |key: &str| error(apr, key, "the key is missing, and a GGUF file needs it");
        let u32 = |key: &str| apr.u32(key)?.ok_or_else(|| missing(key));
        let f32 = |key: &str| apr.f32(key)?.ok_or_else(|| missing(key));
        let architecture = apr.string("architecture")?.ok_or_else(|| missing("architecture"))?;
        let architecture = match architecture.to_ascii_lowercase().as_str() {
            "qwen2" => "qwen2",
            "qwen3" => "qwen3",
            "llama" | "mistral" => "llama",
            _ => {
                let what = format!("expected qwen2, qwen3, llama or mistral, found {architecture:?}");
                return Err(error(apr, "architecture", what));
            }
        };
        let embedding = either(apr, "model.embed_tokens.weight", "token_embd.weight")
            .ok_or_else(|| error(apr, "model.embed_tokens.weight", "the tensor is missing"))?;
        let num_heads = u32("num_heads")?;
        let rows = |hf: &str, gguf: &str| either(apr, hf, gguf).and_then(|t| u32::try_from(t.rows()).ok());
        let q_rows = rows("model.layers.0.self_attn.q_proj.weight", "blk.0.attn_q.weight");
        let k_rows = rows("model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight");
        let head_dim = match (apr.u32("head_dim")?, q_rows) {
            (Some(head_dim), _) => head_dim,
            (None, Some(rows)) if num_heads > 0 && rows.is_multiple_of(num_heads) => {
                report.notes.push(format!("head_dim follows from the shape of q_proj: {}", rows / num_heads));
                rows / num_heads
            }
            _ => return Err(missing("head_dim")),
        };
        let num_kv_heads = match (apr.u32("num_kv_heads")?, k_rows) {
            (Some(heads), _) => heads,
            (None, Some(rows)) if head_dim > 0 && rows.is_multiple_of(head_dim) => {
                report
                    .notes
                    .push(format!("num_kv_heads follows from the shape of k_proj: {}", rows / head_dim));
                rows / head_dim
            }
            _ => return Err(missing("num_kv_heads")),
        };
        for (key, heads, rows) in [("num_heads", num_heads, q_rows), ("num_kv_heads", num_kv_heads, k_rows)] {
            if let Some(rows) = rows
                && heads.checked_mul(head_dim) != Some(rows)
            {
                let what =
                    format!("{heads} heads of {head_dim} do not make the {rows} rows of the first layer");
                return Err(error(apr, key, what));
            }
        }
        let config = Self {
            architecture,
            hidden_size: u32("hidden_size")?,
            num_layers: u32("num_layers")?,
            num_heads,
            num_kv_heads,
            head_dim,
            intermediate_size: u32("intermediate_size")?,
            max_position_embeddings: u32("max_position_embeddings")?,
            vocab_size: u32::try_from(embedding.rows())
                .map_err(|_| error(apr, &embedding.name, "more rows than a vocabulary can have"))?,
            rope_theta: f32("rope_theta")?,
            rms_norm_eps: f32("rms_norm_eps")?,
            permute: Self::must_permute(apr, architecture, report)?,
        };
        if embedding.cols() != config.hidden_size as usize {
            let what =
                format!("found {}, but the embedding has {} columns", config.hidden_size, embedding.cols());
            return Err(error(apr, "hidden_size", what));
        }
        Ok(config)
    }

    /// Whether rows of q and k are in the order of Hugging Face but llama.cpp wants that of NORM RoPE.
    fn must_permute(apr: &Apr, architecture: &str, report: &mut Report) -> Result<bool, Error> {
        let rope_type = apr.u32("rope_type")?;
        if let Some(other) = rope_type.filter(|rope_type| !matches!(rope_type, 0 | 2)) {
            return Err(error(apr, "rope_type", format!("expected 0 (NORM) or 2 (NEOX), found {other}")));
        }
        if architecture != "llama" {
            return match rope_type {
                Some(0) => {
                    Err(error(apr, "rope_type", format!("expected 2 (NEOX) for {architecture}, found 0")))
                }
                _ => Ok(false),
            };
        }
        let permute = rope_type.map_or_else(
            || apr.tensors().iter().any(|tensor| is_hugging_face(&tensor.name)),
            |rope_type| rope_type == 2,
        );
        if permute {
            report
                .notes
                .push("rows of q and k are moved to the order of NORM RoPE, as llama.cpp wants".to_owned());
        }
        Ok(permute)
    }

    /// Rows of the matrix that makes queries.
    pub(super) fn q_rows(&self) -> usize {
        self.num_heads as usize * self.head_dim as usize
    }

    /// Rows of each matrix that makes keys or values.
    pub(super) fn kv_rows(&self) -> usize {
        self.num_kv_heads as usize * self.head_dim as usize
    }

    /// How many heads the rows of a tensor make, if they must be permuted.
    pub(super) fn heads_to_permute(&self, gguf_name: &str) -> Option<usize> {
        let heads = match gguf_name.rsplit('.').nth(1)? {
            "attn_q" => self.num_heads,
            "attn_k" => self.num_kv_heads,
            _ => return None,
        };
        self.permute.then_some(heads as usize)
    }

    /// Whether a head is what a tied model has: the embedding once more.
    pub(super) fn is_copy_of_embedding(&self, apr: &Apr, head: &Tensor) -> bool {
        let tied = apr.bool("tied_embeddings").is_ok_and(|tied| tied == Some(true));
        tied && either(apr, "model.embed_tokens.weight", "token_embd.weight").is_some_and(|embedding| {
            embedding.tensor_type == head.tensor_type
                && embedding.shape == head.shape
                && embedding.bytes() == head.bytes()
        })
    }
}

/// All metadata of the GGUF file.
pub(super) fn metadata(
    apr: &Apr,
    config: &Config,
    outputs: &[Output],
    report: &mut Report,
) -> Result<Vec<(String, Value)>, Error> {
    let mut entries: Vec<(String, Value)> = Vec::new();
    let mut put = |key: &str, value: Value| entries.push((key.to_owned(), value));
    let architecture = config.architecture;
    put("general.architecture", architecture.into());
    put("general.type", "model".into());
    for (apr_key, key) in [
        ("name", "general.name"),
        ("author", "general.author"),
        ("license", "general.license"),
        ("description", "general.description"),
    ] {
        if let Some(string) = apr.string(apr_key)? {
            put(key, string.into());
        }
    }
    let key = |rest: &str| format!("{architecture}.{rest}");
    put(&key("block_count"), Value::U32(config.num_layers));
    put(&key("context_length"), Value::U32(config.max_position_embeddings));
    put(&key("embedding_length"), Value::U32(config.hidden_size));
    put(&key("feed_forward_length"), Value::U32(config.intermediate_size));
    put(&key("attention.head_count"), Value::U32(config.num_heads));
    put(&key("attention.head_count_kv"), Value::U32(config.num_kv_heads));
    put(&key("rope.freq_base"), Value::F32(config.rope_theta));
    put(&key("attention.layer_norm_rms_epsilon"), Value::F32(config.rms_norm_eps));
    put(&key("attention.key_length"), Value::U32(config.head_dim));
    put(&key("attention.value_length"), Value::U32(config.head_dim));
    put(&key("vocab_size"), Value::U32(config.vocab_size));
    put(&key("rope.dimension_count"), Value::U32(config.head_dim));
    if let Some(window) = apr.u32("sliding_window")? {
        put(&key("attention.sliding_window"), Value::U32(window));
    }
    rope_scaling(apr, architecture, outputs, &mut put)?;
    gguf_tokenizer::add(apr, config, report, &mut put)?;
    put("general.quantization_version", Value::U32(2));
    if let Some(file_type) = file_type(outputs.iter().map(|output| &output.spec)) {
        put(FILE_TYPE_KEY, Value::U32(file_type));
    }
    Ok(entries)
}

/// RoPE scaling from the key `rope_scaling`, spelled as in a Hugging Face `config.json`.
fn rope_scaling(
    apr: &Apr,
    architecture: &str,
    outputs: &[Output],
    put: &mut impl FnMut(&str, Value),
) -> Result<(), Error> {
    const KEY: &str = "rope_scaling";
    let Some(scaling) = apr.get(KEY)? else { return Ok(()) };
    let kind = scaling.get("rope_type").or_else(|| scaling.get("type")).and_then(serde_json::Value::as_str);
    let number = |key: &str| scaling.get(key).and_then(serde_json::Value::as_f64);
    match kind {
        Some("none" | "default") => return Ok(()),
        Some("llama3") if outputs.iter().any(|output| output.spec.name == "rope_freqs.weight") => {
            return Ok(());
        }
        Some(kind @ ("linear" | "yarn")) => put(&format!("{architecture}.rope.scaling.type"), kind.into()),
        Some("llama3") => return Err(error(apr, KEY, "llama3 scaling needs the tensor rope_freqs.weight")),
        _ => {
            return Err(error(
                apr,
                KEY,
                format!("expected rope_type linear, yarn or llama3, found {scaling}"),
            ));
        }
    }
    let factor = number("factor").ok_or_else(|| error(apr, KEY, "factor is missing"))?;
    put(&format!("{architecture}.rope.scaling.factor"), Value::F32(factor as f32));
    if let Some(length) = number("original_max_position_embeddings") {
        put(&format!("{architecture}.rope.scaling.original_context_length"), Value::U32(length as u32));
    }
    for (apr_key, key) in [
        ("attention_factor", "attn_factor"),
        ("beta_fast", "yarn_beta_fast"),
        ("beta_slow", "yarn_beta_slow"),
    ] {
        if let Some(value) = number(apr_key) {
            put(&format!("{architecture}.rope.scaling.{key}"), Value::F32(value as f32));
        }
    }
    Ok(())
}

/// llama.cpp's number for a file most of whose weights have this type; `None` where it has no number for it.
pub(super) fn file_type<'a>(specs: impl Iterator<Item = &'a TensorSpec>) -> Option<u32> {
    let mut counts: Vec<(TensorType, u64)> = Vec::new();
    for spec in specs.filter(|spec| spec.shape.len() >= 2) {
        let elements = spec.shape.iter().map(|&dim| dim as u64).product::<u64>();
        match counts.iter_mut().find(|(tensor_type, _)| *tensor_type == spec.tensor_type) {
            Some((_, count)) => *count = count.saturating_add(elements),
            None => counts.push((spec.tensor_type, elements)),
        }
    }
    let (majority, _) = counts.into_iter().max_by_key(|&(_, count)| count)?;
    Some(match majority {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::Q4_0 => 2,
        TensorType::Q4_1 => 3,
        TensorType::Q8_0 => 7,
        TensorType::Q5_0 => 8,
        TensorType::Q5_1 => 9,
        TensorType::Q2_K => 10,
        TensorType::Q3_K => 12,
        TensorType::Q4_K => 15,
        TensorType::Q5_K => 17,
        TensorType::Q6_K => 18,
        TensorType::BF16 => 32,
        _ => return None,
    })
}
