//! Weights are found by role under every name, in the order of rows that goes with the configuration, and nothing that
//! does not fit is taken.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod tiny;

use aprgpu::convert::{Options, gguf_to_apr};
use aprgpu::model::{Error, Inspection, Model, Role, RopePairing, Weights, kernel_name};
use aprgpu::quant::{TensorType, decode_row};
use serde_json::json;
use std::path::Path;
use tiny::{Stored, Tiny, Written, fixtures};

fn open(path: &Path) -> Model {
    Model::open(path).unwrap_or_else(|error| panic!("{error}"))
}

fn error(written: &Written) -> (u8, String) {
    let error = Model::open(&written.path).map(|model| model.config).expect_err("expected an error");
    (error.exit_code(), error.to_string())
}

/// All rows, in order.
fn rows(weights: &Weights, layer: Option<usize>, role: Role) -> Vec<Vec<u8>> {
    let weight = weights.get(layer, role).unwrap_or_else(|| panic!("{role} of layer {layer:?}"));
    assert_eq!(weight.row(weight.rows), &[] as &[u8]);
    (0..weight.rows).map(|row| weight.row(row).to_vec()).collect()
}

fn assert_same(a: &Weights, b: &Weights) {
    assert_eq!(a.tensors().len(), b.tensors().len());
    for weight in a.tensors() {
        let (layer, role) = (weight.layer, weight.role);
        assert_eq!(rows(a, layer, role), rows(b, layer, role), "{role} of layer {layer:?}");
        assert_eq!(weight.values(), b.get(layer, role).unwrap().values(), "{role} of layer {layer:?}");
    }
}

#[test]
fn every_format_gives_the_same_rows() {
    for architecture in ["qwen2", "qwen3", "llama"] {
        let mut tiny = Tiny::new(architecture);
        if architecture == "llama" {
            tiny.biases = (true, true, true);
        }
        let gguf = tiny::gguf(&tiny.gguf_metadata(), &tiny.gguf_tensors());
        let apr = tiny::apr(&tiny.apr_metadata(), &tiny.gguf_tensors());
        let hf = tiny::hf(&tiny.hf_config(), &tiny.hf_tensors());
        let (gguf, apr, hf) = (open(&gguf.path), open(&apr.path), open(&hf.path));
        assert_eq!(gguf.config, hf.config);
        assert_same(&gguf.weights, &apr.weights);
        assert_same(&gguf.weights, &hf.weights);
        assert!(gguf.weights.tensors().iter().all(|w| w.role.is_vector() || w.is_mapped()));
        let stored = tiny.gguf_tensors().iter().map(|tensor| tensor.bytes.len() as u64).sum::<u64>();
        assert_eq!(gguf.weights.bytes(), stored);
        assert_eq!(gguf.weights.parameters(), stored / 4);
    }
}

/// Rows of llama models from Hugging Face are only right for NORM once they are permuted; an APR file that says NEOX has
/// the same rows as they are.
#[test]
fn rows_are_permuted_where_the_pairing_asks_for_it_and_only_there() {
    let tiny = Tiny::new("llama");
    let permuted = open(&tiny::hf(&tiny.hf_config(), &tiny.hf_tensors()).path);
    let mut metadata = tiny.apr_metadata();
    metadata.insert("rope_type".to_owned(), json!(2));
    let as_stored = open(&tiny::apr(&metadata, &tiny.hf_tensors()).path);
    assert_eq!(permuted.config.rope.pairing, RopePairing::Norm);
    assert_eq!(as_stored.config.rope.pairing, RopePairing::Neox);
    for role in [Role::AttnQ, Role::AttnK] {
        let (a, b) = (rows(&permuted.weights, Some(1), role), rows(&as_stored.weights, Some(1), role));
        assert_ne!(a, b);
        // Rows 0, 1, 2 of a head of 8 in NORM order are its rows 0, 4, 1 in NEOX order; so in the second head.
        for (norm, neox) in [(0, 0), (1, 4), (2, 1), (7, 7), (8, 8), (9, 12)] {
            assert_eq!(a[norm], b[neox], "{role}");
        }
    }
    for role in [Role::AttnV, Role::AttnOutput, Role::FfnDown] {
        assert_eq!(rows(&permuted.weights, Some(1), role), rows(&as_stored.weights, Some(1), role));
    }
    // A file with these names that says NORM is taken at its word, with a warning.
    let norm = open(&tiny::apr(&tiny.apr_metadata(), &tiny.hf_tensors()).path);
    assert_same(&norm.weights, &as_stored.weights);
    assert!(norm.warnings.iter().any(|warning| warning.contains("rope_type")), "{:?}", norm.warnings);
    assert_eq!(as_stored.warnings, [] as [&str; 0]);
}

fn decode(weights: &Weights, layer: usize, role: Role) -> Vec<Vec<f32>> {
    let weight = weights.get(Some(layer), role).unwrap();
    let row = |i| {
        let mut values = vec![0.0; weight.cols];
        decode_row(weight.tensor_type, weight.row(i), &mut values).unwrap();
        values
    };
    (0..weight.rows).map(row).collect()
}

fn correlation(a: &[f32], b: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn permuted_rows_are_those_of_the_converter() {
    let Some(fixtures) = fixtures() else { return };
    let hf = open(&fixtures.join("llama-spm/hf"));
    let gguf = open(&fixtures.join("llama-spm/llama-spm-Q4_K_M.gguf"));
    for layer in 0..hf.config.num_layers {
        for role in [Role::AttnQ, Role::AttnK, Role::AttnV] {
            let (ours, theirs) = (decode(&hf.weights, layer, role), decode(&gguf.weights, layer, role));
            for (row, (a, b)) in ours.iter().zip(&theirs).enumerate() {
                assert!(correlation(a, b) > 0.98, "{role} layer {layer} row {row}: {}", correlation(a, b));
            }
        }
        let stored = hf.source.tensors();
        let name = format!("model.layers.{layer}.self_attn.q_proj.weight");
        let stored = stored.iter().find(|tensor| tensor.name == name).unwrap();
        let theirs = decode(&gguf.weights, layer, Role::AttnQ);
        let mut values = vec![0.0; stored.cols()];
        decode_row(stored.tensor_type, stored.row(1).unwrap(), &mut values).unwrap();
        assert!(correlation(&values, &theirs[1]) < 0.5);
        assert!(correlation(&values, &theirs[2]) > 0.98);
    }
}

#[test]
fn every_fixture_loads() {
    let Some(fixtures) = fixtures() else { return };
    let mut count = 0;
    for folder in std::fs::read_dir(&fixtures).unwrap() {
        let Ok(files) = std::fs::read_dir(folder.unwrap().path()) else { continue };
        for file in files {
            let path = file.unwrap().path();
            let extension = path.extension().unwrap_or_default();
            if extension == "gguf" || extension == "apr" || path.ends_with("hf") {
                let model = open(&path);
                assert_eq!(model.warnings, [] as [&str; 0], "{}", path.display());
                model.weights.check_finite(|_| {}).unwrap();
                let inspection = Inspection::new(&model, "q8");
                assert!(inspection.tensors.iter().all(|tensor| tensor.kernel != "none: not used"));
                count += 1;
            }
        }
    }
    assert!(count >= 20, "{count}");
}

#[test]
fn conversion_keeps_configuration_and_rows() {
    let Some(fixtures) = fixtures() else { return };
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("converted.apr");
    for file in [
        "coder/coder-Q4_K_M",
        "coder/coder-F16",
        "coder/coder-Q5_0",
        "qwen2-896/qwen2-896-Q4_K_M",
        "qwen2-yarn/qwen2-yarn-Q4_K_M",
        "qwen3/qwen3-Q4_K_M",
        "llama-gqa/llama-gqa-Q4_K_M",
        "llama-spm/llama-spm-Q5_K_S",
    ] {
        let original = fixtures.join(file).with_extension("gguf");
        let gguf = open(&original);
        for compat in [false, true] {
            let _ = std::fs::remove_file(&path);
            let options = Options { compat, ..Options::default() };
            gguf_to_apr(&original, &path, &options, &mut |_| {}).unwrap();
            let apr = open(&path);
            assert_eq!(apr.config, gguf.config, "{file}");
            assert_eq!(apr.warnings, [] as [&str; 0], "{file}");
            if !compat {
                assert_same(&gguf.weights, &apr.weights);
                assert_eq!(apr.weights.notes(), []);
            }
        }
    }
}

/// Replaces the tensors named `names` by one with their rows below each other.
fn fuse(tensors: &mut Vec<Stored>, names: &[String], fused: &str) {
    let parts: Vec<Stored> = names
        .iter()
        .map(|name| tensors.iter().find(|tensor| tensor.name == *name).unwrap().clone())
        .collect();
    tensors.retain(|tensor| !names.contains(&tensor.name));
    let mut all = parts[0].clone();
    all.name = fused.to_owned();
    all.shape[0] = parts.iter().map(|part| part.shape[0]).sum();
    all.bytes = parts.iter().flat_map(|part| part.bytes.clone()).collect();
    tensors.push(all);
}

#[test]
fn fused_tensors_are_split_by_rows() {
    let tiny = Tiny { biases: (true, true, false), ..Tiny::new("llama") };
    let plain = open(&tiny::gguf(&tiny.gguf_metadata(), &tiny.gguf_tensors()).path);
    let mut gguf = tiny.gguf_tensors();
    let mut hf = tiny.hf_tensors();
    for layer in 0..tiny.layers {
        for part in ["weight", "bias"] {
            let names = ["q", "k", "v"].map(|x| format!("blk.{layer}.attn_{x}.{part}"));
            fuse(&mut gguf, &names, &format!("blk.{layer}.attn_qkv.{part}"));
            let prefix = format!("model.layers.{layer}.self_attn");
            let names = ["q", "k", "v"].map(|x| format!("{prefix}.{x}_proj.{part}"));
            fuse(&mut hf, &names, &format!("{prefix}.qkv_proj.{part}"));
        }
        let prefix = format!("model.layers.{layer}.mlp");
        let names = ["gate", "up"].map(|x| format!("{prefix}.{x}_proj.weight"));
        fuse(&mut hf, &names, &format!("{prefix}.gate_up_proj.weight"));
    }
    let mut no_head_dim = tiny.gguf_metadata();
    no_head_dim.retain(|(key, _)| !key.ends_with("key_length"));
    for written in [
        tiny::gguf(&tiny.gguf_metadata(), &gguf),
        tiny::gguf(&no_head_dim, &gguf),
        tiny::hf(&tiny.hf_config(), &hf),
    ] {
        let fused = open(&written.path);
        assert_eq!(fused.config, plain.config);
        assert_same(&plain.weights, &fused.weights);
        assert!(fused.weights.get(Some(0), Role::AttnK).unwrap().is_mapped());
    }
    // One row short, and both forms at once.
    let mut short = gguf.clone();
    let at = short.iter().position(|tensor| tensor.name == "blk.0.attn_qkv.weight").unwrap();
    short[at].shape[0] -= 1;
    let row = short[at].shape[1] * 4;
    let len = short[at].bytes.len();
    short[at].bytes.truncate(len - row);
    let (code, text) = error(&tiny::gguf(&tiny.gguf_metadata(), &short));
    assert!(code == 5 && text.contains("blk.0.attn_qkv.weight: expected shape [64, 32]"), "{text}");
    let mut both = gguf.clone();
    both.push(tiny.gguf_tensors().into_iter().find(|tensor| tensor.name == "blk.1.attn_k.weight").unwrap());
    let (code, text) = error(&tiny::gguf(&tiny.gguf_metadata(), &both));
    assert!(code == 5 && text.contains("same weights as blk.1.attn_k.weight"), "{text}");
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let tiny = Tiny::new("llama");
    let tensors = tiny.gguf_tensors();
    for tensor in &tensors {
        let mut changed = tensors.clone();
        changed.retain(|other| other.name != tensor.name);
        // Without its head the model is a tied one.
        if tensor.name != "output.weight" {
            let (code, text) = error(&tiny::gguf(&tiny.gguf_metadata(), &changed));
            assert!(code == 5 && text.contains(&tensor.name) && text.contains("missing"), "{text}");
        }
        let mut wrong = tensor.clone();
        wrong.shape[0] += 1;
        let row: usize = wrong.shape[1..].iter().product::<usize>() * 4;
        wrong.bytes.resize(wrong.bytes.len() + row, 0);
        changed.push(wrong);
        let (code, text) = error(&tiny::gguf(&tiny.gguf_metadata(), &changed));
        let known =
            text.contains(&tensor.name) && text.contains("expected shape") || text.contains("has 41 rows");
        assert!(code == 5 && known, "{text}");
    }
    // Two names for one role, as a file with both conventions has.
    let mut both = tensors.clone();
    let mut twice = tensors[0].clone();
    twice.name = "embed_tokens.weight".to_owned();
    both.push(twice);
    let (code, text) = error(&tiny::gguf(&tiny.gguf_metadata(), &both));
    assert!(code == 5 && text.contains("same weights as token_embd.weight"), "{text}");
    // A layer that the configuration does not have, near and far.
    for (layer, why) in [(2, "belong to 3 layers"), (1_000_000, "cannot be in a file of")] {
        let mut more = tensors.clone();
        more.push(Stored::f32(&format!("blk.{layer}.attn_norm.weight"), &[32], &[1.0; 32]));
        let (code, text) = error(&tiny::gguf(&tiny.gguf_metadata(), &more));
        let named = text.contains(&format!("blk.{layer}.attn_norm.weight"));
        assert!(code == 5 && named && text.contains(why), "{text}");
    }
    // What is not known is not used, and said.
    let mut extra = tensors.clone();
    extra.push(Stored::f32("mystery.weight", &[32], &[1.0; 32]));
    extra.push(Stored::f32("model.layers.0.self_attn.rotary_emb.inv_freq", &[4], &[1.0; 4]));
    let model = open(&tiny::gguf(&tiny.gguf_metadata(), &extra).path);
    assert_eq!(model.warnings.len(), 1);
    assert!(model.warnings[0].starts_with("mystery.weight: not used"), "{:?}", model.warnings);
}

#[test]
fn a_tied_head_is_the_embedding() {
    let tiny = Tiny::new("qwen2");
    let empty = Stored {
        name: "lm_head.weight".to_owned(),
        tensor_type: TensorType::F32,
        shape: vec![tiny.vocab, tiny.hidden],
        bytes: Vec::new(),
    };
    let mut with_empty = tiny.hf_tensors();
    with_empty.push(empty);
    for tensors in [tiny.hf_tensors(), with_empty] {
        let model = open(&tiny::apr(&tiny.apr_metadata(), &tensors).path);
        assert!(model.config.tied_embeddings);
        assert_eq!(model.weights.head().unwrap().role, Role::TokenEmbedding);
        assert!(model.weights.get(None, Role::Output).is_none());
        assert_eq!(model.warnings, [] as [&str; 0]);
    }
    // Hugging Face ties by its key; another matrix in the file goes unused, and is mentioned.
    let mut other = tiny.hf_tensors();
    other.push(Stored::f32(
        "lm_head.weight",
        &[tiny.vocab, tiny.hidden],
        &vec![1.0; tiny.vocab * tiny.hidden],
    ));
    let model = open(&tiny::hf(&tiny.hf_config(), &other).path);
    assert!(model.config.tied_embeddings && model.warnings[0].contains("lm_head.weight: not used"));
}

/// A tensor of `values`, encoded by hand, under the name of the first layer's gate.
fn with_gate(tiny: &Tiny, tensor_type: TensorType, bytes: Vec<u8>) -> Written {
    let mut tensors = tiny.gguf_tensors();
    let gate = tensors.iter_mut().find(|tensor| tensor.name == "blk.0.ffn_gate.weight").unwrap();
    (gate.tensor_type, gate.bytes) = (tensor_type, bytes);
    tiny::apr(&tiny.apr_metadata(), &tensors)
}

/// A byte for each position, all different from their neighbours.
fn noise(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[2]).collect()
}

#[test]
fn types_of_apr_become_types_that_kernels_read() {
    // AprQ4: the same values as Q4_0.
    let tiny = Tiny::new("llama");
    let len = tiny.intermediate * tiny.hidden;
    let mut bytes = noise(len / 32 * 18);
    bytes.chunks_mut(18).for_each(|block| block[..2].copy_from_slice(&0x2c00u16.to_le_bytes()));
    let mut expected = vec![0.0; len];
    decode_row(TensorType::AprQ4, &bytes, &mut expected).unwrap();
    let model = open(&with_gate(&tiny, TensorType::AprQ4, bytes).path);
    let gate = model.weights.get(Some(0), Role::FfnGate).unwrap();
    assert_eq!(gate.tensor_type, TensorType::Q4_0);
    assert_eq!(decode(&model.weights, 0, Role::FfnGate).concat(), expected);
    assert_eq!(model.weights.notes().len(), 1);
    assert_eq!(model.weights.notes()[0].bytes, gate.bytes());

    // AprQ8: one scale for all.
    let mut bytes = 0.25f32.to_le_bytes().to_vec();
    bytes.extend(noise(len));
    let model = open(&with_gate(&tiny, TensorType::AprQ8, bytes).path);
    assert_eq!(model.weights.get(Some(0), Role::FfnGate).unwrap().tensor_type, TensorType::F32);
    let expected: Vec<f32> = noise(len).iter().map(|&b| 0.25 * f32::from(b as i8)).collect();
    assert_eq!(decode(&model.weights, 0, Role::FfnGate).concat(), expected);
    assert_eq!(model.weights.notes()[0].bytes, len as u64 * 4);

    // AprQ4 whose blocks cross the ends of rows.
    let narrow = Tiny { hidden: 24, ..Tiny::new("llama") };
    let len = narrow.intermediate * narrow.hidden;
    let mut bytes = noise(len.div_ceil(32) * 18);
    bytes.chunks_mut(18).for_each(|block| block[..2].copy_from_slice(&0x2c00u16.to_le_bytes()));
    let mut expected = vec![0.0; len];
    decode_row(TensorType::AprQ4, &bytes, &mut expected).unwrap();
    let model = open(&with_gate(&narrow, TensorType::AprQ4, bytes).path);
    assert_eq!(model.weights.get(Some(0), Role::FfnGate).unwrap().tensor_type, TensorType::F32);
    assert_eq!(decode(&model.weights, 0, Role::FfnGate).concat(), expected);

    // Q4_K rows that were padded to whole super-blocks.
    let mut bytes = noise(tiny.intermediate * 144);
    bytes.chunks_mut(144).for_each(|block| block[..4].copy_from_slice(&[0, 0x2c, 0, 0x28]));
    let mut padded = vec![0.0; tiny.intermediate * 256];
    decode_row(TensorType::Q4_K, &bytes, &mut padded).unwrap();
    let expected: Vec<f32> = padded.chunks(256).flat_map(|row| row[..tiny.hidden].to_vec()).collect();
    let model = open(&with_gate(&tiny, TensorType::Q4_K, bytes).path);
    assert_eq!(model.weights.get(Some(0), Role::FfnGate).unwrap().tensor_type, TensorType::F32);
    assert_eq!(decode(&model.weights, 0, Role::FfnGate).concat(), expected);
    let inspection = Inspection::new(&model, "q8");
    let gate = inspection.tensors.iter().find(|tensor| tensor.name == "blk.0.ffn_gate.weight").unwrap();
    assert_eq!((gate.tensor_type, gate.kernel.as_str()), ("Q4_K", "matvec f32 x f32 (loaded as F32)"));
}

#[test]
fn the_peers_own_quantized_tensors_keep_their_values() {
    let Some(fixtures) = fixtures() else { return };
    let model = open(&fixtures.join("apr-written/coder-aprq.apr"));
    assert!(!model.weights.notes().is_empty());
    for tensor in model.source.tensors() {
        let Some(weight) =
            model.weights.tensors().iter().find(|w| w.name == tensor.name && !w.role.is_vector())
        else {
            continue;
        };
        let mut expected = vec![0.0; tensor.len()];
        decode_row(tensor.tensor_type, tensor.bytes(), &mut expected).unwrap();
        let mut found = vec![0.0; tensor.len()];
        for (i, out) in found.chunks_mut(weight.cols).enumerate() {
            decode_row(weight.tensor_type, weight.row(i), out).unwrap();
        }
        assert_eq!(found, expected, "{}", tensor.name);
    }
}

#[test]
fn types_that_are_not_computed_are_named() {
    let tiny = Tiny { hidden: 256, ..Tiny::new("llama") };
    let rows = tiny.intermediate;
    let mut tensors = tiny.gguf_tensors();
    let gate = tensors.iter_mut().find(|tensor| tensor.name == "blk.0.ffn_gate.weight").unwrap();
    (gate.tensor_type, gate.bytes) = (TensorType::Q2_K, vec![0; rows * 84]);
    let (code, text) = error(&tiny::gguf(&tiny.gguf_metadata(), &tensors));
    assert!(code == 6 && text.contains("blk.0.ffn_gate.weight: weights of type Q2_K"), "{text}");
    let mut tensors = tiny.gguf_tensors();
    let norm = tensors.iter_mut().find(|tensor| tensor.name == "blk.0.attn_norm.weight").unwrap();
    (norm.tensor_type, norm.bytes) = (TensorType::Q8_0, vec![0; 256 / 32 * 34]);
    let (code, text) = error(&tiny::gguf(&tiny.gguf_metadata(), &tensors));
    assert!(code == 6 && text.contains("blk.0.attn_norm.weight: a vector of type Q8_0"), "{text}");
}

#[test]
fn vectors_are_decoded_from_half_types() {
    let tiny = Tiny::new("llama");
    let values: Vec<f32> = (0..tiny.hidden).map(|i| i as f32 * 0.5 - 3.0).collect();
    for tensor_type in [TensorType::F16, TensorType::BF16] {
        let mut tensors = tiny.hf_tensors();
        let norm = tensors.iter_mut().find(|tensor| tensor.name == "model.norm.weight").unwrap();
        norm.tensor_type = tensor_type;
        norm.bytes = values
            .iter()
            .flat_map(|&v| match tensor_type {
                TensorType::F16 => half::f16::from_f32(v).to_le_bytes(),
                _ => half::bf16::from_f32(v).to_le_bytes(),
            })
            .collect();
        let model = open(&tiny::hf(&tiny.hf_config(), &tensors).path);
        assert_eq!(model.weights.get(None, Role::OutputNorm).unwrap().values().unwrap(), values);
    }
}

#[test]
fn scales_that_are_not_finite_are_found() {
    let tiny = Tiny::new("llama");
    let len = tiny.intermediate * tiny.hidden;
    let mut bytes = vec![0; len / 32 * 34];
    bytes[5 * 34..5 * 34 + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    let model = open(&with_gate(&tiny, TensorType::Q8_0, bytes).path);
    let mut calls = 0;
    let error = model.weights.check_finite(|_| calls += 1).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    let text = error.to_string();
    assert!(text.contains("blk.0.ffn_gate.weight") && text.contains("block 5"), "{text}");
    assert!(calls > 0 && calls < model.weights.tensors().len());
    let gate = model.weights.get(Some(0), Role::FfnGate).unwrap();
    assert!(model.weights.check_tensor(gate).is_err());
    assert!(model.weights.check_tensor(model.weights.get(Some(0), Role::FfnUp).unwrap()).is_ok());
}

#[test]
fn paths_are_told_apart() {
    let tiny = Tiny::new("qwen2");
    let hf = tiny::hf(&tiny.hf_config(), &tiny.hf_tensors());
    for file in ["", "config.json", "model.safetensors"] {
        assert_eq!(open(&hf.path.join(file)).source.format(), "Hugging Face");
    }
    let code = |path: &Path| {
        let error: Error = Model::open(path).map(|model| model.config).unwrap_err();
        (error.exit_code(), error.to_string())
    };
    let (missing, text) = code(&hf.path.join("model.gguf"));
    assert!(missing == 3 && text.contains("no such file"), "{text}");
    for (content, hint) in [
        (&b"PK\x03\x04rest"[..], "zip archive"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"<!DOCTYPE html>", "HTML page"),
        (b"\x10\0\0\0\0\0\0\0{\"a\":{}}", "open its folder"),
        (b"anything", "61 6e 79 74 68 69 6e 67"),
        (b"GG", "47 47"),
    ] {
        let path = hf.path.join("other");
        std::fs::write(&path, content).unwrap();
        let (format, text) = code(&path);
        assert_eq!(format, 4, "{text}");
        assert!(text.contains(hint) && text.contains("expected a GGUF file"), "{text}");
    }
    std::fs::write(hf.path.join("other"), b"GGUF\x03").unwrap();
    assert_eq!(code(&hf.path.join("other")).0, 4);
}

#[test]
fn inspection_shows_what_runs_on_what() {
    assert_eq!(kernel_name(Role::AttnQ, TensorType::Q4_K, "q8"), "matvec q4_k x q8");
    assert_eq!(kernel_name(Role::AttnQ, TensorType::Q4_K, "q8_k"), "matvec q4_k x q8_k");
    assert_eq!(kernel_name(Role::AttnQ, TensorType::Q5_0, "q8_k"), "matvec q5_0 x q8_0");
    assert_eq!(kernel_name(Role::AttnQ, TensorType::Q5_0, "f32"), "matvec q5_0 x f32");
    assert_eq!(kernel_name(Role::Output, TensorType::F16, "q8"), "matvec f16 x f32");
    let tiny = Tiny::new("qwen2");
    let mut metadata = tiny.gguf_metadata();
    metadata.retain(|(key, _)| key != "qwen2.rope.dimension_count");
    metadata.push(("tokenizer.ggml.model".to_owned(), "gpt2".into()));
    metadata.push(("tokenizer.chat_template".to_owned(), "{{ x }}".into()));
    let written = tiny::gguf(&metadata, &tiny.gguf_tensors());
    let inspection = Inspection::new(&open(&written.path), "q8");
    assert_eq!(inspection.size, std::fs::metadata(&written.path).unwrap().len());
    assert_eq!(inspection.bits_per_weight, 32.0);
    assert_eq!(inspection.tokenizer, ["tokenizer.ggml.model"]);
    assert!(inspection.chat_template);
    assert_eq!(inspection.types.len(), 1);
    assert_eq!(inspection.tensors.len(), tiny.gguf_tensors().len());
    let json = serde_json::to_value(&inspection).unwrap();
    assert_eq!(json["architecture"], "qwen2");
    assert_eq!(json["config"]["rope"]["pairing"], "neox");
    assert_eq!(json["defaults"][0]["key"], "qwen2.rope.dimension_count");
    let embedding = &json["tensors"][0];
    assert_eq!(embedding["kernel"], "embed rows f32; matvec f32 x f32");
    assert_eq!(embedding["roles"][0], "token_embedding");
}
