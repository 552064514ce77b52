//! Damaged files: every reader returns a file or an error, never panics, and allocates no more than a small multiple of
//! the file's size.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod model_files;

use aprgpu::format::Map;
use aprgpu::format::apr::Apr;
use aprgpu::format::gguf::Gguf;
use aprgpu::format::{imatrix, lattice, safetensors};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

/// Counts the bytes that this thread holds.
struct Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
    static PEAK: Cell<usize> = const { Cell::new(0) };
}

fn grow(bytes: usize) {
    // A thread that is ending has no counters any more; nothing is measured there.
    let _ = HELD.try_with(|held| {
        held.set(held.get().saturating_add(bytes));
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
}

// SAFETY: every call goes to the system's allocator unchanged; the counters neither allocate nor unwind.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = HELD.try_with(|held| held.set(held.get().saturating_sub(layout.size())));
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What reading may hold at most beside the file: so many times its size, and a little. JSON takes the most: a digit
/// and a comma become a value of 72 bytes in an array that doubles as it grows.
fn bound(kind: &str, file: usize) -> usize {
    let times = match kind {
        "gguf" => 8,
        "apr" => 96,
        _ => 32,
    };
    times * file + (16 << 10)
}

/// Reads a file and everything in it; panics if that takes too much memory.
fn read(kind: &str, bytes: &[u8]) -> bool {
    let map = Map::from_bytes(Path::new("damaged"), bytes.to_vec());
    let before = HELD.get();
    PEAK.set(before);
    let result = match kind {
        "gguf" => Gguf::from_map(map).map(|gguf| {
            for (key, _) in gguf.metadata() {
                let _ = (gguf.u32(key), gguf.f32s(key), gguf.string(key), gguf.strings(key));
            }
            touch(gguf.tensors());
        }),
        "apr" => Apr::from_map(map).map(|apr| {
            for key in apr.metadata().keys() {
                let _ = (apr.u32(key), apr.f32s(key), apr.string(key), apr.strings(key));
            }
            let _ = apr.gguf_origin();
            touch(apr.tensors());
        }),
        "lattice" => lattice::read(&map, "t").map(|tensor| touch(&[tensor])),
        "imatrix" => imatrix::read(&map).map(|_| ()),
        _ => safetensors::read(&map).map(|tensors| touch(&tensors)),
    };
    let ok = result.is_ok();
    drop(result);
    let held = PEAK.get() - before;
    assert!(held <= bound(kind, bytes.len()), "{kind}: {held} bytes held for a file of {}", bytes.len());
    ok
}

fn touch(tensors: &[aprgpu::format::Tensor]) {
    for tensor in tensors {
        let rows = tensor.rows();
        let _ = (tensor.len(), tensor.cols(), tensor.is_row_padded(), tensor.row(0), tensor.row(rows));
        assert!(tensor.range.len() == tensor.bytes().len());
        if let (Some(row), false) = (tensor.row_bytes(), tensor.is_empty()) {
            assert_eq!(row * rows, tensor.range.len());
        }
    }
}

/// The APR file that a GGUF file with everything becomes.
fn converted() -> Vec<u8> {
    let gguf = Gguf::from_map(model_files::map(&model_files::gguf_with_everything())).unwrap();
    aprgpu::convert::write_apr(&gguf, Vec::new(), Path::new("o"), &Default::default(), &mut |_| {}).unwrap().0
}

fn samples() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("gguf", model_files::gguf_with_everything()),
        ("apr", model_files::small_apr()),
        ("apr", converted()),
        ("safetensors", model_files::small_safetensors()),
        ("lattice", std::fs::read("tests/golden/files/lattice/asymmetric-tail.q4").unwrap()),
        (
            "imatrix",
            model_files::imatrix(&[("blk.0.attn_q.weight", 8, &[1.5; 32]), ("output.weight", 0, &[0.5])]),
        ),
    ]
}

/// Makes the header's checksum right again, so that damage behind it is seen.
fn with_right_checksum(kind: &str, mut bytes: Vec<u8>) -> Vec<u8> {
    if kind == "apr" && bytes.len() >= 64 {
        let checksum = crc32fast::hash(&[&bytes[..40], &bytes[44..64]].concat());
        bytes[40..44].copy_from_slice(&checksum.to_le_bytes());
    }
    bytes
}

#[test]
fn the_samples_are_right() {
    for (kind, bytes) in samples() {
        assert!(read(kind, &bytes), "{kind}");
    }
}

#[test]
fn a_file_cut_off_anywhere_is_an_error() {
    for (kind, bytes) in samples() {
        for length in 0..bytes.len().min(8192) {
            let ok = read(kind, &bytes[..length]);
            // Padding and checksum at the end may be missing.
            assert!(
                !ok || length + 64 + 4 > bytes.len(),
                "{kind}: {length} of {} bytes are a file",
                bytes.len()
            );
        }
    }
}

#[test]
fn every_field_set_to_an_extreme_is_a_file_or_an_error() {
    for (kind, bytes) in samples() {
        for at in 0..bytes.len().saturating_sub(8).min(6000) {
            for value in [0, 1, u64::from(u32::MAX), 1 << 62, 1 << 63, u64::MAX - 31, u64::MAX] {
                let mut damaged = bytes.clone();
                damaged[at..at + 8].copy_from_slice(&value.to_le_bytes());
                read(kind, &with_right_checksum(kind, damaged));
            }
        }
    }
}

#[test]
fn dense_json_stays_within_the_bound() {
    let one = |metadata: &str| {
        let mut file = model_files::apr(serde_json::json!({}), &[]);
        file.truncate(64);
        file[20..24].copy_from_slice(&(metadata.len() as u32).to_le_bytes());
        file.extend(metadata.as_bytes());
        file.resize(file.len().next_multiple_of(64), 0);
        let end = (file.len() as u64).to_le_bytes();
        file[24..32].copy_from_slice(&end);
        file[32..40].copy_from_slice(&end);
        with_right_checksum("apr", file)
    };
    assert!(read("apr", &one(&format!("{{\"a\":[{}0]}}", "0,".repeat(100_000)))));
    assert!(read("apr", &one(&format!("{{\"a\":[{}0]}}", "[],".repeat(100_000)))));
    assert!(read("apr", &one(&format!("{{\"a\":[{}0]}}", "{\"\":0},".repeat(50_000)))));
    let keys: Vec<String> = (0..50_000).map(|i| format!("\"{i:x}\":0")).collect();
    assert!(read("apr", &one(&format!("{{{}}}", keys.join(",")))));
}

#[test]
fn many_small_entries_stay_within_the_bound() {
    use aprgpu::format::gguf::{Strings, Value};
    let metadata: Vec<(String, Value)> = (0..40_000).map(|i| (format!("{i:x}"), Value::U8(1))).collect();
    assert!(read("gguf", &model_files::gguf(3, &metadata, &[])));
    let strings: Strings = std::iter::repeat_n(b"", 100_000).collect();
    let metadata = [("s".to_owned(), aprgpu::format::gguf::Array::String(strings).into())];
    assert!(read("gguf", &model_files::gguf(3, &metadata, &[])));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn damaged_bytes_are_a_file_or_an_error(
        which in 0_usize..6,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let (kind, mut bytes) = samples().swap_remove(which);
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] ^= value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read(kind, &bytes);
        read(kind, &with_right_checksum(kind, bytes));
    }

    #[test]
    fn noise_behind_a_right_magic_is_an_error(kind in prop::sample::select(vec!["gguf", "apr", "safetensors", "lattice"]), mut bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let magic: &[u8] = match kind {
            "gguf" => b"GGUF\x03\0\0\0",
            "apr" => b"APR\0\x02\0\0\0",
            "lattice" => b"KHQ4\x02\0\0\0",
            _ => b"\x10\0\0\0\0\0\0\0",
        };
        bytes.splice(0..0, magic.iter().copied());
        prop_assert!(!read(kind, &with_right_checksum(kind, bytes)));
    }
}
