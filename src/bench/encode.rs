//! How fast weights are encoded, per thread: what quantizing a model takes beyond reading and writing it.

use super::Error;
use crate::compare::{self, Random};
use crate::quant::{TensorType, encode_rows};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Instant;

/// Columns of the matrix: those of a 7B model's hidden layer, nearly, and a multiple of every block.
pub const COLS: usize = 4096;

/// One type, encoded several times.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EncodeResult {
    /// The type's name.
    #[serde(rename = "type")]
    pub tensor_type: &'static str,
    /// Whether with an importance matrix.
    pub importance: bool,
    /// Values that were encoded each time.
    pub values: usize,
    /// Threads.
    pub threads: usize,
    /// Each time's seconds.
    pub seconds: Vec<f64>,
    /// Of the encoded bytes, for comparison with another encoder's.
    pub crc32: u32,
}

impl EncodeResult {
    /// Million values per second and thread, of the fastest time.
    pub fn rate(&self) -> f64 {
        let best = self.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        self.values as f64 / best / 1e6 / self.threads.max(1) as f64
    }
}

/// Values as weights have them: bell-shaped, a hundredth in size, with an outlier here and there.
pub fn weights(rows: usize) -> Vec<f32> {
    let mut random = Random::new(11);
    let mut uniform = move || random.below(1 << 24) as f32 / (1 << 24) as f32 - 0.5;
    let mut value = move |i: usize| {
        let bell: f32 = (0..6).map(|_| uniform()).sum();
        if i.is_multiple_of(997) { bell } else { bell * 0.03 }
    };
    (0..rows * COLS).map(&mut value).collect()
}

/// Raw little-endian float32 from a file.
///
/// # Errors
/// The file cannot be read, or is no number of rows.
pub fn read(path: &Path) -> Result<Vec<f32>, Error> {
    let bytes = std::fs::read(path).map_err(|source| compare::Error::Io { path: path.to_owned(), source })?;
    let (floats, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() || floats.is_empty() || !floats.len().is_multiple_of(COLS) {
        let what = format!("expected float32 [rows, {COLS}], found {} bytes", bytes.len());
        return Err(compare::Error::File { path: path.to_owned(), what }.into());
    }
    Ok(floats.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

/// Encodes `values` in rows of [`COLS`], `times` times after one that does not count.
///
/// # Errors
/// There is no encoder for the type, or a value is not finite.
pub fn measure(
    tensor_type: TensorType,
    values: &[f32],
    importance: Option<&[f32]>,
    (threads, times): (NonZeroUsize, usize),
) -> Result<EncodeResult, Error> {
    let row_bytes = tensor_type.row_bytes(COLS).unwrap_or(0);
    let mut out = vec![0; values.len() / COLS * row_bytes];
    let mut seconds = Vec::with_capacity(times);
    for time in 0..=times {
        let clock = Instant::now();
        encode_rows(tensor_type, values, COLS, importance, &mut out, threads)?;
        if time > 0 {
            seconds.push(clock.elapsed().as_secs_f64());
        }
    }
    Ok(EncodeResult {
        tensor_type: tensor_type.name(),
        importance: importance.is_some(),
        values: values.len(),
        threads: threads.get(),
        seconds,
        crc32: crc32fast::hash(&out),
    })
}
