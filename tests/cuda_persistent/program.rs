//! The setting through the program, over the simulator's driver.

use crate::support::{cuda, repository};
use std::process::Command;

/// Six tokens of a continuation: exit code, stdout, stderr.
fn run(environment: &[(&str, &str)], more: &[&str]) -> Option<(i32, String, String)> {
    let model = repository("tests/models/tiny-coder.apr");
    let mut command = Command::new(env!("CARGO_BIN_EXE_aprgpu"));
    command.arg("run").arg(model).args(["fn main() {", "-n", "6", "--ctx", "64", "--seed", "3", "--stats"]);
    command.args(["--backend", "cuda"]).args(more).env("LD_LIBRARY_PATH", cuda::simulator()?);
    let output = command.env("APRGPU_CACHE", "").envs(environment.iter().copied()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}

/// Launches of a token, as `--stats` says.
fn dispatches(said: &str) -> f64 {
    let (_, decode) = said.split_once("decode, per token:").unwrap_or_else(|| panic!("{said}"));
    decode
        .split(' ')
        .zip(decode.split(' ').skip(1))
        .find(|pair| pair.1.starts_with("dispatches"))
        .unwrap()
        .0
        .parse()
        .unwrap()
}

#[test]
fn the_program_decodes_with_either() {
    let Some((code, expected, said)) = run(&[], &[]) else { return };
    assert_eq!(code, 0, "{said}");
    assert!(!said.contains("persistent"), "{said}");
    let listed = dispatches(&said);
    let Some((code, found, said)) = run(&[], &["--cuda-pass", "persistent"]) else { return };
    assert_eq!((code, found), (0, expected), "{said}");
    assert!(said.contains("decoding in a persistent kernel"), "{said}");
    // Five tokens are decoded, of which the first is not captured.
    let expected = (listed + 4.0 * 2.0) / 5.0;
    assert!((dispatches(&said) - expected).abs() < 0.1, "{listed} each, then {said}");
    let Some((code, _, said)) = run(&[], &["--cuda-pass", "both"]) else { return };
    assert!(code == 2 && said.contains("launches or persistent"), "{said}");
}

#[test]
fn where_it_cannot_run_the_program_says_so() {
    let environment = ("PTXSIM_COOPERATIVE", "0");
    let Some((code, out, said)) = run(&[environment], &["--cuda-pass", "persistent"]) else { return };
    assert!(code != 0 && out.is_empty(), "{code}: {out}");
    assert!(said.contains("no cooperative launches") && said.contains("--cuda-pass launches"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let Some((code, _, said)) = run(&[environment], &[]) else { return };
    assert_eq!(code, 0, "{said}");
}
