//! The peak of a run is one copy of the weights, the cache and the activations: what repacking copies replaces pages of
//! the mapped file. Needs Linux, whose `/proc` tells the peak of a process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use aprgpu::quant::TensorType;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use support::large_model::write_qwen2;
use support::repository;

const HIDDEN: usize = 1024;
const LAYERS: usize = 10;

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
    let file = write_qwen2(&path, HIDDEN, LAYERS, |role| match role {
        "token_embd" | "ffn_down" => TensorType::Q6_K,
        _ => TensorType::Q4_K,
    });
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
