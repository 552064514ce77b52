//! GGUF to APR and back gives the same file; APR files of the peer become GGUF files that hold the same model.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod model_files;

use aprgpu::convert::{self, Options, Report};
use aprgpu::format::apr::Apr;
use aprgpu::format::gguf::{Gguf, Value};
use aprgpu::format::{Map, Tensor};
use aprgpu::model::{Model, Source};
use aprgpu::quant::{TensorType, decode_row};
use model_files::{files, fixtures, map};
use serde_json::json;
use std::path::Path;

fn to_apr(gguf: &Gguf, options: &Options) -> (Vec<u8>, Report) {
    convert::write_apr(gguf, Vec::new(), Path::new("out.apr"), options, &mut |_| {}).unwrap()
}

fn to_gguf(apr: &Apr) -> (Vec<u8>, Report) {
    convert::write_gguf(apr, Vec::new(), Path::new("out.gguf"), &Options::default(), &mut |_| {}).unwrap()
}

/// All values of a tensor.
fn values(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.len()];
    decode_row(tensor.tensor_type, tensor.bytes(), &mut values).unwrap();
    values
}

#[test]
fn every_fixture_comes_back_byte_for_byte() {
    let Some(folder) = fixtures() else { return };
    let files = files(&folder, "gguf");
    assert!(files.len() >= 16, "{files:?}");
    for path in files {
        let gguf = Gguf::open(&path).unwrap();
        let (apr, report) = to_apr(&gguf, &Options::default());
        assert_eq!(report.reencoded, [], "{}", path.display());
        assert_eq!(report.notes, [""; 0], "{}", path.display());
        let apr = Apr::from_map(map(&apr)).unwrap();
        assert_eq!(apr.tensors().len(), gguf.tensors().len());
        let (back, _) = to_gguf(&apr);
        assert!(back == std::fs::read(&path).unwrap(), "{} did not come back", path.display());
    }
}

#[test]
fn every_metadata_type_comes_back_byte_for_byte() {
    let file = model_files::gguf_with_everything();
    let gguf = Gguf::from_map(map(&file)).unwrap();
    let (apr, report) = to_apr(&gguf, &Options::default());
    assert!(report.notes.iter().any(|note| note.contains("not UTF-8")), "{:?}", report.notes);
    assert!(report.notes.iter().any(|note| note.contains("num_heads")), "{:?}", report.notes);
    let apr = Apr::from_map(map(&apr)).unwrap();
    assert_eq!(apr.metadata()["aprgpu.ext_dtypes"], json!({"162": "Q4_0", "173": "Q5_K", "184": "I8"}));
    assert!(to_gguf(&apr).0 == file);
}

#[test]
fn version_2_and_a_missing_end_of_padding_come_back() {
    let mut file = model_files::gguf(
        2,
        &[("general.architecture".to_owned(), "x".into())],
        &[("t", TensorType::F32, &[5])],
    );
    // 20 bytes of data and 12 of padding.
    for tail in (0..=12).rev() {
        let gguf = Gguf::from_map(map(&file)).unwrap();
        assert_eq!((gguf.version(), gguf.tail()), (2, tail));
        let apr = Apr::from_map(map(&to_apr(&gguf, &Options::default()).0)).unwrap();
        assert!(to_gguf(&apr).0 == file);
        file.pop();
    }
}

#[test]
fn a_vocabulary_alone_comes_back() {
    let file = model_files::gguf(3, &[("general.architecture".to_owned(), "llama".into())], &[]);
    let gguf = Gguf::from_map(map(&file)).unwrap();
    let apr = Apr::from_map(map(&to_apr(&gguf, &Options::default()).0)).unwrap();
    assert!(to_gguf(&apr).0 == file);
}

#[test]
fn an_apr_file_has_the_keys_that_the_peer_wants() {
    let Some(folder) = fixtures() else { return };
    // The peer's own file was made of the same model, so its keys are the oracle.
    for (gguf, peer) in [
        ("coder/coder-Q4_K_M.gguf", "apr-written/coder-hf-names.apr"),
        ("llama-spm/llama-spm-Q4_K_M.gguf", "apr-written/llama-gguf-names.apr"),
    ] {
        let gguf = Gguf::open(&folder.join(gguf)).unwrap();
        let peer = Apr::open(&folder.join(peer)).unwrap();
        // The vocabulary is stored once.
        let ours = Apr::from_map(map(&to_apr(&gguf, &Options::default()).0)).unwrap();
        assert!(ours.metadata()["aprgpu.gguf"].to_string().len() < 8192);
        for (key, value) in peer.metadata() {
            if !matches!(key.as_str(), "total_size" | "param_count") {
                assert_eq!(ours.metadata().get(key), Some(value), "{key}");
            }
        }
        for tensor in peer.tensors().iter().filter(|tensor| !tensor.is_empty()) {
            let ours = ours.tensor(&tensor.name).expect(&tensor.name);
            assert_eq!((ours.tensor_type, &ours.shape), (tensor.tensor_type, &tensor.shape));
            assert!(ours.bytes() == tensor.bytes(), "{}", tensor.name);
        }
    }
}

#[test]
fn rope_scaling_travels() {
    let Some(folder) = fixtures() else { return };
    let gguf = Gguf::open(&folder.join("qwen2-yarn/qwen2-yarn-Q4_K_M.gguf")).unwrap();
    let apr = Apr::from_map(map(&to_apr(&gguf, &Options::default()).0)).unwrap();
    let expected = json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512});
    assert_eq!(apr.metadata()["rope_scaling"], expected);
    let gguf = Gguf::open(&folder.join("llama-gqa/llama-gqa-Q4_K_M.gguf")).unwrap();
    let apr = Apr::from_map(map(&to_apr(&gguf, &Options::default()).0)).unwrap();
    assert!(apr.tensor("rope_freqs.weight").is_some());
    assert_eq!(apr.u32("rope_type").unwrap(), Some(0));
}

#[test]
fn a_name_can_be_given() {
    let file = model_files::gguf_with_everything();
    let gguf = Gguf::from_map(map(&file)).unwrap();
    let options = Options { name: Some("renamed".to_owned()), ..Options::default() };
    let apr = Apr::from_map(map(&to_apr(&gguf, &options).0)).unwrap();
    assert_eq!(apr.string("name").unwrap(), Some("renamed"));
    let back = Gguf::from_map(map(&to_gguf(&apr).0)).unwrap();
    assert_eq!(back.string("general.name").unwrap(), Some("renamed"));
}

#[test]
fn compatible_files_hold_what_the_peer_reads_and_say_what_it_cost() {
    let Some(folder) = fixtures() else { return };
    let options = Options { compat: true, ..Options::default() };
    for path in ["qwen2-896/qwen2-896-Q4_K_M.gguf", "qwen3/qwen3-Q5_1.gguf", "coder/coder-Q4_K_M.gguf"] {
        let gguf = Gguf::open(&folder.join(path)).unwrap();
        let (apr, report) = to_apr(&gguf, &options);
        let apr = Apr::from_map(map(&apr)).unwrap();
        assert!(!apr.metadata().contains_key("aprgpu.ext_dtypes"), "{path}");
        let readable = [TensorType::F32, TensorType::F16, TensorType::Q4_K, TensorType::Q6_K];
        assert!(apr.tensors().iter().all(|tensor| readable.contains(&tensor.tensor_type)), "{path}");
        let unreadable = |tensor: &&Tensor| !readable.contains(&tensor.tensor_type);
        assert_eq!(report.reencoded.len(), gguf.tensors().iter().filter(unreadable).count(), "{path}");
        for change in &report.reencoded {
            assert_eq!(change.to, TensorType::F16);
            let name = change.name.replace("blk.0.ffn_gate", "model.layers.0.mlp.gate_proj");
            if let Some(stored) = apr.tensor(&name) {
                let (before, after) = (values(gguf.tensor(&change.name).unwrap()), values(stored));
                let close = |(b, a): (&f32, &f32)| (b - a).abs() <= b.abs() / 1024.0 + 1e-7;
                assert!(before.iter().zip(&after).all(close), "{path}: {name}");
            }
        }
        let grown: u64 = report.reencoded.iter().map(|change| change.bytes_written - change.bytes_read).sum();
        assert_eq!(report.bytes_written, report.bytes_read + grown, "{path}");
        // The way back keeps the values and says the new type.
        let back = Gguf::from_map(map(&to_gguf(&apr).0)).unwrap();
        if !report.reencoded.is_empty() {
            assert_eq!(back.u32("general.file_type").unwrap(), Some(1), "{path}");
        }
    }
}

#[test]
fn f32_is_used_where_f16_would_overflow() {
    // F64 has no decoder: refused by name.
    let architecture = [("general.architecture".to_owned(), Value::from("x"))];
    let file = model_files::gguf(3, &architecture, &[("big", TensorType::F64, &[2])]);
    let gguf = Gguf::from_map(map(&file)).unwrap();
    let options = Options { compat: true, ..Options::default() };
    let error = convert::write_apr(&gguf, Vec::new(), Path::new("o"), &options, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("big"), "{error}");

    // Q8_0 with a scale of 2048: 100 * 2048 is more than F16 holds.
    let mut file = model_files::gguf(
        3,
        &architecture,
        &[("big", TensorType::Q8_0, &[1, 32]), ("small", TensorType::Q8_0, &[1, 32])],
    );
    let data = file.len() - 2 * 64;
    for (at, scale) in [(data, 0x6800_u16), (data + 64, 0x3c00)] {
        file[at..at + 2].copy_from_slice(&scale.to_le_bytes());
        file[at + 2..at + 34].fill(100);
    }
    let gguf = Gguf::from_map(map(&file)).unwrap();
    let (apr, report) = to_apr(&gguf, &options);
    let apr = Apr::from_map(map(&apr)).unwrap();
    assert_eq!(apr.tensor("big").unwrap().tensor_type, TensorType::F32);
    assert_eq!(values(apr.tensor("big").unwrap()), [204800.0; 32]);
    assert_eq!(apr.tensor("small").unwrap().tensor_type, TensorType::F16);
    assert_eq!(report.reencoded.iter().map(|change| change.exact).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_file_of_the_peer_becomes_the_gguf_file_that_it_was_made_of() {
    let Some(folder) = fixtures() else { return };
    for (peer, original) in [
        ("apr-written/coder-hf-names.apr", "coder/coder-Q4_K_M.gguf"),
        ("apr-written/llama-gguf-names.apr", "llama-spm/llama-spm-Q4_K_M.gguf"),
    ] {
        let original = Gguf::open(&folder.join(original)).unwrap();
        let (file, report) = to_gguf(&Apr::open(&folder.join(peer)).unwrap());
        assert_eq!(report.reencoded, []);
        let ours = Gguf::from_map(map(&file)).unwrap();
        assert_eq!(ours.tensors().len(), original.tensors().len());
        for tensor in original.tensors() {
            let ours = ours.tensor(&tensor.name).expect(&tensor.name);
            assert_eq!((ours.tensor_type, &ours.shape), (tensor.tensor_type, &tensor.shape));
            assert!(ours.bytes() == tensor.bytes(), "{}", tensor.name);
        }
        for (key, value) in original.metadata() {
            // The peer's file does not hold these.
            let lost = [
                "general.size_label",
                "tokenizer.ggml.padding_token_id",
                "tokenizer.ggml.unknown_token_id",
                "tokenizer.ggml.add_sep_token",
            ];
            if !lost.contains(&key.as_str()) {
                assert_eq!(ours.get(key), Some(value), "{peer}: {key}");
            }
        }
        assert_eq!(
            ours.u32(&format!(
                "{}.attention.key_length",
                ours.string("general.architecture").unwrap().unwrap()
            ))
            .unwrap(),
            Some(64)
        );
    }
}

#[test]
fn types_of_the_peer_are_stored_as_gguf_types_and_reported() {
    let Some(folder) = fixtures() else { return };
    let apr = Apr::open(&folder.join("apr-written/coder-aprq.apr")).unwrap();
    let (file, report) = to_gguf(&apr);
    let gguf = Gguf::from_map(map(&file)).unwrap();
    let types: Vec<_> = report.reencoded.iter().map(|change| (change.from, change.to)).collect();
    assert!(types.contains(&(TensorType::AprQ4, TensorType::Q4_0)));
    assert!(types.contains(&(TensorType::AprQ8, TensorType::F16)));
    for change in &report.reencoded {
        let name =
            change.name.replace("model.layers.", "blk.").replace("self_attn.", "attn_").replace("_proj", "");
        let name = name.replace("mlp.", "ffn_").replace("attn_o.", "attn_output.");
        let (before, after) =
            (values(apr.tensor(&change.name).unwrap()), values(gguf.tensor(&name).expect(&name)));
        let limit = if change.exact { 0.0 } else { 1.0 / 1024.0 };
        assert!(
            before.iter().zip(&after).all(|(b, a)| (b - a).abs() <= b.abs() * limit + 1e-7 * limit),
            "{name}"
        );
    }
}

/// Keys of a small llama model with Hugging Face names: 2 heads of 4, 1 KV head, hidden 8, vocabulary 4.
fn llama_keys() -> serde_json::Value {
    json!({
        "architecture": "llama", "hidden_size": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4,
        "intermediate_size": 16, "max_position_embeddings": 128, "rope_theta": 10000.0, "rms_norm_eps": 1e-5,
        "rope_type": 2, "tokenizer.model": "gpt2", "tokenizer.pre_type": "llama-bpe",
        "tokenizer.vocabulary": ["a", "b", "<|end|>"], "tokenizer.merges": ["a b"], "tokenizer.eos_token_id": 2
    })
}

const LLAMA_TENSORS: &[(&str, TensorType, &[usize])] = &[
    ("model.embed_tokens.weight", TensorType::F32, &[4, 8]),
    ("model.layers.0.self_attn.q_proj.weight", TensorType::F32, &[8, 8]),
    ("model.layers.0.self_attn.k_proj.weight", TensorType::F16, &[4, 8]),
    ("model.layers.0.self_attn.q_proj.bias", TensorType::F16, &[8]),
    ("model.norm.weight", TensorType::BF16, &[8]),
];

#[test]
fn rows_of_a_llama_model_with_neox_rope_are_permuted_for_gguf() {
    let apr = Apr::from_map(map(&model_files::apr(llama_keys(), LLAMA_TENSORS))).unwrap();
    let (file, report) = to_gguf(&apr);
    let gguf = Gguf::from_map(map(&file)).unwrap();
    let before = apr.tensor("model.layers.0.self_attn.q_proj.weight").unwrap();
    let after = gguf.tensor("blk.0.attn_q.weight").unwrap();
    for (to, from) in [0, 2, 1, 3, 4, 6, 5, 7].into_iter().enumerate() {
        assert_eq!(after.row(to), before.row(from));
    }
    let bias = values(apr.tensor("model.layers.0.self_attn.q_proj.bias").unwrap());
    let expected: Vec<u32> = [0, 2, 1, 3, 4, 6, 5, 7].map(|i: usize| bias[i].to_bits()).to_vec();
    let found: Vec<u32> =
        values(gguf.tensor("blk.0.attn_q.bias").unwrap()).iter().map(|v| v.to_bits()).collect();
    assert_eq!(found, expected);
    assert!(report.notes.iter().any(|note| note.contains("NORM")));
    // Vectors are F32, the vocabulary is padded, control tokens are found by their spelling.
    assert_eq!(gguf.tensor("output_norm.weight").unwrap().tensor_type, TensorType::F32);
    assert_eq!(gguf.strings("tokenizer.ggml.tokens").unwrap().unwrap().str(3), Some("[PAD3]"));
    assert_eq!(gguf.i32s("tokenizer.ggml.token_type").unwrap().unwrap(), [1, 1, 3, 5]);
    assert_eq!(gguf.get("general.quantization_version"), Some(&Value::U32(2)));
    assert_eq!(gguf.get("llama.attention.key_length"), Some(&Value::U32(4)));

    let mut keys = llama_keys();
    keys["rope_type"] = json!(0);
    let apr = Apr::from_map(map(&model_files::apr(keys, LLAMA_TENSORS))).unwrap();
    let gguf = Gguf::from_map(map(&to_gguf(&apr).0)).unwrap();
    assert!(gguf.tensor("blk.0.attn_q.weight").unwrap().bytes() == before.bytes());
}

#[test]
fn q_k_and_v_in_one_tensor_are_split() {
    let tensors: &[(&str, TensorType, &[usize])] = &[
        ("model.embed_tokens.weight", TensorType::F32, &[4, 8]),
        ("model.layers.0.self_attn.qkv_proj.weight", TensorType::F16, &[16, 8]),
        ("model.layers.0.self_attn.qkv_proj.bias", TensorType::F32, &[16]),
    ];
    let apr = Apr::from_map(map(&model_files::apr(llama_keys(), tensors))).unwrap();
    let (file, report) = to_gguf(&apr);
    assert_eq!(report.bytes_read, 4 * 8 * 4 + 16 * 8 * 2 + 16 * 4);
    let gguf = Gguf::from_map(map(&file)).unwrap();
    let fused = apr.tensor("model.layers.0.self_attn.qkv_proj.weight").unwrap();
    // Two heads of q and one of k are permuted, v is not.
    let rows = [("q", &[0, 2, 1, 3, 4, 6, 5, 7][..]), ("k", &[8, 10, 9, 11]), ("v", &[12, 13, 14, 15])];
    let bias = values(apr.tensor("model.layers.0.self_attn.qkv_proj.bias").unwrap());
    for (part, rows) in rows {
        let weight = gguf.tensor(&format!("blk.0.attn_{part}.weight")).unwrap();
        let part_bias = values(gguf.tensor(&format!("blk.0.attn_{part}.bias")).unwrap());
        assert_eq!((weight.rows(), part_bias.len()), (rows.len(), rows.len()));
        for (to, &from) in rows.iter().enumerate() {
            assert_eq!(weight.row(to), fused.row(from), "{part}");
            assert_eq!(part_bias[to].to_bits(), bias[from].to_bits(), "{part}");
        }
    }
    assert!(gguf.tensor("blk.0.attn_qkv.weight").is_none());

    let short: &[(&str, TensorType, &[usize])] =
        &[tensors[0], ("model.layers.0.self_attn.qkv_proj.weight", TensorType::F16, &[15, 8])];
    let apr = Apr::from_map(map(&model_files::apr(llama_keys(), short))).unwrap();
    let error =
        convert::write_gguf(&apr, Vec::new(), Path::new("o"), &Options::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("rows 12..16 do not lie in its 15"), "{error}");
}

#[test]
fn the_model_in_the_repository_becomes_the_gguf_file_that_it_was_made_of() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-coder.apr");
    if !path.exists() {
        println!("skipped: no tests/models/tiny-coder.apr");
        return;
    }
    let (file, report) = to_gguf(&Apr::open(&path).unwrap());
    assert_eq!(report.reencoded, []);
    // Length and checksum of the file that llama.cpp's own tools made.
    assert_eq!((file.len(), crc32fast::hash(&file)), (3_788_192, 0x8d02_7a84));
}

#[test]
fn each_key_that_a_gguf_file_needs_is_named_when_it_is_missing() {
    for key in [
        "architecture",
        "hidden_size",
        "num_layers",
        "num_heads",
        "intermediate_size",
        "max_position_embeddings",
        "rope_theta",
        "rms_norm_eps",
        "tokenizer.model",
        "tokenizer.pre_type",
        "tokenizer.vocabulary",
        "tokenizer.merges",
        "tokenizer.eos_token_id",
    ] {
        let mut keys = llama_keys();
        keys.as_object_mut().unwrap().remove(key);
        let apr = Apr::from_map(map(&model_files::apr(keys, LLAMA_TENSORS))).unwrap();
        let error = convert::write_gguf(&apr, Vec::new(), Path::new("o"), &Options::default(), &mut |_| {})
            .unwrap_err();
        assert!(error.to_string().contains(&format!(" {key}: ")), "{key}: {error}");
    }
}

#[test]
fn contradictions_and_unknown_tensors_are_refused() {
    for (key, value, what) in [
        ("num_heads", json!(4), "4 heads of 4"),
        ("hidden_size", json!(16), "columns"),
        ("rope_type", json!(1), "NORM"),
        ("architecture", json!("mamba"), "expected qwen2"),
        ("tokenizer.vocabulary", json!(["a", "b", "a"]), "twice"),
        ("tokenizer.vocabulary", json!(["a", "b", "c", "d", "e"]), "4 rows"),
        ("tokenizer.eos_token_id", json!(9), "4 tokens"),
        ("tokenizer.token_type", json!([1]), "one per token"),
        ("rope_scaling", json!({"rope_type": "longrope", "factor": 2.0}), "expected rope_type"),
    ] {
        let mut keys = llama_keys();
        keys[key] = value;
        let apr = Apr::from_map(map(&model_files::apr(keys, LLAMA_TENSORS))).unwrap();
        let error = convert::write_gguf(&apr, Vec::new(), Path::new("o"), &Options::default(), &mut |_| {})
            .unwrap_err();
        assert!(error.to_string().contains(what), "{key}: {error}");
    }
    let mut tensors = LLAMA_TENSORS.to_vec();
    tensors.push(("model.layers.0.mlp.router.weight", TensorType::F32, &[2, 8]));
    let apr = Apr::from_map(map(&model_files::apr(llama_keys(), &tensors))).unwrap();
    let error =
        convert::write_gguf(&apr, Vec::new(), Path::new("o"), &Options::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("router"), "{error}");
}

#[test]
fn rows_padded_to_whole_blocks_are_decoded() {
    let mut keys = llama_keys();
    keys["hidden_size"] = json!(300);
    let mut bytes = model_files::apr(
        keys,
        &[
            ("model.embed_tokens.weight", TensorType::Q4_K, &[4, 300]),
            ("model.norm.weight", TensorType::F32, &[300]),
        ],
    );
    // Scales of one in every block; without a footer the file needs no new checksum.
    let apr = Apr::from_map(map(&bytes)).unwrap();
    let range = apr.tensor("model.embed_tokens.weight").unwrap().range.clone();
    for block in bytes[range].chunks_exact_mut(144) {
        block[..4].copy_from_slice(&[0, 0x3c, 0, 0x3c]);
    }
    bytes.truncate(bytes.len() - 4);
    let apr = Apr::from_map(map(&bytes)).unwrap();
    let source = apr.tensor("model.embed_tokens.weight").unwrap();
    assert!(source.is_row_padded());
    assert_eq!(source.row_bytes(), Some(288));
    let (file, report) = to_gguf(&apr);
    let gguf = Gguf::from_map(map(&file)).unwrap();
    let after = gguf.tensor("token_embd.weight").unwrap();
    assert_eq!((after.tensor_type, &after.shape[..]), (TensorType::F16, &[4, 300][..]));
    assert_eq!(report.reencoded.len(), 1);
    let mut row = vec![0.0; 512];
    decode_row(TensorType::Q4_K, source.row(2).unwrap(), &mut row).unwrap();
    let after = &values(after)[600..900];
    assert!(row[..300].iter().zip(after).all(|(b, a)| (b - a).abs() <= b.abs() / 1024.0 + 1e-7));
}

#[test]
fn an_edited_key_is_not_lost() {
    let gguf = Gguf::from_map(map(&model_files::gguf_with_everything())).unwrap();
    let apr = Apr::from_map(map(&to_apr(&gguf, &Options::default()).0)).unwrap();
    let mut metadata = apr.metadata().clone();
    metadata.insert("rope_theta".to_owned(), json!(1e6));
    let mut tensors: Vec<&Tensor> = apr.tensors().iter().collect();
    tensors.sort_by_key(|tensor| tensor.range.start);
    let specs: Vec<_> = tensors.iter().map(|tensor| aprgpu::format::TensorSpec::of(tensor)).collect();
    let mut writer =
        aprgpu::format::apr::AprWriter::new(Vec::new(), Path::new("o"), apr.flags(), &metadata, &specs)
            .unwrap();
    tensors.iter().for_each(|tensor| writer.write(tensor.bytes()).unwrap());
    let edited = Apr::from_map(map(&writer.finish().unwrap())).unwrap();
    let error = convert::write_gguf(&edited, Vec::new(), Path::new("o"), &Options::default(), &mut |_| {})
        .unwrap_err();
    assert!(error.to_string().contains("rope_theta"), "{error}");
}

#[test]
fn one_part_of_a_split_model_is_refused() {
    let metadata =
        [("general.architecture".to_owned(), "llama".into()), ("split.count".to_owned(), Value::U16(3))];
    let gguf = Gguf::from_map(map(&model_files::gguf(3, &metadata, &[]))).unwrap();
    let error =
        convert::write_apr(&gguf, Vec::new(), Path::new("o"), &Options::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("one of 3 parts"), "{error}");
    // To a user who runs it the missing tensors would be no explanation.
    let error = Model::from_source(Source::Gguf(gguf)).unwrap_err();
    assert!(error.exit_code() == 4 && error.to_string().contains("one of 3 parts"), "{error}");
}

#[test]
fn files_are_converted_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b, c) = (folder.path().join("a.gguf"), folder.path().join("b.apr"), folder.path().join("c.gguf"));
    std::fs::write(&a, model_files::gguf_with_everything()).unwrap();
    let mut last = None;
    let report =
        convert::gguf_to_apr(&a, &b, &Options::default(), &mut |progress| last = Some(progress)).unwrap();
    let last = last.unwrap();
    assert_eq!((last.done, last.total), (report.bytes_written, report.bytes_written));
    convert::apr_to_gguf(&b, &c, &Options::default(), &mut |_| {}).unwrap();
    assert!(std::fs::read(&a).unwrap() == std::fs::read(&c).unwrap());

    // A broken input leaves the old output and nothing else.
    let bytes = std::fs::read(&b).unwrap();
    std::fs::write(&b, &bytes[..bytes.len() / 2]).unwrap();
    convert::apr_to_gguf(&b, &c, &Options::default(), &mut |_| {}).unwrap_err();
    assert!(std::fs::read(&a).unwrap() == std::fs::read(&c).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
    let error = convert::gguf_to_apr(&a, &a, &Options::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("the input itself"), "{error}");
    assert!(Gguf::from_map(Map::open(&a).unwrap()).is_ok());
}

/// Writes the model that ships with the repository: `cargo test --release --test convert_round_trip -- --ignored`.
#[test]
#[ignore = "writes tests/models/tiny-coder.apr"]
fn write_tiny_coder() {
    let Some(folder) = fixtures() else { return };
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/tiny-coder.apr");
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    let options = Options { name: Some("tiny-coder".to_owned()), ..Options::default() };
    convert::gguf_to_apr(&folder.join("coder/coder-Q4_K_M.gguf"), &target, &options, &mut |_| {}).unwrap();
}
