//! Sixteen lanes: what a kernel needs from a CPU, whatever its vectors are called.
//!
//! A kernel is written once, generic over [`Lanes`], with one weight row per lane. The implementations differ in width
//! (one 512-bit register, two of 256, four of 128, plain arrays) and in how a dot of four bytes is done, but not in
//! results: every operation here is either exact (integers) or one IEEE operation per lane in a fixed order, so all
//! implementations agree bit for bit.
//!
//! The value of an implementing type is a token: it can be made only on a CPU that has the features, so the methods are
//! safe to call. Everything generic must be `#[inline(always)]`, so that it is compiled inside the one function per
//! instruction set that enables the features (`Isa::run`); a closure or an ordinary call in between would be compiled
//! without them.

/// Sixteen lanes of f32 and i32 and sixteen groups of four bytes.
pub trait Lanes: Copy + Send + Sync + 'static {
    /// 16 x f32.
    type F: Copy;
    /// 16 x i32.
    type I: Copy;
    /// 64 bytes: four per lane.
    type B: Copy;

    /// Whether there are registers for 16 sums of 16 lanes besides what they are made of.
    const WIDE: bool;

    /// `x` in every lane.
    fn splat(self, x: f32) -> Self::F;
    /// Loads 16 values.
    fn load(self, x: &[f32; 16]) -> Self::F;
    /// Stores 16 values.
    fn store(self, x: Self::F, to: &mut [f32; 16]);
    /// Loads 16 values of single precision, little-endian.
    fn load_f32(self, x: &[u8; 64]) -> Self::F;
    /// Loads 16 values of half precision, little-endian.
    fn load_f16(self, x: &[u8; 32]) -> Self::F;
    /// Loads 16 bfloat16 values, little-endian.
    fn load_bf16(self, x: &[u8; 32]) -> Self::F;
    /// Rounds 16 values to half precision, ties to even.
    fn store_f16(self, x: Self::F, to: &mut [u8; 32]);
    /// a + b.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// a - b.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// a / b.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// a * b + c with one rounding.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// c - a * b with one rounding.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// a where a > b, else b: a NaN in b stays, one in a does not.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// a where a < b, else b: a NaN in b stays, one in a does not.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;

    /// `x` in every lane.
    fn splat_i(self, x: i32) -> Self::I;
    /// a + b, wrapping.
    fn add_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low 32 bits of a * b.
    fn mul_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// Left shift.
    fn shl_i(self, a: Self::I, count: u32) -> Self::I;
    /// The larger of two signed integers.
    fn max_i(self, a: Self::I, b: Self::I) -> Self::I;
    /// The largest of the lanes.
    fn reduce_max_i(self, a: Self::I) -> i32;
    /// Integers to floats, ties to even.
    fn to_f(self, a: Self::I) -> Self::F;
    /// Floats to integers, ties to even; only for values that fit.
    fn to_i(self, a: Self::F) -> Self::I;
    /// The bits of floats.
    fn bits(self, a: Self::F) -> Self::I;
    /// Floats with these bits.
    fn floats_of(self, a: Self::I) -> Self::F;
    /// a & `mask`.
    fn and_i(self, a: Self::I, mask: i32) -> Self::I;
    /// Widens 16 unsigned bytes.
    fn widen_u8(self, x: &[u8; 16]) -> Self::I;
    /// Widens 16 signed bytes.
    fn widen_i8(self, x: &[u8; 16]) -> Self::I;
    /// Stores the low byte of each lane.
    fn store_low_bytes(self, a: Self::I, to: &mut [u8; 16]);

    /// Loads 64 bytes.
    fn load_bytes(self, x: &[u8; 64]) -> Self::B;
    /// Stores 64 bytes.
    fn store_bytes(self, x: Self::B, to: &mut [u8; 64]);
    /// a & `mask` in each byte.
    fn and(self, a: Self::B, mask: u8) -> Self::B;
    /// a | b.
    fn or(self, a: Self::B, b: Self::B) -> Self::B;
    /// Right shift of pairs of bytes: bits of the upper byte enter the lower one, mask them out.
    fn shr(self, a: Self::B, count: u32) -> Self::B;
    /// Left shift of pairs of bytes: bits of the lower byte enter the upper one, mask them out.
    fn shl(self, a: Self::B, count: u32) -> Self::B;
    /// Byte `index` (0..4) of each lane, as an unsigned number.
    fn byte(self, a: Self::B, index: u32) -> Self::I;
    /// `acc` + the dot of each lane's four bytes of `w`, unsigned and at most 127, with the four signed bytes `x`, each
    /// at least -127. Exact.
    fn dot(self, acc: Self::I, w: Self::B, x: i32) -> Self::I;
    /// What an accumulator of [`Lanes::dot_128`] starts from; `negative_sum` is minus the sum of all `x` to come.
    fn start_128(self, negative_sum: i32) -> Self::I;
    /// Like [`Lanes::dot`] with the signed numbers `w - 128`, where `w` is any byte. Exact once all `x` have come.
    fn dot_128(self, acc: Self::I, w: Self::B, x: i32) -> Self::I;

    /// Asks for the cache line `offset` bytes behind the start of `bytes`; it need not lie within.
    fn prefetch(self, bytes: &[u8], offset: usize);
}

/// e^x within 2 ulp for -87 <= x <= 88; beyond, what the nearer end gives. NaN stays NaN.
///
/// The range is reduced by ln 2 in two parts (Cody and Waite); the polynomial is Taylor's up to x^7 on |x| <= ln(2)/2,
/// where the rest is below half an ulp.
#[inline(always)]
pub(super) fn exp<L: Lanes>(l: L, x: L::F) -> L::F {
    let x = l.max(l.splat(-87.0), l.min(l.splat(88.0), x));
    let n = l.to_i(l.mul(x, l.splat(std::f32::consts::LOG2_E)));
    let nf = l.to_f(n);
    let r = l.fnma(nf, l.splat(0.693_359_4), x);
    let r = l.fnma(nf, l.splat(-2.121_944_4e-4), r);
    let mut p = l.splat(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = l.fma(p, r, l.splat(c));
    }
    let scale = l.floats_of(l.shl_i(l.add_i(n, l.splat_i(127)), 23));
    l.mul(p, scale)
}

/// x / (1 + e^-x).
#[inline(always)]
pub(super) fn silu<L: Lanes>(l: L, x: L::F) -> L::F {
    let e = exp(l, l.sub(l.splat(0.0), x));
    l.div(x, l.add(l.splat(1.0), e))
}

/// The sum of 16 lanes in one fixed order: halves are added until one is left (8 + 8, 4 + 4, 2 + 2, 1 + 1).
#[inline(always)]
pub(super) fn reduce_add<L: Lanes>(l: L, x: L::F) -> f32 {
    let mut v = [0.0; 16];
    l.store(x, &mut v);
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            v[i] += v[i + width];
        }
        width /= 2;
    }
    v[0]
}

/// The largest of 16 lanes; NaNs may be passed over.
#[inline(always)]
pub(super) fn reduce_max<L: Lanes>(l: L, x: L::F) -> f32 {
    let mut v = [0.0; 16];
    l.store(x, &mut v);
    let mut best = v[0];
    for i in 1..16 {
        if v[i] > best {
            best = v[i];
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::simd::{Isa, Task};

    struct Exp<'a>(&'a mut [f32; 16]);
    impl Task for Exp<'_> {
        type Output = ();
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) {
            l.store(exp(l, l.load(self.0)), self.0);
        }
    }

    struct Silu<'a>(&'a mut [f32; 16]);
    impl Task for Silu<'_> {
        type Output = ();
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) {
            l.store(silu(l, l.load(self.0)), self.0);
        }
    }

    struct Sums<'a>(&'a [f32; 16]);
    impl Task for Sums<'_> {
        type Output = [f32; 2];
        #[inline(always)]
        fn run<L: Lanes>(self, l: L) -> [f32; 2] {
            [reduce_add(l, l.load(self.0)), reduce_max(l, l.load(self.0))]
        }
    }

    #[test]
    fn exponentials_are_exact_to_two_ulp_and_the_same_everywhere() {
        for i in 0..20_000 {
            let x: [f32; 16] =
                std::array::from_fn(|lane| ((i * 16 + lane) as f32).mul_add(175.0 / 320_000.0, -87.0));
            let mut first = None;
            for isa in Isa::available() {
                let (mut e, mut s) = (x, x);
                isa.run(Exp(&mut e));
                isa.run(Silu(&mut s));
                for (x, (e, s)) in x.iter().zip(e.iter().zip(&s)) {
                    let want = f64::from(*x).exp();
                    let ulp = f64::from((want as f32).next_up()) - f64::from(want as f32);
                    assert!((f64::from(*e) - want).abs() <= 2.0 * ulp, "{}: e^{x} is {e}", isa.name());
                    let want = f64::from(*x) / (1.0 + (-f64::from(*x)).exp());
                    assert!(
                        (f64::from(*s) - want).abs() <= want.abs() * 4e-7,
                        "{}: SiLU({x}) is {s}",
                        isa.name()
                    );
                }
                assert_eq!(*first.get_or_insert((e, s)), (e, s), "{} differs at {x:?}", isa.name());
            }
        }
    }

    #[test]
    fn exponentials_end_where_floats_do() {
        for isa in Isa::available() {
            let mut x = [0.0; 16];
            x[..6].copy_from_slice(&[f32::NEG_INFINITY, -1e30, 0.0, 1e30, f32::INFINITY, f32::NAN]);
            let mut s = x;
            isa.run(Exp(&mut x));
            isa.run(Silu(&mut s));
            assert!(x[0] < 1e-37 && x[1] < 1e-37 && x[2] == 1.0, "{}: {x:?}", isa.name());
            assert!(
                x[3] > 1e38 && x[3].is_finite() && x[4] == x[3] && x[5].is_nan(),
                "{}: {x:?}",
                isa.name()
            );
            assert!(s[3] == 1e30 && s[4] == f32::INFINITY && s[5].is_nan(), "{}: {s:?}", isa.name());
        }
    }

    #[test]
    fn lanes_are_added_in_halves() {
        let x: [f32; 16] = std::array::from_fn(|i| 1.1f32.powi(i as i32 * 3) - 2.0);
        let mut halves = x.to_vec();
        while halves.len() > 1 {
            let rest = halves.split_off(halves.len() / 2);
            halves.iter_mut().zip(rest).for_each(|(a, b)| *a += b);
        }
        for isa in Isa::available() {
            let [sum, max] = isa.run(Sums(&x));
            assert_eq!(
                (sum.to_bits(), max.to_bits()),
                (halves[0].to_bits(), x[15].to_bits()),
                "{}",
                isa.name()
            );
        }
    }
}
