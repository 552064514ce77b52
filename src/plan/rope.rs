//! Rotary position embedding as a table of cosines and sines.
//!
//! A table costs `context * dim * 4` bytes and makes RoPE the same on every backend: GPUs differ in the last bits of
//! `sin` and `cos`, and by far more for large angles. Angles are computed in f64 and rounded once.
//!
//! Pair `i` of `dim / 2` turns by `position * theta^(-2i / dim)` (arXiv 2104.09864), with the frequency changed by the
//! model's scaling. YaRN: section 3.2 of arXiv 2309.00071, with the ramp limits rounded down and up as its authors'
//! code does.

use crate::model::{RopeConfig, RopeScaling};

/// Cosines and sines, `[context, dim / 2]` each.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// Pairs per position.
    pub pairs: usize,
    /// `cos(angle) * attention_factor`.
    pub cos: Vec<f32>,
    /// `sin(angle) * attention_factor`.
    pub sin: Vec<f32>,
}

impl RopeTable {
    /// Bytes that a table has for each position.
    pub fn bytes_per_position(rope: &RopeConfig) -> usize {
        rope.dim / 2 * 2 * size_of::<f32>()
    }

    /// The table for positions `0..context`.
    pub fn new(rope: &RopeConfig, context: usize) -> Self {
        let (frequencies, factor) = frequencies(rope);
        let pairs = frequencies.len();
        let mut cos = Vec::with_capacity(context * pairs);
        let mut sin = Vec::with_capacity(context * pairs);
        for position in 0..context {
            for frequency in &frequencies {
                let (s, c) = (position as f64 * frequency).sin_cos();
                cos.push((c * factor) as f32);
                sin.push((s * factor) as f32);
            }
        }
        Self { pairs, cos, sin }
    }
}

/// Radians per position of each pair, and the factor on cosines and sines.
fn frequencies(rope: &RopeConfig) -> (Vec<f64>, f64) {
    let pairs = rope.dim / 2;
    let theta = f64::from(rope.theta);
    let base = (0..pairs).map(|i| theta.powf(-2.0 * i as f64 / rope.dim as f64));
    match &rope.scaling {
        RopeScaling::None => (base.collect(), 1.0),
        RopeScaling::Linear { factor } => (base.map(|f| f / f64::from(*factor)).collect(), 1.0),
        RopeScaling::Factors(factors) => {
            let divided = base.enumerate().map(|(i, f)| f / factors.get(i).map_or(1.0, |&by| f64::from(by)));
            (divided.collect(), 1.0)
        }
        RopeScaling::Yarn { factor, original_context_length, beta_fast, beta_slow, attention_factor } => {
            let pair_with_rotations = |rotations: f32| {
                let wavelength =
                    *original_context_length as f64 / (f64::from(rotations) * std::f64::consts::TAU);
                rope.dim as f64 * wavelength.ln() / (2.0 * theta.ln())
            };
            let low = pair_with_rotations(*beta_fast).floor().max(0.0);
            let high = pair_with_rotations(*beta_slow).ceil().min(rope.dim as f64 - 1.0);
            let span = if high > low { high - low } else { 0.001 };
            let scaled = base.enumerate().map(|(i, f)| {
                let slow = ((i as f64 - low) / span).clamp(0.0, 1.0);
                f * (1.0 - slow) + f / f64::from(*factor) * slow
            });
            (scaled.collect(), f64::from(*attention_factor))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RopePairing;

    fn rope(scaling: RopeScaling) -> RopeConfig {
        RopeConfig { theta: 10000.0, dim: 8, pairing: RopePairing::Neox, scaling }
    }

    #[test]
    fn plain_frequencies_fall_by_a_constant_ratio() {
        let (f, factor) = frequencies(&rope(RopeScaling::None));
        assert_eq!(factor, 1.0);
        for (i, expected) in [1.0, 0.1, 0.01, 0.001].into_iter().enumerate() {
            assert!((f[i] - expected).abs() < 1e-12, "{f:?}");
        }
    }

    #[test]
    fn linear_and_factors_divide() {
        assert_eq!(frequencies(&rope(RopeScaling::Linear { factor: 4.0 })).0[0], 0.25);
        let (f, _) = frequencies(&rope(RopeScaling::Factors(vec![1.0, 2.0, 4.0, 8.0])));
        assert!((f[3] - 0.001 / 8.0).abs() < 1e-15);
    }

    #[test]
    fn yarn_keeps_fast_pairs_and_divides_slow_ones() {
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original_context_length: 512,
            beta_fast: 32.0,
            beta_slow: 1.0,
            attention_factor: 1.5,
        };
        let (f, factor) = frequencies(&rope(yarn));
        assert_eq!(factor, 1.5);
        assert_eq!(f[0], 1.0);
        assert!((f[3] - 0.001 / 4.0).abs() < 1e-12, "{f:?}");
    }

    #[test]
    fn the_table_starts_at_angle_zero() {
        let table = RopeTable::new(&rope(RopeScaling::None), 3);
        assert_eq!((table.pairs, table.cos.len()), (4, 12));
        assert_eq!((&table.cos[..4], &table.sin[..4]), (&[1.0; 4][..], &[0.0; 4][..]));
        assert_eq!(table.sin[8], 2f64.sin() as f32);
    }
}
