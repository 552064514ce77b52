//! The device that tests of the CUDA backend run on.
//!
//! `cargo test` builds `tools/ptxsim-cuda`, whose `libcuda.so` lies in the folder that cargo puts first for the loader: so
//! tests run in the simulator, with all its checks. A test binary that is started by hand finds the system's driver, and
//! runs on the GPU.

use aprgpu::backend::cuda::{DeviceChoice, Gpu};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

/// One device for all tests of a binary. Where there is none, prints why tests are skipped; on CI that is a failure.
pub(crate) fn shared() -> Option<Arc<Gpu>> {
    static GPU: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    let open = || match Gpu::shared(&DeviceChoice::default()) {
        Ok(gpu) => {
            println!("on {}", gpu.summary());
            Some(gpu)
        }
        Err(error) => {
            println!("skipped: {error}");
            assert!(std::env::var_os("CI").is_none(), "CI must run these tests: build tools/ptxsim-cuda");
            None
        }
    };
    GPU.get_or_init(open).clone()
}

/// The folder of the simulator's `libcuda.so`, for programs that a test starts.
pub(crate) fn simulator() -> Option<PathBuf> {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    if folder.join("libcuda.so").exists() {
        return Some(folder);
    }
    println!("skipped: no libcuda.so of tools/ptxsim-cuda in {}", folder.display());
    assert!(std::env::var_os("CI").is_none(), "CI must run these tests");
    None
}

/// Demands that what `left` gives is the same under other orders of blocks and warps, from seeds, with `environment`
/// besides; see [`same_in_other_processes`].
pub(crate) fn same_under_seeds(name: &str, environment: &[(&str, &str)], left: impl Fn() -> Vec<u8>) {
    let with = |seed| [&[("PTXSIM_SEED", seed)], environment].concat();
    same_in_other_processes(name, &[with("1"), with("20260")], left);
}

/// Demands that what `left` gives is the same in each of `environments` of the simulator, which it reads once per process: so
/// the test that calls this, `name`, is run again by processes of its own.
pub(crate) fn same_in_other_processes(
    name: &str,
    environments: &[Vec<(&str, &str)>],
    left: impl Fn() -> Vec<u8>,
) {
    let Some(gpu) = shared() else { return };
    if !gpu.summary().simulated {
        println!("skipped: {} is what it is", gpu.summary().name);
        return;
    }
    if let Some(out) = std::env::var_os("APRGPU_TEST_LEFT") {
        return std::fs::write(out, left()).unwrap();
    }
    let folder = tempfile::tempdir().unwrap();
    let expected = left();
    for environment in environments {
        let file = folder.path().join("left");
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", name]).envs(environment.iter().copied());
        assert!(command.env("APRGPU_TEST_LEFT", &file).status().unwrap().success());
        assert!(std::fs::read(file).unwrap() == expected, "{environment:?} differs");
    }
}
