//! Tiny models with the same weights in all three formats, and the larger fixtures.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this")]

use aprgpu::format::TensorSpec;
use aprgpu::format::apr::AprWriter;
use aprgpu::format::gguf::{GgufWriter, Value};
use aprgpu::quant::TensorType;
use serde_json::{Map, json};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

#[path = "../support/fixtures.rs"]
mod lookup;
pub(crate) use lookup::fixtures;

/// A tensor on its way into a file.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) tensor_type: TensorType,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Stored {
    pub(crate) fn f32(name: &str, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        Self { name: name.to_owned(), tensor_type: TensorType::F32, shape: shape.to_vec(), bytes }
    }

    fn spec(&self) -> TensorSpec {
        TensorSpec {
            name: self.name.clone(),
            tensor_type: self.tensor_type,
            shape: self.shape.clone(),
            bytes: self.bytes.len(),
        }
    }
}

/// A model of a few thousand weights.
#[derive(Clone, Debug)]
pub(crate) struct Tiny {
    pub(crate) architecture: &'static str,
    pub(crate) layers: usize,
    pub(crate) hidden: usize,
    pub(crate) intermediate: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
    pub(crate) eps: f32,
    pub(crate) theta: f32,
    pub(crate) tied: bool,
    /// Biases on q, k and v; on the output; on gate, up and down.
    pub(crate) biases: (bool, bool, bool),
}

impl Tiny {
    pub(crate) fn new(architecture: &'static str) -> Self {
        let qwen2 = architecture == "qwen2";
        Self {
            architecture,
            layers: 2,
            hidden: 32,
            intermediate: 48,
            heads: 4,
            kv_heads: 2,
            head_dim: if architecture == "qwen3" { 16 } else { 8 },
            vocab: 40,
            eps: if architecture == "llama" { 1e-5 } else { 1e-6 },
            theta: 500_000.0,
            tied: architecture != "llama",
            biases: (qwen2, false, false),
        }
    }

    pub(crate) fn gguf_metadata(&self) -> Vec<(String, Value)> {
        let a = self.architecture;
        let u32 = |key: &str, value: usize| (format!("{a}.{key}"), Value::U32(value as u32));
        let f32 = |key: &str, value: f32| (format!("{a}.{key}"), Value::F32(value));
        vec![
            ("general.architecture".to_owned(), Value::from(a)),
            u32("block_count", self.layers),
            u32("context_length", 2048),
            u32("embedding_length", self.hidden),
            u32("feed_forward_length", self.intermediate),
            u32("attention.head_count", self.heads),
            u32("attention.head_count_kv", self.kv_heads),
            u32("attention.key_length", self.head_dim),
            u32("attention.value_length", self.head_dim),
            f32("attention.layer_norm_rms_epsilon", self.eps),
            f32("rope.freq_base", self.theta),
            u32("rope.dimension_count", self.head_dim),
            u32("vocab_size", self.vocab),
        ]
    }

    pub(crate) fn apr_metadata(&self) -> Map<String, serde_json::Value> {
        let value = json!({
            "architecture": self.architecture,
            "hidden_size": self.hidden,
            "num_layers": self.layers,
            "num_heads": self.heads,
            "num_kv_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 2048,
            "rope_theta": self.theta,
            "rope_type": if self.architecture == "llama" { 0 } else { 2 },
            "rms_norm_eps": f64::from(self.eps),
            "tied_embeddings": self.tied,
        });
        value.as_object().unwrap().clone()
    }

    pub(crate) fn hf_config(&self) -> serde_json::Value {
        let class = match self.architecture {
            "qwen2" => "Qwen2ForCausalLM",
            "qwen3" => "Qwen3ForCausalLM",
            _ => "LlamaForCausalLM",
        };
        json!({
            "architectures": [class],
            "model_type": self.architecture,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "max_position_embeddings": 2048,
            "rms_norm_eps": self.eps,
            "rope_theta": self.theta,
            "hidden_act": "silu",
            "tie_word_embeddings": self.tied,
            "attention_bias": self.biases.0 && self.architecture != "qwen2",
            "mlp_bias": self.biases.2,
        })
    }

    /// Roles of a layer: GGUF name, Hugging Face name, shape.
    fn layer(&self) -> Vec<(&'static str, &'static str, Vec<usize>)> {
        let (h, q, k, f) =
            (self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim, self.intermediate);
        let mut all = vec![
            ("attn_norm.weight", "input_layernorm.weight", vec![h]),
            ("attn_q.weight", "self_attn.q_proj.weight", vec![q, h]),
            ("attn_k.weight", "self_attn.k_proj.weight", vec![k, h]),
            ("attn_v.weight", "self_attn.v_proj.weight", vec![k, h]),
            ("attn_output.weight", "self_attn.o_proj.weight", vec![h, q]),
            ("ffn_norm.weight", "post_attention_layernorm.weight", vec![h]),
            ("ffn_gate.weight", "mlp.gate_proj.weight", vec![f, h]),
            ("ffn_up.weight", "mlp.up_proj.weight", vec![f, h]),
            ("ffn_down.weight", "mlp.down_proj.weight", vec![h, f]),
        ];
        if self.biases.0 {
            all.push(("attn_q.bias", "self_attn.q_proj.bias", vec![q]));
            all.push(("attn_k.bias", "self_attn.k_proj.bias", vec![k]));
            all.push(("attn_v.bias", "self_attn.v_proj.bias", vec![k]));
        }
        if self.biases.1 {
            all.push(("attn_output.bias", "self_attn.o_proj.bias", vec![h]));
        }
        if self.biases.2 {
            all.push(("ffn_gate.bias", "mlp.gate_proj.bias", vec![f]));
            all.push(("ffn_up.bias", "mlp.up_proj.bias", vec![f]));
            all.push(("ffn_down.bias", "mlp.down_proj.bias", vec![h]));
        }
        if self.architecture == "qwen3" {
            all.push(("attn_q_norm.weight", "self_attn.q_norm.weight", vec![self.head_dim]));
            all.push(("attn_k_norm.weight", "self_attn.k_norm.weight", vec![self.head_dim]));
        }
        all
    }

    /// All tensors under Hugging Face names, rows in Hugging Face's order.
    pub(crate) fn hf_tensors(&self) -> Vec<Stored> {
        let mut tensors = vec![
            fill("model.embed_tokens.weight", &[self.vocab, self.hidden]),
            fill("model.norm.weight", &[self.hidden]),
        ];
        if !self.tied {
            tensors.push(fill("lm_head.weight", &[self.vocab, self.hidden]));
        }
        for i in 0..self.layers {
            let layer = self.layer();
            tensors.extend(layer.iter().map(|(_, hf, shape)| fill(&format!("model.layers.{i}.{hf}"), shape)));
        }
        tensors
    }

    /// The same weights under GGUF names; for llama with the rows of q and k interleaved, as llama.cpp's converter does:
    /// `reshape(heads, 2, head_dim / 2, ..).swapaxes(1, 2)`.
    pub(crate) fn gguf_tensors(&self) -> Vec<Stored> {
        let hf = self.hf_tensors();
        hf.into_iter()
            .map(|mut tensor| {
                let name = self.gguf_name(&tensor.name);
                if self.architecture == "llama" && (name.contains("attn_q.") || name.contains("attn_k.")) {
                    let row = tensor.bytes.len() / tensor.shape[0];
                    let mut bytes = Vec::new();
                    for head in tensor.bytes.chunks(row * self.head_dim) {
                        let (low, high) = head.split_at(head.len() / 2);
                        for (a, b) in low.chunks(row).zip(high.chunks(row)) {
                            bytes.extend_from_slice(a);
                            bytes.extend_from_slice(b);
                        }
                    }
                    tensor.bytes = bytes;
                }
                tensor.name = name;
                tensor
            })
            .collect()
    }

    fn gguf_name(&self, hf: &str) -> String {
        match hf {
            "model.embed_tokens.weight" => return "token_embd.weight".to_owned(),
            "model.norm.weight" => return "output_norm.weight".to_owned(),
            "lm_head.weight" => return "output.weight".to_owned(),
            _ => {}
        }
        let (number, rest) = hf.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
        let layer = self.layer();
        let (gguf, ..) = layer.iter().find(|(_, hf, _)| *hf == rest).unwrap();
        format!("blk.{number}.{gguf}")
    }
}

/// Values that differ from row to row, column to column and tensor to tensor.
fn fill(name: &str, shape: &[usize]) -> Stored {
    let seed: u32 = name.bytes().fold(17, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)));
    let value = |i: usize| {
        let mixed = (seed ^ (i as u32).wrapping_mul(2_654_435_761)).wrapping_mul(2_246_822_519);
        (mixed >> 8) as f32 / (1 << 24) as f32 - 0.5
    };
    let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
    Stored::f32(name, shape, &values)
}

/// A file or folder that lives as long as this.
pub(crate) struct Written {
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

pub(crate) fn gguf(metadata: &[(String, Value)], tensors: &[Stored]) -> Written {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tiny.gguf");
    let specs: Vec<_> = tensors.iter().map(Stored::spec).collect();
    let out = BufWriter::new(File::create(&path).unwrap());
    let mut writer = GgufWriter::new(out, &path, 3, metadata, &specs).unwrap();
    tensors.iter().for_each(|tensor| writer.write(&tensor.bytes).unwrap());
    writer.finish(None).unwrap();
    Written { path, _folder: folder }
}

pub(crate) fn apr(metadata: &Map<String, serde_json::Value>, tensors: &[Stored]) -> Written {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("tiny.apr");
    let specs: Vec<_> = tensors.iter().map(Stored::spec).collect();
    let out = BufWriter::new(File::create(&path).unwrap());
    let flags = AprWriter::<BufWriter<File>>::flags(metadata, &specs);
    let mut writer = AprWriter::new(out, &path, flags, metadata, &specs).unwrap();
    tensors.iter().for_each(|tensor| writer.write(&tensor.bytes).unwrap());
    writer.finish().unwrap();
    Written { path, _folder: folder }
}

pub(crate) fn hf(config: &serde_json::Value, tensors: &[Stored]) -> Written {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut header = Map::new();
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let offsets = [start, data.len()];
        let entry =
            json!({"dtype": tensor.tensor_type.name(), "shape": tensor.shape, "data_offsets": offsets});
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    Written { path: folder.path().to_owned(), _folder: folder }
}
