//! RoPE scaling: as files state it, and the arithmetic to what the forward pass needs.

use super::RopeScaling;
use super::fields::{Builder, Stated};
use crate::model::error::Error;
use crate::model::names::Role;

/// RoPE scaling as stated.
pub(super) enum StatedScaling {
    /// None.
    None,
    /// All frequencies divided.
    Linear {
        /// By this.
        factor: f32,
    },
    /// Llama 3's formula.
    Llama3(Llama3),
    /// YaRN.
    Yarn {
        /// What slow frequencies are divided by.
        factor: f32,
        /// The context length before scaling.
        original_context_length: Stated<usize>,
        /// End of the ramp at the fast side.
        beta_fast: Stated<f32>,
        /// End of the ramp at the slow side.
        beta_slow: Stated<f32>,
        /// The factor on cos and sin.
        attention: YarnAttention,
    },
}

/// How a file states YaRN's factor on cos and sin.
pub(super) enum YarnAttention {
    /// As it is.
    Total(f32),
    /// On top of the usual `0.1 ln(factor) + 1`.
    Relative(f32),
    /// `mscale` over `mscale_all_dim`.
    Ratio(f32, f32),
}

/// The parameters of Llama 3's scaling, as Hugging Face states them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Llama3 {
    /// What slow frequencies are divided by.
    pub(super) factor: f32,
    /// Frequencies with a wavelength above `original_context_length / low_freq_factor` are divided in full.
    pub(super) low_freq_factor: f32,
    /// Those with one below `original_context_length / high_freq_factor` are kept.
    pub(super) high_freq_factor: f32,
    /// The context length before scaling.
    pub(super) original_context_length: usize,
}

impl Llama3 {
    /// The divisor of each of the `dim / 2` frequencies.
    ///
    /// The formula is that of transformers' `_compute_llama3_parameters`; the order of the float32 operations is the one
    /// that llama.cpp's converter goes through to write `rope_freqs.weight`, so that both give the same bits: a scalar
    /// divided by a tensor is the tensor's reciprocal times the scalar.
    pub(super) fn factors(&self, theta: f32, dim: usize) -> Vec<f32> {
        let context = self.original_context_length as f32;
        let (low, high) = (self.low_freq_factor, self.high_freq_factor);
        let (low_wavelength, high_wavelength) = (context / low, context / high);
        let factor = |i: usize| {
            let exponent = (2 * i) as f32 / dim as f32;
            let frequency = 1.0 / f64::from(theta).powf(f64::from(exponent)) as f32;
            let wavelength = (1.0 / frequency) * std::f32::consts::TAU;
            if wavelength < high_wavelength {
                1.0
            } else if wavelength > low_wavelength {
                self.factor
            } else {
                let smooth = ((1.0 / wavelength) * context - low) / (high - low);
                1.0 / ((1.0 - smooth) / self.factor + smooth)
            }
        };
        (0..dim / 2).map(factor).collect()
    }

    /// The parameters that these factors come from, looked for among those that models use: the way back, which a file
    /// with the factors alone needs.
    pub(super) fn of_factors(factors: &[f32], theta: f32, dim: usize) -> Option<Self> {
        let factor = factors.iter().copied().fold(1.0, f32::max);
        for (low_freq_factor, high_freq_factor) in [(1.0, 4.0), (1.0, 8.0), (2.0, 4.0), (1.0, 2.0)] {
            for original_context_length in (6..=20).map(|power| 1 << power) {
                let guess = Self { factor, low_freq_factor, high_freq_factor, original_context_length };
                let made = guess.factors(theta, dim);
                let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * b.abs();
                if made.len() == factors.len() && made.iter().zip(factors).all(close) {
                    return Some(guess);
                }
            }
        }
        None
    }
}

/// YaRN's factor on cos and sin where nothing else is stated: `0.1 * mscale * ln(factor) + 1`
/// (arXiv 2309.00071, equation 22).
pub(super) fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

impl Builder<'_> {
    /// The scaling that a file states, with the factors of its tensor, checked.
    pub(super) fn scaling(
        &mut self,
        prefix: &str,
        stated: StatedScaling,
        theta: f32,
        dim: usize,
        context_length: usize,
    ) -> Result<RopeScaling, Error> {
        let positive = |what: &str, value: f32| match value.is_finite() && value > 0.0 {
            true => Ok(value),
            false => {
                let key = format!("{prefix}{what}");
                Err(self.invalid(&key, format!("expected a positive number, found {value}")))
            }
        };
        let stored = self.table.rope_freqs()?;
        if let Some(factors) = &stored {
            let name = Role::RopeFreqs.gguf_name(None);
            if factors.len() != dim / 2 {
                let what = format!("expected {} frequency factors, found {}", dim / 2, factors.len());
                return Err(self.invalid(&name, what));
            }
            if let Some(bad) = factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
                return Err(self.invalid(&name, format!("expected positive numbers, found {bad}")));
            }
        }
        let both = |what: &str| {
            let name = Role::RopeFreqs.gguf_name(None);
            Err(Error::unsupported(self.path, name, format!("together with {what} scaling")))
        };
        match (stated, stored) {
            (StatedScaling::None, None) => Ok(RopeScaling::None),
            (StatedScaling::None, Some(factors)) => Ok(RopeScaling::Factors(factors)),
            (StatedScaling::Linear { factor }, stored) => {
                let factor = positive("factor", factor)?;
                Ok(match stored {
                    Some(factors) => RopeScaling::Factors(factors.iter().map(|f| f * factor).collect()),
                    None if factor == 1.0 => RopeScaling::None,
                    None => RopeScaling::Linear { factor },
                })
            }
            (StatedScaling::Llama3(_), Some(_)) => both("llama3"),
            (StatedScaling::Llama3(llama3), None) => {
                positive("factor", llama3.factor)?;
                positive("low_freq_factor", llama3.low_freq_factor)?;
                positive("high_freq_factor", llama3.high_freq_factor)?;
                let original = format!("{prefix}original_max_position_embeddings");
                self.checked(&original, llama3.original_context_length)?;
                if llama3.high_freq_factor <= llama3.low_freq_factor {
                    let key = format!("{prefix}high_freq_factor");
                    let what = format!(
                        "expected more than low_freq_factor {}, found {}",
                        llama3.low_freq_factor, llama3.high_freq_factor
                    );
                    return Err(self.invalid(&key, what));
                }
                Ok(RopeScaling::Factors(llama3.factors(theta, dim)))
            }
            (StatedScaling::Yarn { .. }, Some(_)) => both("yarn"),
            (
                StatedScaling::Yarn { factor, original_context_length, beta_fast, beta_slow, attention },
                None,
            ) => {
                let factor = positive("factor", factor)?;
                let usual = yarn_mscale(f64::from(factor), 1.0);
                let attention_factor = match attention {
                    YarnAttention::Total(total) => total,
                    YarnAttention::Relative(relative) => (f64::from(relative) * usual) as f32,
                    YarnAttention::Ratio(mscale, all_dim) => {
                        let scale = |mscale: f32| yarn_mscale(f64::from(factor), f64::from(mscale));
                        (scale(mscale) / scale(all_dim)) as f32
                    }
                };
                let attention_factor = positive("attention_factor", attention_factor)?;
                let original_context_length = match original_context_length.value {
                    Some(value) => self.checked(&original_context_length.key, value)?,
                    None => {
                        self.take(&original_context_length.key, context_length, "the whole context");
                        context_length
                    }
                };
                let fast = self.float(&beta_fast, Some(32.0), "YaRN's own value")?;
                let slow = self.float(&beta_slow, Some(1.0), "YaRN's own value")?;
                if fast <= slow {
                    let what = format!("expected more than {} {slow}, found {fast}", beta_slow.key);
                    return Err(self.invalid(&beta_fast.key, what));
                }
                Ok(RopeScaling::Yarn {
                    factor,
                    original_context_length,
                    beta_fast: fast,
                    beta_slow: slow,
                    attention_factor,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `rope_freqs.weight` of a file that llama.cpp's converter made from these parameters: the four frequencies on the
    /// ramp, with ones before and eights behind.
    #[test]
    fn llama3_factors_are_those_of_the_converter() {
        let llama3 =
            Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context_length: 256 };
        let mut expected = [8.0; 32];
        expected[..6].fill(1.0);
        expected[6..10].copy_from_slice(&[1.179_028_9, 1.973_279_1, 3.568_533_7, 7.698_663]);
        assert_eq!(llama3.factors(500_000.0, 64), expected);
        assert_eq!(Llama3::of_factors(&expected, 500_000.0, 64), Some(llama3));
        expected[6] = 1.5;
        assert_eq!(Llama3::of_factors(&expected, 500_000.0, 64), None);
    }

    #[test]
    fn yarn_scores_grow_with_the_logarithm() {
        assert_eq!(yarn_mscale(1.0, 1.0), 1.0);
        assert_eq!(yarn_mscale(0.5, 1.0), 1.0);
        assert!((yarn_mscale(4.0, 1.0) - 1.138_629_436).abs() < 1e-9);
    }
}
