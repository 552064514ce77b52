//! Two files of records, test by test.

use super::Error;
use super::record::Record;
use super::report::{markdown, read};
use serde::Serialize;
use std::path::Path;

/// A test that is in at least one of the files.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Line {
    /// Model, backend, threads and test.
    pub key: String,
    /// Tokens per second before, median over the file's records of this test.
    pub old: Option<f64>,
    /// After.
    pub new: Option<f64>,
    /// `new / old`.
    pub ratio: Option<f64>,
    /// The larger spread of the two: half the distance between fastest and slowest repetition, over the median.
    pub spread: f64,
    /// What that means.
    pub verdict: Verdict,
}

/// Whether two figures differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Faster by more than the spread.
    Faster,
    /// Slower by more than the spread.
    Slower,
    /// Within the spread.
    Same,
    /// One side is missing: nothing can be said, and nothing has passed.
    Incomplete,
}

impl Verdict {
    /// As it is printed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Faster => "faster",
            Self::Slower => "slower",
            Self::Same => "same within the spread",
            Self::Incomplete => "INCOMPLETE",
        }
    }

    /// Of a ratio and the spread it was measured with.
    pub fn of(ratio: f64, spread: f64) -> Self {
        if !ratio.is_finite() || ratio <= 0.0 {
            Self::Incomplete
        } else if (ratio - 1.0).abs() <= spread {
            Self::Same
        } else if ratio > 1.0 {
            Self::Faster
        } else {
            Self::Slower
        }
    }
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
    let key = |r: &Record| format!("{} {} {} threads {}", r.model_type, r.backends, r.n_threads, r.test());
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
        let summary = super::stats::Summary::of(&samples);
        (!samples.is_empty()).then_some((summary.median, summary.spread()))
    };
    let line = |key: String| {
        let (old, new) = (figure(old, &key), figure(new, &key));
        let ratio = old.zip(new).map(|(old, new)| new.0 / old.0);
        let spread = old.map_or(0.0, |f| f.1).max(new.map_or(0.0, |f| f.1));
        let verdict = ratio.map_or(Verdict::Incomplete, |ratio| Verdict::of(ratio, spread));
        Line { key, old: old.map(|f| f.0), new: new.map(|f| f.0), ratio, spread, verdict }
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
            line.verdict.name().to_owned(),
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
        let old = [record(1, &[9.0, 10.0, 11.0]), record(2, &[10.0]), record(3, &[10.0])];
        let new = [record(1, &[10.5]), record(2, &[12.0]), record(4, &[1.0])];
        let verdicts: Vec<Verdict> = lines(&old, &new).iter().map(|line| line.verdict).collect();
        assert_eq!(verdicts, [Verdict::Same, Verdict::Faster, Verdict::Incomplete, Verdict::Incomplete]);
    }
}
