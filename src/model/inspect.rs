//! What `aprgpu inspect` shows of a model, ready to be printed or serialized.

use super::config::{DefaultTaken, ModelConfig};
use super::names::Role;
use super::open::{Model, Source};
use super::weights::WeightTensor;
use crate::format::Tensor;
use crate::quant::TensorType;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// The path that was opened.
    pub file: PathBuf,
    /// `GGUF`, `APR` or `Hugging Face`.
    pub format: &'static str,
    /// Bytes of the file, or of all weight files of a folder.
    pub size: u64,
    /// The architecture's name in GGUF files.
    pub architecture: &'static str,
    /// Every field.
    pub config: ModelConfig,
    /// Every value that no key of the file states.
    pub defaults: Vec<DefaultTaken>,
    /// Number of weights; tied ones count once.
    pub parameters: u64,
    /// Bits of the file's tensors per weight.
    pub bits_per_weight: f64,
    /// Tensors by type, the most bytes first.
    pub types: Vec<TypeSummary>,
    /// Keys (or files of a folder) that hold the tokenizer.
    pub tokenizer: Vec<String>,
    /// Whether the file holds a chat template.
    pub chat_template: bool,
    /// Tensors that take memory of their own.
    pub notes: Vec<NoteSummary>,
    /// What a user should know.
    pub warnings: Vec<String>,
    /// Every tensor of the file.
    pub tensors: Vec<TensorSummary>,
}

/// All tensors of one type.
#[derive(Clone, Debug, Serialize)]
pub struct TypeSummary {
    /// The type's name.
    #[serde(rename = "type")]
    pub tensor_type: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of weights.
    pub parameters: u64,
    /// Their bytes in the file.
    pub bytes: u64,
}

/// A tensor that was converted while loading.
#[derive(Clone, Debug, Serialize)]
pub struct NoteSummary {
    /// Its name.
    pub tensor: String,
    /// What was done.
    pub what: String,
    /// The memory that this takes.
    pub bytes: u64,
}

/// One tensor of the file.
#[derive(Clone, Debug, Serialize)]
pub struct TensorSummary {
    /// Its name in the file.
    pub name: String,
    /// What it is for; several for a fused tensor, none for one that is not used.
    pub roles: Vec<Role>,
    /// The layer, for roles that belong to one.
    pub layer: Option<usize>,
    /// The shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// The type's name.
    #[serde(rename = "type")]
    pub tensor_type: &'static str,
    /// Bytes in the file.
    pub bytes: u64,
    /// The kernels that it runs on.
    pub kernel: String,
}

/// The kernel that a weight runs on. `activations` is what `--activations` takes: `q8`, `q8_k` or `f32`.
pub fn kernel_name(role: Role, tensor_type: TensorType, activations: &str) -> String {
    let name = tensor_type.name().to_ascii_lowercase();
    match role {
        Role::TokenEmbedding => format!("embed rows {name}"),
        Role::RopeFreqs => "rope table".to_owned(),
        Role::AttnNorm | Role::AttnQNorm | Role::AttnKNorm | Role::FfnNorm | Role::OutputNorm => {
            "rms_norm f32".to_owned()
        }
        _ if role.is_vector() => "add f32".to_owned(),
        _ => {
            let of_256 = tensor_type.block_len() == 256;
            let operand = match activations {
                _ if tensor_type.is_float() => "f32",
                "q8_k" if !of_256 => "q8_0",
                other => other,
            };
            format!("matvec {name} x {operand}")
        }
    }
}

impl Inspection {
    /// Looks at a model; `activations` as for [`kernel_name`].
    pub fn new(model: &Model, activations: &str) -> Self {
        let stored = model.source.tensors();
        let mut weights: BTreeMap<&str, Vec<&WeightTensor>> = BTreeMap::new();
        for weight in model.weights.tensors() {
            weights.entry(weight.name.as_str()).or_default().push(weight);
        }
        let tied = model.config.tied_embeddings;
        let tensors: Vec<TensorSummary> = stored
            .iter()
            .map(|tensor| {
                let of = weights.get(tensor.name.as_str()).map_or(&[][..], Vec::as_slice);
                summarize(tensor, of, tied, activations)
            })
            .collect();
        let used = tensors.iter().filter(|tensor| !tensor.roles.is_empty());
        let bytes: u64 = used.map(|tensor| tensor.bytes).sum();
        let parameters = model.weights.parameters();
        let note = |note: &super::LoadNote| NoteSummary {
            tensor: note.tensor.clone(),
            what: note.what.clone(),
            bytes: note.bytes,
        };
        let (tokenizer, chat_template) = tokenizer_keys(&model.source);
        Self {
            file: model.path.clone(),
            format: model.source.format(),
            size: size(&model.source),
            architecture: model.config.architecture.name(),
            config: model.config.clone(),
            defaults: model.defaults.clone(),
            parameters,
            bits_per_weight: bytes as f64 * 8.0 / parameters.max(1) as f64,
            types: types(stored),
            tokenizer,
            chat_template,
            notes: model.weights.notes().iter().map(note).collect(),
            warnings: model.warnings.clone(),
            tensors,
        }
    }
}

fn summarize(tensor: &Tensor, weights: &[&WeightTensor], tied: bool, activations: &str) -> TensorSummary {
    let mut kernel = match weights.first() {
        Some(weight) => kernel_name(weight.role, weight.tensor_type, activations),
        None if tensor.name == Role::RopeFreqs.gguf_name(None) => {
            kernel_name(Role::RopeFreqs, tensor.tensor_type, activations)
        }
        None if tensor.is_empty() => "none: the embedding is the head".to_owned(),
        None => "none: not used".to_owned(),
    };
    if let Some(weight) = weights.first() {
        if tied && weight.role == Role::TokenEmbedding {
            kernel = format!("{kernel}; {}", kernel_name(Role::Output, weight.tensor_type, activations));
        }
        if !weight.role.is_vector() && weight.tensor_type != tensor.tensor_type {
            kernel = format!("{kernel} (loaded as {})", weight.tensor_type);
        }
    }
    TensorSummary {
        name: tensor.name.clone(),
        roles: weights.iter().map(|weight| weight.role).collect(),
        layer: weights.first().and_then(|weight| weight.layer),
        shape: tensor.shape.clone(),
        tensor_type: tensor.tensor_type.name(),
        bytes: tensor.bytes().len() as u64,
        kernel,
    }
}

fn types(tensors: &[Tensor]) -> Vec<TypeSummary> {
    let mut types: BTreeMap<TensorType, TypeSummary> = BTreeMap::new();
    for tensor in tensors.iter().filter(|tensor| !tensor.is_empty()) {
        let name = tensor.tensor_type.name();
        let entry = types.entry(tensor.tensor_type).or_insert(TypeSummary {
            tensor_type: name,
            tensors: 0,
            parameters: 0,
            bytes: 0,
        });
        entry.tensors += 1;
        entry.parameters += tensor.len() as u64;
        entry.bytes += tensor.bytes().len() as u64;
    }
    let mut types: Vec<_> = types.into_values().collect();
    types.sort_by_key(|entry| std::cmp::Reverse(entry.bytes));
    types
}

/// Bytes of all files that hold tensors; of the file itself where it is one.
fn size(source: &Source) -> u64 {
    let mut files: BTreeMap<&Path, u64> = BTreeMap::new();
    for tensor in source.tensors() {
        files.insert(tensor.map.path(), tensor.map.bytes().len() as u64);
    }
    files.values().sum()
}

/// The keys or files that hold the tokenizer, and whether there is a chat template.
fn tokenizer_keys(source: &Source) -> (Vec<String>, bool) {
    const TEMPLATE: &str = "tokenizer.chat_template";
    let of_tokenizer = |key: &&String| key.starts_with("tokenizer.") && *key != TEMPLATE;
    match source {
        Source::Gguf(gguf) => {
            let keys = gguf.metadata().iter().map(|(key, _)| key).filter(of_tokenizer).cloned();
            (
                keys.collect(),
                gguf.string(TEMPLATE).is_ok_and(|template| template.is_some_and(|t| !t.is_empty())),
            )
        }
        Source::Apr(apr) => {
            let keys = apr.metadata().keys().filter(of_tokenizer).cloned();
            let there = |key: &str| apr.metadata().get(key).is_some_and(serde_json::Value::is_string);
            (keys.collect(), there("chat_template") || there(TEMPLATE))
        }
        Source::HuggingFace(folder) => {
            let files = ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"];
            let found = files.into_iter().filter(|name| folder.file(name).is_some()).map(str::to_owned);
            let in_config = || {
                let config = folder.json("tokenizer_config.json").ok().flatten();
                config.is_some_and(|config| config.get("chat_template").is_some_and(|value| !value.is_null()))
            };
            (found.collect(), folder.file("chat_template.jinja").is_some() || in_config())
        }
    }
}
