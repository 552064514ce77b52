//! The program as its users meet it: what it prints where, and how it ends.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use support::repository;

fn model() -> PathBuf {
    repository("tests/models/tiny-coder.apr")
}

/// Runs the program with `stdin`.
fn aprgpu_with(args: &[&str], stdin: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_aprgpu"))
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that fails early does not read.
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    child.wait_with_output().unwrap()
}

fn aprgpu(args: &[&str]) -> Output {
    aprgpu_with(args, "")
}

/// stdout of a run that must succeed.
fn stdout(args: &[&str]) -> String {
    let output = aprgpu(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Exit code and stderr of a run that must fail: one message, no panic.
fn failure(args: &[&str]) -> (i32, String) {
    let output = aprgpu(args);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "{args:?} succeeded");
    assert!(!message.contains("panicked"), "{args:?}: {message}");
    (output.status.code().unwrap(), message)
}

#[test]
fn run_prints_the_text_on_stdout_and_all_else_on_stderr() {
    let model = model();
    let args = ["run", model.to_str().unwrap(), "def fibonacci(n):", "-n", "12", "--threads", "1"];
    let output = aprgpu(&args);
    assert!(output.status.success());
    let (text, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(
        !text.trim().is_empty() && !text.contains("tokens/s") && !text.contains("def fibonacci"),
        "{text}"
    );
    assert!(
        told.contains("prefill: 8 tokens") && told.contains("decode: 11 tokens") && told.contains("cpu:"),
        "{told}"
    );
    assert_eq!(stdout(&args), text, "the default seed is fixed");
    let other_seed = [&args[..], &["--seed", "1"]].concat();
    assert_ne!(stdout(&other_seed), text);
}

#[test]
fn a_prompt_comes_from_an_argument_a_file_or_stdin() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let model = model.to_str().unwrap();
    let file = folder.path().join("prompt.txt");
    std::fs::write(&file, "x = 1").unwrap();
    let rest = ["-n", "5", "--temperature", "0"];
    let from_argument = stdout(&[&["run", model, "x = 1"], &rest[..]].concat());
    let from_file = stdout(&[&["run", model, "-f", file.to_str().unwrap()], &rest[..]].concat());
    let from_stdin = aprgpu_with(&[&["run", model], &rest[..]].concat(), "x = 1");
    assert_eq!(from_argument, from_file);
    assert_eq!(from_argument.as_bytes(), from_stdin.stdout);
}

#[test]
fn json_reports_tokens_text_finish_and_timing() {
    let report: Value =
        serde_json::from_str(&stdout(&["run", model().to_str().unwrap(), "x =", "-n", "6", "--json"]))
            .unwrap();
    assert_eq!(report["tokens"].as_array().unwrap().len(), 6);
    assert_eq!(report["finish"], "length");
    assert!(report["timing"]["decode_tokens_per_second"].as_f64().unwrap() > 0.0);
    assert!(report["backend"].as_str().unwrap().starts_with("cpu"));
}

#[test]
fn many_prompts_run_together_and_come_back_in_order() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let file = folder.path().join("prompts.jsonl");
    let lines: Vec<String> = (0..5)
        .map(|i| json!({"prompt": format!("x{i} ="), "n": 4 + i, "temperature": 0.0}).to_string())
        .collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let run = |parallel: &str| {
        let args =
            ["run", model.to_str().unwrap(), "--prompts", file.to_str().unwrap(), "--parallel", parallel];
        let parse = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        stdout(&args).lines().map(parse).collect::<Vec<_>>()
    };
    let (alone, together) = (run("1"), run("3"));
    assert_eq!(alone, together);
    assert_eq!(alone.len(), 5);
    for (index, report) in alone.iter().enumerate() {
        assert_eq!(report["index"], index);
        assert_eq!(report["tokens"].as_array().unwrap().len(), 4 + index);
    }
    std::fs::write(&file, "{\"prompt\": 3}").unwrap();
    let bad = failure(&["run", model.to_str().unwrap(), "--prompts", file.to_str().unwrap()]);
    assert!(bad.0 == 2 && bad.1.contains("line 1"), "{bad:?}");
}

/// What a file leaves open and what no kernel reads as it lies is told by every run, not by `inspect` alone.
#[test]
fn a_run_tells_what_it_took_for_granted() {
    let told = |model: &Path| {
        let output = aprgpu(&["run", model.to_str().unwrap(), "x", "-n", "1"]);
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let plain = told(&model());
    assert!(plain.contains("defaults taken: qwen2.rope.dimension_count = 64 (the whole head"), "{plain}");
    assert!(!plain.contains("decoded to"), "{plain}");
    let Some(fixtures) = support::fixtures() else { return };
    let expanded = told(&fixtures.join("apr-written/coder-aprq.apr"));
    assert!(expanded.contains("partial_rotary_factor = 1 (the whole head is rotated)"), "{expanded}");
    assert!(expanded.contains("24 tensors decoded to F32: no kernel reads this type"), "{expanded}");
}

/// A line with a seed of its own can be repeated: alone, in another file, at another place.
#[test]
fn a_line_with_a_seed_gives_what_it_gives_alone() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let (model, file) = (model.to_str().unwrap(), folder.path().join("prompts.jsonl"));
    let mut lines: Vec<String> = (0..4)
        .map(|i| json!({"prompt": "def f(", "n": 12, "seed": 5 + i % 2, "temperature": 1.5}).to_string())
        .collect();
    let texts = |lines: &[String]| -> Vec<Value> {
        std::fs::write(&file, lines.join("\n")).unwrap();
        let out = stdout(&["run", model, "--prompts", file.to_str().unwrap(), "--parallel", "3"]);
        out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["tokens"].clone()).collect()
    };
    let there = texts(&lines);
    assert_eq!((&there[0], &there[1]), (&there[2], &there[3]));
    assert_ne!(there[0], there[1]);
    lines.reverse();
    let mut back = texts(&lines);
    back.reverse();
    assert_eq!(there, back);
    let alone = ["run", model, "def f(", "-n", "12", "--seed", "6", "--temperature", "1.5", "--json"];
    assert_eq!(serde_json::from_str::<Value>(&stdout(&alone)).unwrap()["tokens"], there[1]);
    // Without seeds, equal prompts are different draws.
    let seedless = json!({"prompt": "def f(", "n": 12, "temperature": 1.5}).to_string();
    let draws = texts(&[seedless.clone(), seedless]);
    assert_ne!(draws[0], draws[1]);
}

/// One bad prompt must not cost the answers of those before it: it is found and named before anything runs.
#[test]
fn a_prompt_that_cannot_run_is_named_before_any_runs() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let (model, file) = (model.to_str().unwrap(), folder.path().join("prompts.jsonl"));
    let long = json!({"prompt": "word ".repeat(60)}).to_string();
    for (bad, code, what) in [
        (r#"{"prompt": ""}"#, 2, "the prompt is empty"),
        (&long, 8, "the context has room for 40"),
        (r#"{"prompt": "x", "temperature": -1}"#, 2, "temperature: expected a number of at least 0"),
        (r#"{"prompt": "x", "temperature": 1e39}"#, 2, "temperature: expected a number of at least 0"),
    ] {
        std::fs::write(&file, format!("{{\"prompt\": \"x =\", \"n\": 2}}\n\n{bad}\n")).unwrap();
        let failed = failure(&["run", model, "--prompts", file.to_str().unwrap(), "-c", "40"]);
        assert!(failed.0 == code && failed.1.contains("line 3: ") && failed.1.contains(what), "{failed:?}");
        assert!(!failed.1.contains("prefill"), "{failed:?}");
    }
}

#[test]
fn a_context_beyond_all_memory_is_an_error() {
    let failed = failure(&["run", model().to_str().unwrap(), "x", "-n", "1", "-c", "4294967295"]);
    assert!(failed.0 == 6 && failed.1.contains("--ctx"), "{failed:?}");
}

#[test]
fn limits_are_numbers() {
    let model = model();
    let base = ["compare", model.to_str().unwrap(), "--prompt", "x"];
    for limit in [["--limit", "nan"], ["--limit", "inf"], ["--kl", "nan"], ["--top", "nan"]] {
        assert_eq!(failure(&[&base[..], &limit].concat()).0, 2, "{limit:?}");
    }
}

/// The generator of completion scripts panics where it cannot write.
#[cfg(target_os = "linux")]
#[test]
fn a_full_or_closed_stdout_ends_every_command_in_order() {
    let model = model();
    let model = model.to_str().unwrap();
    for args in [&["completions", "bash"][..], &["inspect", model], &["tokenize", model, "x"], &["kernels"]] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let run = |out: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_aprgpu"));
            command.args(args).stdin(Stdio::null()).stdout(out).stderr(Stdio::piped()).output().unwrap()
        };
        let output = run(full.into());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(7) && !told.contains("panicked"), "{args:?}: {told}");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = run(writer.into());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(0) && !told.contains("panicked"), "{args:?}: {told}");
    }
}

#[test]
fn chat_goes_through_the_models_template() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let model = model.to_str().unwrap();
    let messages = folder.path().join("messages.json");
    std::fs::write(&messages, json!([{"role": "user", "content": "Write add."}]).to_string()).unwrap();
    let rendered = stdout(&["template", model, "--messages", messages.to_str().unwrap()]);
    assert!(
        rendered.ends_with("<|im_start|>user\nWrite add.<|im_end|>\n<|im_start|>assistant\n"),
        "{rendered}"
    );
    let closed =
        stdout(&["template", model, "--messages", messages.to_str().unwrap(), "--no-generation-prompt"]);
    assert_eq!(rendered, closed + "<|im_start|>assistant\n");

    let ids = stdout(&["tokenize", model, &rendered]);
    let answer = |args: &[&str]| -> Value { serde_json::from_str(&stdout(args)).unwrap() };
    let report = answer(&["run", model, "Write add.", "--chat", "--json", "-n", "8"]);
    assert_eq!(report["prompt_tokens"], ids.trim().split(',').count());

    let said = aprgpu_with(
        &["chat", model, "-n", "6", "--temperature", "0"],
        "Write add.\n/reset\nWrite add.\n/quit\n",
    );
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8(said.stdout).unwrap();
    let answers: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    assert!(answers.len() >= 2 && answers[0] == answers[answers.len() / 2], "a reset forgets: {answers:?}");
}

#[test]
fn tokenize_goes_both_ways() {
    let model = model();
    let model = model.to_str().unwrap();
    let text = "def f(x):\n    return \"naïve ☕\"";
    let ids = stdout(&["tokenize", model, text]);
    assert_eq!(stdout(&["tokenize", model, "--decode", ids.trim()]), format!("{text}\n"));
    assert_eq!(aprgpu_with(&["tokenize", model], text).stdout, ids.as_bytes());
    let report: Value =
        serde_json::from_str(&stdout(&["tokenize", model, "a <|im_end|>", "--json"])).unwrap();
    assert!(report["pieces"].as_array().unwrap().iter().any(|piece| piece == "<|im_end|>"), "{report}");
    let literal = stdout(&["tokenize", model, "<|im_end|>", "--literal"]);
    assert!(literal.split(',').count() > 1);
}

#[test]
fn logits_are_raw_floats() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let file = folder.path().join("logits.f32");
    let args =
        ["logits", model.to_str().unwrap(), "--tokens", "331,281,824", "--out", file.to_str().unwrap()];
    stdout(&args);
    let last = support::read_f32(&file);
    assert_eq!(last.len(), 4096);
    stdout(&[&args[..], &["--all"]].concat());
    let all = support::read_f32(&file);
    assert_eq!(all.len(), 3 * 4096);
    assert_eq!(all[2 * 4096..], last);
    let unknown = failure(&[
        "logits",
        model.to_str().unwrap(),
        "--tokens",
        "331,4096",
        "--out",
        file.to_str().unwrap(),
    ]);
    assert!(unknown.0 == 2 && unknown.1.contains("4096"), "{unknown:?}");
}

#[test]
fn inspect_lists_defaults_and_kernels() {
    let model = model();
    let text = stdout(&["inspect", model.to_str().unwrap(), "--tensors"]);
    for expected in ["qwen2", "rope", "default taken", "matvec q4_k x q8", "matvec q6_k x q8", "Q4_K"] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    let report: Value =
        serde_json::from_str(&stdout(&["inspect", model.to_str().unwrap(), "--json", "--tensors"])).unwrap();
    assert_eq!(report["config"]["hidden_size"], 256);
    assert_eq!(report["tensors"].as_array().unwrap().len(), 74);
}

#[test]
fn convert_goes_there_and_back() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (gguf, apr, again) = (at("a.gguf"), at("b.apr"), at("c.gguf"));
    stdout(&["convert", model.to_str().unwrap(), &gguf]);
    stdout(&["convert", &gguf, &apr]);
    stdout(&["convert", &apr, &again]);
    assert!(std::fs::read(&gguf).unwrap() == std::fs::read(&again).unwrap());
    assert!(std::fs::read(&apr).unwrap() == std::fs::read(&model).unwrap());
    let same = failure(&["convert", &gguf, &gguf]);
    assert!(same.0 != 0 && Path::new(&gguf).exists(), "{same:?}");
    let nowhere = failure(&["convert", &gguf, &at("missing/x.apr")]);
    assert_eq!(nowhere.0, 7, "{nowhere:?}");
}

#[test]
fn each_failure_has_its_exit_code() {
    let (model, folder) = (model(), tempfile::tempdir().unwrap());
    let good = std::fs::read(&model).unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let damaged = {
        // A Q4_K scale that is not a number, under a right checksum: half precision NaN in a super-block's d.
        let tensor = aprgpu::format::apr::Apr::open(&model).unwrap();
        let range = tensor.tensor("model.layers.1.self_attn.q_proj.weight").unwrap().range.clone();
        let mut bytes = good.clone();
        bytes[range.start..range.start + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
        let end = bytes.len() - 4;
        let checksum = crc32fast::hash(&bytes[..end]).to_le_bytes();
        bytes[end..].copy_from_slice(&checksum);
        bytes
    };
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    let text = file("text.gguf", b"not a model at all");
    let short = file("short.apr", &good[..1000]);
    let flipped = file("flipped.apr", &flipped);
    let damaged = file("damaged.apr", &damaged);
    let cases = [
        (vec!["run"], 2, "Usage"),
        (vec!["run", "nothing.gguf", "x"], 3, "no such file"),
        (vec!["run", &text, "x"], 4, "GGUF"),
        (vec!["run", &short, "x"], 4, "short.apr"),
        (vec!["run", &flipped, "x"], 4, "checksum"),
        (vec!["run", &damaged, "x"], 5, "q_proj.weight: row 0"),
        (vec!["run", model.to_str().unwrap(), "x", "--backend", "nothing"], 2, "twin"),
        (vec!["run", model.to_str().unwrap(), "x", "--top-p", "2"], 2, "between 0 and 1"),
        (vec!["run", model.to_str().unwrap(), "x", "--ctx", "1", "-n", "1", "--chat"], 8, "--ctx"),
        (vec!["logits", model.to_str().unwrap(), "--prompt", "x", "--out", "/nowhere/x.f32"], 7, "/nowhere"),
    ];
    for (args, code, expected) in cases {
        let (found, message) = failure(&args);
        assert_eq!(found, code, "{args:?}: {message}");
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}

#[test]
fn help_and_completions_and_devices() {
    for command in ["run", "chat", "inspect", "convert", "tokenize", "template", "logits", "devices"] {
        assert!(stdout(&[command, "--help"]).contains("Usage: aprgpu"), "{command}");
    }
    assert!(stdout(&["completions", "bash"]).contains("complete"));
    let devices: Value = serde_json::from_str(&stdout(&["devices", "--json"])).unwrap();
    assert!(devices[0]["threads"].as_u64().unwrap() >= 1);
}
