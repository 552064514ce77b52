//! The exponential function, as a sequence of float32 operations that every instruction set has.
//!
//! A library's `exp` differs from machine to machine in the last bit, and 8-bit activations turn a last bit into a step.
//! This one is within 2 ulp for -87 <= x <= 88: the range is reduced by ln 2 in two parts (Cody and Waite), the rest is
//! Taylor's polynomial up to x^7 on |x| <= ln(2) / 2, where what is left out is below half an ulp.

/// e^x; beyond -87 and 88 what the nearer end gives. NaN stays NaN.
pub(super) fn exp(x: f32) -> f32 {
    if x.is_nan() {
        return x;
    }
    let x = x.clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = (-n).mul_add(0.693_359_4, x);
    let r = (-n).mul_add(-2.121_944_4e-4, r);
    let mut polynomial = 1.0f32 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        polynomial = polynomial.mul_add(r, coefficient);
    }
    polynomial * f32::from_bits(((n as i32 + 127) << 23).cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_exponential_function() {
        for i in 0..350_000 {
            let x = -87.0 + i as f32 * 5e-4;
            let (found, truth) = (f64::from(exp(x)), f64::from(x).exp());
            assert!(
                (found - truth).abs() <= 2.0 * truth * f64::from(f32::EPSILON),
                "{x}: {found} for {truth}"
            );
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(0.0), 1.0);
    }
}
