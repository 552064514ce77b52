//! Whatever a file says, opening it, building its tokenizer and template and running a few tokens ends in a result or an
//! error, never in a panic. Damage that leaves the container intact gets further than random bytes do, so values of
//! metadata are changed one by one, under right checksums.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use aprgpu::convert;
use aprgpu::engine::{self, Settings};
use aprgpu::format::apr::{Apr, AprWriter};
use aprgpu::format::gguf::Gguf;
use aprgpu::format::{Map, TensorSpec};
use aprgpu::model::{Model, Source};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use support::repository;

/// Goes the whole road; how far it gets does not matter.
fn use_model(source: Source) {
    if let Ok(tokenizer) = source.tokenizer() {
        let ids = tokenizer.encode("def f(x):\n  return x <|im_end|>", true, true);
        let _ = tokenizer.decode(&ids);
        if let Ok(template) = source.chat_template(&tokenizer) {
            let _ = template.render(
                &[json!({"role": "user", "content": "hello"})],
                true,
                &serde_json::Map::new(),
            );
        }
    }
    let Ok(model) = Model::from_source(source) else { return };
    let settings = Settings { threads: Some(1), context: Some(8), chunk: 4, ..Settings::default() };
    if let Ok((mut device, _)) = engine::load(&Arc::new(model), &settings, &mut |_, _| {}) {
        let _ = device.logits(&[1, 2, 3], false);
    }
}

fn tiny_coder() -> &'static Apr {
    static MODEL: OnceLock<Apr> = OnceLock::new();
    MODEL.get_or_init(|| Apr::open(&repository("tests/models/tiny-coder.apr")).unwrap())
}

/// The model as a GGUF file in memory.
fn gguf_bytes() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let options = convert::Options::default();
        convert::write_gguf(tiny_coder(), Vec::new(), Path::new("m.gguf"), &options, &mut |_| {}).unwrap().0
    })
}

/// The model's file with other metadata and right checksums.
fn with_metadata(metadata: &serde_json::Map<String, Value>) -> Option<Apr> {
    let apr = tiny_coder();
    let path = Path::new("mutated.apr");
    let specs: Vec<TensorSpec> = apr.tensors().iter().map(TensorSpec::of).collect();
    let mut writer = AprWriter::new(Vec::new(), path, apr.flags(), metadata, &specs).ok()?;
    for tensor in apr.tensors() {
        writer.write(tensor.bytes()).ok()?;
    }
    Apr::from_map(Map::from_bytes(path, writer.finish().ok()?)).ok()
}

/// Values that have broken somebody's reader.
fn odd_values() -> Vec<Value> {
    let numbers =
        [0.0, -1.0, 1.0, 2.0, 3.0, 1e-45, 0.5, 255.0, 65536.0, 4294967296.0, 1.8446744073709552e19, 1e300];
    let integers = [i64::MAX, i64::MIN, 7, 1 << 40];
    let others = [
        json!(null),
        json!(""),
        json!("nan"),
        json!([]),
        json!({}),
        json!([[]]),
        json!(true),
        json!(["a", "a"]),
        json!([1.5, "x", null]),
        json!("llama"),
        json!("gpt2"),
        json!("{{ 1/0 }}"),
        json!("{% for x in range(99999999) %}{% endfor %}"),
    ];
    numbers.into_iter().map(|n| json!(n)).chain(integers.map(|n| json!(n))).chain(others).collect()
}

#[test]
fn every_key_with_every_odd_value() {
    let original = tiny_coder().metadata().clone();
    let mut opened = 0;
    for key in original.keys() {
        for value in odd_values() {
            let mut metadata = original.clone();
            // What the file's GGUF origin says would contradict the change, so half of the cases go without it.
            for without_origin in [false, true] {
                if without_origin {
                    metadata.remove("aprgpu.gguf");
                }
                metadata.insert(key.clone(), value.clone());
                if let Some(apr) = with_metadata(&metadata) {
                    opened += 1;
                    use_model(Source::Apr(apr));
                }
            }
        }
    }
    assert!(opened > 300, "only {opened} of the changed files could be opened as containers");
}

#[test]
fn every_key_left_out() {
    let original = tiny_coder().metadata().clone();
    for key in original.keys() {
        let mut metadata = original.clone();
        metadata.remove("aprgpu.gguf");
        metadata.remove(key);
        if let Some(apr) = with_metadata(&metadata) {
            use_model(Source::Apr(apr));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes of the header, the metadata and the tensor list of a GGUF file, which has no checksum.
    #[test]
    fn bytes_of_a_gguf_header(changes in prop::collection::vec((0usize..200_000, any::<u8>()), 1..6)) {
        let mut bytes = gguf_bytes().to_vec();
        for (at, byte) in changes {
            let end = bytes.len().min(160_000);
            bytes[at % end] = byte;
        }
        if let Ok(gguf) = Gguf::from_map(Map::from_bytes(Path::new("mutated.gguf"), bytes)) {
            use_model(Source::Gguf(gguf));
        }
    }

    /// Bytes of the weights: scales become anything, NaN included.
    #[test]
    fn bytes_of_the_weights(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..64)) {
        let mut bytes = gguf_bytes().to_vec();
        for (at, byte) in changes {
            let at = 160_000 + at.index(bytes.len() - 160_000);
            bytes[at] = byte;
        }
        if let Ok(gguf) = Gguf::from_map(Map::from_bytes(Path::new("mutated.gguf"), bytes)) {
            use_model(Source::Gguf(gguf));
        }
    }
}
