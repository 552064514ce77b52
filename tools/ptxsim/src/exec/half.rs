//! Arithmetic in 16 bits, and in `f32` with a direction: computed exactly, rounded once.

use super::lanes::{V32, flush, saturate};
use crate::float::{F16_NAN, Half, Round, f32_bits, two_sum};
use crate::ir::{DirectedOp, HalfOp, Post};

/// One half operation on the low 16 bits, or on both halves.
pub(super) fn half(f: HalfOp, format: Half, packed: bool, ftz: bool, a: &V32, b: &V32, c: &V32) -> V32 {
    let mut out = [0; 32];
    for i in 0..32 {
        let one = |shift: u32| {
            let [x, y, z] = [a[i], b[i], c[i]].map(|v| {
                let h = (v >> shift) as u16;
                if ftz && h & 0x7c00 == 0 { h & 0x8000 } else { h }
            });
            let r = half_lane(f, format, x, y, z);
            u32::from(if ftz && r & 0x7c00 == 0 { r & 0x8000 } else { r })
        };
        out[i] = if packed { one(0) | (one(16) << 16) } else { one(0) };
    }
    out
}

fn half_lane(f: HalfOp, format: Half, x: u16, y: u16, z: u16) -> u16 {
    let (a, b, c) = (format.widen(x), format.widen(y), format.widen(z));
    let rounded = |(hi, lo): (f64, f64)| format.narrow(hi, lo, Round::Nearest);
    match f {
        HalfOp::Add => rounded(two_sum(a, b)),
        HalfOp::Sub => rounded(two_sum(a, -b)),
        HalfOp::Mul => rounded((a * b, 0.0)),
        // a product of two halves is exact in f64
        HalfOp::Fma => rounded(two_sum(a * b, c)),
        HalfOp::FmaRelu => {
            let r = rounded(two_sum(a * b, c));
            if r == F16_NAN || r & 0x8000 == 0 { r } else { 0 }
        }
        HalfOp::Min | HalfOp::Max | HalfOp::MinNan | HalfOp::MaxNan => {
            let greater = matches!(f, HalfOp::Max | HalfOp::MaxNan);
            let nan_wins = matches!(f, HalfOp::MinNan | HalfOp::MaxNan);
            match (a.is_nan(), b.is_nan()) {
                (true, true) => F16_NAN,
                (true, false) | (false, true) if nan_wins => F16_NAN,
                (true, false) => y,
                (false, true) => x,
                _ if a.total_cmp(&b).is_lt() != greater => x,
                _ => y,
            }
        }
        HalfOp::Neg => x ^ 0x8000,
        HalfOp::Abs => x & 0x7fff,
    }
}

/// `f32` arithmetic with `.rz`, `.rm` or `.rp`.
pub(super) fn directed(f: DirectedOp, round: Round, post: Post, a: &V32, b: &V32, c: &V32) -> V32 {
    let mut out = [0; 32];
    for i in 0..32 {
        let [x, y, z] =
            [a[i], b[i], c[i]].map(|v| f64::from(f32::from_bits(if post.ftz { flush(v) } else { v })));
        let (hi, lo) = match f {
            DirectedOp::Add => exact_sum(x, y, round),
            DirectedOp::Sub => exact_sum(x, -y, round),
            DirectedOp::Mul => (x * y, 0.0),
            DirectedOp::Fma => exact_sum(x * y, z, round),
            DirectedOp::Div => quotient(x, y),
            DirectedOp::Rcp => quotient(1.0, x),
            DirectedOp::Sqrt => {
                let s = x.sqrt();
                let rest = if s > 0.0 && s.is_finite() { (-s).mul_add(s, x) / (2.0 * s) } else { 0.0 };
                (s, rest)
            }
        };
        let mut r = f32_bits(hi, lo, round);
        if post.ftz {
            r = flush(r);
        }
        out[i] = if post.saturate { saturate(r) } else { r };
    }
    out
}

/// A sum whose exact zero has the sign that the direction asks for.
fn exact_sum(x: f64, y: f64, round: Round) -> (f64, f64) {
    let (hi, lo) = two_sum(x, y);
    if hi == 0.0
        && lo == 0.0
        && round == Round::Down
        && !(x == 0.0 && y == 0.0 && x.is_sign_positive() && y.is_sign_positive())
    {
        return (-0.0, 0.0);
    }
    (hi, lo)
}

fn quotient(x: f64, y: f64) -> (f64, f64) {
    let q = x / y;
    let rest = if q.is_finite() && q != 0.0 { (-q).mul_add(y, x) / y } else { 0.0 };
    (q, rest)
}
