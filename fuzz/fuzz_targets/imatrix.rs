//! Any bytes are an importance matrix or an error. Run with `cargo +nightly fuzz run imatrix`.
#![no_main]

use aprgpu::format::{Map, imatrix};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(matrix) = imatrix::read(&Map::from_bytes(Path::new("fuzz"), bytes.to_vec())) else { return };
    assert!(!matrix.entries.is_empty() && matrix.entries.iter().all(|entry| !entry.values.is_empty()));
});
