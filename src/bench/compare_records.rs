//! Two files of records, test by test.
//!
//! Runs of different days are not paired, so the noise is what each side shows itself: half the distance between its fastest
//! and slowest repetition. Two figures differ where these ranges, laid around both, do not overlap.

use super::Error;
use super::record::Record;
use super::report::{markdown, read};
use super::stats::{Summary, Verdict};
use serde::Serialize;
use std::path::Path;

/// A test that is in at least one of the files.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Model, backend, activations, threads and test.
    pub key: String,
    /// Tokens per second before, median over the file's records of this test.
    pub old: Option<f64>,
    /// After.
    pub new: Option<f64>,
    /// `new / old`.
    pub ratio: Option<f64>,
    /// The spreads of both together: half the distance between fastest and slowest repetition, over the median.
    pub spread: f64,
    /// What that means.
    pub verdict: Verdict,
    /// Why it is incomplete, where it is.
    pub missing: Option<String>,
}

/// Compares two files.
///
/// # Errors
/// A file that cannot be read.
pub fn compare_records(old: &Path, new: &Path) -> Result<Vec<Line>, Error> {
    Ok(lines(&read(old)?, &read(new)?))
}

/// The same in memory; in the order of `old`, then what only `new` has.
pub fn lines(old: &[Record], new: &[Record]) -> Vec<Line> {
    let key = |r: &Record| {
        let parts = [&r.model_type, &r.backends, &r.activations].map(|part| part.as_str());
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{} threads {} {}", parts.join(" "), r.n_threads, r.test())
    };
    let mut keys: Vec<String> = Vec::new();
    for record in old.iter().chain(new) {
        let key = key(record);
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let figure = |records: &[Record], wanted: &str| {
        let matching: Vec<&Record> = records.iter().filter(|r| key(r) == wanted && r.avg_ts > 0.0).collect();
        let samples: Vec<f64> = matching
            .iter()
            .flat_map(|r| if r.samples_ts.is_empty() { vec![r.avg_ts] } else { r.samples_ts.clone() })
            .collect();
        (!samples.is_empty()).then(|| (Summary::of(&samples), samples.len()))
    };
    let line = |key: String| {
        let (old, new) = (figure(old, &key), figure(new, &key));
        let ratio = old.zip(new).map(|(old, new)| new.0.median / old.0.median);
        let spread = [old, new].into_iter().flatten().map(|(summary, _)| summary.spread()).sum::<f64>();
        let missing = match (old, new) {
            (None, _) => Some("not in the old file".to_owned()),
            (_, None) => Some("not in the new file".to_owned()),
            (Some((_, a)), Some((_, b))) if a.min(b) < 2 => {
                Some("a single repetition says nothing about the noise".to_owned())
            }
            _ => None,
        };
        let margin = missing.is_none().then(|| spread.ln_1p());
        let verdict = ratio.map_or(Verdict::Incomplete, |ratio| Verdict::of(ratio, margin));
        let median = |figure: Option<(Summary, usize)>| figure.map(|(summary, _)| summary.median);
        Line { key, old: median(old), new: median(new), ratio, spread, verdict, missing }
    };
    keys.into_iter().map(line).collect()
}

/// As a Markdown table.
pub fn render(lines: &[Line]) -> String {
    let number = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
    let row = |line: &Line| {
        vec![
            line.key.clone(),
            number(line.old),
            number(line.new),
            line.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.3}")),
            format!("± {:.1} %", 100.0 * line.spread),
            match &line.missing {
                Some(why) => format!("{}: {why}", line.verdict.name()),
                None => line.verdict.name().to_owned(),
            },
        ]
    };
    markdown(
        &["test", "old t/s", "new t/s", "new / old", "spread", "verdict"],
        &lines.iter().map(row).collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_side_is_incomplete_and_noise_is_no_difference() {
        let record = |n_gen, samples: &[f64]| Record {
            n_gen,
            avg_ts: samples.iter().sum::<f64>() / samples.len() as f64,
            samples_ts: samples.to_vec(),
            ..Record::default()
        };
        let old = [
            record(1, &[9.0, 10.0, 11.0]),
            record(2, &[10.0, 10.2]),
            record(3, &[10.0, 10.0]),
            record(5, &[10.0]),
            record(6, &[10.0, 10.2]),
        ];
        let new = [
            record(1, &[10.5, 10.6]),
            record(2, &[12.0, 12.1]),
            record(4, &[1.0, 1.0]),
            record(5, &[20.0, 20.0]),
            record(6, &[9.0, 9.1]),
        ];
        let lines = lines(&old, &new);
        let verdicts: Vec<Verdict> = lines.iter().map(|line| line.verdict).collect();
        use Verdict::{Faster, Incomplete, Same, Slower};
        assert_eq!(verdicts, [Same, Faster, Incomplete, Incomplete, Slower, Incomplete]);
        let why = |index: usize| lines[index].missing.as_deref().unwrap();
        assert_eq!((why(2), why(5)), ("not in the new file", "not in the old file"));
        assert!(why(3).contains("single repetition"));
        // Medians, their ratio, and the sum of both spreads.
        let line = &lines[1];
        assert_eq!((line.old, line.new), (Some(10.1), Some(12.05)));
        assert!((line.ratio.unwrap() - 12.05 / 10.1).abs() < 1e-12);
        assert!((line.spread - (0.1 / 10.1 + 0.05 / 12.05)).abs() < 1e-12);
    }

    #[test]
    fn other_activations_are_another_test() {
        let record = |activations: &str| Record {
            activations: activations.to_owned(),
            avg_ts: 1.0,
            samples_ts: vec![1.0, 1.0],
            ..Record::default()
        };
        let lines = lines(&[record("q8")], &[record("f32")]);
        assert!(lines.len() == 2 && lines.iter().all(|line| line.verdict == Verdict::Incomplete));
    }
}
