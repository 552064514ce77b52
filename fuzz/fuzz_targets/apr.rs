//! Any bytes are an APR file or an error; a file that is read converts to GGUF or says why not. The header's checksum is
//! made right first, so that the fuzzer gets past it. Run with `cargo +nightly fuzz run apr`.
#![no_main]

use aprgpu::format::Map;
use aprgpu::format::apr::Apr;
use std::path::Path;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 64 {
        let checksum = crc32fast::hash(&[&bytes[..40], &bytes[44..64]].concat());
        bytes[40..44].copy_from_slice(&checksum.to_le_bytes());
    }
    let Ok(apr) = Apr::from_map(Map::from_bytes(Path::new("fuzz"), bytes)) else { return };
    let _ = apr.gguf_origin();
    let options = aprgpu::convert::Options::default();
    let _ = aprgpu::convert::write_gguf(&apr, Vec::new(), Path::new("out"), &options, &mut |_| {});
});
