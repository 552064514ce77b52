//! Instructions whose last bits are not specified.
//!
//! The value is computed in `f64` and rounded once. With a perturbation it is moved by a hash of operand and seed,
//! anywhere within the error that NVIDIA documents (or a little more): a test that still holds then holds on every
//! chip that keeps the promise.

use super::lanes::{V32, flush};
use crate::float::{F32_NAN, Half, Round};
use crate::ir::ApproxOp;

/// The documented error: relative, as a multiple of 2^-24, and absolute where that is larger.
fn error(f: ApproxOp, x: f64) -> (f64, f64) {
    match f {
        ApproxOp::Rcp | ApproxOp::Sqrt => (2.0, 0.0),
        ApproxOp::Div | ApproxOp::Rsqrt | ApproxOp::Ex2 => (4.0, 0.0),
        ApproxOp::Lg2 if (0.5..=2.0).contains(&x) => (0.0, f64::from_bits(0x3e90_0000_0000_0000)), // 2^-22
        ApproxOp::Lg2 => (4.0, 0.0),
        ApproxOp::Sin | ApproxOp::Cos => (0.0, f64::from_bits(0x3eb6_a09e_667f_3bcd)), // 2^-19.5
        ApproxOp::Tanh => (8192.0, 0.0),
    }
}

fn exact(f: ApproxOp, x: f64, y: f64) -> f64 {
    match f {
        ApproxOp::Div => x / y,
        ApproxOp::Rcp => 1.0 / x,
        ApproxOp::Sqrt => x.sqrt(),
        ApproxOp::Rsqrt => 1.0 / x.sqrt(),
        ApproxOp::Ex2 => x.exp2(),
        ApproxOp::Lg2 => x.log2(),
        ApproxOp::Sin => x.sin(),
        ApproxOp::Cos => x.cos(),
        ApproxOp::Tanh => x.tanh(),
    }
}

/// A number in -1..1 from operand and seed.
fn noise(bits: u32, seed: u32) -> f64 {
    let mut h = bits.wrapping_mul(0x9e37_79b1) ^ seed.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 15;
    h = h.wrapping_mul(0x2c1b_3c6d);
    h ^= h >> 13;
    f64::from(h) / f64::from(1u32 << 31) - 1.0
}

fn perturbed(f: ApproxOp, x: f64, bits: u32, value: f64, seed: u32) -> f64 {
    if seed == 0 || !value.is_finite() || value == 0.0 {
        return value;
    }
    // powers of two are exact on every chip, and code may rely on it
    let is_integer_power = f == ApproxOp::Ex2 && x.fract() == 0.0;
    if is_integer_power {
        return value;
    }
    let (relative, absolute) = error(f, x);
    let unit = f64::from_bits(0x3e70_0000_0000_0000); // 2^-24
    value + noise(bits, seed) * (value.abs() * relative * unit).max(absolute)
}

pub(super) fn single(f: ApproxOp, ftz: bool, seed: u32, a: &V32, b: &V32) -> V32 {
    let mut out = [0; 32];
    for i in 0..32 {
        let (x, y) = if ftz { (flush(a[i]), flush(b[i])) } else { (a[i], b[i]) };
        let (u, v) = (f64::from(f32::from_bits(x)), f64::from(f32::from_bits(y)));
        let value = perturbed(f, u, x ^ y.rotate_left(7), exact(f, u, v), seed) as f32;
        let bits = if value.is_nan() { F32_NAN } else { value.to_bits() };
        out[i] = if ftz { flush(bits) } else { bits };
    }
    out
}

/// `ex2` and `tanh` on halves: the error is a rounding of the 16-bit result.
pub(super) fn half(f: ApproxOp, format: Half, packed: bool, a: &V32) -> V32 {
    a.map(|v| {
        let one = |h: u16| u32::from(format.narrow(exact(f, format.widen(h), 0.0), 0.0, Round::Nearest));
        if packed { one(v as u16) | (one((v >> 16) as u16) << 16) } else { one(v as u16) }
    })
}
