//! 32-bit operations on all 32 lanes at once.
//!
//! The loops are plain: the compiler turns them into vector code. They are compiled twice, for the baseline of the
//! target and for AVX2 with FMA, and the host's processor decides at run time which is called. The choice changes
//! no result: `mul_add` is exact on both.

use crate::float::{F32_NAN, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use crate::ir::{Alu, Compare, CompareTy, Post, PrmtMode};

/// A 32-bit register of a warp.
pub(crate) type V32 = [u32; 32];
/// A 64-bit register of a warp.
pub(crate) type V64 = [u64; 32];

/// Whether the vector build may run here.
pub(crate) fn has_vector_unit() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Applies `f` with what `post` asks for. `vector` is what [`has_vector_unit`] returned.
pub(super) fn alu(vector: bool, f: Alu, post: Post, a: &V32, b: &V32, c: &V32, out: &mut V32) {
    #[cfg(target_arch = "x86_64")]
    if vector {
        #[expect(unsafe_code, reason = "the only way to call code built for more than the baseline")]
        // SAFETY: `vector` is only true where the processor has AVX2 and FMA.
        unsafe {
            alu_avx2(f, post, a, b, c, out);
        }
        return;
    }
    let _ = vector;
    alu_body(f, post, a, b, c, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,popcnt,lzcnt,bmi1,bmi2")]
fn alu_avx2(f: Alu, post: Post, a: &V32, b: &V32, c: &V32, out: &mut V32) {
    alu_body(f, post, a, b, c, out);
}

#[inline(always)]
fn alu_body(f: Alu, post: Post, a: &V32, b: &V32, c: &V32, out: &mut V32) {
    if post == Post::default() {
        return plain(f, a, b, c, out);
    }
    let (mut x, mut y, mut z) = (*a, *b, *c);
    for (bit, v) in [(1, &mut x), (2, &mut y), (4, &mut z)] {
        if post.extend16 & bit != 0 {
            *v = v.map(|n| n as u16 as i16 as i32 as u32);
        }
        if post.ftz {
            *v = v.map(flush);
        }
    }
    plain(f, &x, &y, &z, out);
    if post.ftz {
        *out = out.map(flush);
    }
    if post.saturate {
        *out = out.map(saturate);
    }
    if post.keep16 {
        *out = out.map(|n| n & 0xffff);
    }
}

/// Subnormals become zero of the same sign.
#[inline(always)]
pub(super) fn flush(x: u32) -> u32 {
    if x & 0x7f80_0000 == 0 { x & 0x8000_0000 } else { x }
}

/// Clamps to [0, 1]; NaN to 0.
#[inline(always)]
pub(super) fn saturate(x: u32) -> u32 {
    let v = f32::from_bits(x);
    if v >= 1.0 {
        1f32.to_bits()
    } else if v > 0.0 {
        x
    } else {
        0
    }
}

#[inline(always)]
fn map1(a: &V32, out: &mut V32, f: impl Fn(u32) -> u32) {
    for i in 0..32 {
        out[i] = f(a[i]);
    }
}

#[inline(always)]
fn map2(a: &V32, b: &V32, out: &mut V32, f: impl Fn(u32, u32) -> u32) {
    for i in 0..32 {
        out[i] = f(a[i], b[i]);
    }
}

#[inline(always)]
fn map3(a: &V32, b: &V32, c: &V32, out: &mut V32, f: impl Fn(u32, u32, u32) -> u32) {
    for i in 0..32 {
        out[i] = f(a[i], b[i], c[i]);
    }
}

/// A float result, with the NaN that the machine returns.
#[inline(always)]
fn bits(x: f32) -> u32 {
    if x.is_nan() { F32_NAN } else { x.to_bits() }
}

#[inline(always)]
fn float1(a: &V32, out: &mut V32, f: impl Fn(f32) -> f32) {
    map1(a, out, |x| bits(f(f32::from_bits(x))));
}

#[inline(always)]
fn float2(a: &V32, b: &V32, out: &mut V32, f: impl Fn(f32, f32) -> f32) {
    map2(a, b, out, |x, y| bits(f(f32::from_bits(x), f32::from_bits(y))));
}

/// An integer that orders floats, -0 below +0.
#[inline(always)]
fn order(x: u32) -> i32 {
    let x = x as i32;
    x ^ ((x >> 31) & 0x7fff_ffff)
}

#[inline(always)]
fn is_nan(x: u32) -> bool {
    x & 0x7fff_ffff > 0x7f80_0000
}

/// The lesser (or the greater) of two floats; `nan` wins or loses against numbers.
#[inline(always)]
pub(super) fn extreme(x: u32, y: u32, greater: bool, nan_wins: bool) -> u32 {
    let picked = if (order(x) < order(y)) != greater { x } else { y };
    let (nx, ny) = (is_nan(x), is_nan(y));
    if (nx && ny) || (nan_wins && (nx || ny)) {
        F32_NAN
    } else if nx {
        y
    } else if ny {
        x
    } else {
        picked
    }
}

#[inline(always)]
fn plain(f: Alu, a: &V32, b: &V32, c: &V32, out: &mut V32) {
    match f {
        Alu::Mov => *out = *a,
        Alu::Add => map2(a, b, out, u32::wrapping_add),
        Alu::Sub => map2(a, b, out, u32::wrapping_sub),
        Alu::AddSat => map2(a, b, out, |x, y| (x as i32).saturating_add(y as i32) as u32),
        Alu::SubSat => map2(a, b, out, |x, y| (x as i32).saturating_sub(y as i32) as u32),
        Alu::Mul => map2(a, b, out, u32::wrapping_mul),
        Alu::MulHiS => map2(a, b, out, |x, y| ((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32),
        Alu::MulHiU => map2(a, b, out, |x, y| ((u64::from(x) * u64::from(y)) >> 32) as u32),
        Alu::MulHi16 => map2(a, b, out, |x, y| x.wrapping_mul(y) >> 16),
        Alu::Mul24S => map2(a, b, out, |x, y| {
            let low = |v: u32| i64::from(((v << 8) as i32) >> 8);
            (low(x) * low(y)) as u32
        }),
        Alu::Mul24U => map2(a, b, out, |x, y| (x & 0xff_ffff).wrapping_mul(y & 0xff_ffff)),
        Alu::Mad => map3(a, b, c, out, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
        Alu::MadHiS => map3(a, b, c, out, |x, y, z| {
            (((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32).wrapping_add(z)
        }),
        Alu::MadHiU => {
            map3(a, b, c, out, |x, y, z| (((u64::from(x) * u64::from(y)) >> 32) as u32).wrapping_add(z));
        }
        // Division by zero is unspecified: all ones, and the dividend as remainder, as the hardware's code gives.
        Alu::DivS => {
            map2(a, b, out, |x, y| if y == 0 { !0 } else { (x as i32).wrapping_div(y as i32) as u32 });
        }
        Alu::DivU => map2(a, b, out, |x, y| x.checked_div(y).unwrap_or(!0)),
        Alu::RemS => {
            map2(a, b, out, |x, y| if y == 0 { x } else { (x as i32).wrapping_rem(y as i32) as u32 });
        }
        Alu::RemU => map2(a, b, out, |x, y| x.checked_rem(y).unwrap_or(x)),
        Alu::Neg => map1(a, out, u32::wrapping_neg),
        Alu::AbsS => map1(a, out, |x| (x as i32).wrapping_abs() as u32),
        Alu::MinS => map2(a, b, out, |x, y| (x as i32).min(y as i32) as u32),
        Alu::MinU => map2(a, b, out, u32::min),
        Alu::MaxS => map2(a, b, out, |x, y| (x as i32).max(y as i32) as u32),
        Alu::MaxU => map2(a, b, out, u32::max),
        Alu::And => map2(a, b, out, |x, y| x & y),
        Alu::Or => map2(a, b, out, |x, y| x | y),
        Alu::Xor => map2(a, b, out, |x, y| x ^ y),
        Alu::Not => map1(a, out, |x| !x),
        Alu::Cnot => map1(a, out, |x| u32::from(x == 0)),
        Alu::Shl => map2(a, b, out, |x, y| if y > 31 { 0 } else { x << (y & 31) }),
        Alu::ShrU => map2(a, b, out, |x, y| if y > 31 { 0 } else { x >> (y & 31) }),
        Alu::ShrS => map2(a, b, out, |x, y| ((x as i32) >> y.min(31)) as u32),
        Alu::FunnelL { wrap } => map3(a, b, c, out, |x, y, n| {
            let n = if wrap { n & 31 } else { n.min(32) };
            ((((u64::from(y) << 32) | u64::from(x)) << n) >> 32) as u32
        }),
        Alu::FunnelR { wrap } => map3(a, b, c, out, |x, y, n| {
            let n = if wrap { n & 31 } else { n.min(32) };
            (((u64::from(y) << 32) | u64::from(x)) >> n) as u32
        }),
        Alu::Popc => map1(a, out, u32::count_ones),
        Alu::Clz => map1(a, out, u32::leading_zeros),
        Alu::FindU => map1(a, out, |x| 31u32.wrapping_sub(x.leading_zeros())),
        Alu::FindS => map1(a, out, |x| 31u32.wrapping_sub((x ^ ((x as i32) >> 31) as u32).leading_zeros())),
        Alu::Brev => map1(a, out, u32::reverse_bits),
        Alu::BfeU => map3(a, b, c, out, |x, p, n| bit_field(u64::from(x), p, n, 32, false) as u32),
        Alu::BfeS => {
            map3(a, b, c, out, |x, p, n| bit_field(i64::from(x as i32) as u64, p, n, 32, true) as u32);
        }
        Alu::Lop3(table) => logic3(table, a, b, c, out),
        Alu::Prmt(mode) => map3(a, b, c, out, |x, y, s| permute(mode, x, y, s)),
        Alu::Dp4a { a_signed, b_signed } => dot4(a, b, c, out, a_signed, b_signed),
        Alu::Dp2a { a_signed, b_signed, high } => map3(a, b, c, out, |x, y, z| {
            let half = |k: u32| {
                let h = (x >> (16 * k)) as u16;
                if a_signed { i32::from(h as i16) } else { i32::from(h) }
            };
            let y = if high { y >> 16 } else { y };
            let byte = |k: u32| byte(y, k, b_signed);
            z.wrapping_add((half(0).wrapping_mul(byte(0)).wrapping_add(half(1).wrapping_mul(byte(1)))) as u32)
        }),
        Alu::SadS => map3(a, b, c, out, |x, y, z| z.wrapping_add((x as i32).abs_diff(y as i32))),
        Alu::SadU => map3(a, b, c, out, |x, y, z| z.wrapping_add(x.abs_diff(y))),
        Alu::FAdd => float2(a, b, out, |x, y| x + y),
        Alu::FSub => float2(a, b, out, |x, y| x - y),
        Alu::FMul => float2(a, b, out, |x, y| x * y),
        Alu::FFma => map3(a, b, c, out, |x, y, z| {
            bits(f32::from_bits(x).mul_add(f32::from_bits(y), f32::from_bits(z)))
        }),
        Alu::FDiv => float2(a, b, out, |x, y| x / y),
        Alu::FMin => map2(a, b, out, |x, y| extreme(x, y, false, false)),
        Alu::FMax => map2(a, b, out, |x, y| extreme(x, y, true, false)),
        Alu::FMinNan => map2(a, b, out, |x, y| extreme(x, y, false, true)),
        Alu::FMaxNan => map2(a, b, out, |x, y| extreme(x, y, true, true)),
        Alu::FNeg => map1(a, out, |x| x ^ 0x8000_0000),
        Alu::FAbs => map1(a, out, |x| x & 0x7fff_ffff),
        Alu::FCopysign => map2(a, b, out, |x, y| (x & 0x8000_0000) | (y & 0x7fff_ffff)),
        Alu::FSqrt => float1(a, out, f32::sqrt),
        Alu::FRcp => float1(a, out, |x| 1.0 / x),
        Alu::F32FromS32 => map1(a, out, |x| (x as i32 as f32).to_bits()),
        Alu::F32FromU32 => map1(a, out, |x| (x as f32).to_bits()),
        Alu::F32FromF16 => map1(a, out, |x| f16_to_f32(x as u16).to_bits()),
        Alu::F32FromBf16 => map1(a, out, |x| bf16_to_f32(x as u16).to_bits()),
        Alu::F16FromF32 => map1(a, out, |x| u32::from(f32_to_f16(f32::from_bits(x)))),
        Alu::Bf16FromF32 => map1(a, out, |x| u32::from(f32_to_bf16(f32::from_bits(x)))),
        Alu::S32FromF32Nearest => map1(a, out, |x| f32::from_bits(x).round_ties_even() as i32 as u32),
        Alu::S32FromF32Zero => map1(a, out, |x| f32::from_bits(x) as i32 as u32),
        Alu::SignExtend(8) => map1(a, out, |x| x as i8 as i32 as u32),
        Alu::SignExtend(_) => map1(a, out, |x| x as i16 as i32 as u32),
        Alu::ZeroExtend(8) => map1(a, out, |x| x & 0xff),
        Alu::ZeroExtend(_) => map1(a, out, |x| x & 0xffff),
    }
}

/// `bfe`: `n` bits of `x` from bit `p`, with the sign repeated above them. `x` is sign-extended where signed.
#[inline(always)]
pub(super) fn bit_field(x: u64, p: u32, n: u32, width: u32, signed: bool) -> u64 {
    let (p, n) = (p & 0xff, n & 0xff);
    if n == 0 {
        return 0;
    }
    if signed {
        let shifted = (x as i64) >> p.min(63);
        let keep = n.min(width);
        // bits beyond the register repeat its sign, which the extension of x already holds
        ((shifted << (64 - keep)) >> (64 - keep)) as u64
    } else {
        let shifted = if p > 63 { 0 } else { x >> p };
        if n >= width { shifted } else { shifted & ((1u64 << n) - 1) }
    }
}

#[inline(always)]
fn byte(x: u32, k: u32, signed: bool) -> i32 {
    let b = (x >> (8 * k)) as u8;
    if signed { i32::from(b as i8) } else { i32::from(b) }
}

#[inline(always)]
fn dot4(a: &V32, b: &V32, c: &V32, out: &mut V32, a_signed: bool, b_signed: bool) {
    let dot = |x: u32, y: u32, z: u32, xs: bool, ys: bool| {
        let products = [0, 1, 2, 3].map(|k| byte(x, k, xs) * byte(y, k, ys));
        products.iter().fold(z, |sum, p| sum.wrapping_add(*p as u32))
    };
    match (a_signed, b_signed) {
        (true, true) => map3(a, b, c, out, |x, y, z| dot(x, y, z, true, true)),
        (false, true) => map3(a, b, c, out, |x, y, z| dot(x, y, z, false, true)),
        (true, false) => map3(a, b, c, out, |x, y, z| dot(x, y, z, true, false)),
        (false, false) => map3(a, b, c, out, |x, y, z| dot(x, y, z, false, false)),
    }
}

/// `lop3`: bit `4 a + 2 b + c` of the table, for each bit.
#[inline(always)]
fn logic3(table: u8, a: &V32, b: &V32, c: &V32, out: &mut V32) {
    let masks = [0, 1, 2, 3, 4, 5, 6, 7].map(|k| if table >> k & 1 == 1 { !0u32 } else { 0 });
    map3(a, b, c, out, |x, y, z| {
        let pick = |m0: u32, m1: u32| (m1 & z) | (m0 & !z);
        let low = (pick(masks[2], masks[3]) & y) | (pick(masks[0], masks[1]) & !y);
        let high = (pick(masks[6], masks[7]) & y) | (pick(masks[4], masks[5]) & !y);
        (high & x) | (low & !x)
    });
}

#[inline(always)]
fn permute(mode: PrmtMode, a: u32, b: u32, selector: u32) -> u32 {
    let v = (u64::from(b) << 32) | u64::from(a);
    let n = selector & 3;
    let pick = |at: u32| (v >> (8 * (at & 7))) as u32 & 0xff;
    let bytes = match mode {
        PrmtMode::Index => [0, 1, 2, 3].map(|k| {
            let s = (selector >> (4 * k)) & 15;
            let value = pick(s);
            if s & 8 == 0 {
                value
            } else if value & 0x80 != 0 {
                0xff
            } else {
                0
            }
        }),
        PrmtMode::Forward4 => [0, 1, 2, 3].map(|k| pick(n + k)),
        PrmtMode::Backward4 => [0, 7, 6, 5].map(|k| pick(n + k)),
        PrmtMode::Replicate8 => [pick(n); 4],
        PrmtMode::EdgeLeft => [0, 1, 2, 3].map(|k: u32| pick(k.max(n))),
        PrmtMode::EdgeRight => [0, 1, 2, 3].map(|k: u32| pick(k.min(n))),
        PrmtMode::Replicate16 => {
            let at = 2 * (n & 1);
            [pick(at), pick(at + 1), pick(at), pick(at + 1)]
        }
    };
    bytes[0] | (bytes[1] << 8) | (bytes[2] << 16) | (bytes[3] << 24)
}

/// Lanes where a comparison of 32-bit operands (or narrower) holds.
pub(super) fn compare32(compare: Compare, unordered: bool, ty: CompareTy, a: &V32, b: &V32) -> u32 {
    match ty {
        CompareTy::S32 => compare_int(compare, a, b, |x| i64::from(x as i32)),
        CompareTy::S16 => compare_int(compare, a, b, |x| i64::from(x as i16)),
        CompareTy::U16 => compare_int(compare, a, b, |x| i64::from(x as u16)),
        CompareTy::F32 => compare_float(compare, unordered, a, b, f32::from_bits),
        CompareTy::Half(format) => compare_float(compare, unordered, a, b, |x| format.widen(x as u16) as f32),
        _ => compare_int(compare, a, b, i64::from),
    }
}

#[inline(always)]
fn lanes(test: impl Fn(usize) -> bool) -> u32 {
    let mut mask = 0;
    for i in 0..32 {
        mask |= u32::from(test(i)) << i;
    }
    mask
}

#[inline(always)]
pub(super) fn compare_int<T: Copy, N: PartialOrd>(
    compare: Compare,
    a: &[T; 32],
    b: &[T; 32],
    value: impl Fn(T) -> N,
) -> u32 {
    match compare {
        Compare::Eq => lanes(|i| value(a[i]) == value(b[i])),
        Compare::Ne => lanes(|i| value(a[i]) != value(b[i])),
        Compare::Lt => lanes(|i| value(a[i]) < value(b[i])),
        Compare::Le => lanes(|i| value(a[i]) <= value(b[i])),
        Compare::Gt => lanes(|i| value(a[i]) > value(b[i])),
        Compare::Ge => lanes(|i| value(a[i]) >= value(b[i])),
        Compare::Num | Compare::Nan => 0,
    }
}

#[inline(always)]
pub(super) fn compare_float<T: Copy, N: PartialOrd>(
    compare: Compare,
    unordered: bool,
    a: &[T; 32],
    b: &[T; 32],
    value: impl Fn(T) -> N + Copy,
) -> u32 {
    let number = lanes(|i| value(a[i]).partial_cmp(&value(b[i])).is_some());
    let holds = match compare {
        Compare::Num => return number,
        Compare::Nan => return !number,
        other => compare_int(other, a, b, value) & number,
    };
    if unordered { holds | !number } else { holds }
}
