//! The host's side of the CUDA backend through the program: what it says where something is missing, what it refuses,
//! what it keeps on disk. The program runs over the simulator's driver, which can play each of these machines.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::Error;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::{cuda, repository};

/// Exit code, stdout, stderr.
type Said = (i32, String, String);

/// Runs the program over the simulator, or over whatever the system has for `None`.
fn aprgpu(library: Option<&Path>, environment: &[(&str, &str)], arguments: &[&str]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aprgpu"));
    command.args(arguments).env_remove("LD_LIBRARY_PATH").env("APRGPU_CACHE", "");
    if let Some(library) = library {
        command.env("LD_LIBRARY_PATH", library);
    }
    let output = command.envs(environment.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn model() -> String {
    repository("tests/models/tiny-coder.apr").to_str().unwrap().to_owned()
}

/// One token on the CUDA backend, so that a test is short.
fn run(library: &Path, environment: &[(&str, &str)], more: &[&str]) -> Said {
    let model = model();
    let fixed =
        ["run", &model, "fn main", "--backend", "cuda", "--temperature", "0", "-n", "1", "--ctx", "64"];
    aprgpu(Some(library), environment, &[&fixed[..], more].concat())
}

#[test]
fn a_machine_without_a_driver_is_told_so() {
    let (_, devices, _) = aprgpu(None, &[], &["devices", "--json"]);
    if !devices.contains("no NVIDIA driver") {
        println!("skipped: this machine has a driver");
        return;
    }
    let model = model();
    let (code, _, said) = aprgpu(None, &[], &["run", &model, "x", "--backend", "cuda", "-n", "1"]);
    assert_eq!(code, 14, "{said}");
    assert!(said.contains("no NVIDIA driver") && said.contains("libcuda.so"), "{said}");
    let (code, out, said) = aprgpu(None, &[], &["run", &model, "x", "-n", "1", "--temperature", "0"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("chosen by `auto`: there ") && !out.is_empty(), "{said}");
}

#[test]
fn every_way_to_be_unavailable_is_named() {
    let Some(library) = cuda::simulator() else { return };
    let cases: [(&str, &str, &[&str]); 5] = [
        ("PTXSIM_DEVICES", "0", &["finds no device"]),
        ("PTXSIM_DRIVER", "11040", &["too old", "11.4", "11.8"]),
        ("PTXSIM_SM", "75", &["sm_75", "sm_80"]),
        ("PTXSIM_PTX", "70", &["cannot compile", "update the driver"]),
        ("PTXSIM_THREADS", "1", &["GeForce", "ptxsim (no GPU)"]),
    ];
    for (name, value, expected) in cases {
        let device: &[&str] = if name == "PTXSIM_THREADS" { &["--device", "GeForce"] } else { &[] };
        let (code, out, said) = run(&library, &[(name, value)], device);
        assert_eq!((code, out.as_str()), (14, ""), "{name}={value}: {said}");
        assert!(expected.iter().all(|word| said.contains(word)), "{name}={value}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[test]
fn the_simulator_is_shown_and_never_chosen() {
    let Some(library) = cuda::simulator() else { return };
    let (code, out, _) = aprgpu(Some(&library), &[], &["devices"]);
    assert_eq!(code, 0);
    assert!(out.contains("cuda  0: ptxsim (no GPU) (sm_89"), "{out}");
    let (_, out, _) = aprgpu(Some(&library), &[("PTXSIM_SM", "90")], &["devices", "--json"]);
    let devices: Value = serde_json::from_str(&out).unwrap();
    let cuda = devices.as_array().unwrap().iter().find(|device| device["backend"] == "cuda").unwrap();
    assert_eq!((&cuda["simulated"], &cuda["compute_capability"]), (&Value::Bool(true), &Value::from(90)));
    let (code, _, said) =
        aprgpu(Some(&library), &[], &["run", &model(), "x", "-n", "1", "--temperature", "0"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("cpu: "), "auto took something else: {said}");
    let (code, _, said) = run(&library, &[], &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("cuda: ptxsim (no GPU)") && said.contains("a simulator"), "{said}");
}

#[test]
fn a_model_that_does_not_fit_is_refused_with_what_would() {
    let Some(library) = cuda::simulator() else { return };
    let model = model();
    let long = |memory: &str, context: &str| {
        let arguments =
            ["run", &model, "x", "--backend", "cuda", "-n", "1", "--temperature", "0", "--ctx", context];
        aprgpu(Some(&library), &[("PTXSIM_MEMORY", memory)], &arguments)
    };
    let (code, _, said) = long("1000000", "512");
    assert_eq!(code, 6, "{said}");
    assert!(said.contains("the weights alone do not fit"), "{said}");
    let (code, _, said) = long("100000000", "65536");
    assert_eq!(code, 6, "{said}");
    for word in ["weights", "cache of 1 x 65536 positions", "buffers", "are available", "would fit"] {
        assert!(said.contains(word), "`{word}` is missing: {said}");
    }
    // What it says would fit does.
    let context = said.split("--ctx ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let (code, out, said) = long("100000000", &context);
    assert_eq!(code, 0, "--ctx {context}: {said}");
    assert!(!out.is_empty());
}

#[test]
fn the_compilers_complaint_is_shown() {
    let Some(gpu) = cuda::shared() else { return };
    let good = "\
.version 7.8
.target sm_80
.address_size 64
.visible .entry nothing()
{
    ret;
}
";
    gpu.try_source(good, "nothing").unwrap();
    match gpu.try_source(&good.replace("ret;", "retrun;"), "nothing") {
        Err(Error::Device { kernel, adapter, reason }) => {
            assert_eq!((kernel.as_str(), &adapter), ("nothing", &gpu.summary().name));
            assert!(reason.contains("does not compile") && reason.contains("line 6"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(gpu.try_source(good, "something").is_err());
}

/// The compiled kernels in a folder, with their contents.
fn kept(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect();
    files.sort();
    files
}

#[test]
fn compiled_kernels_are_kept_and_a_damaged_one_is_built_again() {
    let Some(library) = cuda::simulator() else { return };
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("kernels");
    let with_cache = |more: &[(&str, &str)]| {
        let cache = ("APRGPU_CACHE", cache.to_str().unwrap());
        run(&library, &[&[cache][..], more].concat(), &[])
    };
    let (code, first, said) = with_cache(&[]);
    assert_eq!(code, 0, "{said}");
    let whole = kept(&cache);
    assert!(whole.len() > 5, "{} kernels kept", whole.len());
    let (code, again, said) = with_cache(&[]);
    assert_eq!((code, &again), (0, &first), "{said}");
    assert!(!said.contains("built again"), "{said}");
    assert_eq!(kept(&cache), whole);

    // One cut short, one with a byte changed, one that is not even of this format.
    std::fs::write(&whole[0].0, &whole[0].1[..whole[0].1.len() / 2]).unwrap();
    let mut changed = whole[1].1.clone();
    *changed.last_mut().unwrap() ^= 0x40;
    std::fs::write(&whole[1].0, changed).unwrap();
    std::fs::write(&whole[2].0, "nonsense").unwrap();
    let (code, again, said) = with_cache(&[]);
    assert_eq!((code, &again), (0, &first), "{said}");
    assert!(said.matches("it was built again").count() >= 1, "{said}");
    assert_eq!(kept(&cache), whole, "the damaged ones were replaced");

    // Another chip or driver has kernels of its own.
    let (code, _, said) = with_cache(&[("PTXSIM_DRIVER", "12090")]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(kept(&cache).len(), 2 * whole.len());
}

#[test]
fn a_cache_that_cannot_be_written_is_only_a_note() {
    let Some(library) = cuda::simulator() else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    let inside = file.path().join("kernels");
    let (code, _, said) = run(&library, &[("APRGPU_CACHE", inside.to_str().unwrap())], &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("cannot be kept"), "{said}");
}

#[test]
fn the_program_says_what_the_cpu_says() {
    let Some(library) = cuda::simulator() else { return };
    let model = model();
    let tokens = |backend: &str| {
        let arguments = [
            "run",
            &model,
            "fn main() {",
            "--backend",
            backend,
            "--temperature",
            "0",
            "-n",
            "6",
            "--json",
            "--ctx",
            "64",
            "--activations",
            "f32",
            "--kv",
            "f32",
            "--ignore-end",
        ];
        let (code, out, said) = aprgpu(Some(&library), &[], &arguments);
        assert_eq!(code, 0, "{said}");
        let report: Value = serde_json::from_str(&out).unwrap();
        assert!(report["backend"].as_str().unwrap().starts_with(backend), "{report}");
        report["tokens"].clone()
    };
    let expected = tokens("cpu");
    assert_eq!(expected.as_array().unwrap().len(), 6);
    assert_eq!(tokens("cuda"), expected);
}

/// Before CUDA 12.3 a captured launch must not begin before the one before it ends; from sm_90 on the kernels could.
#[test]
fn launches_overlap_where_the_drivers_graphs_can_say_so() {
    let Some(library) = cuda::simulator() else { return };
    let model = model();
    let arguments =
        ["run", &model, "fn main", "--backend", "cuda", "--temperature", "0", "-n", "3", "--ctx", "64"];
    let said = |environment: &[(&str, &str)]| {
        let (code, out, said) = aprgpu(Some(&library), environment, &arguments);
        assert_eq!(code, 0, "{environment:?}: {said}");
        out
    };
    let expected = said(&[]);
    for driver in ["12020", "12030"] {
        assert_eq!(said(&[("PTXSIM_SM", "90"), ("PTXSIM_DRIVER", driver)]), expected, "{driver}");
    }
}

#[test]
fn the_self_test_passes_and_times_itself() {
    let Some(library) = cuda::simulator() else { return };
    let clock = std::time::Instant::now();
    let (code, out, said) =
        aprgpu(Some(&library), &[], &["selftest", "--backend", "cuda", "--quick", "--json"]);
    assert_eq!(code, 0, "{out}\n{said}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(report["device"].as_str().unwrap().contains("ptxsim (no GPU)"));
    assert!(report["checks"].as_array().unwrap().len() > 20);
    println!("{:.1} s", clock.elapsed().as_secs_f64());
}

#[test]
fn kernels_are_listed_and_written_out() {
    let folder = tempfile::tempdir().unwrap();
    let emit = folder.path().to_str().unwrap();
    let (code, out, said) = aprgpu(None, &[], &["kernels", "--json", "--emit", emit]);
    assert_eq!(code, 0, "{said}");
    let kernels: Value = serde_json::from_str(&out).unwrap();
    let kernels = kernels.as_array().unwrap();
    for op in aprgpu::plan::OpKind::ALL {
        for language in ["ptx", "wgsl"] {
            if language == "wgsl" && cfg!(not(feature = "wgpu")) {
                continue;
            }
            let found = kernels.iter().find(|k| k["op"] == op.name() && k["language"] == language);
            let kernel = found.unwrap_or_else(|| panic!("no {language} kernel of {}", op.name()));
            let text = std::fs::read_to_string(folder.path().join(kernel["file"].as_str().unwrap())).unwrap();
            assert_eq!(text.len() as u64, kernel["bytes"].as_u64().unwrap());
            assert!(!text.contains("${") && !text.contains("#include"), "{kernel}");
        }
    }
    let one =
        kernels.iter().find(|kernel| kernel["variant"] == "sample" && kernel["language"] == "ptx").unwrap();
    assert_eq!((&one["target"], &one["max_threads"]), (&Value::from("sm_80"), &Value::from(1024)));
}
