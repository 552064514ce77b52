//! `aprbench encode`.

use crate::args::EncodeArgs;
use crate::failure::Failure;
use aprgpu::bench::encode::{COLS, EncodeResult, measure, read, weights};
use aprgpu::bench::report;
use aprgpu::compare;
use aprgpu::quant::TensorType;
use std::io::Write;
use std::num::NonZeroUsize;

/// What can be encoded.
const TYPES: &[TensorType] = &[
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

pub(crate) fn encode(args: &EncodeArgs) -> Result<(), Failure> {
    let mut types = Vec::new();
    for name in &args.types {
        let known = TensorType::from_name(name).filter(|tensor_type| TYPES.contains(tensor_type));
        let unknown = || compare::Error::Usage(format!("{name}: expected one of {TYPES:?}"));
        types.push(known.ok_or_else(unknown)?);
    }
    let types = if types.is_empty() { TYPES.to_vec() } else { types };
    let values = match &args.input {
        Some(path) => read(path)?,
        None => weights(usize::from(args.rows)),
    };
    // The same formula as in tools/encoder_bench.py.
    let importance: Vec<f32> = (0..COLS).map(|i| ((i * 7919) % 1000 + 1) as f32 / 512.0).collect();
    let importance = args.importance.then_some(importance.as_slice());
    let threads = args.threads.unwrap_or(NonZeroUsize::MIN);
    let mut results = Vec::new();
    for tensor_type in types {
        results.push(measure(tensor_type, &values, importance, (threads, usize::from(args.reps)))?);
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!(results))?;
        return Ok(());
    }
    let row = |r: &EncodeResult| vec![r.tensor_type.to_owned(), format!("{:.1}", r.rate())];
    let rows: Vec<_> = results.iter().map(row).collect();
    writeln!(out, "{}", report::markdown(&["type", "million values/s per thread"], &rows))?;
    Ok(())
}
