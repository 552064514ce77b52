//! lattice's `.q4` and `.f16` files: read bit for bit, written byte for byte, refused where they are not exact; folders of
//! them run and convert.

#![allow(clippy::unwrap_used, reason = "a test may fail")]
#![allow(clippy::duplicate_mod, reason = "two helpers look for the fixtures")]

mod model_files;
#[path = "support/mod.rs"]
mod support;

use aprgpu::convert::{self, FileFormat, Options};
use aprgpu::format::{Map, Tensor, TensorSpec, lattice};
use aprgpu::model::{Model, Source};
use aprgpu::quant::{BlockLatticeQ4, LatticeMode, TensorType, decode_row, encode_lattice};
use model_files::{fixtures, map};
use std::path::{Path, PathBuf};
use support::{read_f32, repository};

const MODES: [(&str, LatticeMode); 2] =
    [("asymmetric", LatticeMode::Asymmetric), ("symmetric", LatticeMode::Symmetric)];

fn golden(name: &str) -> PathBuf {
    repository("tests/golden/files/lattice").join(name)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.len()];
    decode_row(tensor.tensor_type, tensor.bytes(), &mut values).unwrap();
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn encode(values: &[f32], mode: LatticeMode) -> Vec<u8> {
    let mut bytes = vec![0; values.len().div_ceil(32) * 20];
    encode_lattice(values, mode, 0, &mut bytes).unwrap();
    bytes
}

#[test]
fn files_of_the_published_crate_are_read_bit_for_bit() {
    for (name, checksum) in [("asymmetric", 0x3f832c2a), ("symmetric", 0x1a6cd18b)] {
        let tensor = lattice::read(&Map::open(&golden(&format!("{name}.q4"))).unwrap(), name).unwrap();
        assert_eq!((tensor.tensor_type, &tensor.shape[..]), (TensorType::LatticeQ4, &[22, 1024][..]));
        let bytes: Vec<u8> = values(&tensor).iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(crc32fast::hash(&bytes), checksum, "{name}");
        let tail = lattice::read(&Map::open(&golden(&format!("{name}-tail.q4"))).unwrap(), name).unwrap();
        assert_eq!(tail.shape, [3, 45]);
        assert_eq!(bits(&values(&tail)), bits(&read_f32(&golden(&format!("{name}-tail.f32")))), "{name}");
    }
    let Some(folder) = fixtures() else { return };
    for (name, _) in MODES {
        let path = folder.join("lattice").join(format!("{name}.q4"));
        let tensor = lattice::read(&Map::open(&path).unwrap(), name).unwrap();
        assert_eq!(bits(&values(&tensor)), bits(&read_f32(&path.with_extension("f32"))), "{name}");
    }
}

#[test]
fn files_are_written_byte_for_byte_as_the_published_crate_writes_them() {
    let input = read_f32(&golden("input.f32"));
    for (name, mode) in MODES {
        for (file, shape) in [(name.to_owned(), vec![22, 1024]), (format!("{name}-tail"), vec![3, 45])] {
            let count = shape.iter().product::<usize>();
            let spec = TensorSpec::new("t", TensorType::LatticeQ4, &shape).unwrap();
            let mut bytes = lattice::header(&spec).unwrap();
            bytes.extend(encode(&input[..count], mode));
            assert!(bytes == std::fs::read(golden(&format!("{file}.q4"))).unwrap(), "{file}");
        }
    }
}

#[test]
fn padding_does_not_widen_the_range_of_the_last_block() {
    // Five to seven: with the padding's zeros the least value would be 0.
    let mut decoded = [0.0; 3];
    decode_row(TensorType::LatticeQ4, &encode(&[5.0, 6.0, 7.0], LatticeMode::Asymmetric), &mut decoded)
        .unwrap();
    for (found, expected) in decoded.iter().zip([5.0, 6.0, 7.0]) {
        assert!((found - expected).abs() < 0.07, "{decoded:?}");
    }
    assert_eq!(decoded[0], 5.0);
    // Symmetric: the same bits with and without padding.
    let mut padded = [0.0; 32];
    padded[..3].copy_from_slice(&[5.0, -6.0, 7.0]);
    assert_eq!(encode(&padded[..3], LatticeMode::Symmetric), encode(&padded, LatticeMode::Symmetric));
}

#[test]
fn blocks_without_a_range_and_values_that_do_not_fit() {
    let first = |values: &[f32], mode| bytemuck::pod_read_unaligned::<BlockLatticeQ4>(&encode(values, mode));
    for mode in [LatticeMode::Asymmetric, LatticeMode::Symmetric] {
        assert_eq!(first(&[0.0; 32], mode).d.to_f32(), 1.0, "{mode:?}");
        // Below float16's least number: no scale can stand for it.
        assert_eq!(first(&[1e-9, 0.0], mode).d.to_f32(), 1.0, "{mode:?}");
        let mut out = [0; 40];
        for (bad, expected) in
            [(f32::NAN, "element 35"), (f32::INFINITY, "element 35"), (-3e6, "from element 32")]
        {
            let mut input = [1.0; 40];
            input[35] = bad;
            let error = encode_lattice(&input, mode, 0, &mut out).unwrap_err().to_string();
            assert!(error.contains(expected), "{mode:?}: {error}");
        }
        assert!(encode_lattice(&[1.0; 33], mode, 0, &mut out[..20]).is_err());
    }
    assert_eq!(first(&[2.5; 32], LatticeMode::Asymmetric).m.to_f32(), 2.5);
}

/// Each damage of a good file is refused, and the message says what is wrong.
#[test]
fn files_that_are_not_exact_are_refused() {
    let good = std::fs::read(golden("asymmetric-tail.q4")).unwrap();
    let read = |bytes: &[u8]| lattice::read(&map(bytes), "t").map(|_| ()).map_err(|error| error.to_string());
    read(&good).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        file
    };
    let longer = [&good[..], &[0]].concat();
    let cases = [
        (good[..good.len() - 1].to_vec(), "found 99"),
        (longer, "found 101"),
        (with(0, b"KHQ3"), "KHQ4"),
        (with(4, &1_u32.to_le_bytes()), "quantize the original model again"),
        (with(4, &3_u32.to_le_bytes()), "expected version 2"),
        (with(8, &9_u32.to_le_bytes()), "at most 8 dimensions"),
        (with(12, &0_u64.to_le_bytes()), "dimension of 1 or more"),
        (with(12, &4_u64.to_le_bytes()), "not those of shape [4, 45]"),
        (with(28, &136_u64.to_le_bytes()), "136 elements"),
        // A product that wraps to 135: checked before it is believed.
        (
            with(12, &[u64::MAX.to_le_bytes(), 135_u64.wrapping_neg().to_le_bytes()].concat()),
            "not those of shape",
        ),
    ];
    for (bytes, expected) in cases {
        let error = read(&bytes).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    for length in 0..good.len() {
        assert!(read(&good[..length]).is_err(), "{length}");
    }
}

#[test]
fn float16_files_are_exact_too() {
    let spec = TensorSpec::new("model.norm.weight", TensorType::F16, &[3]).unwrap();
    assert_eq!(lattice::file_name(&spec), "model_norm_weight.f16");
    let mut file = b"KHF1".to_vec();
    for number in [1_u32, 1] {
        file.extend(number.to_le_bytes());
    }
    for number in [3_u64, 3] {
        file.extend(number.to_le_bytes());
    }
    assert_eq!(lattice::header(&spec).unwrap(), file);
    file.extend([0x00, 0x3c, 0x00, 0xc0, 0x01, 0x00]);
    let tensor = lattice::read(&map(&file), "t").unwrap();
    assert_eq!(values(&tensor), [1.0, -2.0, 5.960_464_5e-8]);
    file.push(0);
    assert!(lattice::read(&map(&file), "t").is_err());
}

fn tiny() -> Source {
    Source::open(&repository("tests/models/tiny-coder.apr")).unwrap()
}

fn write_folder(folder: &Path, mode: LatticeMode) -> PathBuf {
    let target = folder.join("lattice");
    convert::export_lattice(&tiny(), &target, mode, &Options::default(), &mut |_| {}).unwrap();
    target
}

#[test]
fn a_folder_is_written_and_becomes_q4_1_without_loss() {
    let folder = tempfile::tempdir().unwrap();
    let target = write_folder(folder.path(), LatticeMode::Asymmetric);
    assert!(target.join("model_layers_0_self_attn_q_proj_weight.q4").is_file());
    assert!(target.join("model_norm_weight.f16").is_file());
    let lattice = Source::open(&target).unwrap();
    assert_eq!(lattice.format(), "lattice");
    // It is a model: same configuration, same tokenizer, and its weights load.
    assert_eq!(lattice.config().unwrap().0, tiny().config().unwrap().0);
    let text = "def f(x):\n    return x";
    assert_eq!(
        lattice.tokenizer().unwrap().encode(text, true, true),
        tiny().tokenizer().unwrap().encode(text, true, true)
    );
    Model::open(&target).unwrap();

    let gguf = folder.path().join("out.gguf");
    let report =
        convert::export(&lattice, &gguf, FileFormat::Gguf, None, &Options::default(), &mut |_| {}).unwrap();
    let told = report.to_string();
    assert!(told.contains("q_proj.weight: LatticeQ4 to Q4_1, exactly"), "{told}");
    let gguf = Source::open(&gguf).unwrap();
    let pairs = [
        ("model.layers.2.mlp.down_proj.weight", "blk.2.ffn_down.weight"),
        ("model.embed_tokens.weight", "token_embd.weight"),
    ];
    for (before, after) in pairs {
        let find = |source: &Source, name: &str| {
            source.tensors().iter().find(|tensor| tensor.name == name).cloned().unwrap()
        };
        let (before, after) = (find(&lattice, before), find(&gguf, after));
        assert_eq!((before.tensor_type, after.tensor_type), (TensorType::LatticeQ4, TensorType::Q4_1));
        assert_eq!(bits(&values(&before)), bits(&values(&after)));
    }
    // And back: the same files.
    let again = folder.path().join("again");
    convert::export_lattice(&lattice, &again, LatticeMode::Symmetric, &Options::default(), &mut |_| {})
        .unwrap();
    for file in model_files::files(&target, "q4").iter().chain(&model_files::files(&target, "f16")) {
        let name = file.file_name().unwrap();
        assert!(std::fs::read(file).unwrap() == std::fs::read(again.join(name)).unwrap(), "{name:?}");
    }
}

#[test]
fn rows_that_32_does_not_divide_become_float16_and_the_report_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let target = write_folder(folder.path(), LatticeMode::Symmetric);
    // The file of the tail block, in the place of a matrix.
    let path = target.join("model_layers_0_mlp_down_proj_weight.q4");
    let input = read_f32(&golden("input.f32"));
    let spec = TensorSpec::new("t", TensorType::LatticeQ4, &[3, 45]).unwrap();
    let mut bytes = lattice::header(&spec).unwrap();
    bytes.extend(encode(&input[..135], LatticeMode::Asymmetric));
    std::fs::write(&path, &bytes).unwrap();
    let index = target.join(lattice::INDEX);
    let text = std::fs::read_to_string(&index).unwrap();
    let mut entries: serde_json::Value = serde_json::from_str(&text).unwrap();
    let entry = entries.as_array_mut().unwrap().iter_mut();
    let entry =
        entry.into_iter().find(|entry| entry["name"] == "model.layers.0.mlp.down_proj.weight").unwrap();
    let error = Source::open(&target).unwrap_err().to_string();
    assert!(error.contains("the index says"), "{error}");
    entry["shape"] = serde_json::json!([3, 45]);
    std::fs::write(&index, entries.to_string()).unwrap();
    let source = Source::open(&target).unwrap();
    let (planned, _) = convert::dry_run(&source, None, &Options::default()).unwrap();
    let planned = planned.iter().find(|tensor| tensor.name == "blk.0.ffn_down.weight").unwrap();
    assert_eq!((planned.from, planned.to), (TensorType::LatticeQ4, TensorType::F16));
}

#[test]
fn a_folder_without_a_configuration_or_an_index_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let target = write_folder(folder.path(), LatticeMode::Symmetric);
    std::fs::rename(target.join("config.json"), folder.path().join("kept")).unwrap();
    let error = Source::open(&target).unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
    std::fs::rename(folder.path().join("kept"), target.join("config.json")).unwrap();
    std::fs::remove_file(target.join(lattice::INDEX)).unwrap();
    let error = Source::open(&target).unwrap_err().to_string();
    assert!(error.contains(lattice::INDEX), "{error}");
}
