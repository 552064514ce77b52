//! Importance matrices in llama.cpp's files, GGUF and older: read, applied as `llama-quantize` applies them, refused where they do not
//! fit. `golden/files/imatrix.json` holds what llama.cpp made of tiny-coder with the same matrix.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

#[path = "model_files/imatrix.rs"]
mod old_file;
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

/// The weight that the matrix says nothing of, besides the embedding.
const LEFT_OUT: &str = "blk.5.ffn_up.weight";

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
        if name == LEFT_OUT {
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

/// The same in the format of before mid 2025: means times calls, and the mean itself where there were no calls.
fn write_old_matrix(path: &Path, entries: &[Entry]) {
    let mut columns = Vec::new();
    for (k, (name, width, seen)) in entries.iter().enumerate().filter(|(_, (name, ..))| name != LEFT_OUT) {
        let values: Vec<f32> = match *seen > 0.0 {
            true => (0..*width).map(|i| sum(k, i) / seen * 8.0).collect(),
            false => vec![1.0; *width],
        };
        columns.push((name.as_str(), if *seen > 0.0 { 8 } else { 0 }, values));
    }
    let entries: Vec<_> = columns.iter().map(|(name, calls, values)| (*name, *calls, &values[..])).collect();
    std::fs::write(path, old_file::imatrix(&entries)).unwrap();
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
    let [new, old] = ["matrix.gguf", "matrix.dat"].map(|name| folder.path().join(name));
    let entries = entries(&Gguf::open(&input).unwrap());
    write_matrix(&new, &entries, |_, _| {});
    write_old_matrix(&old, &entries);
    let golden = read_json(&repository("tests/golden/files/imatrix.json"));
    let golden = golden.as_object().unwrap();
    assert_eq!(golden.len(), 10);
    for ((mix, expected), matrix) in golden.iter().flat_map(|golden| [(golden, &new), (golden, &old)]) {
        let importance = Importance::open(matrix).unwrap();
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
        assert_eq!(written.string("quantize.imatrix.file").unwrap(), matrix.file_name().unwrap().to_str());
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
    // A model is no matrix, nor is a text.
    assert!(Importance::open(&input).unwrap_err().to_string().contains("imatrix"));
    std::fs::write(&path, "a text of some length").unwrap();
    assert!(Importance::open(&path).unwrap_err().to_string().contains("GGUF or .dat"));
}

#[test]
fn an_old_matrix_that_is_cut_off_or_damaged_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("matrix.dat");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Importance::open(&path).map(|matrix| matrix.len()).map_err(|error| error.to_string())
    };
    let file = old_file::imatrix(&[("blk.0.attn_q.weight", 2, &[1.0, 3.0]), ("output.weight", 1, &[0.5])]);
    assert_eq!(open(&file), Ok(2));
    // The oldest files end with the last entry.
    let entries_end = file.len() - 4 - 4 - "calibration.txt".len();
    for length in 0..file.len() {
        assert_eq!(open(&file[..length]).is_ok(), length == entries_end, "{length} of {} bytes", file.len());
    }
    let refused = |at: usize, value: i32, expected: &str| {
        let mut damaged = file.clone();
        damaged[at..at + 4].copy_from_slice(&value.to_le_bytes());
        let error = open(&damaged).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    let calls = 8 + "blk.0.attn_q.weight".len();
    for (at, what) in [(0, "entries"), (4, "bytes of a name"), (calls, "calls"), (calls + 4, "values")] {
        refused(at, -1, &format!("at byte {at}: expected a number of {what}, found -1"));
    }
    for (at, what) in [(0, "entries"), (4, "bytes of a name"), (calls + 4, "values")] {
        refused(at, 0, &format!("at byte {at}: expected {what}, found a count of 0"));
        refused(at, i32::MAX, &format!("at byte {at}: found a count of {} {what}", i32::MAX));
    }
    refused(8, -1, "expected a name in UTF-8");
    refused(calls + 8, f32::NAN.to_bits() as i32, "blk.0.attn_q.weight: expected finite numbers");
    refused(calls + 8, (-1.0_f32).to_bits() as i32, "blk.0.attn_q.weight: expected finite numbers");
    let error = open(&[&file[..], &[0]].concat()).unwrap_err();
    assert!(error.contains("expected the end of the file, found 1 bytes more"), "{error}");
    let error = open(&old_file::imatrix(&[("a", 1, &[1.0]), ("a", 1, &[1.0])])).unwrap_err();
    assert!(error.contains("a: is in the file twice"), "{error}");
}
