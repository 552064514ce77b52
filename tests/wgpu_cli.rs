//! The wgpu backend as users of `aprgpu` and `aprbench` meet it: which adapter is taken, what is printed about it, and the
//! exit code where there is none.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use std::path::Path;
use std::process::{Command, Output};
use support::{gpu, repository};

const APRGPU: &str = env!("CARGO_BIN_EXE_aprgpu");
const APRBENCH: &str = env!("CARGO_BIN_EXE_aprbench");

fn run(program: &str, cache: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = Command::new(program)
        .args(arguments)
        .env("APRGPU_CACHE", cache)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (status.code(), text(stdout), text(stderr))
}

#[test]
fn every_command_that_computes_says_which_adapter_it_looked_for() {
    let folder = tempfile::tempdir().unwrap();
    let model = repository("tests/models/tiny-coder.apr");
    let (model, text) = (model.to_str().unwrap(), repository("README.md"));
    let (text, out) = (text.to_str().unwrap(), folder.path().join("out"));
    let out = out.to_str().unwrap();
    let commands: &[(&str, &[&str])] = &[
        (APRGPU, &["run", model, "x", "--backend", "wgpu"]),
        (APRGPU, &["run", model, "x"]),
        (APRGPU, &["chat", model, "--backend", "wgpu"]),
        (APRGPU, &["logits", model, "--tokens", "1", "--out", out, "--backend", "wgpu"]),
        (APRGPU, &["perplexity", model, text, "--backend", "wgpu"]),
        (APRGPU, &["compare", model, "--backends", "cpu,wgpu", "--tokens", "1"]),
        (APRGPU, &["selftest", "--quick", "--backend", "wgpu"]),
        (APRBENCH, &["decode", model, "--backend", "wgpu"]),
        (APRBENCH, &["prefill", model, "--backend", "wgpu"]),
        (APRBENCH, &["kernels", "--reduced", "--backend", "wgpu"]),
        (APRBENCH, &["roofline", model, "--backend", "wgpu"]),
    ];
    for (program, arguments) in commands {
        let arguments = [arguments, &["--adapter", "no such adapter"][..]].concat();
        let (code, _, told) = run(program, folder.path(), &arguments);
        assert_eq!(code, Some(14), "{arguments:?}: {told}");
        assert!(told.contains("no such adapter") || told.contains("found none"), "{arguments:?}: {told}");
        assert!(!told.contains("panicked"), "{arguments:?}: {told}");
    }
}

#[test]
fn a_software_adapter_says_so_and_counts_its_work() {
    let Some(gpu) = gpu::shared() else { return };
    let name = gpu.summary().name.clone();
    let folder = tempfile::tempdir().unwrap();
    let model = repository("tests/models/tiny-coder.apr");
    let model = model.to_str().unwrap();
    let on_any = ["--backend", "wgpu", "--allow-software"];
    let (code, listed, _) = run(APRGPU, folder.path(), &["devices"]);
    assert_eq!(code, Some(0));
    assert!(listed.contains(&name) && listed.contains("shaders: matvec of"), "{listed}");

    let arguments = ["run", model, "def f(", "-n", "5", "--ignore-end", "--stats", "--profile"];
    let (code, _, told) = run(APRGPU, folder.path(), &[&arguments[..], &on_any].concat());
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains(&name) && told.contains("decode, per token: "), "{told}");
    assert_eq!(gpu.summary().software, told.contains("plays GPU"), "{told}");
    if gpu.summary().features.contains(&"timestamps") {
        assert!(told.contains("gate_up A=") && told.contains("GB/s"), "{told}");
    }
    let out = folder.path().join("logits");
    let arguments = ["logits", model, "--tokens", "1,2", "--stats", "--out", out.to_str().unwrap()];
    let (code, _, told) = run(APRGPU, folder.path(), &[&arguments[..], &on_any].concat());
    assert!(code == Some(0) && told.contains("2 rows in 1 submits"), "{told}");

    let arguments = ["compare", model, "--backends", "wgpu", "--allow-software", "--tokens", "1,5,9,2,3"];
    let (code, found, told) = run(APRGPU, folder.path(), &arguments);
    assert!(code == Some(0) && found.contains("same best token 100.0 %"), "{found}{told}");

    let arguments = ["decode", model, "-n", "3", "-r", "1", "--check", "none", "-o", "json"];
    let (code, found, told) = run(APRBENCH, folder.path(), &[&arguments[..], &on_any].concat());
    assert!(code == Some(0) && found.contains("\"wgpu\""), "{found}{told}");
}
