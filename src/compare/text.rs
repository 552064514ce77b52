//! Logits over a text that both sides are fed (teacher-forced): divergence and best tokens.

use super::Error;
use super::metric::{kl_divergence, log_softmax, mean_and_deviation, quantile, top_token};
use crate::engine::Device;
use serde::Serialize;

/// Two devices over the same text, position by position.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Positions compared.
    pub positions: usize,
    /// At how many the best token is the same.
    pub same_top: usize,
    /// The first position where it is not.
    pub first_difference: Option<usize>,
    /// Mean KL divergence from the truth, in nats.
    pub mean_kl: f64,
    /// Its standard error.
    pub kl_error: f64,
    /// The median.
    pub median_kl: f64,
    /// The 99th percentile.
    pub kl_99: f64,
    /// The largest.
    pub max_kl: f64,
}

impl Agreement {
    /// Share of positions with the same best token; 1 for none.
    pub fn same_top_rate(&self) -> f64 {
        if self.positions == 0 { 1.0 } else { self.same_top as f64 / self.positions as f64 }
    }

    /// Its standard error, that of a share.
    pub fn same_top_error(&self) -> f64 {
        let rate = self.same_top_rate();
        (rate * (1.0 - rate) / self.positions.saturating_sub(1).max(1) as f64).sqrt()
    }

    /// What breaks the limits of the mean divergence and of the share of equal best tokens, if anything does. One
    /// position may always differ, where two tokens are as good as equal.
    pub fn broken(&self, mean_kl: f64, same_top: f64) -> Option<String> {
        if self.mean_kl.is_nan() || self.mean_kl > mean_kl {
            return Some(format!("mean KL divergence {:.1e}, the limit is {mean_kl:.0e}", self.mean_kl));
        }
        let differing = self.positions - self.same_top;
        let allowed = (((1.0 - same_top) * self.positions as f64) as usize).max(1);
        let first = self.first_difference.filter(|_| differing > allowed)?;
        let positions = self.positions;
        Some(format!(
            "other best tokens at {differing} of {positions} positions, first at {first}; {allowed} may differ"
        ))
    }
}

/// Collects an [`Agreement`] from logarithms of probabilities.
#[derive(Default)]
pub(super) struct Collector {
    agreement: Agreement,
    divergences: Vec<f64>,
}

impl Collector {
    pub(super) fn add(&mut self, truth: &[f64], found: &[f64]) {
        let top = |row: &[f64]| top_token(&row.iter().map(|&x| x as f32).collect::<Vec<_>>());
        if top(truth) == top(found) {
            self.agreement.same_top += 1;
        } else {
            self.agreement.first_difference.get_or_insert(self.agreement.positions);
        }
        self.agreement.positions += 1;
        self.divergences.push(kl_divergence(truth, found));
    }

    pub(super) fn finish(mut self) -> Agreement {
        let (mean, deviation) = mean_and_deviation(&self.divergences);
        self.agreement.mean_kl = mean;
        self.agreement.kl_error = deviation / (self.divergences.len().max(1) as f64).sqrt();
        self.agreement.median_kl = quantile(&self.divergences, 0.5);
        self.agreement.kl_99 = quantile(&self.divergences, 0.99);
        self.agreement.max_kl = self.divergences.iter().copied().fold(0.0, f64::max);
        self.agreement
    }
}

/// Runs `tokens` in windows of `window` on both, each fed the text itself (teacher-forced), and compares every position.
///
/// # Errors
/// A device that fails.
pub fn agreement(
    truth: &mut Device,
    found: &mut Device,
    tokens: &[u32],
    window: usize,
) -> Result<Agreement, Error> {
    let vocab = truth.decoder().shape().vocab_size;
    let mut collector = Collector::default();
    for tokens in tokens.chunks(window.clamp(1, truth.context().min(found.context()))) {
        let (a, b) = (truth.logits(tokens, true)?, found.logits(tokens, true)?);
        for (a, b) in a.chunks(vocab).zip(b.chunks(vocab)) {
            collector.add(&log_softmax(a), &log_softmax(b));
        }
    }
    Ok(collector.finish())
}
