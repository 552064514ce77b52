//! The lanes as plain arrays: runs everywhere, and is what the other implementations are tested against.

use half::{bf16, f16};

use super::lanes::Lanes;

/// Token of the portable implementation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar;

/// Applies an expression to every lane.
macro_rules! each {
    ($n:literal, $i:ident => $e:expr) => {{
        let mut out = [Default::default(); $n];
        for $i in 0..$n {
            out[$i] = $e;
        }
        out
    }};
}

/// A shift of pairs of bytes.
#[inline(always)]
fn shift_pairs(a: [u8; 64], shift: impl Fn(u16) -> u16) -> [u8; 64] {
    let mut out = [0; 64];
    for i in 0..32 {
        let pair = shift(u16::from_le_bytes([a[2 * i], a[2 * i + 1]])).to_le_bytes();
        out[2 * i] = pair[0];
        out[2 * i + 1] = pair[1];
    }
    out
}

impl Lanes for Scalar {
    type F = [f32; 16];
    type I = [i32; 16];
    type B = [u8; 64];
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [x; 16]
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F {
        *x
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; 16]) {
        *to = x;
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        each!(16, i => f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        each!(16, i => f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        each!(16, i => bf16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32())
    }
    #[inline(always)]
    fn store_f16(self, x: Self::F, to: &mut [u8; 32]) {
        for i in 0..16 {
            let bytes = f16::from_f32(x[i]).to_le_bytes();
            to[2 * i] = bytes[0];
            to[2 * i + 1] = bytes[1];
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        each!(16, i => a[i] + b[i])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        each!(16, i => a[i] - b[i])
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        each!(16, i => a[i] * b[i])
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        each!(16, i => a[i] / b[i])
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(16, i => a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        each!(16, i => (-a[i]).mul_add(b[i], c[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        each!(16, i => if a[i] > b[i] { a[i] } else { b[i] })
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        each!(16, i => if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        [x; 16]
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        each!(16, i => a[i].wrapping_add(b[i]))
    }
    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        each!(16, i => a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    fn shl_i(self, a: Self::I, count: u32) -> Self::I {
        each!(16, i => a[i].wrapping_shl(count))
    }
    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        each!(16, i => a[i].max(b[i]))
    }
    #[inline(always)]
    fn reduce_max_i(self, a: Self::I) -> i32 {
        a.into_iter().fold(i32::MIN, i32::max)
    }
    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        each!(16, i => a[i] as f32)
    }
    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        each!(16, i => a[i].round_ties_even() as i32)
    }
    #[inline(always)]
    fn bits(self, a: Self::F) -> Self::I {
        each!(16, i => a[i].to_bits().cast_signed())
    }
    #[inline(always)]
    fn floats_of(self, a: Self::I) -> Self::F {
        each!(16, i => f32::from_bits(a[i].cast_unsigned()))
    }
    #[inline(always)]
    fn and_i(self, a: Self::I, mask: i32) -> Self::I {
        each!(16, i => a[i] & mask)
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; 16]) -> Self::I {
        each!(16, i => i32::from(x[i]))
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; 16]) -> Self::I {
        each!(16, i => i32::from(x[i].cast_signed()))
    }
    #[inline(always)]
    fn store_low_bytes(self, a: Self::I, to: &mut [u8; 16]) {
        for i in 0..16 {
            to[i] = a[i].to_le_bytes()[0];
        }
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> Self::B {
        *x
    }
    #[inline(always)]
    fn store_bytes(self, x: Self::B, to: &mut [u8; 64]) {
        *to = x;
    }
    #[inline(always)]
    fn and(self, a: Self::B, mask: u8) -> Self::B {
        a.map(|a| a & mask)
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        let mut out = a;
        for i in 0..64 {
            out[i] |= b[i];
        }
        out
    }
    #[inline(always)]
    fn shr(self, a: Self::B, count: u32) -> Self::B {
        shift_pairs(a, |pair| pair >> count)
    }
    #[inline(always)]
    fn shl(self, a: Self::B, count: u32) -> Self::B {
        shift_pairs(a, |pair| pair << count)
    }
    #[inline(always)]
    fn byte(self, a: Self::B, index: u32) -> Self::I {
        each!(16, i => i32::from(a[4 * i + index as usize % 4]))
    }
    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        let x = x.to_le_bytes().map(u8::cast_signed);
        let mut out = acc;
        for i in 0..16 {
            for j in 0..4 {
                out[i] += i32::from(w[4 * i + j]) * i32::from(x[j]);
            }
        }
        out
    }
    #[inline(always)]
    fn start_128(self, _: i32) -> Self::I {
        [0; 16]
    }
    #[inline(always)]
    fn dot_128(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        let x = x.to_le_bytes().map(u8::cast_signed);
        let mut out = acc;
        for i in 0..16 {
            for j in 0..4 {
                out[i] += (i32::from(w[4 * i + j]) - 128) * i32::from(x[j]);
            }
        }
        out
    }

    #[inline(always)]
    fn prefetch(self, _: &[u8], _: usize) {}
}
