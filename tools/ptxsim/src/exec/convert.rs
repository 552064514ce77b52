//! `cvt`, lane by lane, for every pair of types that has no operation of its own.

use super::lanes::{V32, V64, flush};
use crate::float::{F32_NAN, Half, Round, TF32, bf16_to_f32, f16_to_f32, f32_bits, round_to, two_sum};
use crate::ir::{Convert, Ty};

/// A value between the two types, exact.
#[derive(Clone, Copy)]
enum Value {
    Int(i128),
    /// `hi + lo`
    Float(f64, f64),
}

/// Converts all lanes; the result is sign-extended to 64 bits where the type is signed.
pub(super) fn convert(c: &Convert, source: &V64) -> V64 {
    let keep = |x: u64, size: usize| x & (u64::MAX >> (64 - 8 * size));
    let plain = !c.from.float() && !c.to.float();
    let mut out = [0; 32];
    for i in 0..32 {
        let bits = keep(source[i], c.from.size());
        out[i] = match widen(c.from, bits) {
            Value::Int(v) if plain && !c.saturate => extend(c.to, v as u64),
            value => narrow(
                c,
                if c.ftz && c.from == Ty::F32 { widen(c.from, u64::from(flush(bits as u32))) } else { value },
            ),
        };
    }
    out
}

/// Truncates to the type and extends its sign.
fn extend(ty: Ty, v: u64) -> u64 {
    match ty {
        Ty::S8 => v as i8 as u64,
        Ty::S16 => v as i16 as u64,
        Ty::S32 => v as i32 as u64,
        _ => v & (u64::MAX >> (64 - 8 * ty.size().max(1))),
    }
}

fn widen(ty: Ty, v: u64) -> Value {
    match ty {
        Ty::S8 => Value::Int(i128::from(v as i8)),
        Ty::S16 => Value::Int(i128::from(v as i16)),
        Ty::S32 => Value::Int(i128::from(v as i32)),
        Ty::S64 => Value::Int(i128::from(v as i64)),
        Ty::F16 => Value::Float(f64::from(f16_to_f32(v as u16)), 0.0),
        Ty::Bf16 => Value::Float(f64::from(bf16_to_f32(v as u16)), 0.0),
        Ty::F32 => Value::Float(f64::from(f32::from_bits(v as u32)), 0.0),
        Ty::F64 => Value::Float(f64::from_bits(v), 0.0),
        _ => Value::Int(i128::from(v)),
    }
}

/// Least and greatest value of an integer type.
fn range(ty: Ty) -> (i128, i128) {
    let bits = 8 * ty.size() as u32;
    if ty.signed() { (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) } else { (0, (1 << bits) - 1) }
}

fn integral(x: f64, mode: Round) -> f64 {
    match mode {
        Round::Nearest | Round::NearestAway => x.round_ties_even(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

fn narrow(c: &Convert, value: Value) -> u64 {
    if !c.to.float() {
        let (low, high) = range(c.to);
        let v = match value {
            Value::Int(v) => v.clamp(low, high),
            // a float to an integer always saturates; NaN becomes 0
            Value::Float(x, _) if x.is_nan() => 0,
            Value::Float(x, _) => {
                (integral(x, c.integral.unwrap_or(Round::Zero)).clamp(-1e30, 1e30) as i128).clamp(low, high)
            }
        };
        return extend(c.to, v as u64);
    }
    let (hi, lo) = match value {
        Value::Int(v) => {
            let hi = v as f64;
            two_sum(hi, (v - hi as i128) as f64)
        }
        Value::Float(x, lo) => (c.integral.map_or(x, |mode| integral(x, mode)), lo),
    };
    let (hi, lo) = if c.saturate {
        if hi.is_nan() || hi <= 0.0 {
            (0.0, 0.0)
        } else if hi >= 1.0 {
            (1.0, 0.0)
        } else {
            (hi, lo)
        }
    } else {
        (hi, lo)
    };
    let hi = if c.relu && hi <= 0.0 { 0.0 } else { hi };
    match c.to {
        Ty::F16 => u64::from(Half::F16.narrow(hi, lo, c.round)),
        Ty::Bf16 => u64::from(Half::Bf16.narrow(hi, lo, c.round)),
        Ty::F32 => {
            let r = f32_bits(hi, lo, c.round);
            u64::from(if c.ftz { flush(r) } else { r })
        }
        Ty::Tf32 if hi.is_nan() => u64::from(F32_NAN),
        Ty::Tf32 => u64::from((round_to(TF32, hi, lo, c.round) as f32).to_bits()),
        _ => double_bits(hi, lo, c.round),
    }
}

/// `f64` of `hi + lo`: one step where the direction asks for it.
fn double_bits(hi: f64, lo: f64, mode: Round) -> u64 {
    let toward_up = match mode {
        Round::Up => lo > 0.0,
        Round::Zero => lo > 0.0 && hi < 0.0,
        _ => false,
    };
    let toward_down = match mode {
        Round::Down => lo < 0.0,
        Round::Zero => lo < 0.0 && hi > 0.0,
        _ => false,
    };
    match (toward_up, toward_down) {
        (true, _) => hi.next_up().to_bits(),
        (_, true) => hi.next_down().to_bits(),
        _ => hi.to_bits(),
    }
}

/// `cvt.*x2.f32`: two singles packed, the first in the high half.
pub(super) fn pair(format: Half, round: Round, relu: bool, high: &V32, low: &V32) -> V32 {
    let one = |v: u32| {
        let x = f64::from(f32::from_bits(v));
        format.narrow(if relu && x <= 0.0 { 0.0 } else { x }, 0.0, round)
    };
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = (u32::from(one(high[i])) << 16) | u32::from(one(low[i]));
    }
    out
}

/// `cvt.pack.sat.*8.s32.b32`: two bytes below, the low half of `c` above.
pub(super) fn pack_bytes(signed: bool, a: &V32, b: &V32, c: &V32) -> V32 {
    let one = |v: u32| {
        let (low, high) = if signed { (-128, 127) } else { (0, 255) };
        (v as i32).clamp(low, high) as u32 & 0xff
    };
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = (c[i] << 16) | (one(a[i]) << 8) | one(b[i]);
    }
    out
}
