//! Logits of whole models against numbers that this project did not compute: `exact` is float32 arithmetic over the
//! file's own dequantized weights, `llama` is llama.cpp on the same file.
//!
//! The limits: with float activations, NMSE <= 1e-10 over a float cache and <= 1e-6 over the default cache. With `q8`,
//! against llama.cpp's own error on the same row: geometric mean over all rows <= 0.75, per file <= 1.5, no row
//! above 5. With `q8_k`, which is llama.cpp's arithmetic, within a factor of 1.3 of its mean on Q4_K_M files.
//! Teacher-forced, the best token agrees wherever the margin says that it must.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use aprgpu::engine::{self, BackendChoice, Device, Settings};
use aprgpu::model::Model;
use aprgpu::plan::{Activations, KvType, Numerics};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::{argmax, fixtures, nmse, read_f32, read_json, repository, u32s};

const VERIFY: Numerics = Numerics { activations: Activations::F32, kv: KvType::F32 };
const F32_DEFAULT_CACHE: Numerics = Numerics { activations: Activations::F32, kv: KvType::F16 };
const DEFAULT: Numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
const LIKE_LLAMA: Numerics = Numerics { activations: Activations::Q8K, kv: KvType::F16 };

/// A model file with its prompts and what others computed for them.
struct Case {
    label: String,
    file: PathBuf,
    prompts: Vec<Vec<u32>>,
    /// Logits at the last position of each prompt, `[prompts, vocab]`.
    exact: Vec<f32>,
    /// The same by llama.cpp.
    llama: Vec<f32>,
    /// Continuations by the exact oracle, with the margin of each step.
    greedy: Vec<(Vec<u32>, Vec<f32>)>,
}

fn case(folder: &Path, model: &str, kind: &str, entry: &Value, file: PathBuf) -> Case {
    let list = |key: &str| entry[key].as_array().unwrap().clone();
    let margins =
        |value: &Value| value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
    Case {
        label: format!("{model}-{kind}"),
        file,
        prompts: list("tokens").iter().map(u32s).collect(),
        exact: read_f32(&folder.join(format!("{model}-{kind}.exact.f32"))),
        llama: read_f32(&folder.join(format!("{model}-{kind}.llama.f32"))),
        greedy: list("greedy").iter().map(u32s).zip(list("greedy_margin").iter().map(margins)).collect(),
    }
}

/// The model in this repository, and every fixture model in every file type where the folder is there.
fn cases() -> Vec<Case> {
    let golden = repository("tests/golden/tiny-coder");
    let entry = &read_json(&golden.join("coder.json"))["files"]["Q4_K_M"];
    let mut cases = vec![case(&golden, "coder", "Q4_K_M", entry, repository("tests/models/tiny-coder.apr"))];
    let Some(fixtures) = fixtures() else { return cases };
    for model in ["coder", "qwen2-896", "qwen2-yarn", "qwen3", "llama-gqa", "llama-spm"] {
        let folder = fixtures.join(model);
        let index = read_json(&folder.join(format!("{model}.json")));
        for (kind, entry) in index["files"].as_object().unwrap() {
            let file = folder.join(format!("{model}-{kind}.gguf"));
            cases.push(case(&folder, model, kind, entry, file));
        }
    }
    cases
}

fn device(file: &Path, numerics: Numerics, backend: BackendChoice) -> Device {
    let model = Arc::new(Model::open(file).unwrap());
    let settings = Settings { backend, numerics, threads: Some(2), ..Settings::default() };
    engine::load(&model, &settings, &mut |_, _| {}).unwrap().0
}

/// NMSE of each prompt's last row, and of llama.cpp's row, against the truth.
fn errors(case: &Case, numerics: Numerics) -> Vec<(f64, f64)> {
    let mut device = device(&case.file, numerics, BackendChoice::Cpu);
    let vocab = case.exact.len() / case.prompts.len();
    let rows = case.prompts.iter().zip(case.exact.chunks_exact(vocab)).zip(case.llama.chunks_exact(vocab));
    let errors = rows.map(|((prompt, exact), llama)| {
        let logits = device.logits(prompt, false).unwrap();
        (nmse(&logits, exact), nmse(llama, exact))
    });
    errors.collect()
}

fn geometric_mean(values: impl Iterator<Item = f64>) -> f64 {
    let logs: Vec<f64> = values.map(f64::ln).collect();
    (logs.iter().sum::<f64>() / logs.len() as f64).exp()
}

#[test]
fn float_activations_over_a_float_cache_are_exact() {
    for case in cases() {
        for (prompt, (error, _)) in errors(&case, VERIFY).into_iter().enumerate() {
            assert!(error <= 1e-10, "{} prompt {prompt}: NMSE {error:e}", case.label);
        }
    }
}

#[test]
fn the_default_cache_costs_little() {
    for case in cases() {
        for (prompt, (error, _)) in errors(&case, F32_DEFAULT_CACHE).into_iter().enumerate() {
            assert!(error <= 1e-6, "{} prompt {prompt}: NMSE {error:e}", case.label);
        }
    }
}

#[test]
fn q8_is_closer_to_the_truth_than_llama_cpp() {
    let (mut ratios, mut worse) = (Vec::new(), Vec::new());
    for case in cases() {
        let rows: Vec<f64> = errors(&case, DEFAULT).into_iter().map(|(ours, llama)| ours / llama).collect();
        let file = geometric_mean(rows.iter().copied());
        let line = format!("{:20} {file:.3} of llama.cpp's error; rows {rows:.2?}", case.label);
        println!("{line}");
        if file > 1.5 || rows.iter().any(|&ratio| ratio > 5.0) {
            worse.push(line);
        }
        ratios.extend(rows);
    }
    let all = geometric_mean(ratios.iter().copied());
    println!("{all:.3} of llama.cpp's error over {} rows", ratios.len());
    assert!(worse.is_empty(), "{}", worse.join("\n"));
    // The limit is meant over many models; one model alone scatters more.
    let limit = if ratios.len() > 5 { 0.75 } else { 1.5 };
    assert!(all <= limit, "{all:.3} of llama.cpp's error");
}

#[test]
fn q8_k_is_llama_cpps_arithmetic() {
    let mut ratios = Vec::new();
    for case in cases().iter().filter(|case| case.label.ends_with("Q4_K_M")) {
        let rows: Vec<f64> = errors(case, LIKE_LLAMA).into_iter().map(|(ours, llama)| ours / llama).collect();
        println!("{:20} {:.3} of llama.cpp's error", case.label, geometric_mean(rows.iter().copied()));
        ratios.extend(rows);
    }
    let all = geometric_mean(ratios.iter().copied());
    println!("{all:.3} of llama.cpp's error over {} rows", ratios.len());
    // As above: five rows of one model scatter more.
    let limit = if ratios.len() > 5 { 1.3 } else { 2.0 };
    assert!((1.0 / limit..=limit).contains(&all), "{all:.3} of llama.cpp's error");
}

/// Runs each prompt with the oracle's continuation and compares the best token at every step whose margin is wide.
fn teacher_forced(numerics: Numerics, margin: f32) {
    for case in cases() {
        let mut device = device(&case.file, numerics, BackendChoice::Cpu);
        let vocab = case.exact.len() / case.prompts.len();
        let mut checked = 0;
        for (prompt, (greedy, margins)) in case.prompts.iter().zip(&case.greedy) {
            let text = [&prompt[..], greedy].concat();
            let logits = device.logits(&text[..text.len() - 1], true).unwrap();
            let rows = logits.chunks_exact(vocab).skip(prompt.len() - 1);
            for (step, ((row, &token), &wide)) in rows.zip(greedy).zip(margins).enumerate() {
                if wide >= margin {
                    assert_eq!(argmax(row), token, "{}: step {step}, margin {wide}", case.label);
                    checked += 1;
                }
            }
        }
        println!("{:20} {checked} steps agree", case.label);
        assert!(checked > 20, "{}: only {checked} steps had a margin of {margin}", case.label);
    }
}

#[test]
fn the_best_token_agrees_with_float_activations() {
    teacher_forced(VERIFY, 0.01);
}

#[test]
fn the_best_token_agrees_with_q8() {
    teacher_forced(DEFAULT, 0.5);
}

#[test]
fn the_fast_path_gives_the_bits_of_the_twin() {
    for case in cases().iter().take(8) {
        for numerics in [VERIFY, DEFAULT, LIKE_LLAMA] {
            let bits = |backend| -> Vec<u32> {
                let logits = device(&case.file, numerics, backend).logits(&case.prompts[1], true).unwrap();
                logits.iter().map(|logit| logit.to_bits()).collect()
            };
            assert!(bits(BackendChoice::Twin) == bits(BackendChoice::Cpu), "{} {numerics:?}", case.label);
        }
    }
}
