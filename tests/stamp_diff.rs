//! `stamp` changes metadata and nothing else; `diff` sees every change, and none where there is none.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
#![allow(clippy::duplicate_mod, reason = "two helpers look for the fixtures")]

mod model_files;
#[path = "model_files/parts.rs"]
mod parts;
#[path = "support/mod.rs"]
mod support;

use aprgpu::convert::diff::{Diff, diff};
use aprgpu::convert::validate::validate;
use aprgpu::convert::{self, FileFormat, Options, Stamp, stamp};
use aprgpu::format::apr::Apr;
use aprgpu::format::gguf::{Array, Gguf, Value};
use aprgpu::model::{Model, Source};
use model_files::fixtures;
use parts::Parts;
use std::path::{Path, PathBuf};
use support::repository;

fn tiny_apr() -> PathBuf {
    repository("tests/models/tiny-coder.apr")
}

fn tiny_gguf(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.gguf");
    std::fs::write(&path, Parts::tiny_coder().write()).unwrap();
    path
}

fn compare(a: &Path, b: &Path, values: bool) -> Diff {
    diff(&Source::open(a).unwrap(), &Source::open(b).unwrap(), values).unwrap()
}

fn set(pairs: &[(&str, &str)]) -> Stamp {
    let set = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Stamp { set, ..Stamp::default() }
}

#[test]
fn only_the_stamped_keys_change_and_tensors_keep_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for input in [tiny_gguf(folder.path()), tiny_apr()] {
        let output = folder.path().join("out").with_extension(input.extension().unwrap());
        let wanted = Stamp {
            license: Some("MIT".to_owned()),
            name: Some("renamed".to_owned()),
            chat_template: Some("{{ messages[0].content }}".to_owned()),
            ..set(&[("general.url", "https://example.com"), ("qwen2.rope.freq_base", "500000")])
        };
        let stamped = stamp(&Source::open(&input).unwrap(), &output, &wanted).unwrap();
        assert_eq!(stamped.changes.len(), 5, "{:?}", stamped.changes);
        let (before, after) = (Source::open(&input).unwrap(), Source::open(&output).unwrap());
        for (a, b) in before.tensors().iter().zip(after.tensors()) {
            assert_eq!((&a.name, a.tensor_type, &a.shape), (&b.name, b.tensor_type, &b.shape));
            assert!(a.bytes() == b.bytes(), "{}", a.name);
        }
        assert_eq!(after.chat_template_text().unwrap().unwrap(), "{{ messages[0].content }}");
        assert_eq!(after.config().unwrap().0.rope.theta, 500_000.0);
        assert!(validate(&output).unwrap().passed());
        // What it says holds in every format that it becomes.
        let gguf = folder.path().join("as.gguf");
        convert::export(&after, &gguf, FileFormat::Gguf, None, &Options::default(), &mut |_| {}).unwrap();
        let gguf = Gguf::open(&gguf).unwrap();
        assert_eq!(gguf.string("general.license").unwrap(), Some("MIT"));
        assert_eq!(gguf.string("general.name").unwrap(), Some("renamed"));
        assert_eq!(gguf.string("general.url").unwrap(), Some("https://example.com"));
        // The spelling is that of an integer; llama.cpp demands a float.
        assert_eq!(gguf.get("qwen2.rope.freq_base"), Some(&Value::F32(500_000.0)));
        let keys: Vec<String> = compare(&input, &output, false).metadata.into_iter().map(|d| d.key).collect();
        assert!(keys.iter().any(|key| key.contains("license")), "{keys:?}");
        assert!(compare(&input, &output, false).tensors.is_empty());
    }
}

#[test]
fn a_file_is_stamped_in_its_own_place_and_tensors_stay_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = tiny_gguf(folder.path());
    let apr = folder.path().join("tiny.apr");
    std::fs::copy(tiny_apr(), &apr).unwrap();
    for path in [gguf, apr] {
        let length = std::fs::metadata(&path).unwrap().len();
        // Another name of the same length: the head has the size that it had.
        let stamped =
            stamp(&Source::open(&path).unwrap(), &path, &set(&[("general.name", "mini-coder")])).unwrap();
        assert!(stamped.in_place, "{}", path.display());
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
        // The checksum of an APR file goes with it, or it would not open.
        Model::open(&path).unwrap();
        assert!(compare(&tiny_apr(), &path, true).tensors.iter().all(|t| t.values.unwrap().max_error == 0.0));
        let longer = Stamp { license: Some("Apache-2.0".repeat(30)), ..Stamp::default() };
        let stamped = stamp(&Source::open(&path).unwrap(), &path, &longer).unwrap();
        assert!(!stamped.in_place);
        Model::open(&path).unwrap();
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file was left");
}

/// As llama.cpp has it; otherwise a chat would be an empty prompt from one format and ChatML from another.
#[test]
fn an_empty_chat_template_is_none_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = Parts::tiny_coder();
    parts.set("tokenizer.chat_template", "");
    let (gguf, apr) = (folder.path().join("a.gguf"), folder.path().join("a.apr"));
    std::fs::write(&gguf, parts.write()).unwrap();
    convert::gguf_to_apr(&gguf, &apr, &Options::default(), &mut |_| {}).unwrap();
    for path in [gguf, apr] {
        let source = Source::open(&path).unwrap();
        assert_eq!(source.chat_template_text().unwrap(), None, "{}", path.display());
    }
}

#[test]
fn a_nan_in_the_metadata_is_no_change() {
    let folder = tempfile::tempdir().unwrap();
    let mut parts = Parts::tiny_coder();
    parts.set("x.nan", Value::F32(f32::NAN));
    parts.set("x.nans", Value::from(Array::F64(vec![1.0, f64::NAN])));
    let (input, output) = (folder.path().join("in.gguf"), folder.path().join("out.gguf"));
    std::fs::write(&input, parts.write()).unwrap();
    let stamped = stamp(&Source::open(&input).unwrap(), &output, &set(&[("x.new", "1")])).unwrap();
    let keys: Vec<&str> = stamped.changes.iter().map(|change| change.key.as_str()).collect();
    assert_eq!(keys, ["x.new"]);
}

#[test]
fn a_tokenizer_is_added_to_a_file_that_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let hf = folder.path().join("hf");
    let tiny = Source::open(&tiny_apr()).unwrap();
    convert::export_hugging_face(&tiny, &hf, None, &Options::default(), &mut |_| {}).unwrap();
    let mut parts = Parts::tiny_coder();
    parts.metadata.retain(|(key, _)| !key.starts_with("tokenizer."));
    let bare = folder.path().join("bare.gguf");
    std::fs::write(&bare, parts.write()).unwrap();
    assert!(validate(&bare).unwrap().failed().contains(&"tokenizer"));
    for tokenizer in [hf.clone(), hf.join("tokenizer.json")] {
        let output = folder.path().join("whole.gguf");
        let wanted = Stamp { tokenizer: Some(tokenizer), ..Stamp::default() };
        stamp(&Source::open(&bare).unwrap(), &output, &wanted).unwrap();
        let validation = validate(&output).unwrap();
        assert!(validation.passed(), "{:?}", validation.findings);
        let text = "def f(x):\n    return \"na\u{ef}ve\" <|im_end|>";
        let stamped = Source::open(&output).unwrap();
        assert_eq!(
            stamped.tokenizer().unwrap().encode(text, true, true),
            tiny.tokenizer().unwrap().encode(text, true, true)
        );
        assert_eq!(stamped.chat_template_text().unwrap(), tiny.chat_template_text().unwrap());
    }
    let missing = Stamp { tokenizer: Some(folder.path().join("nowhere")), ..Stamp::default() };
    let error = stamp(&Source::open(&bare).unwrap(), &folder.path().join("x.gguf"), &missing).unwrap_err();
    assert!(error.to_string().contains("no such file"), "{error}");
}

#[test]
fn files_of_the_peer_are_stamped_by_their_own_keys() {
    let Some(fixtures) = fixtures() else { return };
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.apr");
    let source = Source::open(&fixtures.join("apr-written/coder-hf-names.apr")).unwrap();
    let wanted = Stamp { license: Some("MIT".to_owned()), ..set(&[("rope_theta", "250000.0")]) };
    stamp(&source, &output, &wanted).unwrap();
    let apr = Apr::open(&output).unwrap();
    assert_eq!(apr.string("license").unwrap(), Some("MIT"));
    assert_eq!(apr.f32("rope_theta").unwrap(), Some(250_000.0));
    assert_eq!(apr.metadata().len(), source_keys(&source), "no key was lost");
    let alias = set(&[("num_hidden_layers", "3")]);
    let error = stamp(&source, &output, &alias).unwrap_err().to_string();
    assert!(error.contains("num_layers"), "{error}");
}

fn source_keys(source: &Source) -> usize {
    match source {
        Source::Apr(apr) => apr.metadata().len(),
        _ => panic!("expected an APR file"),
    }
}

#[test]
fn values_of_the_wrong_kind_are_refused_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let input = tiny_gguf(folder.path());
    let before = std::fs::read(&input).unwrap();
    let source = Source::open(&input).unwrap();
    for (key, value, expected) in [
        ("qwen2.block_count", "six", "type u32"),
        ("qwen2.rope.scaling.factor", "nan", "type f32"),
        ("tokenizer.ggml.add_bos_token", "perhaps", "type bool"),
        ("tokenizer.ggml.eos_token_id", "-1", "type u32"),
        ("tokenizer.ggml.token_type", "[1, \"two\"]", "type [i32]"),
        ("new.list", "[1, \"two\"]", "a list"),
    ] {
        let error = stamp(&source, &input, &set(&[(key, value)])).unwrap_err().to_string();
        assert!(error.contains(key) && error.contains(expected), "{error}");
    }
    let template = Stamp { chat_template: Some("{% if".to_owned()), ..Stamp::default() };
    stamp(&source, &input, &template).unwrap_err();
    // An APR key that follows from GGUF metadata.
    let apr = Source::open(&tiny_apr()).unwrap();
    let error = stamp(&apr, &folder.path().join("x.apr"), &set(&[("rope_theta", "1")])).unwrap_err();
    assert!(error.to_string().contains("set the GGUF key"), "{error}");
    assert!(std::fs::read(&input).unwrap() == before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_model_is_the_same_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    let gguf = tiny_gguf(folder.path());
    let found = compare(&gguf, &tiny_apr(), true);
    assert!(found.is_empty(), "{:?}", found.metadata);
    assert_eq!(found.layers.len(), 7);
    // Llama rows lie in another order in a Hugging Face folder; values are compared in one order.
    let Some(fixtures) = fixtures() else { return };
    let hf = fixtures.join("llama-spm/hf");
    let bf16 = folder.path().join("llama.gguf");
    let source = Source::open(&hf).unwrap();
    convert::export(&source, &bf16, FileFormat::Gguf, None, &Options::default(), &mut |_| {}).unwrap();
    let found = compare(&hf, &bf16, true);
    assert!(found.tensors.iter().all(|tensor| tensor.values.unwrap().max_error == 0.0), "{found:?}");
    let quantized = compare(&hf, &fixtures.join("llama-spm/llama-spm-Q4_K_M.gguf"), true);
    let worst = quantized.tensors.iter().map(|tensor| tensor.values.unwrap().nmse).fold(0.0, f64::max);
    assert!(worst > 1e-4 && worst < 0.02, "{worst}");
    assert!(quantized.layers.iter().all(|layer| !layer.is_flagged()), "{:?}", quantized.layers);
}

#[test]
fn each_kind_of_difference_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let base = Parts::tiny_llama();
    let write = |name: &str, parts: &Parts| {
        let path = folder.path().join(name);
        std::fs::write(&path, parts.write()).unwrap();
        path
    };
    let a = write("a.gguf", &base);
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = base.clone();
        change(&mut parts);
        compare(&a, &write("b.gguf", &parts), true)
    };
    assert!(with(&|_| {}).is_empty());

    let found = with(&|p| p.set("llama.context_length", Value::U32(65)));
    assert_eq!(found.metadata.len(), 1);
    assert_eq!(
        (found.metadata[0].a.as_deref(), found.metadata[0].b.as_deref()),
        (Some("u32 64"), Some("u32 65"))
    );
    // The same number in another type is another value.
    let found = with(&|p| p.set("llama.context_length", Value::I32(64)));
    assert_eq!(found.metadata[0].b.as_deref(), Some("i32 64"));
    // One token of a long list.
    let found = with(&|p| {
        let mut tokens = p.strings("tokenizer.ggml.tokens");
        tokens[263] = b"ba".to_vec();
        p.set_strings("tokenizer.ggml.tokens", tokens);
    });
    assert_eq!(found.metadata.len(), 1);
    assert_ne!(found.metadata[0].a, found.metadata[0].b, "shortened texts must differ, too");

    let of = |found: &Diff, name: &str| found.tensors.iter().find(|t| t.name == name).cloned().unwrap();
    let found = with(&|p| p.tensors.retain(|(spec, _)| spec.name != "output.weight"));
    assert!(of(&found, "output.weight").b.is_none() && !found.is_empty());
    // One value of one row: found where it is.
    let found = with(&|p| {
        let at = 4 * (5 * 32 + 7);
        p.tensor("blk.0.attn_q.weight").1[at..at + 4].copy_from_slice(&9.0_f32.to_le_bytes());
    });
    let values = of(&found, "blk.0.attn_q.weight").values.unwrap();
    assert_eq!(values.at, (5, 7));
    assert!(values.max_error > 8.0 && values.nmse > 0.1);
    assert_eq!(of(&found, "blk.0.attn_k.weight").values.unwrap().nmse, 0.0);
    // A layer that is scaled.
    let found = with(&|p| {
        for (spec, bytes) in &mut p.tensors {
            if spec.name.starts_with("blk.0.ffn") {
                for value in bytes.as_chunks_mut::<4>().0 {
                    *value = (1.5 * f32::from_le_bytes(*value)).to_le_bytes();
                }
            }
        }
    });
    let layer = found.layers.iter().find(|layer| layer.layer == Some(0)).unwrap();
    assert!(layer.is_flagged(), "{layer:?}");
    let values = of(&found, "blk.0.ffn_up.weight").values.unwrap();
    assert!((values.nmse - 0.25).abs() < 1e-6 && (values.std_ratio - 1.5).abs() < 1e-6, "{values:?}");
    // What is no number on one side only.
    let found = with(&|p| p.tensor("output.weight").1[..4].copy_from_slice(&f32::NAN.to_le_bytes()));
    assert_eq!(of(&found, "output.weight").values.unwrap().nmse, f64::INFINITY);
}
