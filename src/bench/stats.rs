//! What a handful of samples says.

use serde::Serialize;

/// A summary of samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Arithmetic mean.
    pub mean: f64,
    /// Sample standard deviation (n - 1); 0 for one sample.
    pub stddev: f64,
    /// Median.
    pub median: f64,
    /// Smallest.
    pub min: f64,
    /// Largest.
    pub max: f64,
}

impl Summary {
    /// Of any number of samples; zeros for none.
    pub fn of(samples: &[f64]) -> Self {
        if samples.is_empty() {
            return Self::default();
        }
        let n = samples.len() as f64;
        let mean = samples.iter().sum::<f64>() / n;
        let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
        let stddev = if samples.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
        Self {
            mean,
            stddev,
            median: quantile(samples, 0.5),
            min: quantile(samples, 0.0),
            max: quantile(samples, 1.0),
        }
    }

    /// Half the distance of the extremes over the median: what "± x %" should say for few samples.
    pub fn spread(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / 2.0 / self.median }
    }
}

/// The value below which a share `q` of the samples lies, interpolated; 0 for none.
pub fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let at = |index: f64| sorted.get(index as usize).copied().unwrap_or(0.0);
    at(place.floor()) + (at(place.ceil()) - at(place.floor())) * place.fract()
}

/// Ratios of paired samples: how two programs compare, whatever the machine did meanwhile to both.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ratios {
    /// `a / b` of each pair, in the order of the runs.
    pub pairs: Vec<f64>,
    /// Median of the pairs.
    pub median: f64,
    /// Geometric mean.
    pub geometric_mean: f64,
    /// Smallest and largest pair.
    pub range: (f64, f64),
    /// Standard deviation of the logarithms: 0.02 is about two percent.
    pub log_stddev: f64,
}

impl Ratios {
    /// Of pairs `(a, b)`; pairs without two positive numbers are left out.
    pub fn of(pairs: &[(f64, f64)]) -> Self {
        let usable = |&&(a, b): &&(f64, f64)| a > 0.0 && b > 0.0 && (a / b).is_finite();
        let ratios: Vec<f64> = pairs.iter().filter(usable).map(|(a, b)| a / b).collect();
        let logs: Vec<f64> = ratios.iter().map(|ratio| ratio.ln()).collect();
        let (log, all) = (Summary::of(&logs), Summary::of(&ratios));
        if ratios.is_empty() {
            return Self::default();
        }
        Self {
            pairs: ratios,
            median: all.median,
            geometric_mean: log.mean.exp(),
            range: (all.min, all.max),
            log_stddev: log.stddev,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_of_known_samples() {
        let s = Summary::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!((s.mean, s.median, s.min, s.max), (2.5, 2.5, 1.0, 4.0));
        assert!((s.stddev - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert!((s.spread() - 0.6).abs() < 1e-12);
        assert_eq!(Summary::of(&[7.0]).stddev, 0.0);
    }

    #[test]
    fn ratios_are_taken_pair_by_pair() {
        // Both programs slow down tenfold in the second pair: the ratio does not see it.
        let r = Ratios::of(&[(200.0, 100.0), (20.0, 10.0), (0.0, 5.0)]);
        assert_eq!((r.pairs.len(), r.median, r.range), (2, 2.0, (2.0, 2.0)));
        assert!((r.geometric_mean - 2.0).abs() < 1e-12 && r.log_stddev.abs() < 1e-12);
    }
}
