//! `tools/hf_parity`: transformers continues prompts as this program does, and a fault in one layer is noticed.
//!
//! Needs a Python with torch and transformers, named by `APRGPU_HF_PYTHON`; skipped without.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

const APRGPU: &str = env!("CARGO_BIN_EXE_aprgpu");

fn run(command: &mut Command) -> Output {
    command.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

/// The demonstration model as a Hugging Face folder, read by both.
fn export(folder: &Path) {
    let arguments = ["convert", "tests/models/tiny-coder.apr", folder.to_str().unwrap(), "--dtype", "f32"];
    let output = run(Command::new(APRGPU).args(arguments));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Makes the norm before a layer's feed-forward `factor` times as large.
fn scale_norm(folder: &Path, layer: usize, factor: f32) {
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let norm = &tensors[format!("model.layers.{layer}.post_attention_layernorm.weight")];
    assert_eq!(norm["dtype"], "F32");
    let offset = |end: usize| 8 + header + norm["data_offsets"][end].as_u64().unwrap() as usize;
    for value in bytes[offset(0)..offset(1)].as_chunks_mut::<4>().0 {
        *value = (factor * f32::from_le_bytes(*value)).to_le_bytes();
    }
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn transformers_agrees_and_a_planted_fault_is_noticed() {
    let Some(python) = std::env::var_os("APRGPU_HF_PYTHON") else {
        println!("skipped: APRGPU_HF_PYTHON names no Python with torch and transformers");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (folder.path().join("right"), folder.path().join("wrong"));
    export(&right);
    export(&wrong);
    scale_norm(&wrong, 3, 1.5);
    let parity = |model: &Path, hf: &[&str]| {
        let options = ["--aprgpu", APRGPU, "--window", "8", "--activations", "f32", "--json"];
        let mut command = Command::new(&python);
        run(command.arg("tools/hf_parity").arg(model).args(hf).args(options))
    };
    let output = parity(&right, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let results = report["results"].as_array().unwrap();
    assert_eq!(results.len(), 4);
    for result in results {
        assert_eq!((&result["same_ids"], &result["agreed"]), (&Value::Bool(true), &Value::from(8)));
        assert!(result["forced"]["nmse"].as_f64().unwrap() < 1e-6, "{result}");
        assert!(result["transformers_decode_ts"].as_f64().unwrap() > 0.0);
    }
    let output = parity(&wrong, &["--hf", right.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(13), "{}", String::from_utf8_lossy(&output.stderr));
}
