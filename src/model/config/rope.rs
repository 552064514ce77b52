//! Arithmetic behind the RoPE fields.

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
}

/// YaRN's factor on cos and sin where nothing else is stated: `0.1 * mscale * ln(factor) + 1`
/// (arXiv 2309.00071, equation 22).
pub(super) fn yarn_mscale(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
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
    }

    #[test]
    fn yarn_scores_grow_with_the_logarithm() {
        assert_eq!(yarn_mscale(1.0, 1.0), 1.0);
        assert_eq!(yarn_mscale(0.5, 1.0), 1.0);
        assert!((yarn_mscale(4.0, 1.0) - 1.138_629_436).abs() < 1e-9);
    }
}
