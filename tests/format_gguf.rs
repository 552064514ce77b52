//! The GGUF reader and writer: fixtures by llama.cpp's own tools, and each check on its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod model_files;

use aprgpu::format::gguf::{Array, Gguf, GgufWriter, Value};
use aprgpu::format::{Error, TensorSpec};
use aprgpu::quant::TensorType;
use model_files::{files, fixtures, gguf_with_everything, map};
use std::path::Path;

fn rewrite(gguf: &Gguf) -> Vec<u8> {
    let specs: Vec<TensorSpec> = gguf.tensors().iter().map(TensorSpec::of).collect();
    let mut writer =
        GgufWriter::new(Vec::new(), Path::new("o"), gguf.version(), gguf.metadata(), &specs).unwrap();
    for tensor in gguf.tensors() {
        writer.write(tensor.bytes()).unwrap();
    }
    writer.finish(Some(gguf.tail())).unwrap()
}

#[test]
fn every_fixture_is_written_as_it_was_read() {
    let Some(folder) = fixtures() else { return };
    for path in files(&folder, "gguf") {
        let gguf = Gguf::open(&path).unwrap();
        assert!(rewrite(&gguf) == std::fs::read(&path).unwrap(), "{}", path.display());
    }
}

#[test]
fn a_fixture_has_the_metadata_and_tensors_that_its_index_says() {
    let Some(folder) = fixtures() else { return };
    let gguf = Gguf::open(&folder.join("coder/coder-Q4_K_M.gguf")).unwrap();
    assert_eq!(gguf.string("general.architecture").unwrap(), Some("qwen2"));
    assert_eq!(gguf.u32("qwen2.block_count").unwrap(), Some(6));
    assert_eq!(gguf.f32("qwen2.attention.layer_norm_rms_epsilon").unwrap(), Some(1e-6));
    assert_eq!(gguf.strings("tokenizer.ggml.tokens").unwrap().unwrap().len(), 4096);
    assert_eq!(gguf.i32s("tokenizer.ggml.token_type").unwrap().unwrap().len(), 4096);
    assert_eq!(gguf.tensor("blk.0.ffn_down.weight").unwrap().shape, [256, 768]);
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.join("coder/coder.json")).unwrap()).unwrap();
    let index = index.to_string();
    for tensor in gguf.tensors() {
        assert!(index.contains(&format!("\"{}\"", tensor.name)), "{}", tensor.name);
    }
}

#[test]
fn every_type_of_value_is_read_as_it_was_written() {
    let file = gguf_with_everything();
    let gguf = Gguf::from_map(map(&file)).unwrap();
    assert_eq!(gguf.alignment(), 64);
    assert!(rewrite(&gguf) == file);
    assert_eq!(gguf.get("a.i64"), Some(&Value::I64(i64::MIN)));
    assert_eq!(gguf.get("a.bytes"), Some(&Value::String(vec![0x80, 0x81])));
    assert_eq!(gguf.get("a.u16s"), Some(&Array::U16(vec![1, 65535]).into()));
    let strings = gguf.strings("a.strings").unwrap().unwrap();
    assert_eq!(strings.iter().collect::<Vec<_>>(), [&b"plain"[..], b"", b"\xff\xfe broken", "hé".as_bytes()]);
    assert_eq!((strings.str(2), strings.str(3), strings.get(4)), (None, Some("hé"), None));
    let shapes: Vec<&[usize]> = gguf.tensors().iter().map(|tensor| &tensor.shape[..]).collect();
    assert_eq!(shapes, [&[256][..], &[8, 256], &[3, 256], &[3], &[2, 2, 256], &[], &[1]]);
    assert!(gguf.tensors().iter().all(|tensor| tensor.range.start % 64 == 0));
    assert_eq!(gguf.tensor("blk.0.ffn_up.weight").unwrap().rows(), 4);
}

#[test]
fn getters_name_the_key_the_type_expected_and_the_one_found() {
    let gguf = Gguf::from_map(map(&gguf_with_everything())).unwrap();
    assert_eq!(gguf.u32("no.such.key").unwrap(), None);
    // Integers of another width are accepted where the value fits.
    assert_eq!(gguf.u32("a.u8").unwrap(), Some(200));
    assert_eq!(gguf.i32s("a.i8s").unwrap(), Some(vec![-1, 2]));
    for (error, expected) in [
        (gguf.u32("a.i8").unwrap_err(), "a.i8: expected an unsigned 32-bit integer, found i8 -100"),
        (gguf.u32("a.u64").unwrap_err(), "a.u64: expected an unsigned 32-bit integer, found u64"),
        (gguf.u32("general.name").unwrap_err(), "found a string of 10 bytes"),
        (gguf.f32("a.u8").unwrap_err(), "a.u8: expected a 32-bit float, found u8 200"),
        (gguf.f32("a.f64").unwrap_err(), "a.f64: expected a 32-bit float, found f64 0.1"),
        (gguf.bool("a.u8").unwrap_err(), "expected a bool"),
        (gguf.string("a.bytes").unwrap_err(), "expected a UTF-8 string"),
        (gguf.strings("a.u8s").unwrap_err(), "expected an array of strings, found an array of 3 u8"),
        (gguf.u32s("a.i32s").unwrap_err(), "expected an array of unsigned"),
    ] {
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// A file put together by hand, so that any part of it can be wrong.
struct Raw {
    magic: &'static [u8],
    version: u32,
    tensor_count: Option<u64>,
    entry_count: Option<u64>,
    entries: Vec<Vec<u8>>,
    tensors: Vec<Vec<u8>>,
    data: usize,
}

impl Raw {
    /// A right file: one key, two tensors of 32 bytes.
    fn new() -> Self {
        Self {
            magic: b"GGUF",
            version: 3,
            tensor_count: None,
            entry_count: None,
            entries: vec![entry("k", 4, &7_u32.to_le_bytes())],
            tensors: vec![tensor("a", &[8], 0, 0), tensor("b", &[8], 0, 32)],
            data: 64,
        }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut file = self.magic.to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        file.extend(self.entry_count.unwrap_or(self.entries.len() as u64).to_le_bytes());
        file.extend(self.entries.concat());
        file.extend(self.tensors.concat());
        file.resize(file.len().next_multiple_of(32), 0);
        file.resize(file.len() + self.data, 1);
        file
    }
}

fn string(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes()[..], text].concat()
}

fn entry(key: &str, code: u32, value: &[u8]) -> Vec<u8> {
    [&string(key.as_bytes())[..], &code.to_le_bytes(), value].concat()
}

fn array(key: &str, code: u32, count: u64, values: &[u8]) -> Vec<u8> {
    entry(key, 9, &[&code.to_le_bytes()[..], &count.to_le_bytes(), values].concat())
}

/// Dimensions as the file has them: fastest first.
fn tensor(name: &str, dims: &[u64], code: u32, offset: u64) -> Vec<u8> {
    let mut bytes = string(name.as_bytes());
    bytes.extend((dims.len() as u32).to_le_bytes());
    dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
    bytes.extend(code.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes
}

/// The reader's message for a file that `change` made wrong.
fn refusal(change: impl FnOnce(&mut Raw)) -> String {
    let mut raw = Raw::new();
    change(&mut raw);
    let error = Gguf::from_map(map(&raw.bytes())).expect_err("the file should be refused");
    assert!(matches!(error, Error::Bytes { .. } | Error::Key { .. }), "{error:?}");
    error.to_string()
}

fn refused(what: &str, change: impl FnOnce(&mut Raw)) {
    let message = refusal(change);
    assert!(message.contains(what), "expected {what:?} in: {message}");
}

#[test]
fn the_file_that_the_refusals_start_from_is_right() {
    let gguf = Gguf::from_map(map(&Raw::new().bytes())).unwrap();
    assert_eq!(gguf.tensors().len(), 2);
    assert_eq!(gguf.tensor("b").unwrap().bytes(), [1; 32]);
}

#[test]
fn other_files_and_versions_are_refused() {
    refused("starts with \"GGUF\"", |raw| raw.magic = b"GGML");
    refused("found 1", |raw| raw.version = 1);
    refused("found 4", |raw| raw.version = 4);
    refused("big-endian one of version 3", |raw| raw.version = 3_u32.swap_bytes());
}

#[test]
fn counts_beyond_the_file_are_refused_before_anything_is_allocated() {
    for count in [1 << 20, u64::from(u32::MAX), 1 << 63, u64::MAX] {
        refused("at byte 8: found a count", |raw| raw.tensor_count = Some(count));
        refused("at byte 16: found a count", |raw| raw.entry_count = Some(count));
        for code in [0, 4, 7, 8, 12] {
            refused("found a count", |raw| raw.entries = vec![array("x", code, count, &[])]);
        }
        let string = [&count.to_le_bytes()[..], b"x"].concat();
        refused(&format!("of {count} bytes"), |raw| raw.entries = vec![entry("x", 8, &string)]);
    }
}

#[test]
fn bad_metadata_is_refused() {
    refused("k: the key appears twice", |raw| raw.entries.push(raw.entries[0].clone()));
    refused("found an empty string", |raw| raw.entries = vec![entry("", 4, &[0; 4])]);
    refused("x: expected a value type from 0 to 12, found 13", |raw| {
        raw.entries = vec![entry("x", 13, &[0; 8])];
    });
    refused("x: expected an element type", |raw| raw.entries = vec![array("x", 13, 0, &[])]);
    refused("x: arrays of arrays", |raw| raw.entries = vec![array("x", 9, 0, &[])]);
    refused("x: expected a bool of 0 or 1, found 2", |raw| raw.entries = vec![entry("x", 7, &[2])]);
    refused("x: expected a bool of 0 or 1, found 255", |raw| raw.entries = vec![array("x", 7, 2, &[1, 255])]);
    refused("in UTF-8, found \"\\xff\"", |raw| {
        raw.entries = vec![[&string(b"\xff")[..], &4_u32.to_le_bytes(), &[0; 4]].concat()];
    });
}

#[test]
fn the_alignment_must_be_a_power_of_two() {
    let with = |value: Vec<u8>| move |raw: &mut Raw| raw.entries = vec![value];
    for alignment in [0_u32, 3, 48] {
        refused("power of two", with(entry("general.alignment", 4, &alignment.to_le_bytes())));
    }
    refused("found u64 32", with(entry("general.alignment", 10, &32_u64.to_le_bytes())));
    // Data would start behind the end of the file.
    refused("but the file ends", with(entry("general.alignment", 4, &(1_u32 << 31).to_le_bytes())));
}

#[test]
fn bad_tensors_are_refused() {
    refused("a: two tensors have this name", |raw| raw.tensors[1] = tensor("a", &[8], 0, 32));
    refused("found an empty string", |raw| raw.tensors[0] = tensor("", &[8], 0, 0));
    refused("at most 63 bytes, found 64", |raw| raw.tensors[0] = tensor(&"n".repeat(64), &[8], 0, 0));
    refused("at most 4 dimensions, found 5", |raw| raw.tensors[0] = tensor("a", &[8, 1, 1, 1, 1], 0, 0));
    refused("at most 4 dimensions", |raw| {
        raw.tensors[0] = [&string(b"a")[..], &u32::MAX.to_le_bytes(), &[0; 24]].concat();
    });
    for code in [4, 5, 31, 40, u32::MAX] {
        refused(&format!("a: tensor type {code} "), |raw| raw.tensors[0] = tensor("a", &[8], code, 0));
    }
    refused("a: expected rows of a multiple of 32 values for Q4_0, found 8", |raw| {
        raw.tensors[0] = tensor("a", &[8, 32], 2, 0);
    });
}

#[test]
fn a_dimension_that_is_negative_in_llama_cpp_is_refused() {
    refused("2^63 or more", |raw| raw.tensors[0] = tensor("a", &[1 << 63], 24, 0));
}

#[test]
fn a_number_of_elements_that_wraps_to_a_small_one_is_refused() {
    // 2^32 * 2^32 * 8 wraps to 0, (2^62 + 2) * 4 wraps to 8.
    refused("number of elements", |raw| raw.tensors[0] = tensor("a", &[1 << 32, 1 << 32, 8], 0, 0));
    refused("number of elements", |raw| raw.tensors[0] = tensor("a", &[(1 << 62) + 2, 4], 0, 0));
    // A zero does not hide it: readers of [2^62, 0] would loop over its rows.
    refused("a: expected dimensions of 1 and more", |raw| {
        raw.tensors[0] = tensor("a", &[1 << 62, 1 << 62, 0], 0, 0);
    });
}

#[test]
fn a_size_that_wraps_to_a_small_one_is_refused() {
    // 2^62 + 8 elements fit 63 bits; at 4 bytes each they wrap to 32 bytes, which would lie in the file.
    refused("a: the size of shape", |raw| raw.tensors[0] = tensor("a", &[(1 << 62) + 8], 0, 0));
    // Over rows: (2^60 + 2) rows of 16 bytes wrap to 32.
    refused("a: the size of shape", |raw| raw.tensors[0] = tensor("a", &[4, (1 << 60) + 2], 0, 0));
}

#[test]
fn offsets_must_be_the_running_sum_of_padded_sizes() {
    refused("b: expected offset 32", |raw| raw.tensors[1] = tensor("b", &[8], 0, 64));
    refused("b: expected offset 32", |raw| raw.tensors[1] = tensor("b", &[8], 0, 0));
    refused("b: expected offset 32", |raw| raw.tensors[1] = tensor("b", &[8], 0, 16));
    refused("b: expected offset 0", |raw| raw.tensors.swap(0, 1));
}

#[test]
fn an_offset_that_wraps_into_the_file_is_refused() {
    refused("b: offset 18446744073709551600 plus 32 bytes overflows", |raw| {
        raw.tensors[1] = tensor("b", &[8], 0, u64::MAX - 15);
    });
}

#[test]
fn a_size_near_2_to_the_63_is_refused() {
    refused("a: its 9223372036854775776 bytes end at", |raw| {
        raw.tensors[0] = tensor("a", &[(1 << 63) - 32], 24, 0);
    });
}

#[test]
fn tensors_lie_inside_the_file_and_nothing_lies_behind_them() {
    refused("b: its 32 bytes end at", |raw| raw.data = 63);
    refused("a: its 32 bytes end at", |raw| raw.data = 0);
    refused("found 32 bytes behind the last tensor", |raw| raw.data = 96);
}

#[test]
fn the_writer_refuses_what_llama_cpp_would() {
    let write = |metadata: &[(&str, Value)], specs: &[TensorSpec]| {
        let metadata: Vec<_> =
            metadata.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        GgufWriter::new(Vec::new(), Path::new("o"), 3, &metadata, specs)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let spec = |name: &str, t, shape: &[usize]| TensorSpec::new(name, t, shape).unwrap();
    let good = spec("a", TensorType::F32, &[2]);
    assert_eq!(write(&[("k", Value::U8(1))], std::slice::from_ref(&good)), Ok(()));
    for (result, what) in [
        (write(&[("k", Value::U8(1)), ("k", Value::U8(1))], &[]), "twice"),
        (write(&[("", Value::U8(1))], &[]), "empty"),
        (write(&[("general.alignment", Value::U32(24))], &[]), "power of two"),
        (write(&[], &[good.clone(), good.clone()]), "two tensors"),
        (write(&[], &[spec(&"n".repeat(64), TensorType::F32, &[2])]), "63 bytes"),
        (write(&[], &[spec("a", TensorType::F32, &[1, 1, 1, 1, 1])]), "4 dimensions"),
        (write(&[], &[spec("a", TensorType::AprQ8, &[4])]), "no type AprQ8"),
        (write(&[], &[spec("a", TensorType::Q4_K, &[300])]), "multiple of 256"),
        (write(&[], &[TensorSpec { bytes: 9, ..good.clone() }]), "takes Some(8) bytes, not 9"),
    ] {
        assert!(result.as_ref().is_err_and(|message| message.contains(what)), "{what}: {result:?}");
    }
}

#[test]
fn the_writer_counts_the_bytes_of_tensors() {
    let specs = [TensorSpec::new("a", TensorType::F32, &[2]).unwrap()];
    let writer = || GgufWriter::new(Vec::new(), Path::new("o"), 3, &[], &specs).unwrap();
    let mut short = writer();
    short.write(&[0; 7]).unwrap();
    assert!(short.finish(None).is_err());
    assert!(writer().finish(None).is_err());
    assert!(writer().write(&[0; 9]).is_err());
}
