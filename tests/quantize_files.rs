//! A Hugging Face folder, quantized, is the file that llama.cpp's converter and `llama-quantize` make of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod model_files;

use aprgpu::convert::mix::{Mix, MixOptions};
use aprgpu::convert::{FileFormat, Options, Recipe, dry_run, export, export_hugging_face};
use aprgpu::format::gguf::Gguf;
use aprgpu::model::{Model, Source};
use aprgpu::quant::{TensorType, decode_row};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

fn recipe(mix: &str) -> Recipe {
    let mix = MixOptions::new(Mix::from_name(mix).unwrap());
    Recipe { mix, importance: None, allow_requantize: false }
}

fn options(name: &str) -> Options {
    Options { name: Some(name.to_owned()), ..Options::default() }
}

/// Quantizes into `folder`.
fn quantized(source: &Path, folder: &Path, mix: &str, extension: &str, name: &str) -> PathBuf {
    let output = folder.join(format!("{mix}.{extension}"));
    let format = FileFormat::of(&output).unwrap();
    let source = Source::open(source).unwrap();
    export(&source, &output, format, Some(&recipe(mix)), &options(name), &mut |_| {}).unwrap();
    output
}

fn assert_same(ours: &Path, theirs: &Path) {
    let what = theirs.display();
    let (ours_read, theirs_read) = (Gguf::open(ours).unwrap(), Gguf::open(theirs).unwrap());
    let names = |gguf: &Gguf| gguf.tensors().iter().map(|t| t.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&ours_read), names(&theirs_read), "{what}");
    for (a, b) in ours_read.tensors().iter().zip(theirs_read.tensors()) {
        assert_eq!((a.tensor_type, &a.shape), (b.tensor_type, &b.shape), "{what}: {}", a.name);
        assert!(a.bytes() == b.bytes(), "{what}: {} has other bytes", a.name);
    }
    for (a, b) in ours_read.metadata().iter().zip(theirs_read.metadata()) {
        assert_eq!(a.0, b.0, "{what}: the order of keys");
        assert!(a.1 == b.1, "{what}: {}: {:?} and {:?}", a.0, a.1, b.1);
    }
    assert!(std::fs::read(ours).unwrap() == std::fs::read(theirs).unwrap(), "{what}: the files differ");
}

#[test]
fn files_are_byte_for_byte_those_of_llama_cpp() {
    let Some(fixtures) = model_files::fixtures() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut compared = 0;
    for model in ["coder", "qwen2-896", "qwen3", "llama-spm"] {
        for theirs in model_files::files(&fixtures.join(model), "gguf") {
            let mix = theirs.file_stem().unwrap().to_str().unwrap().rsplit_once('-').unwrap().1;
            let name = if model == "coder" { "tiny-coder" } else { model };
            let hf = fixtures.join(model).join("hf");
            assert_same(&quantized(&hf, folder.path(), mix, "gguf", name), &theirs);
            compared += 1;
        }
    }
    assert_eq!(compared, 14);
}

/// All tensors with their types and bytes.
fn tensors(source: &Source) -> Vec<(String, TensorType, Vec<usize>, Vec<u8>)> {
    let mut tensors: Vec<_> = source
        .tensors()
        .iter()
        .map(|t| (t.name.clone(), t.tensor_type, t.shape.clone(), t.bytes().to_vec()))
        .collect();
    tensors.sort();
    tensors
}

#[test]
fn a_folder_comes_back_from_gguf_and_from_apr() {
    let Some(fixtures) = model_files::fixtures() else { return };
    let folder = tempfile::tempdir().unwrap();
    for model in ["coder", "qwen2-896", "qwen3", "llama-spm"] {
        let hf = Source::open(&fixtures.join(model).join("hf")).unwrap();
        for format in ["gguf", "apr"] {
            let file = folder.path().join(format!("{model}.{format}"));
            let target = FileFormat::of(&file).unwrap();
            export(&hf, &file, target, None, &options(model), &mut |_| {}).unwrap();
            let back = folder.path().join(format!("{model}-{format}"));
            let read = Source::open(&file).unwrap();
            export_hugging_face(&read, &back, None, &Options::default(), &mut |_| {}).unwrap();
            let back = Source::open(&back).unwrap();
            assert!(tensors(&back) == tensors(&hf), "{model} {format}");
            let (a, b) = (hf.config().unwrap().0, back.config().unwrap().0);
            assert_eq!(a, b, "{model} {format}");
            let (a, b) = (hf.tokenizer().unwrap(), back.tokenizer().unwrap());
            assert_eq!(a.vocab_size(), b.vocab_size());
            assert_eq!(a.end_of_generation(), b.end_of_generation(), "{model} {format}");
            let index = std::fs::read(fixtures.join(model).join("tokens.json"));
            let index = index.unwrap_or_else(|_| std::fs::read(fixtures.join("coder/tokens.json")).unwrap());
            let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
            let texts: Vec<String> = index
                .as_array()
                .map(|list| list.iter().filter_map(|one| one["text"].as_str()).map(str::to_owned).collect())
                .unwrap_or_default();
            for text in texts.iter().map(String::as_str).chain(["def f(n):\n  x", "<|im_end|> é <s> ▁"]) {
                let (ours, theirs) = (b.encode(text, true, true), a.encode(text, true, true));
                assert_eq!(ours, theirs, "{model} {format} {text:?}");
            }
            assert_eq!(hf.chat_template_text().unwrap(), back.chat_template_text().unwrap());
        }
    }
}

#[test]
fn rope_scaling_comes_back_from_a_folder() {
    let Some(fixtures) = model_files::fixtures() else { return };
    let folder = tempfile::tempdir().unwrap();
    for model in ["llama-gqa", "qwen2-yarn"] {
        let gguf = Source::open(&fixtures.join(model).join(format!("{model}-Q4_K_M.gguf"))).unwrap();
        let target = folder.path().join(model);
        let dtype = Some(TensorType::F32);
        export_hugging_face(&gguf, &target, dtype, &Options::default(), &mut |_| {}).unwrap();
        let hf = Source::open(&target).unwrap();
        let (a, b) = (gguf.config().unwrap().0, hf.config().unwrap().0);
        assert_eq!(a, b, "{model}");
        // And from there as GGUF again, whose values are the ones that were decoded.
        let again = folder.path().join("again.gguf");
        export(&hf, &again, FileFormat::Gguf, None, &options(model), &mut |_| {}).unwrap();
        let again = Source::open(&again).unwrap();
        assert_eq!(again.config().unwrap().0, a, "{model}");
        let decoded = |source: &Source, name: &str| {
            let tensor = source.tensors().iter().find(|tensor| tensor.name == name).unwrap();
            let mut values = vec![0.0; tensor.len()];
            decode_row(tensor.tensor_type, tensor.bytes(), &mut values).unwrap();
            values
        };
        for tensor in gguf.tensors() {
            assert!(decoded(&gguf, &tensor.name) == decoded(&again, &tensor.name), "{model} {}", tensor.name);
        }
    }
}

#[test]
fn a_quantized_apr_file_holds_what_the_gguf_file_holds() {
    let Some(fixtures) = model_files::fixtures() else { return };
    let folder = tempfile::tempdir().unwrap();
    for model in ["coder", "llama-spm"] {
        let hf = fixtures.join(model).join("hf");
        let apr = quantized(&hf, folder.path(), "Q4_K_M", "apr", model);
        let gguf = folder.path().join("back.gguf");
        let source = Source::open(&apr).unwrap();
        export(&source, &gguf, FileFormat::Gguf, None, &Options::default(), &mut |_| {}).unwrap();
        let direct = quantized(&hf, folder.path(), "Q4_K_M", "gguf", model);
        assert!(std::fs::read(&gguf).unwrap() == std::fs::read(&direct).unwrap(), "{model}");
        assert!(Model::open(&apr).unwrap().tokenizer().is_ok());
    }
}

#[test]
fn what_is_quantized_is_not_quantized_again_unless_asked() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::open(Path::new("tests/models/tiny-coder.apr")).unwrap();
    let again = recipe("q4_0");
    let error = dry_run(&source, Some(&again), &Options::default()).unwrap_err().to_string();
    assert!(error.contains("--allow-requantize"), "{error}");
    let again = Recipe { allow_requantize: true, ..again };
    let (planned, _) = dry_run(&source, Some(&again), &Options::default()).unwrap();
    assert!(planned.iter().any(|tensor| tensor.to == TensorType::Q4_0));
    let output = folder.path().join("again.gguf");
    export(&source, &output, FileFormat::Gguf, Some(&again), &Options::default(), &mut |_| {}).unwrap();
    let bytes: u64 = planned.iter().map(|tensor| tensor.bytes).sum();
    let written: u64 = Source::open(&output).unwrap().tensors().iter().map(|t| t.bytes().len() as u64).sum();
    assert_eq!(written, bytes);
}

#[test]
fn a_value_that_is_not_finite_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let hf = folder.path().join("hf");
    let tiny = Source::open(Path::new("tests/models/tiny-coder.apr")).unwrap();
    export_hugging_face(&tiny, &hf, Some(TensorType::F32), &Options::default(), &mut |_| {}).unwrap();
    let weights = hf.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let source = Source::open(&hf).unwrap();
    let tensor = source.tensors().iter().find(|t| t.name == "model.layers.3.mlp.up_proj.weight").unwrap();
    let at = tensor.range.start + 4 * (7 * tensor.cols() + 11);
    drop(source);
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&weights, bytes).unwrap();
    let source = Source::open(&hf).unwrap();
    let output = folder.path().join("out.gguf");
    std::fs::write(&output, "old").unwrap();
    for threads in [1, 3] {
        let options = Options { threads: NonZeroUsize::new(threads), ..Options::default() };
        let result =
            export(&source, &output, FileFormat::Gguf, Some(&recipe("q4_k_m")), &options, &mut |_| {});
        let error = result.unwrap_err().to_string();
        assert!(error.contains("model.layers.3.mlp.up_proj.weight"), "{error}");
        assert!(error.contains("row 7") && error.contains("element 11") && error.contains("NaN"), "{error}");
    }
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "a temporary file was left");
}

#[test]
fn byte_counts_are_pinned() {
    let bytes = |t| aprgpu::format::TensorSpec::new("blk.0.ffn_down.weight", t, &[896, 4864]).unwrap().bytes;
    assert_eq!((bytes(TensorType::Q4_K), bytes(TensorType::Q6_K)), (2_451_456, 3_575_040));
    let Some(fixtures) = model_files::fixtures() else { return };
    let source = Source::open(&fixtures.join("qwen2-896/hf")).unwrap();
    let bytes = |mix: &str| {
        let (planned, _) = dry_run(&source, Some(&recipe(mix)), &Options::default()).unwrap();
        planned.iter().find(|t| t.name == "blk.0.ffn_down.weight").map(|t| (t.to, t.bytes)).unwrap()
    };
    assert_eq!(bytes("q4_k_s"), (TensorType::Q4_K, 2_451_456));
    assert_eq!(bytes("q4_k_m"), (TensorType::Q6_K, 3_575_040));
}
