//! Any bytes are a GGUF file or an error; a file that is read is written as it was, but for its padding, and converts
//! to APR or says why not. Run with `cargo +nightly fuzz run gguf`.
#![no_main]

use aprgpu::format::gguf::{Gguf, GgufWriter};
use aprgpu::format::{Map, TensorSpec};
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_map(Map::from_bytes(Path::new("fuzz"), bytes.to_vec())) else { return };
    let specs: Vec<TensorSpec> = gguf.tensors().iter().map(TensorSpec::of).collect();
    let mut writer =
        GgufWriter::new(Vec::new(), Path::new("out"), gguf.version(), gguf.metadata(), &specs).unwrap();
    gguf.tensors().iter().for_each(|tensor| writer.write(tensor.bytes()).unwrap());
    let written = writer.finish(Some(gguf.tail())).unwrap();
    assert_eq!(written.len(), bytes.len());
    let again = Gguf::from_map(Map::from_bytes(Path::new("again"), written)).unwrap();
    assert_eq!(again.tensors().len(), gguf.tensors().len());
    for compat in [false, true] {
        let options = aprgpu::convert::Options { compat, name: None };
        let _ = aprgpu::convert::write_apr(&gguf, Vec::new(), Path::new("out"), &options, &mut |_| {});
    }
});
