//! Any bytes are a file of lattice's or an error. Run with `cargo +nightly fuzz run lattice`.
#![no_main]

use aprgpu::format::{Map, lattice};
use aprgpu::quant::{decode_row, finite_scales};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(tensor) = lattice::read(&Map::from_bytes(Path::new("fuzz"), bytes.to_vec()), "t") else { return };
    assert_eq!(tensor.range.len(), tensor.bytes().len());
    let mut values = vec![0.0; tensor.len()];
    decode_row(tensor.tensor_type, tensor.bytes(), &mut values).unwrap();
    let _ = finite_scales(tensor.tensor_type, tensor.bytes());
});
