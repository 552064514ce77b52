//! Two models beside each other: metadata, tensors, types, then numbers.
//!
//! Files of one format are compared key by key. Between formats, both are first put into GGUF's terms, as a conversion
//! would: the same names, and rows in the same order, so that a model compares equal to itself in any format.

use super::plan::Plan;
use super::reencode::Output;
use super::{Options, Report};
use crate::format::Error as FormatError;
use crate::format::gguf::{Array, Value};
use crate::model::{Error, Source};
use serde::Serialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Ratios of a layer's standard deviations outside of this are flagged: quantization to 4 bits moves them by some percent,
/// a wrong scale, a permutation of types or another model by far more.
pub const RATIO_LIMITS: (f64, f64) = (0.9, 1.1);

/// A key whose values differ; `None` where it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyDifference {
    /// The key.
    pub key: String,
    /// In the first model.
    pub a: Option<String>,
    /// In the second.
    pub b: Option<String>,
}

/// What a tensor is in one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stored {
    /// The type's name.
    #[serde(rename = "type")]
    pub tensor_type: &'static str,
    /// Slowest dimension first.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: u64,
}

/// Values of a tensor in both models.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ValueDifference {
    /// `sum((b - a)^2) / sum(a^2)`; infinite where only one side is a number.
    pub nmse: f64,
    /// The largest absolute difference.
    pub max_error: f64,
    /// Its row and column.
    pub at: (usize, usize),
    /// Standard deviation of the second model's values over that of the first's.
    pub std_ratio: f64,
}

/// A tensor that differs, or whose values were compared.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorDifference {
    /// Its GGUF name.
    pub name: String,
    /// In the first model, if it is there.
    pub a: Option<Stored>,
    /// In the second, if it is there.
    pub b: Option<Stored>,
    /// Numbers, where they were asked for and shapes agree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<ValueDifference>,
}

/// All weights of a layer together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerDifference {
    /// The layer; `None` for what belongs to none.
    pub layer: Option<usize>,
    /// Worst of its tensors.
    pub nmse: f64,
    /// Standard deviation of the matrices' values in the second model over that in the first.
    pub std_ratio: f64,
}

impl LayerDifference {
    /// Whether the ratio is outside of [`RATIO_LIMITS`].
    pub fn is_flagged(&self) -> bool {
        !(RATIO_LIMITS.0..=RATIO_LIMITS.1).contains(&self.std_ratio)
    }
}

/// Everything that differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Diff {
    /// Keys with other values.
    pub metadata: Vec<KeyDifference>,
    /// Tensors with other types or shapes, or in one model only; with values, every tensor.
    pub tensors: Vec<TensorDifference>,
    /// With values, every layer.
    pub layers: Vec<LayerDifference>,
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        let same = |t: &TensorDifference| {
            t.a == t.b && t.values.is_none_or(|values| values.nmse == 0.0 && values.max_error == 0.0)
        };
        self.metadata.is_empty() && self.tensors.iter().all(same)
    }
}

/// Compares two models; with `values`, every value of every tensor that both have in the same shape.
///
/// # Errors
/// A model that cannot be put into GGUF's terms, or a tensor that cannot be decoded.
pub fn diff(a: &Source, b: &Source, values: bool) -> Result<Diff, Error> {
    let plan = |source: &Source| Plan::of(source, &Options::default(), &mut Report::default());
    let (plan_a, plan_b) = (plan(a)?, plan(b)?);
    let metadata = match (a, b) {
        (Source::Apr(a), Source::Apr(b)) => keys(apr_keys(a.metadata()), apr_keys(b.metadata())),
        _ => keys(gguf_keys(&plan_a.metadata), gguf_keys(&plan_b.metadata)),
    };
    let mut pairs: BTreeMap<(i64, String), Sides<'_>> = BTreeMap::new();
    for output in &plan_a.outputs {
        pairs.entry(place(&output.spec.name)).or_default().0 = Some(output);
    }
    for output in &plan_b.outputs {
        pairs.entry(place(&output.spec.name)).or_default().1 = Some(output);
    }
    let pairs: Vec<_> = pairs.into_iter().map(|((_, name), (a, b))| (name, a, b)).collect();
    let sums = if values { measure(&pairs)? } else { vec![None; pairs.len()] };
    let mut layers: BTreeMap<i64, (Sums, f64)> = BTreeMap::new();
    let mut tensors = Vec::new();
    for ((name, a, b), sums) in pairs.into_iter().zip(sums) {
        if let Some(sums) = &sums {
            let (layer, worst) = layers.entry(place(&name).0).or_default();
            *worst = worst.max(sums.nmse());
            // Norms would drown in it the other way round: they are few, and far from zero.
            if a.is_some_and(|output| output.spec.shape.len() > 1) {
                layer.add(sums);
            }
        }
        let tensor = TensorDifference {
            name,
            a: a.map(stored),
            b: b.map(stored),
            values: sums.as_ref().map(Sums::difference),
        };
        if values || tensor.a != tensor.b {
            tensors.push(tensor);
        }
    }
    let layers = layers.into_iter().map(|(layer, (sums, nmse))| LayerDifference {
        layer: usize::try_from(layer).ok(),
        nmse,
        std_ratio: sums.ratio(),
    });
    Ok(Diff { metadata, tensors, layers: layers.collect() })
}

/// A tensor in the first model and in the second.
type Sides<'a> = (Option<&'a Output>, Option<&'a Output>);

/// The layer and the name, for sorting.
fn place(name: &str) -> (i64, String) {
    let (layer, name) = super::mix::listing_order(name);
    (layer, name.to_owned())
}

fn stored(output: &Output) -> Stored {
    Stored {
        tensor_type: output.source.tensor_type.name(),
        shape: output.spec.shape.clone(),
        bytes: output.bytes_read(),
    }
}

fn keys(a: BTreeMap<String, String>, b: BTreeMap<String, String>) -> Vec<KeyDifference> {
    let mut all: Vec<&String> = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))).collect();
    all.sort();
    let differing = all.into_iter().filter(|key| a.get(*key) != b.get(*key));
    differing
        .map(|key| KeyDifference {
            key: key.clone(),
            a: a.get(key).map(|text| cut(text)),
            b: b.get(key).map(|text| cut(text)),
        })
        .collect()
}

fn gguf_keys(entries: &[(String, Value)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| (key.clone(), full(value))).collect()
}

fn apr_keys(metadata: &serde_json::Map<String, Json>) -> BTreeMap<String, String> {
    metadata.iter().map(|(key, value)| (key.clone(), value.to_string())).collect()
}

/// A value and its type, whole.
pub(super) fn full(value: &Value) -> String {
    match value {
        Value::String(bytes) => format!("string {}", String::from_utf8_lossy(bytes)),
        Value::Array(array) => match array.as_ref() {
            Array::String(strings) => {
                let parts: Vec<_> = strings.iter().map(|string| string.escape_ascii().to_string()).collect();
                format!(
                    "{} strings {:08x} {}",
                    parts.len(),
                    crc32fast::hash(parts.join("\n").as_bytes()),
                    parts.join(" ")
                )
            }
            numbers => {
                let text = format!("{numbers:?}");
                format!(
                    "{} {} {:08x} {text}",
                    numbers.len(),
                    numbers.element_type(),
                    crc32fast::hash(text.as_bytes())
                )
            }
        },
        scalar => {
            let text = format!("{scalar:?}");
            text.trim_end_matches(')').replacen('(', " ", 1).to_lowercase()
        }
    }
}

/// The beginning of a text, and how long it is.
fn cut(text: &str) -> String {
    const SHOWN: usize = 64;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}... ({} bytes)", text.get(..end).unwrap_or_default(), text.len()),
        None => text.to_owned(),
    }
}

/// A value for people.
pub(super) fn show(value: &Value) -> String {
    cut(&full(value))
}

/// The same of JSON.
pub(super) fn show_json(value: &Json) -> String {
    cut(&value.to_string())
}

/// Sums over the values of a tensor in both models.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    count: f64,
    error: f64,
    a: f64,
    b: f64,
    a_squared: f64,
    b_squared: f64,
    max_error: f64,
    at: (usize, usize),
}

impl Sums {
    fn row(&mut self, row: usize, a: &[f32], b: &[f32]) {
        for (col, (&a, &b)) in a.iter().zip(b).enumerate() {
            let (a, b) = (f64::from(a), f64::from(b));
            let error = if a.to_bits() == b.to_bits() { 0.0 } else { (b - a).abs() };
            if error > self.max_error || error.is_nan() && !self.max_error.is_nan() {
                (self.max_error, self.at) = (error, (row, col));
            }
            self.error += error * error;
            self.a += a;
            self.b += b;
            self.a_squared += a * a;
            self.b_squared += b * b;
        }
        self.count += a.len() as f64;
    }

    fn add(&mut self, other: &Self) {
        self.count += other.count;
        self.a += other.a;
        self.b += other.b;
        self.a_squared += other.a_squared;
        self.b_squared += other.b_squared;
    }

    fn nmse(&self) -> f64 {
        if self.error == 0.0 {
            return 0.0;
        }
        let ratio = self.error / self.a_squared;
        if ratio.is_nan() { f64::INFINITY } else { ratio }
    }

    /// Standard deviation of the second over that of the first; 1 where both are constant.
    fn ratio(&self) -> f64 {
        let deviation = |sum: f64, squares: f64| {
            let mean = sum / self.count.max(1.0);
            (squares / self.count.max(1.0) - mean * mean).max(0.0).sqrt()
        };
        let (a, b) = (deviation(self.a, self.a_squared), deviation(self.b, self.b_squared));
        if a == b { 1.0 } else { b / a }
    }

    fn difference(&self) -> ValueDifference {
        ValueDifference { nmse: self.nmse(), max_error: self.max_error, at: self.at, std_ratio: self.ratio() }
    }
}

type Pair<'a> = (String, Option<&'a Output>, Option<&'a Output>);

/// Sums of every tensor that both have, on all cores: a tensor each, so that sums have one order.
fn measure(pairs: &[Pair<'_>]) -> Result<Vec<Option<Sums>>, FormatError> {
    let next = Mutex::new(pairs.iter().enumerate());
    let work = || {
        let mut found = Vec::new();
        loop {
            let pair = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((at, (_, a, b))) = pair else { return Ok(found) };
            if let (Some(a), Some(b)) = (a, b)
                && a.spec.shape == b.spec.shape
            {
                found.push((at, sums(a, b)?));
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let found: Vec<Result<Vec<_>, FormatError>> = std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let mut found = vec![work()];
        for other in others {
            found.push(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        found
    });
    let mut all = vec![None; pairs.len()];
    for part in found {
        for (at, sums) in part? {
            if let Some(slot) = all.get_mut(at) {
                *slot = Some(sums);
            }
        }
    }
    Ok(all)
}

fn sums(a: &Output, b: &Output) -> Result<Sums, FormatError> {
    let mut sums = Sums::default();
    let (mut left, mut right) = (a.values()?, b.values()?);
    let rows = a.spec.shape.split_last().map_or(1, |(_, outer)| outer.iter().product());
    for row in 0..rows {
        sums.row(row, left.row(row)?, right.row(row)?);
    }
    for output in [a, b] {
        output.source.map.release(output.source.range.clone());
    }
    Ok(sums)
}
