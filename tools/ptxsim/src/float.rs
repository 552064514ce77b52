//! Number formats that Rust has no type for, and rounding in every direction.
//!
//! A result is first held exactly, as an unevaluated sum `hi + lo` of two `f64`, and then rounded once to the
//! format asked for. That is enough for every operation of PTX on `f16`, `bf16`, `tf32` and `f32`.

/// The quiet NaN that NVIDIA's single precision units return, whatever came in.
pub(crate) const F32_NAN: u32 = 0x7fff_ffff;
/// The same for the 16-bit formats.
pub(crate) const F16_NAN: u16 = 0x7fff;

/// Rounding direction of `.rn`, `.rz`, `.rm`, `.rp`, and `.rna` (ties away from zero).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    Nearest,
    NearestAway,
    Zero,
    Down,
    Up,
}

/// A binary format: bits of precision with the leading one, least exponent of a normal number, largest value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    precision: i32,
    min_exponent: i32,
    max: f64,
}

pub(crate) const F16: Format = Format { precision: 11, min_exponent: -14, max: 65504.0 };
pub(crate) const BF16: Format =
    Format { precision: 8, min_exponent: -126, max: f32::from_bits(0x7f7f_0000) as f64 };
pub(crate) const TF32: Format =
    Format { precision: 11, min_exponent: -126, max: f32::from_bits(0x7f7f_e000) as f64 };
pub(crate) const F32: Format = Format { precision: 24, min_exponent: -126, max: f32::MAX as f64 };

/// 2 to the power `e`, for `e` within the normal range of `f64`.
fn power_of_two(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// Rounds the exact value `hi + lo` (`|lo|` at most half a unit in the last place of `hi`) to `format`.
pub(crate) fn round_to(format: Format, hi: f64, lo: f64, mode: Round) -> f64 {
    if hi == 0.0 || !hi.is_finite() {
        return hi;
    }
    let exponent = (((hi.to_bits() >> 52) & 0x7ff) as i32 - 1023).max(format.min_exponent);
    // A sum that lies just below a power of two belongs to the finer step below it.
    let below = lo != 0.0 && hi.abs() == power_of_two(exponent) && (lo > 0.0) != (hi > 0.0);
    let exponent = if below && exponent > format.min_exponent { exponent - 1 } else { exponent };
    let step = power_of_two(exponent - (format.precision - 1));
    let scaled = hi / step;
    let rest = lo / step;
    let mut floor = scaled.floor();
    let mut fraction = scaled - floor;
    if fraction == 0.0 && rest < 0.0 {
        floor -= 1.0;
        fraction = 1.0;
    }
    let exact = fraction == 0.0 && rest == 0.0;
    let up = match mode {
        Round::Down => false,
        Round::Up => !exact,
        Round::Zero => hi < 0.0 && !exact,
        Round::Nearest | Round::NearestAway => {
            if fraction == 0.5 && rest == 0.0 {
                match mode {
                    Round::Nearest => floor % 2.0 != 0.0,
                    _ => hi > 0.0,
                }
            } else {
                fraction > 0.5 || (fraction == 0.5 && rest > 0.0)
            }
        }
    };
    let rounded = (if up { floor + 1.0 } else { floor }) * step;
    if rounded == 0.0 {
        return 0.0f64.copysign(hi);
    }
    if rounded.abs() <= format.max {
        return rounded;
    }
    let to_infinity = match mode {
        Round::Nearest | Round::NearestAway => true,
        Round::Zero => false,
        Round::Down => hi < 0.0,
        Round::Up => hi > 0.0,
    };
    if to_infinity { f64::INFINITY.copysign(hi) } else { format.max.copysign(hi) }
}

/// `a + b` as the rounded sum and its exact error (Knuth's two-sum).
pub(crate) fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    if !s.is_finite() {
        return (s, 0.0);
    }
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// `f32` bits of `hi + lo` rounded in direction `mode`; every NaN becomes the canonical one.
pub(crate) fn f32_bits(hi: f64, lo: f64, mode: Round) -> u32 {
    if hi.is_nan() {
        return F32_NAN;
    }
    (round_to(F32, hi, lo, mode) as f32).to_bits()
}

/// IEEE half to single, exact.
#[inline(always)]
pub(crate) fn f16_to_f32(h: u16) -> f32 {
    let sign = (u32::from(h) & 0x8000) << 16;
    let magnitude = (u32::from(h) & 0x7fff) << 13;
    // 2^112 moves the exponent from half's bias to single's, subnormals included.
    let scaled = (f32::from_bits(magnitude) * f32::from_bits(0x7780_0000)).to_bits();
    let special = if magnitude == 0x0f80_0000 { 0x7f80_0000 } else { F32_NAN };
    let is_special = magnitude >= 0x0f80_0000;
    let bits = if is_special { special } else { scaled };
    f32::from_bits(if is_special && special == F32_NAN { F32_NAN } else { sign | bits })
}

/// Single to half, to nearest even; NaN becomes the canonical one.
#[inline(always)]
pub(crate) fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let a = bits & 0x7fff_ffff;
    let normal = a.wrapping_add(0xfff + ((a >> 13) & 1)).wrapping_sub(0x3800_0000) >> 13;
    // Adding 0.5 leaves a subnormal half in the low bits: its unit is 2^-24, that of 0.5 as single.
    let subnormal = (f32::from_bits(a) + 0.5).to_bits().wrapping_sub(0x3f00_0000);
    let finite = if a < 0x3880_0000 { subnormal } else { normal };
    let limited = if a >= 0x477f_f000 { 0x7c00 } else { finite };
    if a > 0x7f80_0000 { F16_NAN } else { (sign | limited) as u16 }
}

/// bfloat16 to single, exact but for the NaN, which becomes canonical.
#[inline(always)]
pub(crate) fn bf16_to_f32(h: u16) -> f32 {
    let bits = u32::from(h) << 16;
    f32::from_bits(if bits & 0x7fff_ffff > 0x7f80_0000 { F32_NAN } else { bits })
}

/// Single to bfloat16, to nearest even; NaN becomes the canonical one.
#[inline(always)]
pub(crate) fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    if bits & 0x7fff_ffff > 0x7f80_0000 { F16_NAN } else { rounded as u16 }
}

/// A 16-bit float format, chosen at lowering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Half {
    F16,
    Bf16,
}

impl Half {
    /// Widens, exact.
    #[inline(always)]
    pub(crate) fn widen(self, h: u16) -> f64 {
        f64::from(match self {
            Half::F16 => f16_to_f32(h),
            Half::Bf16 => bf16_to_f32(h),
        })
    }

    /// Rounds the exact value `hi + lo`.
    pub(crate) fn narrow(self, hi: f64, lo: f64, mode: Round) -> u16 {
        if hi.is_nan() {
            return F16_NAN;
        }
        match self {
            Half::F16 => f32_to_f16(round_to(F16, hi, lo, mode) as f32),
            Half::Bf16 => ((round_to(BF16, hi, lo, mode) as f32).to_bits() >> 16) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_round_trips_and_matches_the_general_rounding() {
        for h in 0..=u16::MAX {
            let x = f16_to_f32(h);
            if x.is_nan() {
                assert_eq!(f32_to_f16(x), F16_NAN);
                continue;
            }
            assert_eq!(f32_to_f16(x), h);
            for step in [-3i32, -1, 1, 3, 0x0fff, 0x1000, 0x1001] {
                let y = f32::from_bits(x.to_bits().wrapping_add_signed(step));
                if !y.is_nan() {
                    assert_eq!(f32_to_f16(y), Half::F16.narrow(f64::from(y), 0.0, Round::Nearest), "{y:e}");
                    assert_eq!(f32_to_bf16(y), Half::Bf16.narrow(f64::from(y), 0.0, Round::Nearest), "{y:e}");
                }
            }
        }
    }

    #[test]
    fn rounding_to_single_agrees_with_the_host_and_brackets_the_value() {
        let mut seed = 1u64;
        for _ in 0..100_000 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let x = f64::from_bits((seed >> 12) | ((0x36a + (seed >> 3) % 0x120) << 52));
            let [near, zero, down, up] = [Round::Nearest, Round::Zero, Round::Down, Round::Up]
                .map(|mode| f32::from_bits(f32_bits(x, 0.0, mode)));
            assert_eq!(near, x as f32);
            assert!(f64::from(down) <= x && x <= f64::from(up));
            assert_eq!(zero, down);
            assert_eq!(f32_bits(-x, 0.0, Round::Down), f32_bits(x, 0.0, Round::Up) | 1 << 31);
        }
        assert_eq!(f32_bits(1.0, -1e-30, Round::Down), 0x3f7f_ffff);
        assert_eq!(f32_bits(1.0, 1e-30, Round::Up), 0x3f80_0001);
        assert_eq!(f32_bits(1e60, 0.0, Round::Zero), f32::MAX.to_bits());
        assert_eq!(f32_bits(1e60, 0.0, Round::Up), f32::INFINITY.to_bits());
    }
}
