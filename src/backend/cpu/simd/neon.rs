//! The lanes in four 128-bit registers: NEON.
//!
//! With the dot product extension a dot of bytes is one `sdot` (as inline assembly: its intrinsic is not stable in the
//! oldest compiler that this crate supports); without, products are widened to 16 bits and added in pairs.

use std::arch::aarch64::*;
use std::arch::{asm, is_aarch64_feature_detected};

use half::{bf16, f16};

use super::lanes::Lanes;

/// Token: this CPU has NEON, and the dot product extension where `DOT` is set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neon<const DOT: bool>(());

impl<const DOT: bool> Neon<DOT> {
    /// The token, if the CPU has the features.
    pub(super) fn new() -> Option<Self> {
        let has = is_aarch64_feature_detected!("neon") && (!DOT || is_aarch64_feature_detected!("dotprod"));
        has.then_some(Self(()))
    }
}

/// Lanes 0..4, 4..8, 8..12 and 12..16.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quad<V>([V; 4]);

/// Calls intrinsics in a method of the token.
macro_rules! cpu {
    ($e:expr) => {
        // SAFETY: `self` exists only where the CPU has the features; pointers come from references to arrays that hold
        // what the intrinsics access.
        unsafe { $e }
    };
}

/// An expression for each of the four registers.
macro_rules! four {
    ($i:ident => $e:expr) => {
        cpu!(Quad([
            { let $i = 0usize; $e },
            { let $i = 1usize; $e },
            { let $i = 2usize; $e },
            { let $i = 3usize; $e },
        ]))
    };
}

impl<const DOT: bool> Neon<DOT> {
    /// Widens through plain conversions, which the compiler turns into vector code where it can.
    #[inline(always)]
    fn load_each(self, x: [f32; 16]) -> Quad<float32x4_t> {
        self.load(&x)
    }

    /// Signed bytes by signed bytes; no product of two is -128 * -128.
    #[inline(always)]
    fn signed_dot(self, acc: Quad<int32x4_t>, w: [int8x16_t; 4], x: i32) -> Quad<int32x4_t> {
        four!(i => {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x));
            if DOT {
                let mut sum = acc.0[i];
                asm!(
                    "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
                    sum = inout(vreg) sum,
                    w = in(vreg) w[i],
                    x = in(vreg) x,
                    options(pure, nomem, nostack, preserves_flags)
                );
                sum
            } else {
                let low = vpaddlq_s16(vmull_s8(vget_low_s8(w[i]), vget_low_s8(x)));
                let high = vpaddlq_s16(vmull_s8(vget_high_s8(w[i]), vget_high_s8(x)));
                vaddq_s32(acc.0[i], vpaddq_s32(low, high))
            }
        })
    }
}

impl<const DOT: bool> Lanes for Neon<DOT> {
    type F = Quad<float32x4_t>;
    type I = Quad<int32x4_t>;
    type B = Quad<uint8x16_t>;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        four!(_i => vdupq_n_f32(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F {
        four!(i => vld1q_f32(x.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; 16]) {
        for i in 0..4 {
            cpu!(vst1q_f32(to.as_mut_ptr().add(4 * i), x.0[i]));
        }
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        four!(i => vreinterpretq_f32_u8(vld1q_u8(x.as_ptr().add(16 * i))))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        let mut out = [0.0; 16];
        for i in 0..16 {
            out[i] = f16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32();
        }
        self.load_each(out)
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        let mut out = [0.0; 16];
        for i in 0..16 {
            out[i] = bf16::from_le_bytes([x[2 * i], x[2 * i + 1]]).to_f32();
        }
        self.load_each(out)
    }
    #[inline(always)]
    fn store_f16(self, x: Self::F, to: &mut [u8; 32]) {
        let mut values = [0.0; 16];
        self.store(x, &mut values);
        for i in 0..16 {
            let bytes = f16::from_f32(values[i]).to_le_bytes();
            to[2 * i] = bytes[0];
            to[2 * i + 1] = bytes[1];
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        four!(i => vaddq_f32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        four!(i => vsubq_f32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        four!(i => vmulq_f32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        four!(i => vdivq_f32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        four!(i => vfmaq_f32(c.0[i], a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        four!(i => vfmsq_f32(c.0[i], a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        // Not vmaxq_f32, which treats NaN and zeros in another way than the other implementations.
        four!(i => vbslq_f32(vcgtq_f32(a.0[i], b.0[i]), a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        four!(i => vbslq_f32(vcltq_f32(a.0[i], b.0[i]), a.0[i], b.0[i]))
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        four!(_i => vdupq_n_s32(x))
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        four!(i => vaddq_s32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        four!(i => vmulq_s32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn shl_i(self, a: Self::I, count: u32) -> Self::I {
        four!(i => vshlq_s32(a.0[i], vdupq_n_s32(count.cast_signed())))
    }
    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        four!(i => vmaxq_s32(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn reduce_max_i(self, a: Self::I) -> i32 {
        let [a, b, c, d] = a.0;
        cpu!(vmaxvq_s32(vmaxq_s32(vmaxq_s32(a, b), vmaxq_s32(c, d))))
    }
    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        four!(i => vcvtq_f32_s32(a.0[i]))
    }
    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        four!(i => vcvtnq_s32_f32(a.0[i]))
    }
    #[inline(always)]
    fn bits(self, a: Self::F) -> Self::I {
        four!(i => vreinterpretq_s32_f32(a.0[i]))
    }
    #[inline(always)]
    fn floats_of(self, a: Self::I) -> Self::F {
        four!(i => vreinterpretq_f32_s32(a.0[i]))
    }
    #[inline(always)]
    fn and_i(self, a: Self::I, mask: i32) -> Self::I {
        four!(i => vandq_s32(a.0[i], vdupq_n_s32(mask)))
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; 16]) -> Self::I {
        let wide = x.map(i32::from);
        four!(i => vld1q_s32(wide.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; 16]) -> Self::I {
        let wide = x.map(|x| i32::from(x.cast_signed()));
        four!(i => vld1q_s32(wide.as_ptr().add(4 * i)))
    }
    #[inline(always)]
    fn store_low_bytes(self, a: Self::I, to: &mut [u8; 16]) {
        let [a, b, c, d] = a.0;
        cpu!({
            let low = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
            let high = vcombine_s16(vmovn_s32(c), vmovn_s32(d));
            let bytes = vcombine_s8(vmovn_s16(low), vmovn_s16(high));
            vst1q_u8(to.as_mut_ptr(), vreinterpretq_u8_s8(bytes));
        });
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> Self::B {
        four!(i => vld1q_u8(x.as_ptr().add(16 * i)))
    }
    #[inline(always)]
    fn store_bytes(self, x: Self::B, to: &mut [u8; 64]) {
        for i in 0..4 {
            cpu!(vst1q_u8(to.as_mut_ptr().add(16 * i), x.0[i]));
        }
    }
    #[inline(always)]
    fn and(self, a: Self::B, mask: u8) -> Self::B {
        four!(i => vandq_u8(a.0[i], vdupq_n_u8(mask)))
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        four!(i => vorrq_u8(a.0[i], b.0[i]))
    }
    #[inline(always)]
    fn shr(self, a: Self::B, count: u32) -> Self::B {
        four!(i => {
            let down = vdupq_n_s16(-(count as i16));
            vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a.0[i]), down))
        })
    }
    #[inline(always)]
    fn shl(self, a: Self::B, count: u32) -> Self::B {
        four!(i => {
            let up = vdupq_n_s16(count as i16);
            vreinterpretq_u8_u16(vshlq_u16(vreinterpretq_u16_u8(a.0[i]), up))
        })
    }
    #[inline(always)]
    fn byte(self, a: Self::B, index: u32) -> Self::I {
        four!(i => {
            let down = vdupq_n_s32(-((8 * index) as i32));
            let moved = vshlq_u32(vreinterpretq_u32_u8(a.0[i]), down);
            vreinterpretq_s32_u32(vandq_u32(moved, vdupq_n_u32(255)))
        })
    }
    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        // At most 127, so the sign bit is free.
        let w = cpu!(w.0.map(|w| vreinterpretq_s8_u8(w)));
        self.signed_dot(acc, w, x)
    }
    #[inline(always)]
    fn start_128(self, _: i32) -> Self::I {
        self.splat_i(0)
    }
    #[inline(always)]
    fn dot_128(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        let w = four!(i => vreinterpretq_s8_u8(veorq_u8(w.0[i], vdupq_n_u8(128))));
        self.signed_dot(acc, w.0, x)
    }

    #[inline(always)]
    fn prefetch(self, _: &[u8], _: usize) {}
}
