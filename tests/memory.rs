//! The peak of a run is one copy of the weights, the cache and the activations: what repacking copies replaces pages of
//! the mapped file. Needs Linux, whose `/proc` tells the peak of a process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use aprgpu::convert;
use aprgpu::format::Map;
use aprgpu::format::TensorSpec;
use aprgpu::format::apr::Apr;
use aprgpu::format::gguf::{Gguf, GgufWriter, Value};
use aprgpu::quant::TensorType;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use support::repository;

const HIDDEN: usize = 1024;
const FFN: usize = 4096;
const LAYERS: usize = 10;
const VOCAB: usize = 4096;

/// Writes a model with tiny-coder's vocabulary and weights of zero; returns the file's size.
fn write_wide_model(path: &Path) -> u64 {
    let apr = Apr::open(&repository("tests/models/tiny-coder.apr")).unwrap();
    let options = convert::Options::default();
    let bytes = convert::write_gguf(&apr, Vec::new(), Path::new("m.gguf"), &options, &mut |_| {}).unwrap().0;
    let small = Gguf::from_map(Map::from_bytes(Path::new("m.gguf"), bytes)).unwrap();
    let sizes = [
        ("qwen2.embedding_length", HIDDEN),
        ("qwen2.feed_forward_length", FFN),
        ("qwen2.block_count", LAYERS),
        ("qwen2.attention.head_count", HIDDEN / 64),
        ("qwen2.attention.head_count_kv", HIDDEN / 64),
    ];
    let metadata: Vec<(String, Value)> = small
        .metadata()
        .iter()
        .map(|(key, value)| match sizes.iter().find(|(name, _)| name == key) {
            Some((_, size)) => (key.clone(), Value::U32(*size as u32)),
            None => (key.clone(), value.clone()),
        })
        .collect();
    let matrix = |name: String, t, rows, cols| TensorSpec::new(&name, t, &[rows, cols]).unwrap();
    let vector = |name: String, len: usize| TensorSpec::new(&name, TensorType::F32, &[len]).unwrap();
    let mut tensors = vec![
        matrix("token_embd.weight".to_owned(), TensorType::Q6_K, VOCAB, HIDDEN),
        vector("output_norm.weight".to_owned(), HIDDEN),
    ];
    for layer in 0..LAYERS {
        let name = |role: &str| format!("blk.{layer}.{role}");
        for role in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            tensors.push(matrix(name(&format!("{role}.weight")), TensorType::Q4_K, HIDDEN, HIDDEN));
        }
        tensors.extend(["attn_q.bias", "attn_k.bias", "attn_v.bias"].map(|role| vector(name(role), HIDDEN)));
        tensors.extend(["attn_norm.weight", "ffn_norm.weight"].map(|role| vector(name(role), HIDDEN)));
        for role in ["ffn_gate.weight", "ffn_up.weight"] {
            tensors.push(matrix(name(role), TensorType::Q4_K, FFN, HIDDEN));
        }
        tensors.push(matrix(name("ffn_down.weight"), TensorType::Q6_K, HIDDEN, FFN));
    }
    let out = BufWriter::new(std::fs::File::create(path).unwrap());
    let mut writer = GgufWriter::new(out, path, 3, &metadata, &tensors).unwrap();
    for tensor in &tensors {
        writer.write(&vec![0; tensor.bytes]).unwrap();
    }
    writer.finish(None).unwrap().flush().unwrap();
    std::fs::metadata(path).unwrap().len()
}

/// The peak of a process that has loaded a model and answered, in bytes.
fn peak(model: &Path) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aprgpu"))
        .args([
            "chat",
            model.to_str().unwrap(),
            "-n",
            "4",
            "--temperature",
            "0",
            "--ctx",
            "256",
            "--threads",
            "2",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").unwrap();
    // The answer is there once something is printed; the process then waits for the next line.
    let mut byte = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut byte).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn weights_are_not_held_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wide.gguf");
    let file = write_wide_model(&path);
    let program = peak(&repository("tests/models/tiny-coder.apr"));
    let cache = 2 * 2 * LAYERS * HIDDEN * 256;
    let found = peak(&path) - program;
    let expected = file + cache as u64;
    println!("file {file}, cache {cache}, the program itself {program}: peak {found} above that");
    assert!(
        found as f64 <= 1.2 * expected as f64,
        "{found} bytes at the peak for {expected} of weights and cache"
    );
}
