//! `aprgpu perplexity` beside llama.cpp: the same text, windows and models give the same figures.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{fixtures, repository};

const TEXT: &str = "tests/golden/perplexity/text.txt";

fn perplexity(model: &Path, window: &Value, options: &[&str]) -> Value {
    let window = window.to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_aprgpu"))
        .arg("perplexity")
        .args([model, Path::new(TEXT)])
        .args(["--window", &window, "--json"])
        .args(options)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A model of this repository, or of the fixtures folder.
fn find(name: &str) -> Option<PathBuf> {
    match name.starts_with("tests/") {
        true => Some(repository(name)),
        false => Some(fixtures()?.join(name)),
    }
}

fn assert_close(found: &Value, expected: &Value, tolerance: f64, what: &str) {
    let (a, b) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
    assert!((a / b - 1.0).abs() < tolerance, "{what}: {a}, llama.cpp has {b}");
}

/// With ggml's own arithmetic for activations the figures agree closely, with ours within what 8 bits leave open.
#[test]
fn perplexity_and_divergence_are_llama_cpps() {
    let text = std::fs::read_to_string(repository("tests/golden/perplexity/llama.json")).unwrap();
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (activations, tolerance) in [("q8_k", 0.002), ("q8", 0.01), ("f32", 0.01)] {
        for case in &cases {
            let name = case["model"].as_str().unwrap();
            let Some(model) = find(name) else { continue };
            let what = format!("{name}, {activations}");
            let kept = folder.path().join("base.aprk");
            let base = case["base"].as_str().and_then(find);
            let mut options = vec!["--activations", activations];
            if let Some(base) = &base {
                let save = [&options[..], &["--save-base", kept.to_str().unwrap()]].concat();
                perplexity(base, &case["window"], &save);
                options.extend(["--base", kept.to_str().unwrap()]);
            }
            let found = perplexity(&model, &case["window"], &options);
            assert_eq!(found["positions"], case["positions"], "{what}");
            assert_close(&found["perplexity"], &case["perplexity"], tolerance, &what);
            assert_close(&found["error"], &case["error"], 0.02, &what);
            if base.is_some() {
                let against = &found["base"];
                // llama.cpp's own base has the noise of its activations too.
                for figure in ["mean_kl", "median_kl"] {
                    assert_close(&against[figure], &case[figure], 0.15, &format!("{what}, {figure}"));
                }
                let same = against["same_top"].as_f64().unwrap() / against["positions"].as_f64().unwrap();
                assert!((same - case["same_top"].as_f64().unwrap()).abs() < 0.015, "{what}: {same}");
            }
        }
    }
}
