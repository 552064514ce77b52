//! Any bytes are a safetensors file or an error. Run with `cargo +nightly fuzz run safetensors`.
#![no_main]

use aprgpu::format::{Map, safetensors};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(tensors) = safetensors::read(&Map::from_bytes(Path::new("fuzz"), bytes.to_vec())) else { return };
    for tensor in &tensors {
        assert_eq!(tensor.range.len(), tensor.bytes().len());
        assert_eq!(tensor.row_bytes().unwrap() * tensor.rows(), tensor.bytes().len());
    }
});
