//! The one vocabulary of differences.
//!
//! | metric | of what | why |
//! |---|---|---|
//! | NMSE | a buffer | `sum((found - truth)^2) / sum(truth^2)`: does not depend on the scale, as cosine and absolute errors do |
//! | maximum error, ulp | a buffer | one wrong value in many; ulp where the arithmetic is exact |
//! | KL divergence, same best token | logits | what a difference does to the text |

use serde::Serialize;

/// How far `found` is from `truth`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Normalized mean square error, see [`nmse`].
    pub nmse: f64,
    /// The largest absolute difference.
    pub max_error: f32,
    /// Where it is.
    pub at: usize,
    /// The largest distance in units in the last place; `u32::MAX` where only one side is a number.
    pub ulp: u32,
}

impl Difference {
    /// Measures a buffer. Lengths that differ, and values that are not numbers on one side only, count as infinitely far.
    pub fn of(found: &[f32], truth: &[f32]) -> Self {
        let mut worst = Self { nmse: nmse(found, truth), ..Self::default() };
        for (at, (&a, &b)) in found.iter().zip(truth).enumerate() {
            let error = (a - b).abs();
            if error > worst.max_error
                || error.is_nan() && !worst.max_error.is_nan() && a.is_nan() != b.is_nan()
            {
                (worst.max_error, worst.at) = (error, at);
            }
            worst.ulp = worst.ulp.max(ulp(a, b));
        }
        worst
    }

    /// The farther of two.
    pub fn worse(self, other: Self) -> Self {
        if other.nmse > self.nmse || other.nmse == self.nmse && other.ulp > self.ulp { other } else { self }
    }
}

/// Normalized mean square error: `sum((found - truth)^2) / sum(truth^2)`. 0 where both are zero, infinite where the truth
/// alone is, where the lengths differ, or where a value is not a number on one side only.
pub fn nmse(found: &[f32], truth: &[f32]) -> f64 {
    if found.len() != truth.len() {
        return f64::INFINITY;
    }
    let (mut error, mut power) = (0.0, 0.0);
    for (&a, &b) in found.iter().zip(truth) {
        if a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan() {
            power += if b.is_finite() { f64::from(b) * f64::from(b) } else { 0.0 };
            continue;
        }
        let difference = f64::from(a) - f64::from(b);
        error += difference * difference;
        power += f64::from(b) * f64::from(b);
    }
    if error == 0.0 {
        return 0.0;
    }
    let ratio = error / power;
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

/// Numbers that lie between two floats: 0 for equal ones, 1 for neighbours.
pub fn ulp(a: f32, b: f32) -> u32 {
    if a.is_nan() || b.is_nan() {
        return if a.is_nan() && b.is_nan() { 0 } else { u32::MAX };
    }
    // Floats of one sign are ordered as their bits are; negative ones are mirrored at zero.
    let order = |x: f32| {
        let bits = i64::from(x.to_bits() & 0x7fff_ffff);
        if x.is_sign_negative() { -bits } else { bits }
    };
    order(a).abs_diff(order(b)).min(u64::from(u32::MAX)) as u32
}

/// `a.b / (|a| |b|)`; blind to scale, so only for people who know it from other tools.
pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The index of the largest value, the first of equal ones; 0 for none.
pub fn top_token(logits: &[f32]) -> u32 {
    let mut best = 0;
    for (index, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = index;
        }
    }
    best as u32
}

/// Logarithms of the probabilities that logits stand for.
pub fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - max).exp()).sum();
    let shift = f64::from(max) + sum.ln();
    logits.iter().map(|&logit| f64::from(logit) - shift).collect()
}

/// Kullback-Leibler divergence of `found` from `truth`, both logarithms of probabilities: `sum(p (ln p - ln q))`.
pub fn kl_divergence(truth: &[f64], found: &[f64]) -> f64 {
    truth.iter().zip(found).map(|(&p, &q)| if p > -700.0 { p.exp() * (p - q) } else { 0.0 }).sum()
}

/// Mean and standard deviation of values; zeros for none.
pub fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    (mean, (squares / (values.len() - 1).max(1) as f64).sqrt())
}

/// The value below which a share `q` of the values lies, interpolated; 0 for none.
pub fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = q.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
    let at = |index: f64| sorted.get(index as usize).copied().unwrap_or(0.0);
    at(place.floor()) + (at(place.ceil()) - at(place.floor())) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nmse_does_not_depend_on_scale_and_sees_what_is_not_a_number() {
        assert!((nmse(&[1.1, 2.0], &[1.0, 2.0]) - 0.01 / 5.0).abs() < 1e-7);
        assert!((nmse(&[1100.0, 2000.0], &[1000.0, 2000.0]) - 0.01 / 5.0).abs() < 1e-7);
        assert_eq!(nmse(&[0.0], &[0.0]), 0.0);
        assert_eq!(nmse(&[1.0], &[0.0]), f64::INFINITY);
        assert_eq!(nmse(&[f32::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(nmse(&[1.0, 2.0], &[1.0]), f64::INFINITY);
    }

    #[test]
    fn ulp_counts_numbers_across_zero() {
        assert_eq!(ulp(1.0, 1.0), 0);
        assert_eq!(ulp(1.0, 1.0 + f32::EPSILON), 1);
        assert_eq!(ulp(0.0, -0.0), 0);
        assert_eq!(ulp(f32::from_bits(1), -f32::from_bits(1)), 2);
        assert_eq!(ulp(f32::NAN, 1.0), u32::MAX);
    }

    #[test]
    fn divergence_of_equal_distributions_is_zero() {
        let p = log_softmax(&[1.0, 2.0, 3.0]);
        assert!(kl_divergence(&p, &p).abs() < 1e-15);
        // Halves against a quarter and three quarters: 0.5 ln 2 + 0.5 ln (2 / 3).
        let p = log_softmax(&[0.0, 0.0]);
        let q = log_softmax(&[0.0, 3f32.ln()]);
        let expected = 0.5 * 2f64.ln() + 0.5 * (2.0f64 / 3.0).ln();
        assert!((kl_divergence(&p, &q) - expected).abs() < 1e-7);
    }

    #[test]
    fn the_first_of_equal_tokens_is_the_best() {
        assert_eq!(top_token(&[1.0, 3.0, 3.0]), 1);
    }
}
