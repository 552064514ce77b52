//! A GGUF file in its parts, to be changed and put together again.

#![allow(dead_code, reason = "each test binary uses a part of this")]

use aprgpu::convert::{self, Options};
use aprgpu::format::apr::Apr;
use aprgpu::format::gguf::{Array, Gguf, GgufWriter, Strings, Value};
use aprgpu::format::{Map, TensorSpec};
use aprgpu::quant::TensorType;
use std::path::Path;

/// Metadata and tensors with their bytes.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) metadata: Vec<(String, Value)>,
    pub(crate) tensors: Vec<(TensorSpec, Vec<u8>)>,
}

impl Parts {
    /// Those of a GGUF file.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let gguf = Gguf::from_map(Map::from_bytes(Path::new("parts.gguf"), bytes.to_vec())).unwrap();
        let tensors = gguf.tensors().iter().map(|t| (TensorSpec::of(t), t.bytes().to_vec())).collect();
        Self { metadata: gguf.metadata().to_vec(), tensors }
    }

    /// Those of the model in this repository.
    pub(crate) fn tiny_coder() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-coder.apr");
        let apr = Apr::open(&path).unwrap();
        let out = convert::write_gguf(&apr, Vec::new(), Path::new("m"), &Options::default(), &mut |_| {});
        Self::of(&out.unwrap().0)
    }

    /// A llama model of one layer with a SentencePiece vocabulary; all weights are small and alike.
    pub(crate) fn tiny_llama() -> Self {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
        tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
        tokens.extend(["\u{2581}", "a", "b", "\u{2581}a", "ab"].map(str::to_owned));
        let count = tokens.len();
        let types: Vec<i32> = (0..count)
            .map(|id| match id {
                0 => 2,
                1 | 2 => 3,
                3..=258 => 6,
                _ => 1,
            })
            .collect();
        let scores: Vec<f32> = (0..count).map(|id| -(id as f32)).collect();
        let tokens: Strings = tokens.into_iter().collect();
        let metadata = [
            ("general.architecture", "llama".into()),
            ("general.name", "tiny llama".into()),
            ("llama.block_count", Value::U32(1)),
            ("llama.context_length", Value::U32(64)),
            ("llama.embedding_length", Value::U32(32)),
            ("llama.feed_forward_length", Value::U32(64)),
            ("llama.attention.head_count", Value::U32(4)),
            ("llama.attention.head_count_kv", Value::U32(2)),
            ("llama.rope.freq_base", Value::F32(10000.0)),
            ("llama.rope.dimension_count", Value::U32(8)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.vocab_size", Value::U32(count as u32)),
            ("tokenizer.ggml.model", "llama".into()),
            ("tokenizer.ggml.tokens", Array::String(tokens).into()),
            ("tokenizer.ggml.scores", Array::F32(scores).into()),
            ("tokenizer.ggml.token_type", Array::I32(types).into()),
            ("tokenizer.ggml.bos_token_id", Value::U32(1)),
            ("tokenizer.ggml.eos_token_id", Value::U32(2)),
            ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
            ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
        ];
        let mut parts = Self {
            metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            tensors: Vec::new(),
        };
        let shapes: [(&str, &[usize]); 12] = [
            ("token_embd.weight", &[count, 32]),
            ("output_norm.weight", &[32]),
            ("output.weight", &[count, 32]),
            ("blk.0.attn_norm.weight", &[32]),
            ("blk.0.attn_q.weight", &[32, 32]),
            ("blk.0.attn_k.weight", &[16, 32]),
            ("blk.0.attn_v.weight", &[16, 32]),
            ("blk.0.attn_output.weight", &[32, 32]),
            ("blk.0.ffn_norm.weight", &[32]),
            ("blk.0.ffn_gate.weight", &[64, 32]),
            ("blk.0.ffn_up.weight", &[64, 32]),
            ("blk.0.ffn_down.weight", &[32, 64]),
        ];
        for (seed, (name, shape)) in shapes.into_iter().enumerate() {
            let values = shape.iter().product::<usize>();
            let value = |i: usize| ((i * 37 + seed * 11) % 41) as f32 / 100.0 - 0.2;
            parts.add(name, shape, (0..values).map(value).collect());
        }
        parts
    }

    /// Adds an F32 tensor.
    pub(crate) fn add(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        let spec = TensorSpec::new(name, TensorType::F32, shape).unwrap();
        self.tensors.push((spec, values.iter().flat_map(|value| value.to_le_bytes()).collect()));
    }

    /// Sets a key, or adds it.
    pub(crate) fn set(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        match self.metadata.iter_mut().find(|(known, _)| known == key) {
            Some((_, known)) => *known = value,
            None => self.metadata.push((key.to_owned(), value)),
        }
    }

    /// Takes a key away.
    pub(crate) fn remove(&mut self, key: &str) {
        let before = self.metadata.len();
        self.metadata.retain(|(known, _)| known != key);
        assert!(self.metadata.len() < before, "{key} is not there");
    }

    /// The strings under a key.
    pub(crate) fn strings(&self, key: &str) -> Vec<Vec<u8>> {
        match self.metadata.iter().find(|(known, _)| known == key) {
            Some((_, Value::Array(array))) => match array.as_ref() {
                Array::String(strings) => strings.iter().map(<[u8]>::to_vec).collect(),
                other => panic!("{key}: {other:?}"),
            },
            other => panic!("{key}: {other:?}"),
        }
    }

    /// Sets an array of strings.
    pub(crate) fn set_strings(&mut self, key: &str, strings: Vec<Vec<u8>>) {
        self.set(key, Array::String(strings.into_iter().collect::<Strings>()));
    }

    /// The tensor with this name.
    pub(crate) fn tensor(&mut self, name: &str) -> &mut (TensorSpec, Vec<u8>) {
        self.tensors.iter_mut().find(|(spec, _)| spec.name == name).unwrap()
    }

    /// The file.
    pub(crate) fn write(&self) -> Vec<u8> {
        let specs: Vec<TensorSpec> = self.tensors.iter().map(|(spec, _)| spec.clone()).collect();
        let mut writer =
            GgufWriter::new(Vec::new(), Path::new("parts.gguf"), 3, &self.metadata, &specs).unwrap();
        self.tensors.iter().for_each(|(_, bytes)| writer.write(bytes).unwrap());
        writer.finish(None).unwrap()
    }
}
