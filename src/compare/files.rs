//! Two model files over the same text: are they the same model, and if not, from which layer on?
//!
//! A file that was converted or quantized wrongly shows in the size of what flows: the standard deviation of the gated
//! feed-forward layer is compared layer by layer. Honest quantization keeps the ratio near 1; outside of
//! [`RATIO_LIMITS`] something is scaled, permuted or missing.

use super::Error;
use super::metric::{cosine, mean_and_deviation, nmse, top_token};
use super::plot::{Axis, Chart, Series, stacked};
use crate::engine::Device;
use crate::plan::{OpKind, Row, Rows};
use serde::Serialize;
use std::path::Path;

/// Ratios of standard deviations outside of this are flagged.
pub const RATIO_LIMITS: (f64, f64) = (0.5, 2.0);

/// The gated feed-forward values of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LayerSpread {
    /// The layer.
    pub layer: usize,
    /// Standard deviation in the first model.
    pub base: f64,
    /// In the other.
    pub other: f64,
    /// `other / base`.
    pub ratio: f64,
    /// Whether the ratio is outside of [`RATIO_LIMITS`].
    pub flagged: bool,
}

/// The logits at one position.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PositionLikeness {
    /// The position.
    pub position: usize,
    /// Cosine of the logits.
    pub cosine: f64,
    /// NMSE of the logits.
    pub nmse: f64,
    /// Whether the best token is the same.
    pub same_top: bool,
}

/// Two files, or a file and raw logits.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct FileComparison {
    /// Empty against raw logits.
    pub layers: Vec<LayerSpread>,
    /// Every position that both sides have.
    pub positions: Vec<PositionLikeness>,
}

impl FileComparison {
    /// The first layer that is flagged.
    pub fn first_flagged(&self) -> Option<&LayerSpread> {
        self.layers.iter().find(|layer| layer.flagged)
    }

    /// The first position whose logits have an NMSE above `limit`.
    pub fn first_over(&self, limit: f64) -> Option<&PositionLikeness> {
        self.positions.iter().find(|p| p.nmse.is_nan() || p.nmse > limit)
    }

    /// Layers in one chart, positions in another.
    pub fn svg(&self) -> String {
        let ratios = self.layers.iter().map(|layer| (layer.layer as f64, layer.ratio)).collect();
        let cosines = self.positions.iter().map(|p| (p.position as f64, p.cosine)).collect();
        let last = self.layers.len().saturating_sub(1).max(1) as f64;
        let series = |name: &str, points| Series { name: name.to_owned(), line: true, points };
        let limit = |ratio: f64| series(&format!("limit {ratio}"), vec![(0.0, ratio), (last, ratio)]);
        let axis = |label: &str| Axis { label: label.to_owned(), logarithmic: false };
        let layers = Chart {
            title: "gated feed-forward: standard deviation there / here".to_owned(),
            x: axis("layer"),
            y: axis("ratio"),
            series: vec![series("ratio", ratios), limit(RATIO_LIMITS.0), limit(RATIO_LIMITS.1)],
        };
        let positions = Chart {
            title: "logits: cosine".to_owned(),
            x: axis("position"),
            y: axis("cosine"),
            series: vec![series("cosine", cosines)],
        };
        if self.layers.is_empty() { positions.svg() } else { stacked(&[layers, positions]) }
    }
}

/// Compares two models of the same vocabulary over `tokens`.
///
/// # Errors
/// Vocabularies of different sizes, a device that fails.
pub fn compare_models(
    base: &mut Device,
    other: &mut Device,
    tokens: &[u32],
) -> Result<FileComparison, Error> {
    let vocab = base.decoder().shape().vocab_size;
    let found = other.decoder().shape().vocab_size;
    if vocab != found {
        return Err(Error::Usage(format!("vocabularies of {vocab} and {found} tokens cannot be compared")));
    }
    let (a, b) = (gated_deviations(base, tokens)?, gated_deviations(other, tokens)?);
    let spread = |(layer, (&base, &other)): (usize, (&f64, &f64))| {
        let ratio = other / base;
        let flagged = !(RATIO_LIMITS.0..=RATIO_LIMITS.1).contains(&ratio);
        LayerSpread { layer, base, other, ratio, flagged }
    };
    let layers = a.iter().zip(&b).enumerate().map(spread).collect();
    let logits = (base.logits(tokens, true)?, other.logits(tokens, true)?);
    Ok(FileComparison { layers, positions: positions(&logits.0, &logits.1, vocab) })
}

/// Compares a model's logits at every position of `tokens`, or at the last one, with raw little-endian float32 in a file.
///
/// # Errors
/// A file that holds neither one row nor one per token, a device that fails.
pub fn compare_logits(base: &mut Device, file: &Path, tokens: &[u32]) -> Result<FileComparison, Error> {
    let bytes = std::fs::read(file).map_err(|source| Error::Io { path: file.to_owned(), source })?;
    let values: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let vocab = base.decoder().shape().vocab_size;
    let rows = values.len() / vocab;
    if values.len() * 4 != bytes.len() || rows * vocab != values.len() || rows != 1 && rows != tokens.len() {
        let what = format!(
            "expected float32 logits [1, {vocab}] or [{}, {vocab}], found {} bytes; `aprgpu logits --all` writes such files",
            tokens.len(),
            bytes.len()
        );
        return Err(Error::File { path: file.to_owned(), what });
    }
    let logits = base.logits(tokens, rows > 1)?;
    let mut positions = positions(&logits, &values, vocab);
    if let (1, Some(only)) = (rows, positions.first_mut()) {
        only.position = tokens.len() - 1;
    }
    Ok(FileComparison { layers: Vec::new(), positions })
}

fn positions(base: &[f32], other: &[f32], vocab: usize) -> Vec<PositionLikeness> {
    let rows = base.chunks_exact(vocab).zip(other.chunks_exact(vocab)).enumerate();
    let likeness = |(position, (a, b)): (usize, (&[f32], &[f32]))| PositionLikeness {
        position,
        cosine: cosine(a, b),
        nmse: nmse(b, a),
        same_top: top_token(a) == top_token(b),
    };
    rows.map(likeness).collect()
}

/// Standard deviation of the gated feed-forward values of each layer.
fn gated_deviations(device: &mut Device, tokens: &[u32]) -> Result<Vec<f64>, Error> {
    let mut values: Vec<Vec<f64>> = vec![Vec::new(); device.decoder().shape().num_layers];
    watch(device, tokens, &mut |op, layer, written| {
        if let (OpKind::GateUp, Some(into)) = (op, layer.and_then(|layer| values.get_mut(layer))) {
            into.extend(written.iter().map(|&value| f64::from(value)));
        }
    })?;
    Ok(values.iter().map(|values| mean_and_deviation(values).1).collect())
}

/// Called with the op, its layer and the values that it wrote.
type Watcher<'a> = dyn FnMut(OpKind, Option<usize>, &[f32]) + 'a;

/// Runs a text step by step on one device.
fn watch(device: &mut Device, tokens: &[u32], watcher: &mut Watcher<'_>) -> Result<(), Error> {
    device.check_tokens(tokens)?;
    let tile = device.chunk().min(tokens.len());
    let rows = Rows { rows: tile, logit_rows: 1, sample: false };
    let plan = device.decoder().plan(rows, device.numerics());
    let graph = device.graph(rows)?;
    let backend = device.backend_mut();
    for (start, tile) in (0..).step_by(tile).zip(tokens.chunks(tile)) {
        let row =
            |(i, &token): (usize, &u32)| Row { token, slot: 0, position: (start + i) as u32, logits: false };
        let rows: Vec<_> = tile.iter().enumerate().map(row).collect();
        for (index, step) in plan.steps.iter().enumerate() {
            if step.op.kind() == OpKind::Head {
                break;
            }
            backend.run_steps(graph, &rows, index..index + 1)?;
            for &id in &step.writes {
                watcher(step.op.kind(), step.layer, &backend.buffer(graph, id)?);
            }
        }
    }
    Ok(())
}
