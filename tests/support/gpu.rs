//! The adapter that tests of the wgpu backend run on.

use aprgpu::backend::wgpu::{AdapterChoice, Gpu};
use std::sync::{Arc, OnceLock};

/// One device for all tests of a binary: opening and compiling take time. Software adapters will do. Where there is none,
/// prints why tests are skipped; on CI that is a failure.
pub(crate) fn shared() -> Option<Arc<Gpu>> {
    static GPU: OnceLock<Option<Arc<Gpu>>> = OnceLock::new();
    let gpu = GPU.get_or_init(|| open(&AdapterChoice { allow_software: true, ..AdapterChoice::default() }));
    gpu.clone()
}

/// A device of its own.
pub(crate) fn open(choice: &AdapterChoice) -> Option<Arc<Gpu>> {
    match Gpu::open(choice) {
        Ok(gpu) => {
            println!("on {}", gpu.summary());
            Some(Arc::new(gpu))
        }
        Err(error) => {
            println!("skipped: {error}");
            assert!(std::env::var_os("CI").is_none(), "CI must run these tests: install mesa-vulkan-drivers");
            None
        }
    }
}
