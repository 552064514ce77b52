//! The APR reader and writer: files written by the peer's own crate, and each check on its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod model_files;

use aprgpu::format::apr::{Apr, AprWriter, flags};
use aprgpu::format::gguf::Gguf;
use aprgpu::format::{Tensor, TensorSpec};
use aprgpu::quant::TensorType;
use model_files::{fixtures, map, small_apr};
use serde_json::{Value, json};
use std::path::Path;

fn rewrite(apr: &Apr) -> Vec<u8> {
    let mut tensors: Vec<&Tensor> = apr.tensors().iter().collect();
    tensors.sort_by_key(|tensor| (tensor.range.start, tensor.range.end));
    let specs: Vec<TensorSpec> = tensors.iter().map(|tensor| TensorSpec::of(tensor)).collect();
    let mut writer = AprWriter::new(Vec::new(), Path::new("o"), apr.flags(), apr.metadata(), &specs).unwrap();
    tensors.iter().for_each(|tensor| writer.write(tensor.bytes()).unwrap());
    writer.finish().unwrap()
}

#[test]
fn files_of_the_peer_are_written_as_they_were_read() {
    let Some(folder) = fixtures() else { return };
    for (name, eps) in
        [("coder-hf-names", "0.000001"), ("coder-aprq", "0.000001"), ("llama-gguf-names", "0.00001")]
    {
        let theirs = std::fs::read(folder.join(format!("apr-written/{name}.apr"))).unwrap();
        let apr = Apr::from_map(map(&theirs)).unwrap();
        let ours = rewrite(&apr);
        // JSON has two spellings of one number: 0.000001 and 1e-6. The metadata, its size and the checksums differ for
        // that alone; the padding hides it from everything behind.
        let size = |file: &[u8]| u32::from_le_bytes(file[20..24].try_into().unwrap()) as usize;
        let spelled = String::from_utf8(theirs[64..64 + size(&theirs)].to_vec()).unwrap();
        let short = Value::from(eps.parse::<f64>().unwrap()).to_string();
        let spelled =
            spelled.replace(&format!("\"rms_norm_eps\":{eps}"), &format!("\"rms_norm_eps\":{short}"));
        assert!(ours[64..64 + size(&ours)] == *spelled.as_bytes(), "{name}");
        assert_eq!(ours[..20], theirs[..20], "{name}");
        assert_eq!(ours[24..40], theirs[24..40], "{name}");
        let index = u64::from_le_bytes(theirs[24..32].try_into().unwrap()) as usize;
        assert!(ours[index..ours.len() - 4] == theirs[index..theirs.len() - 4], "{name}");
        // Both checksums are computed alike.
        let mut respelled = ours.clone();
        respelled[..index].copy_from_slice(&theirs[..index]);
        let footer = crc32fast::hash(&respelled[..respelled.len() - 4]).to_le_bytes();
        assert_eq!(footer, theirs[theirs.len() - 4..], "{name}");
    }
}

#[test]
fn a_file_of_the_peer_holds_the_tensors_of_the_model() {
    let Some(folder) = fixtures() else { return };
    let apr = Apr::open(&folder.join("apr-written/coder-hf-names.apr")).unwrap();
    let gguf = Gguf::open(&folder.join("coder/coder-Q4_K_M.gguf")).unwrap();
    let (a, b) = ("model.layers.3.mlp.down_proj.weight", "blk.3.ffn_down.weight");
    assert!(apr.tensor(a).unwrap().bytes() == gguf.tensor(b).unwrap().bytes());
    assert_eq!(apr.tensor(a).unwrap().shape, [256, 768]);
    // A tied head: full shape, no bytes.
    let head = apr.tensor("lm_head.weight").unwrap();
    assert!(head.is_empty() && head.bytes().is_empty());
    assert_eq!(head.shape, [4096, 256]);
    assert!(apr.gguf_origin().unwrap().is_none());
    assert_eq!(apr.f32("rms_norm_eps").unwrap(), Some(1e-6));
    assert_eq!(apr.strings("tokenizer.vocabulary").unwrap().unwrap().str(0), Some("!"));
    assert_eq!(apr.i32s("tokenizer.token_type").unwrap().unwrap().len(), 4096);
    let apr = Apr::open(&folder.join("apr-written/coder-aprq.apr")).unwrap();
    let types = [TensorType::AprQ4, TensorType::AprQ8, TensorType::F16];
    assert!(types.iter().all(|&t| apr.tensors().iter().any(|tensor| tensor.tensor_type == t)));
}

#[test]
fn what_is_written_is_read_back() {
    let file = small_apr();
    let apr = Apr::from_map(map(&file)).unwrap();
    let names: Vec<&str> = apr.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
    // Data keeps the order in which it came: b first.
    assert!(apr.tensor("b").unwrap().range.start < apr.tensor("a").unwrap().range.start);
    assert!(apr.tensors().iter().all(|tensor| tensor.range.start % 64 == 0));
    assert_eq!(apr.metadata()["aprgpu.ext_dtypes"], json!({"168": "Q8_0"}));
    assert!(rewrite(&apr) == file);
    // Rows of 300 in blocks of 256 take two blocks each.
    let padded = apr.tensor("b").unwrap();
    assert!(padded.is_row_padded());
    assert_eq!((padded.range.len(), padded.row_bytes()), (2 * 288, Some(288)));
    assert_eq!(padded.row(1).unwrap(), &padded.bytes()[288..]);
    assert!(padded.row(2).is_none());
    assert_eq!(apr.tensor("c").unwrap().range.len(), 99_usize.div_ceil(32) * 18);
    assert_eq!(apr.tensor("d").unwrap().range.len(), 4 + 21);
    assert_eq!((apr.tensor("c").unwrap().row_bytes(), apr.tensor("d").unwrap().row_bytes()), (None, None));
}

/// Sets bytes of the header and makes its checksum right again; the footer goes.
fn with_header(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = small_apr();
    file.truncate(file.len() - 4);
    file[at..at + bytes.len()].copy_from_slice(bytes);
    let checksum = crc32fast::hash(&[&file[..40], &file[44..64]].concat());
    file[40..44].copy_from_slice(&checksum.to_le_bytes());
    file
}

fn refused(what: &str, file: &[u8]) {
    let error = Apr::from_map(map(file)).expect_err(what).to_string();
    assert!(error.contains(what), "expected {what:?} in: {error}");
}

#[test]
fn checksums_are_verified_and_may_be_absent() {
    let file = small_apr();
    let mut broken = file.clone();
    broken[40] ^= 1;
    refused("at byte 40: expected the header's checksum", &broken);
    let mut broken = file.clone();
    broken[6] ^= 1;
    refused("the header's checksum", &broken);
    // One bit of a tensor.
    let mut broken = file.clone();
    let at = file.len() - 4 - 64;
    broken[at] ^= 1;
    refused("the file's checksum", &broken);
    // Without the checksum, and without padding either.
    let apr = Apr::from_map(map(&file[..file.len() - 4])).unwrap();
    let end = apr.tensors().iter().map(|tensor| tensor.range.end).max().unwrap();
    assert!(end < file.len() - 4);
    Apr::from_map(map(&file[..end])).unwrap();
    let mut unpadded = file[..end].to_vec();
    unpadded.extend(crc32fast::hash(&unpadded).to_le_bytes());
    Apr::from_map(map(&unpadded)).unwrap();
    let mut longer = file.clone();
    longer.push(0);
    refused("expected the file to end at", &longer);
    let mut dirty = file[..file.len() - 4].to_vec();
    *dirty.last_mut().unwrap() = 1;
    dirty.extend(crc32fast::hash(&dirty).to_le_bytes());
    refused("expected zeros behind the last tensor", &dirty);
}

#[test]
fn headers_that_ask_for_something_else_are_refused() {
    refused("found version 1", &with_header(0, b"APRN"));
    refused("starts with \"APR\\0\"", &with_header(0, b"GGUF"));
    refused("expected APR version 2, found 3.0", &with_header(4, &[3]));
    for (bits, what) in [
        (flags::LZ4, "compressed"),
        (flags::ZSTD, "compressed"),
        (flags::ENCRYPTED, "encrypted"),
        (flags::SHARDED, "sharded"),
        (flags::LAYOUT_COLUMN_MAJOR, "column-major"),
    ] {
        refused(
            &format!("at byte 6: {what} APR files are not supported"),
            &with_header(6, &bits.to_le_bytes()),
        );
    }
}

#[test]
fn sections_outside_the_file_or_out_of_order_are_refused() {
    for value in [0, 1 << 20, 1 << 63, u64::MAX, u64::MAX - 63] {
        for at in [12, 24, 32] {
            refused(
                "at byte 12: expected metadata, index and data",
                &with_header(at, &u64::to_le_bytes(value)),
            );
        }
    }
    refused("at byte 12", &with_header(20, &u32::MAX.to_le_bytes()));
    refused("at byte 8: found a count of 4294967295 tensors", &with_header(8, &u32::MAX.to_le_bytes()));
    refused("multiple of 64", &with_header(32, &(small_apr().len() as u64 - 37).to_le_bytes()));
}

/// Where the entry of a tensor lies behind its name.
fn entry_at(file: &[u8], name: u8) -> usize {
    let index = u64::from_le_bytes(file[24..32].try_into().unwrap()) as usize;
    let entry = [1, 0, name];
    index + file[index..].windows(3).position(|window| window == entry).unwrap() + 3
}

/// The file with other bytes in the entry of a tensor, without its footer.
fn with_entry(name: u8, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = small_apr();
    file.truncate(file.len() - 4);
    let at = entry_at(&file, name) + at;
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn bad_index_entries_are_refused() {
    // Entry of "a": type, dimension count, one dimension, offset, size.
    for code in 3..=7 {
        refused("different types to different programs", &with_entry(b'a', 0, &[code]));
    }
    for code in [2, 13, 15, 100, 130] {
        refused("is not one that APR files may hold", &with_entry(b'a', 0, &[code]));
    }
    refused(
        "type code 161 is private, and aprgpu.ext_dtypes does not declare it",
        &with_entry(b'a', 0, &[161]),
    );
    refused("at most 8 dimensions, found 9", &with_entry(b'a', 1, &[9]));
    refused("expected 24 bytes for F32 of shape [6], found 20", &with_entry(b'a', 2, &6_u64.to_le_bytes()));
    for value in [1 << 20, 1 << 63, u64::MAX - 19, u64::MAX] {
        refused("do not lie in the file's", &with_entry(b'a', 10, &u64::to_le_bytes(value)));
        refused("do not lie in the file's", &with_entry(b'a', 18, &u64::to_le_bytes(value)));
    }
    // Onto b, which has the data's first bytes.
    refused("the tensors b and a overlap", &with_entry(b'a', 10, &64_u64.to_le_bytes()));
    let mut swapped = small_apr();
    let (a, b) = (entry_at(&swapped, b'a'), entry_at(&swapped, b'b'));
    swapped[a - 1] = b'b';
    swapped[b - 1] = b'a';
    refused("strictly increasing order", &swapped);
    swapped[b - 1] = b'b';
    refused("strictly increasing order", &swapped);
}

#[test]
fn products_that_wrap_to_a_small_number_are_refused() {
    // b is [2, 300] of 576 bytes.
    let dims = |rows: u64, cols: u64| [rows.to_le_bytes(), cols.to_le_bytes()].concat();
    refused("number of elements", &with_entry(b'b', 2, &dims(1 << 63, 4)));
    // 2^60 rows of one block of 144 bytes are 9 * 2^64 bytes, and 4 rows more wrap to the 576 that b has.
    refused("the size of shape", &with_entry(b'b', 2, &dims((1 << 60) + 4, 8)));
    // AprQ8: 4 bytes of scale wrap to 3, which is what the entry says.
    let offset = 0_u64.to_le_bytes();
    let entry = [&dims(1, u64::MAX)[..], &offset, &3_u64.to_le_bytes()].concat();
    refused("the size of shape", &with_entry(b'd', 2, &entry));
    refused("expected dimensions of 1 and more", &with_entry(b'b', 2, &dims(1 << 40, 0)));
    // A size that does not wrap but is not what the entry says.
    refused("expected 864 bytes", &with_entry(b'b', 2, &dims(3, 300)));
}

#[test]
fn early_codes_are_the_peers_types_and_not_those_of_ggml() {
    let early = with_entry(b'c', 0, &[8]);
    assert_eq!(Apr::from_map(map(&early)).unwrap().tensor("c").unwrap().tensor_type, TensorType::AprQ4);
    let early = with_entry(b'd', 0, &[9]);
    assert_eq!(Apr::from_map(map(&early)).unwrap().tensor("d").unwrap().tensor_type, TensorType::AprQ8);
}

#[test]
fn rows_of_other_types_cannot_be_padded() {
    let file = model_files::apr(json!({}), &[("x", TensorType::Q8_0, &[2, 33])]);
    refused("expected rows of a multiple of 32 values for Q8_0, found 33", &file);
}

fn with_metadata(metadata: &str) -> Vec<u8> {
    let mut file = vec![0; 64];
    file[..8].copy_from_slice(b"APR\0\x02\0\0\x04");
    file[12..20].copy_from_slice(&64_u64.to_le_bytes());
    file[20..24].copy_from_slice(&(metadata.len() as u32).to_le_bytes());
    file.extend(metadata.as_bytes());
    file.resize(file.len().next_multiple_of(64), 0);
    let end = (file.len() as u64).to_le_bytes();
    file[24..32].copy_from_slice(&end);
    file[32..40].copy_from_slice(&end);
    let checksum = crc32fast::hash(&[&file[..40], &file[44..64]].concat());
    file[40..44].copy_from_slice(&checksum.to_le_bytes());
    file
}

#[test]
fn bad_metadata_is_refused() {
    refused("\"a\" appears twice", &with_metadata(r#"{"a":1,"b":2,"a":1}"#));
    refused("\"x\" appears twice", &with_metadata(r#"{"a":{"x":1,"x":2}}"#));
    refused("a JSON object", &with_metadata("[1]"));
    refused("in JSON", &with_metadata("{\"a\":"));
    refused("in JSON", &with_metadata(""));
    refused("in JSON", &with_metadata(&"[".repeat(10_000)));
    for declared in [r#"[1]"#, r#"{"12":"Q4_K"}"#, r#"{"256":"Q8_0"}"#, r#"{"168":"Q99"}"#, r#"{"x":"Q8_0"}"#]
    {
        refused("aprgpu.ext_dtypes", &with_metadata(&format!("{{\"aprgpu.ext_dtypes\":{declared}}}")));
    }
}

#[test]
fn aliases_are_read_under_their_canonical_name() {
    let get =
        |metadata: &str, key: &str| Apr::from_map(map(&with_metadata(metadata))).unwrap().u32(key).unwrap();
    for (alias, canonical) in [
        ("hidden_dim", "hidden_size"),
        ("d_model", "hidden_size"),
        ("n_embd", "hidden_size"),
        ("num_hidden_layers", "num_layers"),
        ("n_layers", "num_layers"),
        ("n_layer", "num_layers"),
        ("num_attention_heads", "num_heads"),
        ("n_heads", "num_heads"),
        ("n_head", "num_heads"),
        ("n_kv_heads", "num_kv_heads"),
        ("num_key_value_heads", "num_kv_heads"),
        ("n_vocab", "vocab_size"),
        ("ffn_dim", "intermediate_size"),
        ("intermediate_dim", "intermediate_size"),
        ("n_inner", "intermediate_size"),
        ("max_seq_len", "max_position_embeddings"),
        ("context_length", "max_position_embeddings"),
        ("n_ctx", "max_position_embeddings"),
        ("layer_norm_eps", "rms_norm_eps"),
        ("norm_eps", "rms_norm_eps"),
    ] {
        assert_eq!(get(&format!("{{\"{alias}\":7}}"), canonical), Some(7), "{alias}");
        // A null counts as absent, an equal value does not contradict, whatever its spelling.
        assert_eq!(get(&format!("{{\"{canonical}\":null,\"{alias}\":7}}"), canonical), Some(7));
        assert_eq!(get(&format!("{{\"{canonical}\":7,\"{alias}\":7.0}}"), canonical), Some(7));
        refused(alias, &with_metadata(&format!("{{\"{canonical}\":7,\"{alias}\":8}}")));
    }
    assert_eq!(get(r#"{"n_layer":1}"#, "num_heads"), None);
}

#[test]
fn getters_name_the_key_the_type_expected_and_the_one_found() {
    let text = r#"{"a":-1,"b":"x","c":[1,"y"],"d":1e300,"e":4294967296,"f":1e3,"g":0.5}"#;
    let apr = Apr::from_map(map(&with_metadata(text))).unwrap();
    assert_eq!(apr.u32("f").unwrap(), Some(1000));
    assert_eq!(apr.f32("a").unwrap(), Some(-1.0));
    for (error, what) in [
        (apr.u32("a").unwrap_err(), "a: expected an unsigned 32-bit integer, found -1"),
        (apr.u32("e").unwrap_err(), "found 4294967296"),
        (apr.u32("g").unwrap_err(), "found 0.5"),
        (apr.f32("d").unwrap_err(), "d: expected a 32-bit float"),
        (apr.bool("b").unwrap_err(), "b: expected true or false, found \"x\""),
        (apr.strings("c").unwrap_err(), "c: expected an array of strings, found an array of 2 values"),
        (apr.u32s("c").unwrap_err(), "expected an array of unsigned"),
        (apr.string("a").unwrap_err(), "a: expected a string"),
    ] {
        assert!(error.to_string().contains(what), "{error}");
    }
}

#[test]
fn a_broken_gguf_origin_is_an_error() {
    for origin in [
        json!(1),
        json!({"version": 3, "tail": 0, "tensors": [], "metadata": [["k", "u8", 256]]}),
        json!({"version": 3, "tail": 0, "tensors": [], "metadata": [["k", "u8", 1], ["k", "u8", 1]]}),
        json!({"version": 3, "tail": 0, "tensors": [], "metadata": [["k", "quaternion", 1]]}),
        json!({"version": 3, "tail": 0, "tensors": [["a", "Q99"]], "metadata": []}),
        json!({"version": 3, "tail": 0, "tensors": [], "metadata": [["k", "[string]", {"from": "absent"}]]}),
        json!({"version": 3, "tail": 0, "tensors": [], "metadata": [["k", "string", {"hex": "0g"}]]}),
        json!({"version": 3, "tail": -1, "tensors": [], "metadata": []}),
    ] {
        let apr = Apr::from_map(map(&with_metadata(&json!({ "aprgpu.gguf": origin }).to_string()))).unwrap();
        assert!(apr.gguf_origin().is_err(), "{origin}");
    }
}

#[test]
fn the_writer_writes_canonical_keys_and_interoperable_codes_only() {
    let write = |metadata: Value, specs: &[TensorSpec]| {
        let Value::Object(metadata) = metadata else { panic!() };
        AprWriter::new(Vec::new(), Path::new("o"), 0, &metadata, specs).map(|_| ()).map_err(|e| e.to_string())
    };
    let error = write(json!({"num_hidden_layers": 2}), &[]).unwrap_err();
    assert!(error.contains("num_hidden_layers: this key is written as num_layers"), "{error}");
    let spec = TensorSpec::new("a", TensorType::F32, &[2]).unwrap();
    assert!(write(json!({}), &[spec.clone(), spec.clone()]).unwrap_err().contains("two tensors"));
    assert!(write(json!({}), &[TensorSpec { bytes: 4, ..spec.clone() }]).unwrap_err().contains("not 4"));
    write(json!({}), &[TensorSpec { bytes: 0, ..spec }]).unwrap();
    // lattice's blocks are Q4_1's in another order, and are written as such.
    let lattice = TensorSpec::new("x", TensorType::LatticeQ4, &[256]).unwrap();
    assert!(write(json!({}), &[lattice]).unwrap_err().contains("no code for LatticeQ4"));
    for &tensor_type in TensorType::ALL.iter().filter(|&&t| t != TensorType::LatticeQ4) {
        let file = model_files::apr(json!({}), &[("x", tensor_type, &[256])]);
        let code = file[entry_at(&file, b'x')];
        assert!([0, 1, 12, 14, 30, 128, 129].contains(&code) || code >= 160, "{tensor_type}: {code}");
        assert_eq!(Apr::from_map(map(&file)).unwrap().tensor("x").unwrap().tensor_type, tensor_type);
    }
}
