//! 64-bit operations, and those that mix both widths.

use super::lanes::{V32, V64};
use crate::ir::{Alu64, Count, Shift};

#[inline(always)]
fn map2(a: &V64, b: &V64, f: impl Fn(u64, u64) -> u64) -> V64 {
    let mut out = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i]);
    }
    out
}

fn double2(a: &V64, b: &V64, f: impl Fn(f64, f64) -> f64) -> V64 {
    map2(a, b, |x, y| f(f64::from_bits(x), f64::from_bits(y)).to_bits())
}

fn double1(a: &V64, f: impl Fn(f64) -> f64) -> V64 {
    a.map(|x| f(f64::from_bits(x)).to_bits())
}

/// The lesser or the greater; a NaN loses against a number, -0 is below +0.
fn extreme(x: f64, y: f64, greater: bool) -> f64 {
    match (x.is_nan(), y.is_nan()) {
        (true, _) => y,
        (_, true) => x,
        _ if x.total_cmp(&y).is_lt() != greater => x,
        _ => y,
    }
}

pub(super) fn alu64(f: Alu64, a: &V64, b: &V64, c: &V64) -> V64 {
    match f {
        Alu64::Mov => *a,
        Alu64::Add => map2(a, b, u64::wrapping_add),
        Alu64::Sub => map2(a, b, u64::wrapping_sub),
        Alu64::Mul => map2(a, b, u64::wrapping_mul),
        Alu64::MulHiS => map2(a, b, |x, y| ((i128::from(x as i64) * i128::from(y as i64)) >> 64) as u64),
        Alu64::MulHiU => map2(a, b, |x, y| ((u128::from(x) * u128::from(y)) >> 64) as u64),
        Alu64::Mad => {
            let product = map2(a, b, u64::wrapping_mul);
            map2(&product, c, u64::wrapping_add)
        }
        Alu64::DivS => map2(a, b, |x, y| if y == 0 { !0 } else { (x as i64).wrapping_div(y as i64) as u64 }),
        Alu64::DivU => map2(a, b, |x, y| x.checked_div(y).unwrap_or(!0)),
        Alu64::RemS => map2(a, b, |x, y| if y == 0 { x } else { (x as i64).wrapping_rem(y as i64) as u64 }),
        Alu64::RemU => map2(a, b, |x, y| x.checked_rem(y).unwrap_or(x)),
        Alu64::Neg => a.map(u64::wrapping_neg),
        Alu64::Abs => a.map(|x| (x as i64).wrapping_abs() as u64),
        Alu64::MinS => map2(a, b, |x, y| (x as i64).min(y as i64) as u64),
        Alu64::MinU => map2(a, b, u64::min),
        Alu64::MaxS => map2(a, b, |x, y| (x as i64).max(y as i64) as u64),
        Alu64::MaxU => map2(a, b, u64::max),
        Alu64::And => map2(a, b, |x, y| x & y),
        Alu64::Or => map2(a, b, |x, y| x | y),
        Alu64::Xor => map2(a, b, |x, y| x ^ y),
        Alu64::Not => a.map(|x| !x),
        Alu64::Cnot => a.map(|x| u64::from(x == 0)),
        Alu64::Brev => a.map(u64::reverse_bits),
        Alu64::FAdd => double2(a, b, |x, y| x + y),
        Alu64::FSub => double2(a, b, |x, y| x - y),
        Alu64::FMul => double2(a, b, |x, y| x * y),
        Alu64::FFma => {
            let mut out = [0; 32];
            for i in 0..32 {
                let [x, y, z] = [a[i], b[i], c[i]].map(f64::from_bits);
                out[i] = x.mul_add(y, z).to_bits();
            }
            out
        }
        Alu64::FDiv => double2(a, b, |x, y| x / y),
        Alu64::FMin => double2(a, b, |x, y| extreme(x, y, false)),
        Alu64::FMax => double2(a, b, |x, y| extreme(x, y, true)),
        Alu64::FNeg => a.map(|x| x ^ (1 << 63)),
        Alu64::FAbs => a.map(|x| x & !(1 << 63)),
        Alu64::FSqrt => double1(a, f64::sqrt),
        Alu64::FRcp => double1(a, |x| 1.0 / x),
    }
}

/// Shifts; an amount beyond the width gives zero, or the sign.
pub(super) fn shift64(f: Shift, a: &V64, b: &V32) -> V64 {
    let mut out = [0; 32];
    for i in 0..32 {
        let (x, n) = (a[i], b[i]);
        out[i] = match f {
            Shift::Left => x.checked_shl(n).unwrap_or(0),
            Shift::RightU => x.checked_shr(n).unwrap_or(0),
            Shift::RightS => ((x as i64) >> n.min(63)) as u64,
        };
    }
    out
}

pub(super) fn count64(f: Count, a: &V64) -> V32 {
    a.map(|x| match f {
        Count::Popc => x.count_ones(),
        Count::Clz => x.leading_zeros(),
        Count::FindU => 63u32.wrapping_sub(x.leading_zeros()),
        Count::FindS => 63u32.wrapping_sub((x ^ ((x as i64) >> 63) as u64).leading_zeros()),
    })
}

/// `mul.wide` and `mad.wide` of 32-bit operands.
pub(super) fn multiply_wide(signed: bool, a: &V32, b: &V32, c: &V64) -> V64 {
    let mut out = [0; 32];
    for i in 0..32 {
        let product = if signed {
            (i64::from(a[i] as i32) * i64::from(b[i] as i32)) as u64
        } else {
            u64::from(a[i]) * u64::from(b[i])
        };
        out[i] = product.wrapping_add(c[i]);
    }
    out
}

/// `bfi`: the low `len` bits of `a` put into `b` at bit `pos`.
pub(super) fn insert_bits(a: u64, b: u64, pos: u32, len: u32, width: u32) -> u64 {
    let (pos, len) = (pos & 0xff, (len & 0xff).min(width));
    if len == 0 || pos >= width {
        return b;
    }
    let field = (u64::MAX >> (64 - len)) << pos;
    (b & !field) | ((a << pos) & field)
}
