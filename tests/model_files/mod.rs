//! Where the large fixtures are, and small model files made on the spot.
#![allow(dead_code, unused_imports, clippy::panic, reason = "each test binary uses a part of this")]

use aprgpu::format::apr::{AprWriter, flags};
use aprgpu::format::gguf::{Array, GgufWriter, Strings, Value};
use aprgpu::format::{Map, TensorSpec};
use aprgpu::quant::TensorType;
use std::path::{Path, PathBuf};

mod imatrix;
pub(crate) use imatrix::imatrix;

#[path = "../support/fixtures.rs"]
mod lookup;
pub(crate) use lookup::fixtures;

/// All files below `folder` with this extension, sorted.
pub(crate) fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, extension));
        } else if path.extension().is_some_and(|e| e == extension) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Bytes as a map.
pub(crate) fn map(bytes: &[u8]) -> Map {
    Map::from_bytes(Path::new("test-file"), bytes.to_vec())
}

/// Bytes that differ from tensor to tensor.
pub(crate) fn pattern(count: usize, seed: usize) -> Vec<u8> {
    (0..count).map(|i| (i * 31 + seed * 17 + i / 256) as u8).collect()
}

/// A GGUF file with metadata of every type, strings that are not UTF-8, floats that are not finite, and tensors of
/// several types; llama architecture.
pub(crate) fn gguf_with_everything() -> Vec<u8> {
    let all: Strings = [&b"plain"[..], b"", b"\xff\xfe broken", "h\u{e9}".as_bytes()].into_iter().collect();
    let tokens: Strings =
        [&b"<s>"[..], b"\xe2\x96", b"b", b"c", b"d", b"e", b"f", b"g"].into_iter().collect();
    let metadata: Vec<(String, Value)> = [
        ("general.architecture", Value::from("llama")),
        ("general.alignment", Value::U32(64)),
        ("general.name", Value::from("everything")),
        ("llama.embedding_length", Value::U32(256)),
        ("llama.block_count", Value::U32(1)),
        ("llama.rope.freq_base", Value::F32(500000.0)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.tokens", Array::String(tokens).into()),
        (
            "tokenizer.ggml.scores",
            Array::F32(vec![0.0, -0.0, 1e-40, f32::NAN, -1.5, 0.1, f32::MAX, -3.3]).into(),
        ),
        ("a.u8", Value::U8(200)),
        ("a.i8", Value::I8(-100)),
        ("a.u16", Value::U16(60000)),
        ("a.i16", Value::I16(-30000)),
        ("a.i32", Value::I32(i32::MIN)),
        ("a.u64", Value::U64(u64::MAX)),
        ("a.i64", Value::I64(i64::MIN)),
        ("a.f64", Value::F64(0.1)),
        ("a.nan", Value::F32(f32::from_bits(0x7fc0_1234))),
        ("a.infinity", Value::F64(f64::NEG_INFINITY)),
        ("a.bool", Value::Bool(true)),
        ("a.bytes", Value::String(b"\x80\x81".to_vec())),
        ("a.u8s", Array::U8(vec![1, 2, 3]).into()),
        ("a.i8s", Array::I8(vec![-1, 2]).into()),
        ("a.u16s", Array::U16(vec![1, 65535]).into()),
        ("a.i16s", Array::I16(vec![-1, 2]).into()),
        ("a.u32s", Array::U32(vec![1, u32::MAX]).into()),
        ("a.i32s", Array::I32(vec![-1, 2]).into()),
        ("a.u64s", Array::U64(vec![u64::MAX]).into()),
        ("a.i64s", Array::I64(vec![i64::MIN]).into()),
        ("a.f64s", Array::F64(vec![0.1, f64::NAN]).into()),
        ("a.bools", Array::Bool(vec![true, false]).into()),
        ("a.strings", Array::String(all).into()),
        ("a.empty", Array::U32(vec![]).into()),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let tensors = [
        ("output_norm.weight", TensorType::F32, &[256][..]),
        ("token_embd.weight", TensorType::Q4_0, &[8, 256]),
        ("blk.0.attn_q.weight", TensorType::Q4_K, &[3, 256]),
        ("blk.0.attn_q.bias", TensorType::F16, &[3]),
        ("blk.0.ffn_up.weight", TensorType::Q5_K, &[2, 2, 256]),
        ("scalar", TensorType::I8, &[]),
        ("rope_freqs.weight", TensorType::F32, &[1]),
    ];
    gguf(3, &metadata, &tensors)
}

/// A GGUF file of these parts; tensor bytes are a pattern.
pub(crate) fn gguf(
    version: u32,
    metadata: &[(String, Value)],
    tensors: &[(&str, TensorType, &[usize])],
) -> Vec<u8> {
    let specs: Vec<TensorSpec> =
        tensors.iter().map(|(name, t, shape)| TensorSpec::new(name, *t, shape).unwrap()).collect();
    let mut writer = GgufWriter::new(Vec::new(), Path::new("built"), version, metadata, &specs).unwrap();
    for (seed, spec) in specs.iter().enumerate() {
        writer.write(&pattern(spec.bytes, seed)).unwrap();
    }
    writer.finish(None).unwrap()
}

/// An APR file of these parts; tensor bytes are a pattern.
pub(crate) fn apr(metadata: serde_json::Value, tensors: &[(&str, TensorType, &[usize])]) -> Vec<u8> {
    let serde_json::Value::Object(metadata) = metadata else { panic!("metadata must be an object") };
    let specs: Vec<TensorSpec> =
        tensors.iter().map(|(name, t, shape)| TensorSpec::new(name, *t, shape).unwrap()).collect();
    let mut writer =
        AprWriter::new(Vec::new(), Path::new("built"), flags::LAYOUT_ROW_MAJOR, &metadata, &specs).unwrap();
    for (seed, spec) in specs.iter().enumerate() {
        writer.write(&pattern(spec.bytes, seed)).unwrap();
    }
    writer.finish().unwrap()
}

/// A small APR file with several types, a private one among them.
pub(crate) fn small_apr() -> Vec<u8> {
    apr(
        serde_json::json!({"architecture": "llama", "hidden_size": 256, "rms_norm_eps": 1e-5, "tokenizer.merges": ["a b"]}),
        &[
            ("b", TensorType::Q4_K, &[2, 300]),
            ("a", TensorType::F32, &[5]),
            ("c", TensorType::AprQ4, &[3, 33]),
            ("d", TensorType::AprQ8, &[3, 7]),
            ("e", TensorType::Q8_0, &[2, 32]),
        ],
    )
}

/// A small safetensors file.
pub(crate) fn small_safetensors() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"x.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"y":{"dtype":"F32","shape":[1],"data_offsets":[12,16]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(pattern(16, 3));
    bytes
}
