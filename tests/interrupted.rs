//! Runs that end badly: killed, without room on the disk, without the right to write. The target is then what it was, and
//! what is left beside it goes with the next run. And runs that end well in little memory.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[path = "support/mod.rs"]
mod support;

use aprgpu::quant::TensorType;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};
use support::large_model::write_qwen2;
use support::repository;

const APRGPU: &str = env!("CARGO_BIN_EXE_aprgpu");

fn tiny() -> PathBuf {
    repository("tests/models/tiny-coder.apr")
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A model in F16, which every type can be made of.
fn write_model(path: &Path, hidden: usize, layers: usize) -> u64 {
    write_qwen2(path, hidden, layers, |_| TensorType::F16)
}

#[test]
fn a_run_that_is_killed_leaves_the_old_file_or_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (input, output) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    write_model(&input, 512, 2);
    let before = std::fs::read(&input).unwrap();
    let args = ["quantize", text(&input), text(&output), "--to", "q4_k_m", "--threads", "1"];
    let clock = Instant::now();
    assert!(run(APRGPU, &args).status.success());
    let whole = clock.elapsed();
    let complete = std::fs::read(&output).unwrap();
    let (mut killed, mut finished) = (0, 0);
    for trial in 0..12 {
        std::fs::write(&output, "old").unwrap();
        let mut child = Command::new(APRGPU).args(args).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(whole.mul_f64(f64::from(trial) / 11.0));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = std::fs::read(&output).unwrap();
        match found == complete {
            true => finished += 1,
            false => killed += 1,
        }
        assert!(found == complete || found == b"old", "a half written file after trial {trial}");
    }
    println!("killed before the end: {killed}, at the end: {finished}");
    assert!(killed > 0, "no run was killed while it wrote");
    assert!(std::fs::read(&input).unwrap() == before);

    // What killed runs left is removed by the next one, once it is old; a file that is being written is not.
    let leftovers =
        || names(folder.path()).into_iter().filter(|name| name.starts_with(".aprgpu-")).collect::<Vec<_>>();
    let held = folder.path().join(".aprgpu-held.tmp");
    let holder = std::fs::File::create(&held).unwrap();
    holder.lock().unwrap();
    assert!(leftovers().len() > 1, "no killed run left anything: {:?}", names(folder.path()));
    let old = SystemTime::now() - Duration::from_secs(3600);
    for name in leftovers() {
        std::fs::File::options()
            .write(true)
            .open(folder.path().join(name))
            .unwrap()
            .set_modified(old)
            .unwrap();
    }
    assert!(run(APRGPU, &args).status.success());
    assert_eq!(leftovers(), [".aprgpu-held.tmp"]);
}

/// Runs the program where no file may grow beyond `kilobytes`: what a disk without room does to a write.
fn with_limit(kilobytes: u32, args: &[&str]) -> Output {
    let script = format!("trap '' XFSZ; ulimit -f {kilobytes}; exec \"$0\" \"$@\"");
    let mut all = vec!["-c", &script, APRGPU];
    all.extend(args);
    run("bash", &all)
}

#[test]
fn without_room_the_error_names_the_target_and_nothing_is_left() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (gguf, tiny) = (at("tiny.gguf"), tiny());
    assert!(run(APRGPU, &["convert", text(&tiny), text(&gguf)]).status.success());
    let before = std::fs::read(&gguf).unwrap();
    let old = at("old.gguf");
    std::fs::write(&old, "old").unwrap();
    let hf = at("hf");
    let cases: [(Vec<&str>, &Path); 5] = [
        (vec!["quantize", text(&gguf), text(&old), "--to", "q4_0", "--allow-requantize"], &old),
        (vec!["convert", text(&tiny), text(&old)], &old),
        (vec!["convert", text(&tiny), text(&hf)], &hf),
        (vec!["convert", text(&tiny), text(&hf), "--lattice", "symmetric"], &hf),
        (vec!["stamp", text(&gguf), "--license", "MIT"], &gguf),
    ];
    for (args, target) in cases {
        let output = with_limit(200, &args);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(7), "{args:?}: {message}");
        assert!(message.contains(text(target)) && message.contains("File too large"), "{args:?}: {message}");
        assert!(!message.contains("panicked"));
    }
    assert_eq!(std::fs::read_to_string(&old).unwrap(), "old");
    assert!(std::fs::read(&gguf).unwrap() == before, "the input changed");
    assert_eq!(names(folder.path()), ["old.gguf", "tiny.gguf"]);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_an_error_that_names_the_target() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(0o555)).unwrap();
    // Root may write anywhere but where the system itself refuses.
    let root = std::fs::write(closed.join("probe"), "").is_ok();
    let closed = if root { PathBuf::from("/proc/self") } else { closed };
    for target in ["out.gguf", "out.apr", "out-folder"] {
        let target = closed.join(target);
        let output = run(APRGPU, &["convert", text(&tiny()), text(&target)]);
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(7), "{message}");
        assert!(message.contains(text(&target)), "{message}");
    }
}

#[test]
fn the_input_is_never_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.gguf");
    assert!(run(APRGPU, &["convert", text(&tiny()), text(&input)]).status.success());
    let before = std::fs::read(&input).unwrap();
    let link = folder.path().join("link.gguf");
    std::os::unix::fs::symlink(&input, &link).unwrap();
    for output in [&input, &link] {
        for args in [
            vec!["convert", text(&input), text(output)],
            vec!["quantize", text(&input), text(output), "--to", "q4_0", "--allow-requantize"],
        ] {
            let found = run(APRGPU, &args);
            let message = String::from_utf8(found.stderr).unwrap();
            assert!(!found.status.success() && message.contains("the input itself"), "{args:?}: {message}");
        }
    }
    assert!(std::fs::read(&input).unwrap() == before);
}

/// The peak that a run states, in megabytes.
#[cfg(target_os = "linux")]
fn stated_peak(args: &[&str]) -> f64 {
    let output = run(APRGPU, args);
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{message}");
    let (before, _) = message.split_once(" MB of memory at most").unwrap_or_else(|| panic!("{message}"));
    before.rsplit([' ', '\n']).next().unwrap().parse().unwrap()
}

#[test]
#[cfg(target_os = "linux")]
fn memory_does_not_grow_with_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let (small, large) = (at("small.gguf"), at("large.gguf"));
    let sizes = [write_model(&small, 1024, 1), write_model(&large, 1024, 6)];
    let hf = at("hf");
    let mut peaks = Vec::new();
    for (input, size) in [(&small, sizes[0]), (&large, sizes[1])] {
        let input = text(input);
        let (gguf, apr) = (at("out.gguf"), at("out.apr"));
        let found = [
            stated_peak(&["quantize", input, text(&gguf), "--to", "q4_k_m"]),
            stated_peak(&["quantize", input, text(&apr), "--to", "q8_0"]),
            stated_peak(&["convert", input, text(&hf)]),
        ];
        std::fs::remove_dir_all(&hf).unwrap();
        println!("{:.0} MB of weights: {found:?} MB at most", size as f64 / 1e6);
        peaks.push(found);
    }
    for (small, large) in peaks[0].iter().zip(&peaks[1]) {
        assert!(large - small < 24.0, "{peaks:?}");
    }
    // Far below the model, and what it takes is some pieces of a tensor.
    assert!(peaks[1].iter().all(|&peak| peak < 128.0), "{peaks:?}");
}
