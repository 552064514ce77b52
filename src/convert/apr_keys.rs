//! The metadata that an APR file needs, from the metadata of a GGUF file.

use crate::format::gguf::{Array, Metadata, Value as GgufValue};
use crate::format::{Error, TensorSpec};
use serde_json::{Map, Value};

/// APR's canonical key, and the GGUF key behind the architecture's name.
const NUMBERS: &[(&str, &str)] = &[
    ("hidden_size", "embedding_length"),
    ("num_layers", "block_count"),
    ("num_heads", "attention.head_count"),
    ("num_kv_heads", "attention.head_count_kv"),
    ("intermediate_size", "feed_forward_length"),
    ("max_position_embeddings", "context_length"),
    ("rope_theta", "rope.freq_base"),
    ("rms_norm_eps", "attention.layer_norm_rms_epsilon"),
    ("head_dim", "attention.key_length"),
    ("vocab_size", "vocab_size"),
    ("num_experts", "expert_count"),
    ("num_experts_per_tok", "expert_used_count"),
    ("moe_intermediate_size", "expert_feed_forward_length"),
    ("sliding_window", "attention.sliding_window"),
];

/// Keys of `rope_scaling`, as in a Hugging Face `config.json`, and GGUF keys behind `rope.scaling.`.
const ROPE_SCALING: &[(&str, &str)] = &[
    ("factor", "factor"),
    ("original_max_position_embeddings", "original_context_length"),
    ("attention_factor", "attn_factor"),
    ("beta_fast", "yarn_beta_fast"),
    ("beta_slow", "yarn_beta_slow"),
];

/// Tokenizer keys that are not simply the GGUF key without `ggml.`.
const TOKENIZER: &[(&str, &str)] = &[
    ("tokenizer.vocabulary", "tokenizer.ggml.tokens"),
    ("tokenizer.pre_type", "tokenizer.ggml.pre"),
    ("chat_template", "tokenizer.chat_template"),
];

/// What `apr run` refuses to do without.
const REQUIRED: &[&str] = &[
    "architecture",
    "hidden_size",
    "num_layers",
    "num_heads",
    "intermediate_size",
    "vocab_size",
    "max_position_embeddings",
    "tokenizer.vocabulary",
];

/// An architecture's RoPE pairing as APR writes it: 0 neighbours (NORM), 2 halves (NEOX).
fn rope_type(architecture: &str) -> Option<u64> {
    match architecture {
        "llama" => Some(0),
        "qwen2" | "qwen3" => Some(2),
        _ => None,
    }
}

/// The canonical keys for a GGUF file of this metadata and these tensors, and what a user should know about them.
pub(super) fn from_metadata(
    metadata: &Metadata,
    tensors: &[TensorSpec],
) -> Result<(Map<String, Value>, Vec<String>), Error> {
    let mut keys = Map::new();
    let mut notes = Vec::new();
    let architecture = metadata.string("general.architecture")?.unwrap_or_default();
    let string = |key: &str| metadata.get(key).and_then(GgufValue::as_str).map_or(Value::Null, Value::from);
    keys.insert("model_type".to_owned(), "transformer_lm".into());
    keys.insert("name".to_owned(), string("general.name"));
    if let description @ Value::String(_) = string("general.description") {
        keys.insert("description".to_owned(), description);
    }
    if let author @ Value::String(_) = string("general.author") {
        keys.insert("author".to_owned(), author);
    }
    keys.insert("license".to_owned(), string("general.license"));
    // The peer's files always have these two.
    keys.insert("data_source".to_owned(), Value::Null);
    keys.insert("data_license".to_owned(), Value::Null);
    keys.insert("version".to_owned(), "1".into());
    keys.insert("original_format".to_owned(), "gguf".into());
    keys.insert(
        "total_size".to_owned(),
        tensors.iter().map(|tensor| tensor.bytes as u64).sum::<u64>().into(),
    );
    keys.insert(
        "param_count".to_owned(),
        tensors
            .iter()
            .fold(0_u64, |sum, tensor| {
                sum.saturating_add(tensor.shape.iter().map(|&dim| dim as u64).product())
            })
            .into(),
    );
    if !architecture.is_empty() {
        keys.insert("architecture".to_owned(), architecture.into());
    }
    for (apr, gguf) in NUMBERS {
        if let Some(number) = metadata.get(&format!("{architecture}.{gguf}")).and_then(number) {
            keys.insert((*apr).to_owned(), number);
        }
    }
    derive(&mut keys, &mut notes, architecture, metadata, tensors);
    if let Some(rope_scaling) = rope_scaling(metadata, architecture) {
        keys.insert("rope_scaling".to_owned(), rope_scaling);
    }
    tokenizer(&mut keys, &mut notes, metadata);
    for required in REQUIRED.iter().filter(|key| keys.get(**key).is_none_or(Value::is_null)) {
        notes.push(format!(
            "the GGUF file does not say {required}, without which `apr run` refuses the model"
        ));
    }
    Ok((keys, notes))
}

/// Keys that follow from others where the GGUF file leaves them out.
fn derive(
    keys: &mut Map<String, Value>,
    notes: &mut Vec<String>,
    architecture: &str,
    metadata: &Metadata,
    tensors: &[TensorSpec],
) {
    let tensor = |name: &str| tensors.iter().find(|tensor| tensor.name == name);
    let whole = |keys: &Map<String, Value>, key: &str| keys.get(key).and_then(Value::as_u64);
    if !keys.contains_key("vocab_size") {
        let tokens = match metadata.get("tokenizer.ggml.tokens") {
            Some(GgufValue::Array(tokens)) => Some(tokens.len()),
            _ => None,
        };
        if let Some(rows) = tensor("token_embd.weight").and_then(|t| t.shape.first().copied()).or(tokens) {
            keys.insert("vocab_size".to_owned(), rows.into());
        }
    }
    if let (false, Some(heads)) = (keys.contains_key("num_kv_heads"), whole(keys, "num_heads")) {
        keys.insert("num_kv_heads".to_owned(), heads.into());
        notes.push(format!("num_kv_heads is taken to be num_heads, {heads}, as llama.cpp does"));
    }
    if let (false, Some(heads), Some(hidden)) =
        (keys.contains_key("head_dim"), whole(keys, "num_heads"), whole(keys, "hidden_size"))
        && heads > 0
        && hidden.is_multiple_of(heads)
    {
        keys.insert("head_dim".to_owned(), (hidden / heads).into());
    }
    if !keys.contains_key("rope_theta") && !tensors.is_empty() {
        keys.insert("rope_theta".to_owned(), 10000.0.into());
        notes.push("rope_theta is taken to be 10000, as llama.cpp does".to_owned());
    }
    match rope_type(architecture) {
        Some(rope_type) => {
            keys.insert("rope_type".to_owned(), rope_type.into());
        }
        None => notes.push(format!(
            "the RoPE type of the architecture {architecture:?} is not known; none is written"
        )),
    }
    if tensor("token_embd.weight").is_some() {
        keys.insert("tied_embeddings".to_owned(), tensor("output.weight").is_none().into());
    }
}

fn rope_scaling(metadata: &Metadata, architecture: &str) -> Option<Value> {
    let get = |key: &str| metadata.get(&format!("{architecture}.rope.scaling.{key}"));
    let kind = get("type").and_then(GgufValue::as_str)?;
    let mut object = Map::new();
    object.insert("rope_type".to_owned(), kind.into());
    for (apr, gguf) in ROPE_SCALING {
        if let Some(number) = get(gguf).and_then(number) {
            object.insert((*apr).to_owned(), number);
        }
    }
    Some(Value::Object(object))
}

fn tokenizer(keys: &mut Map<String, Value>, notes: &mut Vec<String>, metadata: &Metadata) {
    for (key, value) in metadata.entries() {
        let apr = match TOKENIZER.iter().find(|(_, gguf)| gguf == key) {
            Some((apr, _)) => (*apr).to_owned(),
            None => match key.strip_prefix("tokenizer.ggml.") {
                Some(rest) => format!("tokenizer.{rest}"),
                None => continue,
            },
        };
        if let Some(value) = json(value, key, notes) {
            keys.insert(apr, value);
        }
        if let ("tokenizer.ggml.tokens", GgufValue::Array(tokens)) = (key.as_str(), value) {
            keys.insert("tokenizer.vocab_size".to_owned(), tokens.len().into());
        }
    }
}

/// A scalar number, if it is one that JSON has.
fn number(value: &GgufValue) -> Option<Value> {
    match *value {
        GgufValue::F32(v) => float(v),
        GgufValue::F64(v) => v.is_finite().then(|| v.into()),
        GgufValue::U64(v) => Some(v.into()),
        _ => value.integer().and_then(|v| i64::try_from(v).ok()).map(Value::from),
    }
}

/// The shortest decimal that reads back as the same 32-bit float.
fn float(value: f32) -> Option<Value> {
    let number: f64 = value.to_string().parse().ok()?;
    number.is_finite().then(|| number.into())
}

/// A value in JSON as other programs expect it. What JSON cannot hold exactly is kept exactly elsewhere in the file.
fn json(value: &GgufValue, key: &str, notes: &mut Vec<String>) -> Option<Value> {
    Some(match value {
        GgufValue::Bool(v) => (*v).into(),
        GgufValue::String(bytes) => String::from_utf8_lossy(bytes).into(),
        GgufValue::Array(array) => match array.as_ref() {
            Array::String(strings) => {
                let broken = strings.iter().filter(|string| std::str::from_utf8(string).is_err()).count();
                if broken > 0 {
                    notes.push(format!(
                        "{key}: {broken} strings are not UTF-8; other programs see them with replacement characters"
                    ));
                }
                strings.iter().map(String::from_utf8_lossy).collect()
            }
            Array::F32(values) => values.iter().map(|&v| float(v).unwrap_or(Value::Null)).collect(),
            Array::F64(values) => values.iter().map(|&v| Value::from(v)).collect(),
            Array::Bool(values) => values.iter().copied().collect(),
            Array::U64(values) => values.iter().copied().collect(),
            integers => integers.integers::<i64>()?.into_iter().collect(),
        },
        scalar => number(scalar)?,
    })
}
