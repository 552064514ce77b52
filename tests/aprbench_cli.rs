//! `aprbench` and the comparing commands of `aprgpu` as their users meet them: output, files and exit codes.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap()
}

fn aprbench(arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_aprbench"), arguments)
}

fn aprgpu(arguments: &[&str]) -> Output {
    run(env!("CARGO_BIN_EXE_aprgpu"), arguments)
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const REDUCED: [&str; 3] = ["--preset", "qwen2.5-1.5b", "--reduced"];

#[test]
fn decode_writes_llama_benchs_fields() {
    let options = ["decode", "-n", "4,6", "-r", "2", "-d", "0,3", "--bandwidth", "10", "-o", "json"];
    let records = json(&aprbench(&[&options[..], &REDUCED].concat()));
    let records = records.as_array().unwrap();
    assert_eq!(records.len(), 4);
    for record in records {
        for field in
            ["avg_ts", "stddev_ts", "samples_ts", "avg_ns", "samples_ns", "n_prompt", "n_gen", "n_depth"]
        {
            assert!(!record[field].is_null(), "{field} is missing");
        }
        assert_eq!(record["backends"], "cpu");
        assert!(record["checked"].as_str().unwrap().starts_with("twin"));
    }
    for format in ["table", "jsonl", "csv", "md"] {
        let options = ["prefill", "-n", "8", "-r", "1", "--bandwidth", "10", "-o", format];
        assert!(stdout(&aprbench(&[&options[..], &REDUCED].concat())).contains('8'));
    }
}

#[test]
fn a_missed_target_and_a_backend_that_is_not_there_have_their_codes() {
    let folder = tempfile::tempdir().unwrap();
    let targets = folder.path().join("targets.toml");
    std::fs::write(&targets, "[[target]]\ndevice = \"\"\ntest = \"decode\"\ntokens_per_s = 1e12\n").unwrap();
    let options = ["decode", "-n", "2", "-r", "1", "--bandwidth", "10", "--assert-target"];
    let output = aprbench(&[&options[..], &[targets.to_str().unwrap()], &REDUCED].concat());
    assert_eq!(output.status.code(), Some(13));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        stderr.contains("measured") && stderr.contains("target") && stderr.contains("ceiling"),
        "{stderr}"
    );
    let absent = [&["decode", "--backend", "abacus"][..], &REDUCED].concat();
    assert_eq!(aprbench(&absent).status.code(), Some(14));
    assert_eq!(aprbench(&["decode", "--preset", "gpt-9"]).status.code(), Some(2));
    assert_eq!(aprgpu(&["selftest", "--backend", "abacus"]).status.code(), Some(14));
}

#[test]
fn the_same_program_twice_is_complete_and_one_that_fails_is_incomplete() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model.gguf");
    let model = model.to_str().unwrap();
    stdout(&aprbench(&["synth", "qwen2.5-0.5b", model, "--reduced"]));
    let log = folder.path().join("log/versus.jsonl");
    let tests = ["-p", "8", "-n", "4", "--pairs", "2", "--append", log.to_str().unwrap()];
    let found = stdout(&aprbench(&[&["aa", model][..], &tests].concat()));
    assert!(
        found.contains("| pp8 |") && found.contains("| tg4 |") && found.contains("order AB BA"),
        "{found}"
    );
    let output = aprbench(&[&["versus", model, "--command", "false"][..], &tests].concat());
    assert_eq!(output.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&output.stdout).contains("INCOMPLETE"));
    let lines: Vec<Value> = std::fs::read_to_string(&log)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0]["file_hash"].as_str().unwrap().starts_with("crc32:"));
    assert_eq!(lines[1]["tests"][0]["verdict"], "INCOMPLETE");
}

#[test]
fn records_are_written_compared_and_tabulated() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("record");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    let models = path(&folder.path().join("models"));
    let output = aprbench(&[
        "record",
        "--reduced",
        "--presets",
        "qwen2.5-0.5b",
        "--pairs",
        "1",
        "-p",
        "8",
        "-n",
        "4",
        "--out",
        &path(&out),
        "--models",
        &models,
    ]);
    stdout(&output);
    let table = stdout(&aprbench(&["table", "--records", &path(&out)]));
    assert!(table.contains("| pp8 |") && table.contains("| tg4 |"), "{table}");
    let device = std::fs::read_dir(&out).unwrap().next().unwrap().unwrap().path();
    let records = path(&device.join("aprbench.jsonl"));
    let compared = stdout(&aprbench(&["cmp", &records, &records, "--fail"]));
    assert!(compared.contains("same within the spread"), "{compared}");
    let empty = folder.path().join("empty.jsonl");
    std::fs::write(&empty, "").unwrap();
    assert_eq!(aprbench(&["cmp", &records, &path(&empty), "--fail"]).status.code(), Some(8));
}

#[test]
fn kernels_and_roofline_run_reduced() {
    let kernels = ["kernels", "--reduced", "--shape", "1.5B", "--type", "Q4_K,F16", "--json"];
    assert_eq!(json(&aprbench(&kernels)).as_array().unwrap().len(), 2 * 7);
    let folder = tempfile::tempdir().unwrap();
    let svg = folder.path().join("roofline.svg");
    let options = ["roofline", "--backend", "cpu", "-r", "1", "--svg", svg.to_str().unwrap()];
    let found = stdout(&aprbench(&[&options[..], &REDUCED].concat()));
    assert!(found.contains("| RTX 4090 |") && found.contains("| GB10 |"), "{found}");
    assert!(std::fs::read_to_string(svg).unwrap().starts_with("<svg"));
}

#[test]
fn plan_tells_bytes_memory_and_tokens_from_the_shape_alone() {
    let found =
        json(&aprgpu(&["plan", "--preset", "qwen2.5-1.5b", "--ctx", "128", "--device", "4090", "--json"]));
    assert_eq!(found["totals"]["launches"], 143);
    // 980.1 MB of weights, the row of the embedding, and 28 KiB of cache for each of 128 positions.
    assert_eq!(found["totals"]["bytes"], 980_097_536 + 1260 + 128 * 28 * 1024);
    assert_eq!(found["predictions"][0]["fits"], true);
    let found = stdout(&aprgpu(&["plan", "tests/models/tiny-coder.apr", "--steps"]));
    assert!(found.contains("| attn_out | 5 |") && found.contains("memory: weights"), "{found}");
}

#[test]
fn compare_and_selftest_pass_on_the_cpu() {
    let reports =
        json(&aprgpu(&["compare", "tests/models/tiny-coder.apr", "--tokens", "1,2,3,4,5", "--json"]));
    assert_eq!(reports.as_array().unwrap().len(), 2);
    assert!(reports[1]["first_over"].is_null() && reports[1]["agreement"]["positions"] == 5);
    // A limit that even equality breaks: the first step is named.
    let options = ["--limit=-1", "--activations", "f32"];
    let output = aprgpu(&[&["compare", "tests/models/tiny-coder.apr"][..], &options].concat());
    assert_eq!(output.status.code(), Some(13));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(stderr.contains("step 0, embed, buffer `residual`"), "{stderr}");
    let checks = json(&aprgpu(&["selftest", "--backend", "cpu", "--quick", "--json"]));
    assert_eq!(checks["passed"], true);
    assert!(checks["device"].as_str().unwrap().starts_with("cpu: "));
}

#[test]
fn perplexity_keeps_a_base_and_compares_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base.aprk");
    let base = base.to_str().unwrap();
    let common = ["perplexity", "tests/models/tiny-coder.apr", "src/lib.rs", "--window", "64", "--json"];
    let first = json(&aprgpu(&[&common[..], &["--save-base", base, "--activations", "f32"]].concat()));
    let again = json(&aprgpu(&[&common[..], &["--base", base]].concat()));
    let (a, b) = (first["perplexity"].as_f64().unwrap(), again["perplexity"].as_f64().unwrap());
    assert!((a / b - 1.0).abs() < 0.05, "{a} {b}");
    let kl = again["base"]["mean_kl"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.01, "{kl}");
}
