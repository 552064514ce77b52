//! The lanes in two 256-bit registers: AVX2, with or without AVX-VNNI.
//!
//! Without VNNI a dot of bytes goes through pairs of 16 bits (`vpmaddubsw`), which saturate at 32,767: exact as long as
//! the unsigned factor is at most 127 (2 x 127 x 127 = 32,258). Weights of the whole byte range (Q8_0) move their sign
//! to the activations instead: |w - 128| <= 128 and 2 x 128 x 127 = 32,512.

use std::arch::x86_64::*;

use super::lanes::Lanes;

/// Token: this CPU has AVX2, FMA and F16C, and AVX-VNNI where `VNNI` is set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    /// The token, if the CPU has the features.
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c")
            && (!VNNI || is_x86_feature_detected!("avxvnni"));
        has.then_some(Self(()))
    }
}

/// Lanes 0..8 and 8..16.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<V>(V, V);

/// Calls intrinsics in a method of the token.
macro_rules! cpu {
    ($e:expr) => {
        // SAFETY: `self` exists only where the CPU has the features; pointers come from references to arrays of the
        // size that the intrinsics access, and the unaligned forms are used.
        unsafe { $e }
    };
}

/// The same intrinsic on both halves.
macro_rules! both {
    ($f:ident $(, $v:expr)*) => {
        cpu!(Pair($f($($v.0),*), $f($($v.1),*)))
    };
}

/// Signed bytes by signed bytes, where `w` is not above 128 in absolute value and `x` not above 127.
macro_rules! signed_dot {
    ($acc:expr, $w:expr, $x:expr) => {{
        let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8($w), _mm256_sign_epi8($x, $w));
        _mm256_add_epi32($acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }};
}

impl<const VNNI: bool> Lanes for Avx2<VNNI> {
    type F = Pair<__m256>;
    type I = Pair<__m256i>;
    type B = Pair<__m256i>;
    const WIDE: bool = false;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        let v = cpu!(_mm256_set1_ps(x));
        Pair(v, v)
    }
    #[inline(always)]
    fn load(self, x: &[f32; 16]) -> Self::F {
        cpu!(Pair(_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))))
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut [f32; 16]) {
        cpu!({
            _mm256_storeu_ps(to.as_mut_ptr(), x.0);
            _mm256_storeu_ps(to.as_mut_ptr().add(8), x.1);
        });
    }
    #[inline(always)]
    fn load_f32(self, x: &[u8; 64]) -> Self::F {
        cpu!(Pair(_mm256_loadu_ps(x.as_ptr().cast()), _mm256_loadu_ps(x.as_ptr().add(32).cast())))
    }
    #[inline(always)]
    fn load_f16(self, x: &[u8; 32]) -> Self::F {
        cpu!({
            let low = _mm_loadu_si128(x.as_ptr().cast());
            let high = _mm_loadu_si128(x.as_ptr().add(16).cast());
            Pair(_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
        })
    }
    #[inline(always)]
    fn load_bf16(self, x: &[u8; 32]) -> Self::F {
        cpu!({
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(16).cast()));
            Pair(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            )
        })
    }
    #[inline(always)]
    fn store_f16(self, x: Self::F, to: &mut [u8; 32]) {
        cpu!({
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.0);
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x.1);
            _mm_storeu_si128(to.as_mut_ptr().cast(), low);
            _mm_storeu_si128(to.as_mut_ptr().add(16).cast(), high);
        });
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_add_ps, a, b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_sub_ps, a, b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_mul_ps, a, b)
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_div_ps, a, b)
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        both!(_mm256_fnmadd_ps, a, b, c)
    }
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_max_ps, a, b)
    }
    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        both!(_mm256_min_ps, a, b)
    }

    #[inline(always)]
    fn splat_i(self, x: i32) -> Self::I {
        let v = cpu!(_mm256_set1_epi32(x));
        Pair(v, v)
    }
    #[inline(always)]
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_add_epi32, a, b)
    }
    #[inline(always)]
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_mullo_epi32, a, b)
    }
    #[inline(always)]
    fn shl_i(self, a: Self::I, count: u32) -> Self::I {
        cpu!({
            let count = _mm_cvtsi32_si128(count.cast_signed());
            Pair(_mm256_sll_epi32(a.0, count), _mm256_sll_epi32(a.1, count))
        })
    }
    #[inline(always)]
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I {
        both!(_mm256_max_epi32, a, b)
    }
    #[inline(always)]
    fn reduce_max_i(self, a: Self::I) -> i32 {
        cpu!({
            let m = _mm256_max_epi32(a.0, a.1);
            let m = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256::<1>(m));
            let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b0100_1110>(m));
            let m = _mm_max_epi32(m, _mm_shuffle_epi32::<0b1011_0001>(m));
            _mm_cvtsi128_si32(m)
        })
    }
    #[inline(always)]
    fn to_f(self, a: Self::I) -> Self::F {
        both!(_mm256_cvtepi32_ps, a)
    }
    #[inline(always)]
    fn to_i(self, a: Self::F) -> Self::I {
        both!(_mm256_cvtps_epi32, a)
    }
    #[inline(always)]
    fn bits(self, a: Self::F) -> Self::I {
        both!(_mm256_castps_si256, a)
    }
    #[inline(always)]
    fn floats_of(self, a: Self::I) -> Self::F {
        both!(_mm256_castsi256_ps, a)
    }
    #[inline(always)]
    fn and_i(self, a: Self::I, mask: i32) -> Self::I {
        let mask = self.splat_i(mask);
        both!(_mm256_and_si256, a, mask)
    }
    #[inline(always)]
    fn widen_u8(self, x: &[u8; 16]) -> Self::I {
        cpu!({
            let v = _mm_loadu_si128(x.as_ptr().cast());
            Pair(_mm256_cvtepu8_epi32(v), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(v)))
        })
    }
    #[inline(always)]
    fn widen_i8(self, x: &[u8; 16]) -> Self::I {
        cpu!({
            let v = _mm_loadu_si128(x.as_ptr().cast());
            Pair(_mm256_cvtepi8_epi32(v), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(v)))
        })
    }
    #[inline(always)]
    fn store_low_bytes(self, a: Self::I, to: &mut [u8; 16]) {
        let a = self.and_i(a, 255);
        cpu!({
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a.0, a.1));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(to.as_mut_ptr().cast(), bytes);
        });
    }

    #[inline(always)]
    fn load_bytes(self, x: &[u8; 64]) -> Self::B {
        cpu!(Pair(_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())))
    }
    #[inline(always)]
    fn store_bytes(self, x: Self::B, to: &mut [u8; 64]) {
        cpu!({
            _mm256_storeu_si256(to.as_mut_ptr().cast(), x.0);
            _mm256_storeu_si256(to.as_mut_ptr().add(32).cast(), x.1);
        });
    }
    #[inline(always)]
    fn and(self, a: Self::B, mask: u8) -> Self::B {
        cpu!({
            let mask = _mm256_set1_epi8(mask.cast_signed());
            Pair(_mm256_and_si256(a.0, mask), _mm256_and_si256(a.1, mask))
        })
    }
    #[inline(always)]
    fn or(self, a: Self::B, b: Self::B) -> Self::B {
        both!(_mm256_or_si256, a, b)
    }
    #[inline(always)]
    fn shr(self, a: Self::B, count: u32) -> Self::B {
        cpu!({
            let count = _mm_cvtsi32_si128(count.cast_signed());
            Pair(_mm256_srl_epi16(a.0, count), _mm256_srl_epi16(a.1, count))
        })
    }
    #[inline(always)]
    fn shl(self, a: Self::B, count: u32) -> Self::B {
        cpu!({
            let count = _mm_cvtsi32_si128(count.cast_signed());
            Pair(_mm256_sll_epi16(a.0, count), _mm256_sll_epi16(a.1, count))
        })
    }
    #[inline(always)]
    fn byte(self, a: Self::B, index: u32) -> Self::I {
        cpu!({
            let count = _mm_cvtsi32_si128((8 * index).cast_signed());
            let mask = _mm256_set1_epi32(255);
            Pair(
                _mm256_and_si256(_mm256_srl_epi32(a.0, count), mask),
                _mm256_and_si256(_mm256_srl_epi32(a.1, count), mask),
            )
        })
    }
    #[inline(always)]
    fn dot(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        cpu!({
            let x = _mm256_set1_epi32(x);
            if VNNI {
                Pair(_mm256_dpbusd_avx_epi32(acc.0, w.0, x), _mm256_dpbusd_avx_epi32(acc.1, w.1, x))
            } else {
                let ones = _mm256_set1_epi16(1);
                let low = _mm256_madd_epi16(_mm256_maddubs_epi16(w.0, x), ones);
                let high = _mm256_madd_epi16(_mm256_maddubs_epi16(w.1, x), ones);
                Pair(_mm256_add_epi32(acc.0, low), _mm256_add_epi32(acc.1, high))
            }
        })
    }
    #[inline(always)]
    fn start_128(self, negative_sum: i32) -> Self::I {
        self.splat_i(if VNNI { negative_sum.wrapping_mul(128) } else { 0 })
    }
    #[inline(always)]
    fn dot_128(self, acc: Self::I, w: Self::B, x: i32) -> Self::I {
        if VNNI {
            return self.dot(acc, w, x);
        }
        cpu!({
            let x = _mm256_set1_epi32(x);
            let flip = _mm256_set1_epi8(i8::MIN);
            let (low, high) = (_mm256_xor_si256(w.0, flip), _mm256_xor_si256(w.1, flip));
            Pair(signed_dot!(acc.0, low, x), signed_dot!(acc.1, high, x))
        })
    }

    #[inline(always)]
    fn prefetch(self, bytes: &[u8], offset: usize) {
        cpu!(_mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(offset).cast()));
    }
}
