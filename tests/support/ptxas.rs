//! NVIDIA's assembler, where a test is asked to try it.
#![allow(clippy::panic, reason = "a test may fail")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// The release that the table was written with.
const PACKAGE: &str = "nvidia-cuda-nvcc==13.5.37";

/// What `PTXAS` names: a path, or with `PTXAS=fetch` that of PyPI's package, fetched into `target/tmp/ptxas` with pip. Not set: says
/// that the test is skipped.
pub(crate) fn asked_for() -> Option<PathBuf> {
    match std::env::var("PTXAS") {
        Ok(asked) if asked == "fetch" => Some(fetch(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("ptxas"))),
        Ok(path) => Some(PathBuf::from(path)),
        Err(_) => {
            println!(
                "skipped: PTXAS is not set; PTXAS=fetch fetches NVIDIA's assembler, PTXAS=/path/to/ptxas names it"
            );
            None
        }
    }
}

/// NVIDIA's assembler in `folder`, from PyPI where it is not there yet.
fn fetch(folder: &Path) -> PathBuf {
    let find = || -> Option<PathBuf> {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).ok()? {
                let path = entry.ok()?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|name| name == "ptxas") {
                    return Some(path);
                }
            }
        }
        None
    };
    if let Some(ptxas) = find() {
        return ptxas;
    }
    let by_hand = format!("install PyPI's {PACKAGE} by hand and set PTXAS to the ptxas in it");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--target"]).arg(folder).arg(PACKAGE);
    match pip.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            panic!("{pip:?} failed; {by_hand}:\n{}", String::from_utf8_lossy(&output.stderr))
        }
        Err(error) => panic!("{pip:?} cannot be run ({error}); {by_hand}"),
    }
    find().unwrap_or_else(|| panic!("{PACKAGE} has no ptxas for this machine; {by_hand}"))
}
