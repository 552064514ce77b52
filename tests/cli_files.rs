//! The commands about files as their users meet them: validate, preflight, stamp, diff, quantize --dry-run, lattice folders.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[path = "support/mod.rs"]
mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::repository;

fn aprgpu(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_aprgpu")).args(args).output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = aprgpu(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn stderr(args: &[&str]) -> String {
    let output = aprgpu(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stderr).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn tiny() -> PathBuf {
    repository("tests/models/tiny-coder.apr")
}

/// tiny-coder without its control tokens' types, under a right checksum.
fn broken(folder: &Path) -> PathBuf {
    let path = folder.join("broken.gguf");
    stderr(&["convert", text(&tiny()), text(&path)]);
    stderr(&["stamp", text(&path), "--set", "tokenizer.ggml.eos_token_id=300"]);
    path
}

#[test]
fn validate_prints_a_table_or_json_and_exits_with_5() {
    let folder = tempfile::tempdir().unwrap();
    let table = stdout(&["validate", text(&tiny())]);
    assert!(
        table.contains("llama.cpp-tensors") && table.contains("checksum") && !table.contains("FAILED"),
        "{table}"
    );
    let report = json(&stdout(&["validate", text(&tiny()), "--json"]));
    assert_eq!(report["passed"], true);
    assert!(report["findings"].as_array().unwrap().iter().all(|finding| finding["outcome"] != "failed"));

    let broken = broken(folder.path());
    let output = aprgpu(&["validate", text(&broken)]);
    assert_eq!(output.status.code(), Some(5));
    assert!(String::from_utf8_lossy(&output.stdout).contains("FAILED"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("failed: tokenizer-end"));
    let output = aprgpu(&["validate", text(&broken), "--json"]);
    assert_eq!(output.status.code(), Some(5));
    let report = json(&String::from_utf8(output.stdout).unwrap());
    let finding =
        report["findings"].as_array().unwrap().iter().find(|f| f["rule"] == "tokenizer-end").unwrap();
    assert!(
        finding["outcome"] == "failed" && finding["problems"][0].as_str().unwrap().contains("plain text")
    );
    assert_eq!(report["passed"], false);

    assert_eq!(aprgpu(&["validate", "nothing.gguf"]).status.code(), Some(3));
    assert!(stdout(&["validate", "--rules"]).contains("every scale, minimum and float is finite"));
    assert!(json(&stdout(&["validate", "--rules", "--json"])).as_array().unwrap().len() > 20);
}

#[test]
fn preflight_says_whether_a_model_is_ready_and_why_not() {
    let folder = tempfile::tempdir().unwrap();
    // All is well but for a licence; with one, all is well.
    let output = aprgpu(&["preflight", text(&tiny()), "--backend", "cpu"]);
    assert_eq!(output.status.code(), Some(5), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stderr).contains("a licence is missing"));
    assert!(String::from_utf8_lossy(&output.stdout).contains("not ready to be published"));
    let licensed = folder.path().join("licensed.apr");
    stderr(&["stamp", text(&tiny()), "-o", text(&licensed), "--license", "MIT"]);
    for backend in ["cpu", "twin"] {
        let report = json(&stdout(&["preflight", text(&licensed), "--backend", backend, "--json"]));
        assert_eq!(report["passed"], true, "{report}");
        let trials = report["trials"].as_array().unwrap();
        let names: Vec<_> = trials.iter().map(|trial| trial["trial"].as_str().unwrap()).collect();
        assert_eq!(
            names,
            ["model card", "tokenizer round trip", "forward pass", "decode against the twin"],
            "{report}"
        );
        assert!(trials[3]["found"].as_str().unwrap().starts_with("8 of 8"), "{report}");
    }
    // A file that breaks a rule is not run.
    let output = aprgpu(&["preflight", text(&broken(folder.path())), "--json"]);
    assert_eq!(output.status.code(), Some(5));
    let report = json(&String::from_utf8(output.stdout).unwrap());
    assert_eq!(report["trials"], serde_json::json!([]));
}

#[test]
fn a_model_whose_logits_are_all_the_same_is_not_ready() {
    // Norms of zero: every rule holds, and nothing is computed.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mute.gguf");
    stderr(&["convert", text(&tiny()), text(&path)]);
    stderr(&["stamp", text(&path), "--license", "MIT"]);
    let gguf = aprgpu::format::gguf::Gguf::open(&path).unwrap();
    let range = gguf.tensor("output_norm.weight").unwrap().range.clone();
    drop(gguf);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[range].fill(0);
    std::fs::write(&path, bytes).unwrap();
    let output = aprgpu(&["preflight", text(&path), "--backend", "cpu"]);
    assert_eq!(output.status.code(), Some(5));
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.contains("forward pass") && message.contains("all the same"), "{message}");
}

#[test]
fn stamp_says_what_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (model, template) = (folder.path().join("m.gguf"), folder.path().join("chat.jinja"));
    stderr(&["convert", text(&tiny()), text(&model)]);
    std::fs::write(&template, "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}").unwrap();
    let args = [
        "stamp",
        text(&model),
        "--chat-template",
        text(&template),
        "--license",
        "MIT",
        "--name",
        "mini-coder",
    ];
    let told = stderr(&args);
    assert!(told.contains("general.license: string MIT (was: nothing)"), "{told}");
    assert!(told.contains("general.name: string mini-coder (was: string tiny-coder)"), "{told}");
    assert!(told.contains("3 keys changed, tensors were copied as they are"), "{told}");
    let messages = folder.path().join("m.json");
    std::fs::write(&messages, r#"[{"role": "user", "content": "hi"}]"#).unwrap();
    assert_eq!(stdout(&["template", text(&model), "--messages", text(&messages)]), "<user>hi");
    assert_eq!(aprgpu(&["stamp", text(&model)]).status.code(), Some(2));
    assert_eq!(aprgpu(&["stamp", text(&model), "--set", "no-value"]).status.code(), Some(2));
    assert_eq!(aprgpu(&["stamp", text(&model), "--chat-template", "nowhere.jinja"]).status.code(), Some(3));
}

#[test]
fn diff_prints_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    let (same, other) = (folder.path().join("same.gguf"), folder.path().join("other.gguf"));
    stderr(&["convert", text(&tiny()), text(&same)]);
    assert!(stdout(&["diff", text(&tiny()), text(&same)]).contains("the same metadata, tensors and types"));
    stderr(&[
        "quantize",
        text(&tiny()),
        text(&other),
        "--to",
        "q8_0",
        "--allow-requantize",
        "--name",
        "other",
    ]);
    let found = stdout(&["diff", text(&same), text(&other), "--values"]);
    for expected in
        ["general.name", "string other", "Q4_K [256, 256]", "Q8_0 [256, 256]", "NMSE", "std ratio", "none"]
    {
        assert!(found.contains(expected), "{expected} is missing in\n{found}");
    }
    assert!(!found.contains("FLAGGED"));
    let report = json(&stdout(&["diff", text(&same), text(&other), "--values", "--json"]));
    assert_eq!(report["same"], false);
    assert_eq!(report["layers"].as_array().unwrap().len(), 7);
    let tensors = report["tensors"].as_array().unwrap();
    let embedding = tensors.iter().find(|tensor| tensor["name"] == "token_embd.weight").unwrap();
    let nmse = embedding["values"]["nmse"].as_f64().unwrap();
    assert!(nmse > 0.0 && nmse < 1e-3, "{nmse}");
}

#[test]
fn a_dry_run_prints_types_bytes_and_bits_and_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let hf = folder.path().join("hf");
    stderr(&["convert", text(&tiny()), text(&hf)]);
    let output = folder.path().join("out.gguf");
    let args = ["quantize", text(&hf), text(&output), "--to", "q4_k_m", "--dry-run"];
    let table = stdout(&args);
    for expected in ["token_embd.weight", "Q6_K", "6.562", "bits per weight", "weights, "] {
        assert!(table.contains(expected), "{expected} is missing in\n{table}");
    }
    assert!(!output.exists());
    let with = |more: &[&str]| json(&stdout(&[&args[..], &["--json"], more].concat()));
    let type_of = |report: &Value, name: &str| {
        let tensors = report["tensors"].as_array().unwrap();
        tensors.iter().find(|tensor| tensor["name"] == name).unwrap()["to"].as_str().unwrap().to_owned()
    };
    let mixed = with(&[]);
    assert_eq!(type_of(&mixed, "blk.5.attn_v.weight"), "Q6_K");
    let pure = with(&["--pure"]);
    assert_eq!(type_of(&pure, "blk.5.attn_v.weight"), "Q4_K");
    assert!(pure["bytes"].as_u64() < mixed["bytes"].as_u64());
    let named = with(&["--tensor-type", "attn_k=q8_0", "--tensor-type", r"blk\.[01]\.ffn_up=f16"]);
    assert_eq!(type_of(&named, "blk.5.attn_k.weight"), "Q8_0");
    assert_eq!(type_of(&named, "blk.1.ffn_up.weight"), "F16");
    assert_eq!(type_of(&named, "blk.2.ffn_up.weight"), "Q4_K");
    for wrong in ["attn_k", "attn_k=q2_k", "(=q8_0"] {
        let args = [&args[..], &["--tensor-type", wrong]].concat();
        assert_eq!(aprgpu(&args).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn a_lattice_folder_is_written_inspected_run_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let (lattice, gguf) = (folder.path().join("lattice"), folder.path().join("out.gguf"));
    stderr(&["convert", text(&tiny()), text(&lattice), "--lattice", "asymmetric"]);
    assert!(stdout(&["inspect", text(&lattice)]).contains("lattice"));
    let told = stderr(&["convert", text(&lattice), text(&gguf)]);
    assert!(told.contains("LatticeQ4 to Q4_1, exactly"), "{told}");
    // The same numbers give the same text.
    let run = |model: &Path| {
        let args = [
            "run",
            text(model),
            "def f(",
            "-n",
            "8",
            "--temperature",
            "0",
            "--threads",
            "1",
            "--backend",
            "cpu",
        ];
        stdout(&args)
    };
    assert_eq!(run(&lattice), run(&gguf));
    let file = folder.path().join("out.apr");
    let wrong = aprgpu(&["convert", text(&tiny()), text(&file), "--lattice", "symmetric"]);
    assert_eq!(wrong.status.code(), Some(2));
}
