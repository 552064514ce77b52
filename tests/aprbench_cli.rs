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

/// A line of CSV, with quotes as RFC 4180 has them.
fn csv_cells(line: &str) -> Vec<String> {
    let (mut cells, mut quoted) = (vec![String::new()], false);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                cells.last_mut().unwrap().push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(String::new()),
            other => cells.last_mut().unwrap().push(other),
        }
    }
    cells
}

const REDUCED: [&str; 3] = ["--preset", "qwen2.5-1.5b", "--reduced"];

#[test]
fn decode_writes_llama_benchs_fields() {
    let options = ["decode", "-n", "4,6", "-r", "2", "-d", "0,3", "--bandwidth", "10", "-o", "json"];
    let records = json(&aprbench(&[&options[..], &REDUCED, &["--backend", "cpu"]].concat()));
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
    // Each form holds the same two tests, and a program can read it.
    let written = |format: &str| {
        let options = ["prefill", "-n", "8,9", "-r", "2", "--bandwidth", "10", "-o", format];
        stdout(&aprbench(&[&options[..], &REDUCED].concat()))
    };
    let lines: Vec<Value> =
        written("jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!([&lines[0]["n_prompt"], &lines[1]["n_prompt"]], [8, 9]);
    assert_eq!(lines[0]["samples_ts"].as_array().unwrap().len(), 2);
    let csv = written("csv");
    let header: Vec<&str> = csv.lines().next().unwrap().split(',').collect();
    let column = header.iter().position(|name| *name == "n_prompt").unwrap();
    assert_eq!(csv.lines().count(), 3);
    for (line, expected) in csv.lines().skip(1).zip(["8", "9"]) {
        let cells = csv_cells(line);
        assert_eq!((cells.len(), cells[column].as_str()), (header.len(), expected));
    }
    let md = written("md");
    let columns: Vec<usize> = md.lines().map(|line| line.matches('|').count()).collect();
    assert!(columns.len() == 4 && columns.iter().all(|count| *count == columns[0]), "{md}");
    assert!(md.contains("| pp8 |") && md.contains("| pp9 |"), "{md}");
    assert!(written("table").contains("pp9"));
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
    // One that is met, and one that cannot be told: neither tokens nor a bandwidth that anybody could miss.
    let low = "[[target]]\ndevice = \"\"\nmodel = \"qwen2.5-1.5b\"\ntest = \"decode\"\ntokens_per_s = 1e-3\nbandwidth_percent = 1e-6\n";
    std::fs::write(&targets, low).unwrap();
    let output = aprbench(&[&options[..], &[targets.to_str().unwrap()], &REDUCED].concat());
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && stderr.contains("target 0.0 t/s and 0 % of read"), "{stderr}");
    std::fs::write(&targets, "[[target]]\ndevice = \"\"\ntest = \"decode\"\n").unwrap();
    let output = aprbench(&[&options[..], &[targets.to_str().unwrap()], &REDUCED].concat());
    assert_eq!(output.status.code(), Some(8));
    assert!(String::from_utf8_lossy(&output.stderr).contains("INCOMPLETE"));
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
        "2",
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
fn what_would_measure_nothing_is_refused() {
    for (arguments, what) in [
        (["kernels", "--op", "norm"], "--op norm: there are embed, qkv_rope"),
        (["kernels", "--seconds", "inf"], "--seconds"),
        (["kernels", "--bandwidth", "nan"], "--bandwidth"),
        (["kernels", "--bandwidth", "0"], "--bandwidth"),
    ] {
        let output = aprbench(&[&arguments[..], &["--reduced", "--backend", "cpu"]].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && told.contains(what), "{arguments:?}: {told}");
    }
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
    // A limit of the text that nothing keeps.
    let options = ["--kl=-1", "--activations", "q8", "--text", "LICENSE-MIT"];
    let output = aprgpu(&[&["compare", "tests/models/tiny-coder.apr"][..], &options].concat());
    assert_eq!(output.status.code(), Some(13));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mean KL divergence"));
}

#[test]
fn selftest_passes_on_the_cpu_and_on_a_model_of_sense() {
    let options = ["tests/models/tiny-coder.apr", "--backend", "cpu", "--quick", "--json"];
    let checks = json(&aprgpu(&[&["selftest"][..], &options].concat()));
    assert_eq!(checks["passed"], true);
    assert!(checks["device"].as_str().unwrap().starts_with("cpu: "));
    // Three kinds of activations of the small model, one of the file.
    let names = checks["checks"].as_array().unwrap().iter().map(|check| check["name"].as_str().unwrap());
    let names: Vec<&str> = names.collect();
    for name in ["another prompt", "batch of 8, as alone", "the same seed again", "another seed"] {
        assert_eq!(names.iter().filter(|found| **found == format!("model: {name}")).count(), 4, "{names:?}");
    }
}

#[test]
fn two_files_are_compared_as_a_table_and_a_plot() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (gguf, raw, svg, wide) = (path("same.gguf"), path("l.f32"), path("plot.svg"), path("wide.gguf"));
    let model = "tests/models/tiny-coder.apr";
    stdout(&aprgpu(&["convert", model, &gguf]));
    // The same weights in another format.
    let found = stdout(&aprgpu(&["compare", model, "--against", &gguf, "--svg", &svg, "--limit", "1e-12"]));
    assert!(found.contains("| layer | std here | std there | ratio |") && found.contains("| 5 |"), "{found}");
    assert!(
        found.contains("| position | cosine | NMSE | best token |") && !found.contains("FLAGGED"),
        "{found}"
    );
    let plot = std::fs::read_to_string(&svg).unwrap();
    assert_eq!((plot.matches("<svg").count(), plot.matches("</svg>").count()), (3, 3));
    // Raw logits of every position.
    let tokens = "5,6,7,8";
    stdout(&aprgpu(&["logits", model, "--tokens", tokens, "--all", "--activations", "f32", "--out", &raw]));
    let report = json(&aprgpu(&["compare", model, "--tokens", tokens, "--against", &raw, "--json"]));
    assert_eq!(
        (report["positions"].as_array().unwrap().len(), &report["positions"][3]["same_top"]),
        (4, &Value::Bool(true))
    );
    let other = aprgpu(&["compare", model, "--tokens", "5,6,7,9", "--against", &raw, "--limit", "1e-3"]);
    assert_eq!(other.status.code(), Some(13));
    assert!(String::from_utf8_lossy(&other.stderr).contains("position 3"));
    // The norm before the feed-forward of layer 4, three times as large.
    let mut bytes = std::fs::read(&gguf).unwrap();
    let gguf = aprgpu::format::gguf::Gguf::open(Path::new(&gguf)).unwrap();
    let range = gguf.tensor("blk.4.ffn_norm.weight").unwrap().range.clone();
    for value in bytes[range].as_chunks_mut::<4>().0 {
        *value = (3.0 * f32::from_le_bytes(*value)).to_le_bytes();
    }
    std::fs::write(&wide, bytes).unwrap();
    let output = aprgpu(&["compare", model, "--against", &wide]);
    assert_eq!(output.status.code(), Some(13));
    assert!(String::from_utf8_lossy(&output.stdout).contains("FLAGGED"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("layer 4"));
}

/// One byte, one bias, one row of K, one factor of a norm: each in a copy of the file.
#[test]
fn a_fault_in_a_file_is_named_by_step_and_layer() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (right, wrong) = (path("right.gguf"), path("wrong.gguf"));
    stdout(&aprgpu(&["convert", "tests/models/tiny-coder.apr", &right]));
    let whole = std::fs::read(&right).unwrap();
    let gguf = aprgpu::format::gguf::Gguf::open(Path::new(&right)).unwrap();
    let range = |name: &str| gguf.tensor(name).unwrap().range.clone();
    let compare = |wrong: &str, options: &[&str]| {
        let words = ["compare", &right, "--against", wrong, "--steps", "--activations", "f32"];
        aprgpu(&[&words[..], options].concat())
    };
    stdout(&compare(&right, &[]));

    let faults: [(&str, usize, &[u8], &str); 4] = [
        // The scale of a super-block of Q6_K, its last two bytes, as float16.
        ("blk.2.ffn_down.weight", 208, &1.0f32.to_le_bytes()[2..], "down of layer 2, buffer `residual`"),
        ("blk.1.attn_v.bias", 12, &9f32.to_le_bytes(), "qkv_rope of layer 1, buffer `values`"),
        ("blk.4.ffn_norm.weight", 40, &(-3f32).to_le_bytes(), "gate_up of layer 4, buffer `gated`"),
        ("blk.3.attn_output.weight", 0, &[0, 0x3c], "attn_out of layer 3, buffer `residual`"),
    ];
    for (name, at, bytes, expected) in faults {
        let mut file = whole.clone();
        let start = range(name).start + at;
        file[start..start + bytes.len()].copy_from_slice(bytes);
        std::fs::write(&wrong, file).unwrap();
        let output = compare(&wrong, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(13), "{name}: {stderr}");
        assert!(stderr.contains(expected), "{name}: {stderr}");
    }
    // The base of RoPE's angles, a float32 behind its key and the number of its type.
    let mut file = whole.clone();
    let key = b"qwen2.rope.freq_base";
    let at = file.windows(key.len()).position(|window| window == key).unwrap() + key.len() + 4;
    assert_eq!(file[at..at + 4], 1e6f32.to_le_bytes());
    file[at..at + 4].copy_from_slice(&9e5f32.to_le_bytes());
    std::fs::write(&wrong, file).unwrap();
    let stderr = String::from_utf8_lossy(&compare(&wrong, &[]).stderr).into_owned();
    assert!(stderr.contains("qkv_rope of layer 0, buffer `query`"), "{stderr}");
    // A row of K in the place of another: 256 weights of Q4_K, 144 bytes.
    let mut file = whole;
    let k = range("blk.5.attn_k.weight").start;
    file.copy_within(k + 144 * 7..k + 144 * 8, k + 144 * 8);
    std::fs::write(&wrong, file).unwrap();
    let output = compare(&wrong, &["--json"]);
    assert_eq!(output.status.code(), Some(13));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let first = &report["first_over"];
    assert_eq!(
        (&first["op"], &first["layer"], &first["buffer"]),
        (&"qkv_rope".into(), &5.into(), &"keys".into())
    );
}

#[test]
fn a_run_is_stopped_and_dumped() {
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("dump");
    let options =
        ["--tokens", "1,2,3", "--activations", "f32,q8", "--stop-after", "attn_out", "--layer", "1"];
    let options = [&options[..], &["--dump", dump.to_str().unwrap(), "--json"]].concat();
    let reports = json(&aprgpu(&[&["compare", "tests/models/tiny-coder.apr"][..], &options].concat()));
    let last = reports[0]["steps"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["op"], &last["layer"]), (&Value::from("attn_out"), &Value::from(1)));
    for name in ["twin-f32", "cpu-f32", "twin-q8", "cpu-q8"] {
        let file = dump.join(name).join("layer-1/post_attn_residual.bin");
        let bytes = std::fs::read(&file).unwrap();
        assert_eq!((&bytes[..4], bytes.len()), (b"APRT".as_slice(), 12 + 4 * 3 * 256), "{}", file.display());
        assert!(!dump.join(name).join("layer-2").exists());
    }
    let wrong =
        aprgpu(&["compare", "tests/models/tiny-coder.apr", "--stop-after", "attn_out", "--layer", "9"]);
    let told = String::from_utf8_lossy(&wrong.stderr);
    assert!(wrong.status.code() == Some(2) && told.contains("no step attn_out of layer 9:"), "{told}");
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
    let whole = std::fs::read(base).unwrap();
    for end in [3, whole.len() - 1] {
        std::fs::write(base, &whole[..end]).unwrap();
        let output = aprgpu(&[&common[..], &["--base", base]].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(4) && told.contains("ends too early"), "{told}");
    }
}

#[test]
fn encode_measures_every_type_and_names_unknown_ones() {
    let records = json(&aprbench(&["encode", "--rows", "2", "-r", "2", "--json"]));
    let records = records.as_array().unwrap();
    assert_eq!(records.len(), 8);
    for record in records {
        assert_eq!((record["values"].as_u64(), record["threads"].as_u64()), (Some(8192), Some(1)));
        assert_eq!(record["seconds"].as_array().unwrap().len(), 2);
    }
    // An importance matrix makes other bytes of the same values, and more threads the same.
    let crc = |options: &[&str]| {
        let base = ["encode", "--rows", "40", "-r", "1", "--json", "--type", "q4_k"];
        json(&aprbench(&[&base[..], options].concat()))[0]["crc32"].clone()
    };
    assert_eq!(crc(&[]), crc(&["-t", "3"]));
    assert_ne!(crc(&[]), crc(&["--importance"]));
    let unknown = aprbench(&["encode", "--type", "q2_k"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("q2_k: expected one of"));
}
