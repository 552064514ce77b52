//! Importance matrices in llama.cpp's GGUF files: read, applied as `llama-quantize` applies them, refused where they do not
//! fit. `golden/files/imatrix.json` holds what llama.cpp made of tiny-coder with the same matrix.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[path = "support/mod.rs"]
mod support;

use aprgpu::convert::mix::{Mix, MixOptions};
use aprgpu::convert::{FileFormat, Importance, Options, Recipe, export};
use aprgpu::format::TensorSpec;
use aprgpu::format::gguf::{Array, Gguf, GgufWriter, Strings, Value};
use aprgpu::model::Source;
use aprgpu::quant::TensorType;
use std::path::{Path, PathBuf};
use support::{read_json, repository};

/// Name, columns, tokens seen, of each matrix.
type Entry = (String, usize, f32);

/// The matrix that the golden file was made with: every weight but the embedding and one; one was never seen.
fn entries(model: &Gguf) -> Vec<Entry> {
    let matrices = model.tensors().iter().filter(|t| t.shape.len() == 2 && t.name != "token_embd.weight");
    let seen = |name: &str| if name == "blk.2.attn_k.weight" { 0.0 } else { 64.0 };
    matrices.map(|tensor| (tensor.name.clone(), tensor.cols(), seen(&tensor.name))).collect()
}

fn sum(matrix: usize, column: usize) -> f32 {
    ((column * 7919 + matrix * 104_729) % 1000 + 1) as f32 / 8.0
}

/// A file as `llama-imatrix` writes it.
fn write_matrix(path: &Path, entries: &[Entry], change: impl Fn(&str, &mut Vec<f32>)) {
    let strings: Strings = ["calibration.txt"].into_iter().collect();
    let metadata: Vec<(String, Value)> = [
        ("general.type", "imatrix".into()),
        ("imatrix.datasets", Array::String(strings).into()),
        ("imatrix.chunk_count", Value::U32(5)),
        ("imatrix.chunk_size", Value::U32(512)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    let mut tensors = Vec::new();
    for (k, (name, columns, seen)) in entries.iter().enumerate() {
        if name == "blk.5.ffn_up.weight" {
            continue;
        }
        tensors.push((format!("{name}.in_sum2"), (0..*columns).map(|i| sum(k, i)).collect::<Vec<_>>()));
        tensors.push((format!("{name}.counts"), vec![*seen]));
    }
    tensors.iter_mut().for_each(|(name, values)| change(name, values));
    let spec = |(name, values): &(String, Vec<f32>)| {
        TensorSpec::new(name, TensorType::F32, &[1, values.len()]).unwrap()
    };
    let specs: Vec<TensorSpec> = tensors.iter().map(spec).collect();
    let mut writer = GgufWriter::new(Vec::new(), path, 3, &metadata, &specs).unwrap();
    for (_, values) in &tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.write(&bytes).unwrap();
    }
    std::fs::write(path, writer.finish(None).unwrap()).unwrap();
}

/// tiny-coder as GGUF.
fn model(folder: &Path) -> PathBuf {
    let path = folder.join("model.gguf");
    let source = Source::open(&repository("tests/models/tiny-coder.apr")).unwrap();
    export(&source, &path, FileFormat::Gguf, None, &Options::default(), &mut |_| {}).unwrap();
    path
}

#[test]
fn every_mix_has_llama_cpps_types_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(folder.path());
    let matrix = folder.path().join("matrix.gguf");
    write_matrix(&matrix, &entries(&Gguf::open(&input).unwrap()), |_, _| {});
    let importance = Importance::open(&matrix).unwrap();
    let golden = read_json(&repository("tests/golden/files/imatrix.json"));
    let golden = golden.as_object().unwrap();
    assert_eq!(golden.len(), 10);
    for (mix, expected) in golden {
        let recipe = Recipe {
            mix: MixOptions::new(Mix::from_name(mix).unwrap()),
            importance: Some(importance.clone()),
            allow_requantize: true,
        };
        let output = folder.path().join("out.gguf");
        let source = Source::open(&input).unwrap();
        let report =
            export(&source, &output, FileFormat::Gguf, Some(&recipe), &Options::default(), &mut |_| {})
                .unwrap();
        let written = Gguf::open(&output).unwrap();
        let quantized = written.tensors().iter().filter(|tensor| tensor.tensor_type != TensorType::F32);
        let mut compared = 0;
        for tensor in quantized {
            let found = (tensor.tensor_type.name(), u64::from(crc32fast::hash(tensor.bytes())));
            let expected = &expected[&tensor.name];
            let expected = (expected[0].as_str().unwrap(), expected[1].as_u64().unwrap());
            assert_eq!(found, expected, "{mix}: {}", tensor.name);
            compared += 1;
        }
        assert_eq!(compared, expected.as_object().unwrap().len(), "{mix}");
        // The embedding and one weight, which the matrix leaves out; tensors that have the mix's type already are copied.
        let told = report.notes.iter().any(|note| note.contains("says nothing of"));
        assert_eq!(told, !mix.starts_with("Q4_K"), "{mix}: {:?}", report.notes);
        assert_eq!(written.string("quantize.imatrix.file").unwrap(), Some("matrix.gguf"));
        assert_eq!(written.string("quantize.imatrix.dataset").unwrap(), Some("calibration.txt"));
        assert_eq!(written.u32("quantize.imatrix.entries_count").unwrap(), Some(importance.len() as u32));
        assert_eq!(written.u32("quantize.imatrix.chunks_count").unwrap(), Some(5));
    }
}

#[test]
fn a_matrix_that_does_not_fit_or_is_damaged_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let input = model(folder.path());
    let entries = entries(&Gguf::open(&input).unwrap());
    let path = folder.path().join("matrix.gguf");
    let refused = |change: &dyn Fn(&str, &mut Vec<f32>)| {
        write_matrix(&path, &entries, change);
        Importance::open(&path).map(|_| ()).unwrap_err().to_string()
    };
    let on = |wanted: &'static str, value: f32| {
        move |name: &str, values: &mut Vec<f32>| {
            if name == wanted {
                values[0] = value;
            }
        }
    };
    for value in [f32::NAN, f32::INFINITY, -1.0] {
        let error = refused(&on("blk.1.attn_q.weight.in_sum2", value));
        assert!(error.contains("blk.1.attn_q.weight.in_sum2"), "{error}");
    }
    let error = refused(&|name: &str, values: &mut Vec<f32>| {
        if name == "blk.1.attn_q.weight.counts" {
            *values = vec![1.0; 3];
        }
    });
    assert!(error.contains("256 sums do not go with 3 counts"), "{error}");
    // Of another model: the columns do not fit.
    write_matrix(&path, &entries, |name: &str, values: &mut Vec<f32>| {
        if name == "blk.0.ffn_down.weight.in_sum2" {
            values.truncate(128);
        }
    });
    let recipe = Recipe {
        mix: MixOptions::new(Mix::Q4_0),
        importance: Some(Importance::open(&path).unwrap()),
        allow_requantize: true,
    };
    let source = Source::open(&input).unwrap();
    let output = folder.path().join("out.gguf");
    let error = export(&source, &output, FileFormat::Gguf, Some(&recipe), &Options::default(), &mut |_| {});
    let error = error.unwrap_err().to_string();
    assert!(error.contains("blk.0.ffn_down.weight") && error.contains("another model"), "{error}");
    assert!(!output.exists());
    // A model is no matrix, and the old format is named.
    assert!(Importance::open(&input).unwrap_err().to_string().contains("imatrix"));
    std::fs::write(&path, b"\x05\0\0\0 an old file").unwrap();
    assert!(Importance::open(&path).unwrap_err().to_string().contains(".dat"));
}
