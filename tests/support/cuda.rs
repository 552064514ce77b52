//! The device that tests of the CUDA backend run on.
//!
//! `cargo test` builds `tools/ptxsim-cuda`, whose `libcuda.so` lies in the folder that cargo puts first for the loader: so
//! tests run in the simulator, with all its checks. A test binary that is started by hand finds the system's driver, and
//! runs on the GPU.

use aprgpu::backend::cuda::{DeviceChoice, Gpu};
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
