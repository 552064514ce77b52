//! What a handful of samples says.

use crate::compare::metric::{mean_and_deviation, quantile};
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
        let (mean, stddev) = mean_and_deviation(samples);
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

/// Whether two figures differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    /// Faster by more than the noise.
    Faster,
    /// Slower by more than the noise.
    Slower,
    /// Within the noise.
    Same,
    /// Something is missing: nothing can be said, and nothing has passed.
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

    /// Of a ratio whose logarithm must exceed `margin` to count; without a margin nothing is known of the noise.
    pub fn of(ratio: f64, margin: Option<f64>) -> Self {
        match margin {
            Some(margin) if ratio.is_finite() && ratio > 0.0 => match ratio.ln() {
                log if log.abs() <= margin => Self::Same,
                log if log > 0.0 => Self::Faster,
                _ => Self::Slower,
            },
            _ => Self::Incomplete,
        }
    }
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
    /// What the logarithm of the geometric mean must exceed to count as a difference; `None` for fewer than two pairs,
    /// which say nothing about the noise.
    pub margin: Option<f64>,
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
            margin: deviations(logs.len()).map(|deviations| deviations * log.stddev),
        }
    }

    /// What the pairs say.
    pub fn verdict(&self) -> Verdict {
        Verdict::of(self.geometric_mean, self.margin)
    }
}

/// How many standard deviations of the pairs their mean must be away from nothing: two, or the bound of Student's t at 95 %
/// divided by the square root of the number of pairs, whichever is more (two and three pairs).
fn deviations(pairs: usize) -> Option<f64> {
    match pairs {
        0 | 1 => None,
        2 => Some(12.706 / 2f64.sqrt()),
        3 => Some(4.303 / 3f64.sqrt()),
        _ => Some(2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::Random;

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

    /// Pairs of runs on a machine that is up to ten times slower from one pair to the next, with noise of 3 % in each run.
    fn session(random: &mut Random, pairs: usize, ratio: f64) -> Ratios {
        let pair = |random: &mut Random| {
            let machine = 1.0 + 9.0 * f64::from(random.below(1000) as u32) / 1000.0;
            let noise = |random: &mut Random| (0.03 * f64::from(random.value())).exp();
            (100.0 * ratio * machine * noise(random), 100.0 * machine * noise(random))
        };
        let pairs: Vec<(f64, f64)> = (0..pairs).map(|_| pair(random)).collect();
        Ratios::of(&pairs)
    }

    #[test]
    fn a_planted_ratio_is_found_and_noise_is_not_called_a_difference() {
        let mut random = Random::new(17);
        let mut claims = |pairs: usize, ratio: f64, verdict: Verdict| {
            (0..1000).filter(|_| session(&mut random, pairs, ratio).verdict() == verdict).count()
        };
        for pairs in [2, 3, 4, 8] {
            let same = claims(pairs, 1.0, Verdict::Same);
            assert!(same > 930, "{pairs} pairs: {} of 1000 sessions of equal programs differ", 1000 - same);
        }
        assert!(claims(4, 1.25, Verdict::Faster) > 950);
        assert!(claims(8, 1.15, Verdict::Faster) > 950);
        assert!(claims(4, 0.8, Verdict::Slower) > 950);
        assert_eq!(claims(1, 2.0, Verdict::Incomplete), 1000);
        let found = session(&mut random, 200, 1.1);
        assert!((found.geometric_mean / 1.1 - 1.0).abs() < 0.01, "{}", found.geometric_mean);
    }

    #[test]
    fn a_ratio_and_its_inverse_get_opposite_verdicts() {
        for margin in [0.05, 0.5, 1.0] {
            for ratio in [0.2, 0.9, 0.97, 1.0] {
                let opposite = match Verdict::of(ratio, Some(margin)) {
                    Verdict::Slower => Verdict::Faster,
                    other => other,
                };
                assert_eq!(Verdict::of(1.0 / ratio, Some(margin)), opposite, "{ratio} {margin}");
            }
        }
        assert_eq!(Verdict::of(f64::NAN, Some(0.1)), Verdict::Incomplete);
    }
}
