//! Shared by the integration tests: where the larger fixtures lie, and how far two results are apart.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod fixtures;
#[cfg(feature = "wgpu")]
pub(crate) mod gpu;
pub(crate) mod large_model;
#[cfg(feature = "cuda")]
pub(crate) mod on_gpu;
pub(crate) mod ops;
pub(crate) mod ptxas;
pub(crate) mod sampling;
pub(crate) mod whole_model;

pub(crate) use fixtures::fixtures;

use serde_json::Value;
use std::path::{Path, PathBuf};

/// A file of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Little-endian float32.
pub(crate) fn read_f32(path: &Path) -> Vec<f32> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display())).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// A JSON file.
pub(crate) fn read_json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display())).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A list of numbers in JSON.
pub(crate) fn u32s(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

/// Normalized mean square error: `sum((found - truth)^2) / sum(truth^2)`.
pub(crate) fn nmse(found: &[f32], truth: &[f32]) -> f64 {
    assert_eq!(found.len(), truth.len());
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(truth).map(|(&a, &b)| square(f64::from(a) - f64::from(b))).sum();
    error / truth.iter().map(|&b| square(f64::from(b))).sum::<f64>()
}

/// The index of the largest value.
pub(crate) fn argmax(row: &[f32]) -> u32 {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]).then(b.cmp(&a))).unwrap() as u32
}
