//! The ceiling: how fast this machine reads memory that no cache holds.
//!
//! Each thread sums its own part of a buffer of hundreds of megabytes, eight sums side by side, so that the loop waits for
//! memory and nothing else; passes take turns with one, four and eight streams. All threads start a pass together; a pass
//! takes as long as its slowest thread.
//!
//! On other devices no kernel only reads. There the ceiling is what the largest of our matvecs reads, one launch of hundreds
//! of megabytes, which the vendor's own figure may exceed.

use super::Error;
use super::clock::Clock;
use super::kernels::{Bench, Options, Shape};
use super::preset::{PRESETS, Preset};
use super::stats::Summary;
use crate::compare;
use crate::engine::BackendChoice;
use crate::plan::OpKind;
use crate::quant::TensorType;
use serde::Serialize;
use std::sync::Barrier;

/// Ways to walk over the buffer.
const PATTERNS: usize = 3;

/// Read bandwidth by a number of threads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Bandwidth {
    /// Threads that read side by side.
    pub threads: usize,
    /// Bytes read in one pass by all threads together.
    pub bytes: u64,
    /// GB/s of each pass (1 GB is 10^9 bytes).
    pub samples: Vec<f64>,
    /// Median of the passes.
    pub median: f64,
    /// The fastest pass: the ceiling that percentages refer to, since what slows a pass is never the memory itself.
    pub best: f64,
}

/// Measures with `threads` threads over `bytes` bytes (rounded down), `passes` times after one that does not count.
///
/// # Errors
/// No memory or no threads.
pub fn measure(threads: usize, bytes: usize, passes: usize) -> Result<Bandwidth, Error> {
    let threads = threads.max(1);
    let words = bytes / 8 / threads / 8 * 8;
    let mut buffer: Vec<u64> = Vec::new();
    let too_much =
        || compare::Error::Usage(format!("no memory for a buffer of {bytes} bytes; use a smaller --size"));
    buffer.try_reserve_exact(words * threads).map_err(|_| too_much())?;
    buffer.resize(words * threads, 1);
    let barrier = Barrier::new(threads);
    let mut times: Vec<u64> = Vec::new();
    let mut sums = 0u64;
    std::thread::scope(|scope| -> Result<(), Error> {
        let mut parts = buffer.chunks_exact(words.max(1));
        let first = parts.next().unwrap_or_default();
        let barrier = &barrier;
        let mut workers = Vec::new();
        for part in parts.take(threads - 1) {
            workers.push(scope.spawn(move || {
                let mut total = 0u64;
                for pass in 0..=passes {
                    barrier.wait();
                    total = total.wrapping_add(sum(part, pass));
                    barrier.wait();
                }
                total
            }));
        }
        for pass in 0..=passes {
            barrier.wait();
            let mut clock = Clock::start();
            sums = sums.wrapping_add(sum(first, pass));
            barrier.wait();
            times.push(clock.lap());
        }
        for worker in workers {
            sums = sums.wrapping_add(worker.join().unwrap_or_default());
        }
        Ok(())
    })?;
    let expected = ((words * threads) as u64).wrapping_mul(passes as u64 + 1);
    if sums != expected {
        return Err(Error::WrongResult(format!("the words of the buffer add up to {sums}, not {expected}")));
    }
    let bytes = (words * threads * 8) as u64;
    let samples: Vec<f64> = times.iter().skip(1).map(|&ns| bytes as f64 / ns.max(1) as f64).collect();
    let summary = Summary::of(&samples);
    Ok(Bandwidth { threads, bytes, samples, median: summary.median, best: summary.max })
}

/// What a device that is not the CPU reads.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceBandwidth {
    /// The backend.
    pub backend: &'static str,
    /// The device, in the backend's words.
    pub device: String,
    /// Bytes read in one pass.
    pub bytes: u64,
    /// GB/s of the fastest pass over weights of each type.
    pub by_type: Vec<(&'static str, f64)>,
    /// The best of them.
    pub best: f64,
}

/// Measures with matvecs that read about `bytes` bytes in one launch, `passes` times for each of three types of weights.
/// Takes about three times that memory.
///
/// # Errors
/// A backend that is not there or computes something wrong.
pub fn measure_device(
    choice: &BackendChoice,
    threads: Option<usize>,
    bytes: usize,
    passes: usize,
) -> Result<DeviceBandwidth, Error> {
    const COLUMNS: usize = 2048;
    let mut found =
        DeviceBandwidth { backend: "", device: String::new(), bytes: 0, by_type: Vec::new(), best: 0.0 };
    for tensor_type in [TensorType::F16, TensorType::Q8_0, TensorType::Q4_K] {
        // Gate and up, rows of which down has to divide into super-blocks.
        let row = 2 * tensor_type.row_bytes(COLUMNS).unwrap_or(COLUMNS);
        let intermediate_size = (bytes / row).next_multiple_of(256).max(256);
        let preset = PRESETS[0].reduced();
        let shape =
            Shape { name: "bandwidth", preset: Preset { hidden_size: COLUMNS, intermediate_size, ..preset } };
        let options = Options { rows: 1, depth: 1, at_least: 0, runs: (2, passes, 0.0) };
        let mut bench = Bench::new(shape, tensor_type, (choice.clone(), threads), options)?;
        let result = bench.measure(OpKind::GateUp)?;
        let best = result.bytes as f64 / (result.us_min * 1e3).max(1.0);
        (found.backend, found.device) = bench.describe();
        found.bytes = found.bytes.max(result.bytes);
        found.best = found.best.max(best);
        found.by_type.push((tensor_type.name(), best));
    }
    Ok(found)
}

/// Sums a part by the pattern of this pass: from front to back, or as four or eight streams side by side, which keep more
/// requests in flight where the prefetcher stops at the end of a page.
fn sum(words: &[u64], pass: usize) -> u64 {
    match pass % PATTERNS {
        0 => sum_streams::<1>(words),
        1 => sum_streams::<4>(words),
        _ => sum_streams::<8>(words),
    }
}

fn sum_streams<const STREAMS: usize>(words: &[u64]) -> u64 {
    let lines = words.as_chunks::<8>().0;
    let length = lines.len() / STREAMS;
    let streams: [&[[u64; 8]]; STREAMS] = std::array::from_fn(|s| &lines[s * length..(s + 1) * length]);
    let mut sums = [[0u64; 8]; STREAMS];
    for i in 0..length {
        for (sums, stream) in sums.iter_mut().zip(streams) {
            for (sum, word) in sums.iter_mut().zip(&stream[i]) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    let rest = lines[STREAMS * length..].as_flattened().iter().fold(0u64, |a, b| a.wrapping_add(*b));
    std::hint::black_box(sums).as_flattened().iter().fold(rest, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_pass_is_timed_and_every_word_is_read() {
        let found = super::measure(2, 1 << 20, 3).unwrap();
        assert_eq!((found.threads, found.bytes, found.samples.len()), (2, 1 << 20, 3));
        assert!(found.best >= found.median && found.median > 0.0, "{found:?}");
    }

    #[test]
    fn any_backend_can_be_asked() {
        let found = super::measure_device(&super::BackendChoice::Cpu, Some(1), 1 << 20, 2).unwrap();
        assert_eq!((found.backend, found.by_type.len()), ("cpu", 3));
        assert!(found.bytes >= 1 << 20 && found.by_type.iter().all(|(_, best)| *best > 0.0), "{found:?}");
    }
}
