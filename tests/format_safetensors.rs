//! Safetensors files and Hugging Face folders.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod model_files;

use aprgpu::format::huggingface::HuggingFace;
use aprgpu::format::{Error, safetensors};
use aprgpu::quant::{TensorType, decode_row};
use model_files::{fixtures, map, small_safetensors};
use serde_json::json;
use std::path::Path;

/// A file with this header and so many bytes of data.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(model_files::pattern(data, 1));
    bytes
}

/// A file with F32 vectors of one value each.
fn vectors(names: &[&str]) -> Vec<u8> {
    let entries: Vec<String> = names
        .iter()
        .enumerate()
        .map(|(i, name)| {
            format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":[{},{}]}}"#, 4 * i, 4 * i + 4)
        })
        .collect();
    file(&format!("{{{}}}", entries.join(",")), 4 * names.len())
}

#[test]
fn a_folder_of_transformers_holds_the_tensors_of_the_model() {
    let Some(folder) = fixtures() else { return };
    for (name, architecture, files) in [
        (
            "coder",
            "Qwen2ForCausalLM",
            &["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"][..],
        ),
        ("llama-spm", "LlamaForCausalLM", &["tokenizer.json", "tokenizer.model"]),
        ("qwen3", "Qwen3ForCausalLM", &["tokenizer.json"]),
        ("qwen2-896", "Qwen2ForCausalLM", &["tokenizer.json"]),
    ] {
        let model = HuggingFace::open(&folder.join(name).join("hf")).unwrap();
        assert_eq!(model.config["architectures"], json!([architecture]));
        let norm = model.tensor("model.norm.weight").unwrap();
        assert_eq!(norm.shape, [model.config["hidden_size"].as_u64().unwrap() as usize]);
        let embedding = model.tensor("model.embed_tokens.weight").unwrap();
        assert_eq!(embedding.tensor_type, TensorType::BF16);
        assert_eq!(embedding.rows() as u64, model.config["vocab_size"].as_u64().unwrap());
        assert!(files.iter().all(|file| model.file(file).is_some()), "{name}");
    }
    let model = HuggingFace::open(&folder.join("coder/hf")).unwrap();
    assert_eq!(model.file("tokenizer.model"), None);
    assert_eq!(model.json("generation_config.json").unwrap().unwrap()["eos_token_id"], json!(4095));
    // The F16 GGUF file was made of this folder: BF16 values of this size are F16 values exactly.
    let gguf = aprgpu::format::gguf::Gguf::open(&folder.join("coder/coder-F16.gguf")).unwrap();
    let values = |tensor: &aprgpu::format::Tensor| {
        let mut values = vec![0.0; tensor.len()];
        decode_row(tensor.tensor_type, tensor.bytes(), &mut values).unwrap();
        values
    };
    let ours = values(model.tensor("model.layers.2.mlp.up_proj.weight").unwrap());
    let theirs = values(gguf.tensor("blk.2.ffn_up.weight").unwrap());
    assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= 1e-7));
}

#[test]
fn a_small_file_is_read() {
    let bytes = small_safetensors();
    let tensors = safetensors::read(&map(&bytes)).unwrap();
    let [x, y] = &tensors[..] else { panic!("{tensors:?}") };
    assert_eq!((x.name.as_str(), x.tensor_type, &x.shape[..]), ("x.weight", TensorType::BF16, &[2, 3][..]));
    assert_eq!((y.name.as_str(), y.tensor_type), ("y", TensorType::F32));
    assert_eq!(x.bytes(), &bytes[bytes.len() - 16..bytes.len() - 4]);
}

#[test]
fn bad_files_are_refused() {
    let refused = |what: &str, bytes: &[u8]| {
        let error = safetensors::read(&map(bytes)).expect_err(what).to_string();
        assert!(error.contains(what), "expected {what:?} in: {error}");
    };
    let entry = |dtype: &str, shape: &str, start: u64, end: u64| {
        format!(r#"{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{start},{end}]}}"#)
    };
    let one = |entry: String| format!(r#"{{"a":{entry}}}"#);
    refused("safetensors header", &[]);
    refused("safetensors header", &u64::MAX.to_le_bytes());
    refused("safetensors header", &file("{\"a\":", 0));
    refused("safetensors header", &file(&one(entry("F32", "[1]", 0, 4)), 3));
    refused("safetensors header", &file(&one(entry("F32", "[1]", 0, 4)), 5));
    refused("safetensors header", &file(&one(entry("F32", "[2]", 0, 4)), 4));
    refused("safetensors header", &file(&one(entry("F32", "[4611686018427387905]", 0, 4)), 4));
    refused("safetensors header", &file(&one(entry("F32", "[4294967296,4294967296]", 0, 0)), 0));
    refused("a: expected a type of F32, F16 or BF16, found BOOL", &file(&one(entry("BOOL", "[4]", 0, 4)), 4));
    refused("a: expected dimensions of 1 and more", &file(&one(entry("F32", "[1099511627776,0]", 0, 0)), 0));
    // Overlapping, and with a gap.
    let two = |start: u64| {
        format!(r#"{{"a":{},"b":{}}}"#, entry("F32", "[2]", 0, 8), entry("F32", "[1]", start, start + 4))
    };
    refused("safetensors header", &file(&two(4), 8));
    refused("safetensors header", &file(&two(12), 16));
    // The crate keeps the last of two tensors with one name.
    let twice = format!(r#"{{"a":{0},"a":{0}}}"#, entry("F32", "[1]", 0, 4));
    refused("\"a\" appears twice", &file(&twice, 4));
}

fn folder(index: Option<serde_json::Value>, shards: &[(&str, &[&str])]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    if let Some(index) = index {
        std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    }
    for (name, tensors) in shards {
        std::fs::write(folder.path().join(name), vectors(tensors)).unwrap();
    }
    folder
}

#[test]
fn a_model_in_several_files_is_read_as_one() {
    let index = json!({"metadata": {}, "weight_map": {"a": "1.safetensors", "c": "1.safetensors", "b": "2.safetensors"}});
    let folder = folder(Some(index), &[("1.safetensors", &["c", "a"]), ("2.safetensors", &["b"])]);
    let model = HuggingFace::open(folder.path()).unwrap();
    let names: Vec<&str> = model.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["c", "a", "b"]);
    assert_eq!(model.tensor("b").unwrap().map.path(), folder.path().join("2.safetensors"));
    assert!(model.tensor("d").is_none());
}

#[test]
fn files_outside_the_folder_are_not_reached() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("x.safetensors"), vectors(&["a"])).unwrap();
    let absolute = outside.path().join("x.safetensors");
    for file in [
        "../x.safetensors",
        "/x.safetensors",
        "sub/x.safetensors",
        "..",
        ".",
        "",
        "..\\x.safetensors",
        absolute.to_str().unwrap(),
    ] {
        let folder = folder(Some(json!({"weight_map": {"a": file}})), &[]);
        let error = HuggingFace::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains("a: expected the name of a file in the same folder"), "{file}: {error}");
        let folder = super_folder_with_weights();
        assert_eq!(HuggingFace::open(folder.path()).unwrap().file(file), None, "{file}");
    }
}

fn super_folder_with_weights() -> tempfile::TempDir {
    folder(None, &[("model.safetensors", &["a"])])
}

#[test]
fn an_index_and_its_files_must_agree() {
    let refused = |what: &str, map: serde_json::Value, shards: &[(&str, &[&str])]| {
        let folder = folder(Some(json!({ "weight_map": map })), shards);
        let error = HuggingFace::open(folder.path()).expect_err(what).to_string();
        assert!(error.contains(what), "expected {what:?} in: {error}");
    };
    refused("weight_map: expected an object", json!([]), &[]);
    refused("expected the name of a file", json!({"a": 1}), &[]);
    refused(
        "b: the index says \"1.s\", but that file does not hold",
        json!({"a": "1.s", "b": "1.s"}),
        &[("1.s", &["a"])],
    );
    refused(
        "b: 1.s holds this tensor, but the index does not list it",
        json!({"a": "1.s"}),
        &[("1.s", &["a", "b"])],
    );
    refused(
        "a: the index says 2.s, but 1.s holds this tensor",
        json!({"a": "2.s", "b": "1.s"}),
        &[("1.s", &["a", "b"]), ("2.s", &["a"])],
    );
    refused("no such file", json!({"a": "gone.s"}), &[]);
}

#[test]
fn what_is_missing_is_named() {
    let empty = tempfile::tempdir().unwrap();
    let error = HuggingFace::open(empty.path()).unwrap_err();
    assert!(matches!(&error, Error::Missing { path } if path.ends_with("config.json")), "{error}");
    let no_weights = folder(None, &[]);
    let error = HuggingFace::open(no_weights.path()).unwrap_err();
    assert!(matches!(&error, Error::Missing { path } if path.ends_with("model.safetensors")), "{error}");
    std::fs::write(no_weights.path().join("config.json"), "[1]").unwrap();
    assert!(HuggingFace::open(no_weights.path()).unwrap_err().to_string().contains("a JSON object"));
    std::fs::write(no_weights.path().join("config.json"), r#"{"a":1,"a":2}"#).unwrap();
    assert!(HuggingFace::open(no_weights.path()).unwrap_err().to_string().contains("twice"));
    assert!(HuggingFace::open(Path::new("/no/such/folder")).is_err());
}
