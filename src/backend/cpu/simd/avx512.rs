//! The lanes in one 512-bit register: AVX-512 F, BW, VL and VNNI.

use std::arch::x86_64::*;

use super::lanes::Lanes;

/// Token: this CPU has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

impl Avx512 {
    /// The token, if the CPU has the features.
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("f16c")
            && is_x86_feature_detected!("fma");
        has.then_some(Self(()))
    }
}

/// Calls intrinsics in a method of the token.
macro_rules! cpu {
    ($e:expr) => {
        // SAFETY: `self` exists only where the CPU has the features; pointers come from references to arrays of the
        // size that the intrinsic accesses, and the unaligned forms are used.
        unsafe { $e }
    };
}

impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;
    type B = __m512i;
    const WIDE: bool = true;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        cpu!(_mm512_set1_ps(x))
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F {
        cpu!(_mm512_loadu_ps(x.as_ptr()))
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; 16]) {
        cpu!(_mm512_storeu_ps(to.as_mut_ptr(), x));
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        cpu!(_mm512_loadu_ps(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        cpu!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        cpu!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }
    #[inline(always)]
    fn store_f16(self, x: Self::F, to: &mut [u8; 32]) {
        cpu!({
            let half = _mm512_cvtps_ph::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x);
            _mm256_storeu_si256(to.as_mut_ptr().cast(), half);
        });
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_add_ps(a, b))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_sub_ps(a, b))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_mul_ps(a, b))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_div_ps(a, b))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        cpu!(_mm512_fmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        cpu!(_mm512_fnmadd_ps(a, b, c))
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_max_ps(a, b))
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        cpu!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        cpu!(_mm512_set1_epi32(x))
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        cpu!(_mm512_add_epi32(a, b))
    }
    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        cpu!(_mm512_mullo_epi32(a, b))
    }
    #[inline(always)]
    fn shl_i(self, a: Self::I, count: u32) -> Self::I {
        cpu!(_mm512_sll_epi32(a, _mm_cvtsi32_si128(count.cast_signed())))
    }
    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        cpu!(_mm512_max_epi32(a, b))
    }
    #[inline(always)]
    fn reduce_max_i(self, a: Self::I) -> i32 {
        cpu!(_mm512_reduce_max_epi32(a))
    }
    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        cpu!(_mm512_cvtepi32_ps(a))
    }
    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        cpu!(_mm512_cvtps_epi32(a))
    }
    #[inline(always)]
    fn bits(self, a: Self::F) -> Self::I {
        cpu!(_mm512_castps_si512(a))
    }
    #[inline(always)]
    fn floats_of(self, a: Self::I) -> Self::F {
        cpu!(_mm512_castsi512_ps(a))
    }
    #[inline(always)]
    fn and_i(self, a: Self::I, mask: i32) -> Self::I {
        cpu!(_mm512_and_si512(a, _mm512_set1_epi32(mask)))
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; 16]) -> Self::I {
        cpu!(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; 16]) -> Self::I {
        cpu!(_mm512_cvtepi8_epi32(_mm_loadu_si128(x.as_ptr().cast())))
    }
    #[inline(always)]
    fn store_low_bytes(self, a: Self::I, to: &mut [u8; 16]) {
        cpu!(_mm_storeu_si128(to.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(a)));
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> Self::B {
        cpu!(_mm512_loadu_si512(x.as_ptr().cast()))
    }
    #[inline(always)]
    fn store_bytes(self, x: Self::B, to: &mut [u8; 64]) {
        cpu!(_mm512_storeu_si512(to.as_mut_ptr().cast(), x));
    }
    #[inline(always)]
    fn and(self, a: Self::B, mask: u8) -> Self::B {
        cpu!(_mm512_and_si512(a, _mm512_set1_epi8(mask.cast_signed())))
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        cpu!(_mm512_or_si512(a, b))
    }
    #[inline(always)]
    fn shr(self, a: Self::B, count: u32) -> Self::B {
        cpu!(_mm512_srl_epi16(a, _mm_cvtsi32_si128(count.cast_signed())))
    }
    #[inline(always)]
    fn shl(self, a: Self::B, count: u32) -> Self::B {
        cpu!(_mm512_sll_epi16(a, _mm_cvtsi32_si128(count.cast_signed())))
    }
    #[inline(always)]
    fn byte(self, a: Self::B, index: u32) -> Self::I {
        cpu!({
            let down = _mm512_srl_epi32(a, _mm_cvtsi32_si128((8 * index).cast_signed()));
            _mm512_and_si512(down, _mm512_set1_epi32(255))
        })
    }
    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        cpu!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x)))
    }
    #[inline(always)]
    fn start_128(self, negative_sum: i32) -> Self::I {
        cpu!(_mm512_slli_epi32::<7>(_mm512_set1_epi32(negative_sum)))
    }
    #[inline(always)]
    fn dot_128(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        self.dot(acc, w, x)
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], offset: usize) {
        cpu!(_mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(offset).cast()));
    }
}
