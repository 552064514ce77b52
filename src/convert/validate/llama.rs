//! Will llama.cpp load the file? What its loader checks (`src/llama-model-loader.cpp`, `src/llama-model.cpp`,
//! `src/llama-vocab.cpp` of the tree with ggml 0.25.3), and what it takes without a word though nothing good comes of it:
//! a missing `rope.freq_base` is 10000, a missing `head_count_kv` is `head_count`, missing ids are 11.

use super::model::listed;
use super::{Outcome, Planned};
use crate::format::gguf::{Array, Strings, Value};
use crate::model::Architecture;
use crate::model::tokenizer::PreTokenizer;
use crate::quant::TensorType;
use std::collections::HashSet;

/// The type of a value that llama.cpp demands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    U32,
    F32,
    Bool,
    String,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::U32 => "u32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
        }
    }
}

/// Keys behind the architecture's name, their types, and whether a file without them is of any use.
const KEYS: &[(&str, Kind, bool)] = &[
    ("context_length", Kind::U32, true),
    ("embedding_length", Kind::U32, true),
    ("block_count", Kind::U32, true),
    ("feed_forward_length", Kind::U32, true),
    ("attention.head_count", Kind::U32, true),
    ("attention.head_count_kv", Kind::U32, true),
    ("attention.layer_norm_rms_epsilon", Kind::F32, true),
    ("rope.freq_base", Kind::F32, true),
    ("attention.key_length", Kind::U32, false),
    ("attention.value_length", Kind::U32, false),
    ("attention.sliding_window", Kind::U32, false),
    ("vocab_size", Kind::U32, false),
    ("rope.dimension_count", Kind::U32, false),
    ("rope.scaling.type", Kind::String, false),
    ("rope.scaling.factor", Kind::F32, false),
    ("rope.scaling.original_context_length", Kind::U32, false),
    ("rope.scaling.attn_factor", Kind::F32, false),
    ("rope.scaling.yarn_beta_fast", Kind::F32, false),
    ("rope.scaling.yarn_beta_slow", Kind::F32, false),
];

/// Keys without the architecture's name.
const GENERAL: &[(&str, Kind, bool)] = &[
    ("general.architecture", Kind::String, true),
    ("general.name", Kind::String, false),
    ("general.file_type", Kind::U32, false),
    ("general.quantization_version", Kind::U32, false),
    ("tokenizer.ggml.add_bos_token", Kind::Bool, false),
    ("tokenizer.ggml.add_eos_token", Kind::Bool, false),
    ("tokenizer.ggml.add_space_prefix", Kind::Bool, false),
    ("tokenizer.chat_template", Kind::String, false),
];

/// The type that llama.cpp demands of a key.
pub(super) fn type_of(architecture: &str, key: &str) -> Option<&'static str> {
    let own = key.strip_prefix(architecture).and_then(|rest| rest.strip_prefix('.'));
    let find = |table: &[(&str, Kind, bool)], key: &str| {
        table.iter().find(|(known, ..)| *known == key).map(|(_, kind, _)| kind.name())
    };
    let special = key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id");
    find(GENERAL, key).or_else(|| find(KEYS, own?)).or(special.then_some("u32"))
}

impl Planned {
    fn number(&self, key: &str) -> Option<usize> {
        let value = self.metadata.get(&format!("{}.{key}", self.architecture))?.integer()?;
        usize::try_from(value).ok()
    }

    fn array(&self, key: &str) -> Option<&Array> {
        match self.metadata.get(&format!("tokenizer.ggml.{key}"))? {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    fn tokens(&self) -> Option<&Strings> {
        match self.array("tokens")? {
            Array::String(strings) => Some(strings),
            _ => None,
        }
    }

    fn string(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str)
    }

    /// `gpt2`: byte-level BPE, or `llama`: SentencePiece.
    fn vocabulary_kind(&self) -> Option<&str> {
        self.string("tokenizer.ggml.model")
    }

    fn check_key(&self, key: &str, kind: Kind, required: bool) -> Option<String> {
        let Some(value) = self.metadata.get(key) else {
            return required.then(|| format!("{key} is missing"));
        };
        let found = value.type_name();
        let zero = required && value.integer() == Some(0);
        if found != kind.name() {
            Some(format!("{key}: expected {}, found {found}", kind.name()))
        } else if zero {
            Some(format!("{key} is 0"))
        } else {
            None
        }
    }
}

pub(super) fn keys(file: &Planned) -> Outcome {
    let general = GENERAL.iter().map(|&(key, kind, required)| (key.to_owned(), kind, required));
    let own =
        KEYS.iter().map(|&(key, kind, required)| (format!("{}.{key}", file.architecture), kind, required));
    let problems =
        general.chain(own).filter_map(|(key, kind, required)| file.check_key(&key, kind, required));
    listed(problems)
}

/// Sizes that shapes follow from.
struct Sizes {
    hidden: usize,
    layers: usize,
    queries: usize,
    keys: usize,
    values: usize,
    head_dim: usize,
    feed_forward: usize,
}

fn sizes(file: &Planned) -> Option<Sizes> {
    let hidden = file.number("embedding_length")?;
    let heads = file.number("attention.head_count")?;
    let kv_heads = file.number("attention.head_count_kv").unwrap_or(heads);
    let head_dim = file.number("attention.key_length").or_else(|| hidden.checked_div(heads))?;
    let value_dim = file.number("attention.value_length").or_else(|| hidden.checked_div(heads))?;
    Some(Sizes {
        hidden,
        layers: file.number("block_count")?,
        queries: heads.checked_mul(head_dim)?,
        keys: kv_heads.checked_mul(head_dim)?,
        values: kv_heads.checked_mul(value_dim)?,
        head_dim,
        feed_forward: file.number("feed_forward_length")?,
    })
}

/// The tensors of one layer: name, shape, whether it must be there.
fn layer_tensors(architecture: Architecture, s: &Sizes) -> Vec<(&'static str, Vec<usize>, bool)> {
    let mut tensors = vec![
        ("attn_norm.weight", vec![s.hidden], true),
        ("attn_q.weight", vec![s.queries, s.hidden], true),
        ("attn_k.weight", vec![s.keys, s.hidden], true),
        ("attn_v.weight", vec![s.values, s.hidden], true),
        ("attn_output.weight", vec![s.hidden, s.queries], true),
        ("ffn_norm.weight", vec![s.hidden], true),
        ("ffn_gate.weight", vec![s.feed_forward, s.hidden], true),
        ("ffn_up.weight", vec![s.feed_forward, s.hidden], true),
        ("ffn_down.weight", vec![s.hidden, s.feed_forward], true),
        // llama.cpp takes a Qwen2 file without these, and computes something else.
        ("attn_q.bias", vec![s.queries], architecture == Architecture::Qwen2),
        ("attn_k.bias", vec![s.keys], architecture == Architecture::Qwen2),
        ("attn_v.bias", vec![s.values], architecture == Architecture::Qwen2),
    ];
    match architecture {
        Architecture::Qwen2 => {}
        Architecture::Qwen3 => tensors.extend([
            ("attn_q_norm.weight", vec![s.head_dim], true),
            ("attn_k_norm.weight", vec![s.head_dim], true),
        ]),
        Architecture::Llama => tensors.extend([
            ("attn_output.bias", vec![s.hidden], false),
            ("ffn_gate.bias", vec![s.feed_forward], false),
            ("ffn_up.bias", vec![s.feed_forward], false),
            ("ffn_down.bias", vec![s.hidden], false),
        ]),
    }
    tensors
}

pub(super) fn tensors(file: &Planned) -> Outcome {
    let row = Architecture::from_gguf_name(&file.architecture);
    let (Some(row), Some(sizes)) = (row, sizes(file)) else { return Outcome::NotReached };
    let rows = file.tokens().map_or(0, Strings::len);
    let mut known = vec![
        ("token_embd.weight".to_owned(), vec![rows, sizes.hidden], true),
        ("output_norm.weight".to_owned(), vec![sizes.hidden], true),
        ("output.weight".to_owned(), vec![rows, sizes.hidden], false),
    ];
    if row.architecture == Architecture::Llama {
        let rotated = file.number("rope.dimension_count").unwrap_or(sizes.head_dim);
        known.push(("rope_freqs.weight".to_owned(), vec![rotated / 2], false));
    }
    // A file of a few bytes may claim any number of layers.
    let layers = sizes.layers.min(file.specs.len());
    for layer in 0..layers {
        let of_layer = layer_tensors(row.architecture, &sizes);
        known.extend(
            of_layer.into_iter().map(|(name, shape, must)| (format!("blk.{layer}.{name}"), shape, must)),
        );
    }
    let mut problems = Vec::new();
    if layers < sizes.layers {
        problems.push(format!("{} layers, but only {} tensors", sizes.layers, file.specs.len()));
    }
    let mut used = HashSet::new();
    for (name, shape, must) in &known {
        match file.specs.iter().find(|spec| spec.name == *name) {
            Some(spec) if spec.shape == *shape => {
                used.insert(name.as_str());
            }
            Some(spec) => {
                used.insert(name.as_str());
                problems.push(format!("{name}: expected shape {shape:?}, found {:?}", spec.shape));
            }
            None if *must => problems.push(format!("{name} is missing")),
            None => {}
        }
    }
    let unused = file.specs.iter().filter(|spec| !used.contains(spec.name.as_str()));
    problems
        .extend(unused.map(|spec| format!("{} is not a tensor of {} models", spec.name, file.architecture)));
    listed(problems.into_iter())
}

pub(super) fn vectors(file: &Planned) -> Outcome {
    let wrong = file.specs.iter().filter(|spec| spec.shape.len() <= 1 && spec.tensor_type != TensorType::F32);
    listed(wrong.map(|spec| format!("{}: expected F32, found {}", spec.name, spec.tensor_type)))
}

pub(super) fn rope(file: &Planned) -> Outcome {
    let Some(sizes) = sizes(file) else { return Outcome::NotReached };
    let mut problems = Vec::new();
    if let Some(rotated) = file.number("rope.dimension_count").filter(|&rotated| rotated != sizes.head_dim) {
        problems.push(format!("rope.dimension_count is {rotated}, but heads have {}", sizes.head_dim));
    }
    let key = |rest: &str| format!("{}.rope.scaling.{rest}", file.architecture);
    if let Some(kind) = file.string(&key("type")) {
        if !matches!(kind, "none" | "linear" | "yarn" | "longrope") {
            problems.push(format!("rope.scaling.type is {kind:?}: expected none, linear, yarn or longrope"));
        }
        let factor = file.metadata.get(&key("factor"));
        if matches!(kind, "linear" | "yarn") && factor.is_none() {
            problems.push(format!("rope.scaling.type is {kind}, but there is no rope.scaling.factor"));
        }
    }
    Outcome::of(problems)
}

pub(super) fn vocabulary(file: &Planned) -> Outcome {
    let mut problems = Vec::new();
    match file.vocabulary_kind() {
        Some("gpt2" | "llama") => {}
        Some(other) => problems.push(format!("tokenizer.ggml.model is {other:?}: expected gpt2 or llama")),
        None => problems.push("tokenizer.ggml.model is missing".to_owned()),
    }
    let Some(tokens) = file.tokens() else {
        problems.push("tokenizer.ggml.tokens is missing, or not an array of strings".to_owned());
        return Outcome::of(problems);
    };
    let embedding = file.specs.iter().find(|spec| spec.name == "token_embd.weight");
    if let Some(rows) = embedding.and_then(|spec| spec.shape.first()).filter(|&&rows| rows != tokens.len()) {
        problems.push(format!("{} tokens, but token_embd.weight has {rows} rows", tokens.len()));
    }
    if let Some(stated) = file.number("vocab_size").filter(|&stated| stated != tokens.len()) {
        problems.push(format!("{} tokens, but vocab_size is {stated}", tokens.len()));
    }
    let mut seen = HashSet::new();
    let twice = tokens.iter().enumerate().find(|(_, token)| !token.is_empty() && !seen.insert(*token));
    if let Some((id, token)) = twice {
        problems.push(format!("token {id}, \"{}\", is there twice", token.escape_ascii()));
    }
    Outcome::of(problems)
}

/// Runs a rule where the vocabulary is of this kind.
fn only(file: &Planned, kind: &str, rule: impl FnOnce() -> Vec<String>) -> Outcome {
    match file.vocabulary_kind() {
        Some(found) if found == kind => Outcome::of(rule()),
        Some(_) => Outcome::NotApplicable,
        None => Outcome::NotReached,
    }
}

pub(super) fn merges(file: &Planned) -> Outcome {
    only(file, "gpt2", || match file.array("merges") {
        Some(Array::String(merges)) => {
            let two_parts = |merge: &[u8]| matches!(merge.iter().position(|&b| b == b' '), Some(1..));
            let wrong = merges.iter().enumerate().find(|(_, merge)| !two_parts(merge));
            let problem = wrong.map(|(at, merge)| {
                format!("merge {at}, \"{}\", has not two parts with a space between", merge.escape_ascii())
            });
            problem.into_iter().collect()
        }
        _ => vec!["tokenizer.ggml.merges is missing, or not an array of strings".to_owned()],
    })
}

pub(super) fn pre(file: &Planned) -> Outcome {
    only(file, "gpt2", || match file.string("tokenizer.ggml.pre") {
        None => {
            vec!["tokenizer.ggml.pre is missing: llama.cpp warns and cuts words as GPT-2 does".to_owned()]
        }
        Some(name) => {
            PreTokenizer::from_name(name).err().map(|error| error.to_string()).into_iter().collect()
        }
    })
}

pub(super) fn token_types(file: &Planned) -> Outcome {
    let Some(tokens) = file.tokens() else { return Outcome::NotReached };
    let problem = match file.array("token_type") {
        Some(Array::I32(types)) if types.len() < tokens.len() => {
            Some(format!("{} types for {} tokens", types.len(), tokens.len()))
        }
        Some(Array::I32(types)) => types
            .iter()
            .position(|kind| !(1..=6).contains(kind))
            .map(|id| format!("token {id}: types are 1 to 6, found {}", types.get(id).copied().unwrap_or(0))),
        Some(other) => Some(format!("expected an array of i32, found {}", other.element_type())),
        None => Some("tokenizer.ggml.token_type is missing: no token is a control token then".to_owned()),
    };
    Outcome::of(problem.into_iter().collect())
}

pub(super) fn scores(file: &Planned) -> Outcome {
    only(file, "llama", || {
        let tokens = file.tokens().map_or(0, Strings::len);
        let problem = match file.array("scores") {
            Some(Array::F32(scores)) if scores.len() < tokens => {
                Some(format!("{} scores for {tokens} tokens", scores.len()))
            }
            Some(Array::F32(scores)) => scores
                .iter()
                .position(|score| !score.is_finite())
                .map(|id| format!("the score of token {id} is not finite")),
            _ => Some("tokenizer.ggml.scores is missing, or not an array of f32".to_owned()),
        };
        problem.into_iter().collect()
    })
}

pub(super) fn special_ids(file: &Planned) -> Outcome {
    let Some(tokens) = file.tokens() else { return Outcome::NotReached };
    let mut problems = Vec::new();
    for name in ["bos", "eos", "unknown", "padding", "eot", "eom"] {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match file.metadata.get(&key) {
            None if name == "eos" => problems.push(format!("{key} is missing: llama.cpp guesses one")),
            None => {}
            Some(Value::U32(id)) if (*id as usize) < tokens.len() => {}
            Some(Value::U32(id)) => {
                problems.push(format!("{key} is {id}, but there are {} tokens", tokens.len()));
            }
            Some(other) => problems.push(format!("{key}: expected u32, found {}", other.type_name())),
        }
    }
    Outcome::of(problems)
}
