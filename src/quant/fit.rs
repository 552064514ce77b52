//! The searches for scales with which ggml encodes weights: given a group of values, find the scale (and minimum) whose
//! integers come nearest to them.
//!
//! The encoded bytes are to be ggml's, so every float operation is ggml's, in its order, each rounded once and never
//! fused: sums run over a group from its first value to its last. That forbids SIMD within a group, so the searches run
//! over [`LANES`] groups side by side: `x[i][lane]` is value `i` of the group in that lane, the inner loops go over
//! lanes, and the compiler turns them into vector instructions. What is a branch in a search over one group is a
//! selection here. A lane without a group is filled with zeros and its result ignored.
//!
//! Integers are kept as float32 inside the loops; all are small, so this is exact. The integers of the best trial are
//! not stored either: a search returns what gives them again ([`Affine::quant`], [`Symmetric::quant`]).
//!
//! Source of the algorithms: `make_qx_quants`, `make_qkx2_quants`, `make_qkx3_quants` and `make_qp_quants` in
//! `ggml/src/ggml-quants.c`.

/// Groups that are searched side by side.
pub(crate) const LANES: usize = 8;

/// One number per lane.
pub(crate) type Lanes = [f32; LANES];

/// A group whose largest magnitude is below this counts as all zeros.
pub(crate) const SMALLEST_GROUP: f32 = 1e-15;

/// Adding 1.5 * 2^23 leaves no bits for a fraction: the sum's mantissa holds the integer, rounded half to even.
const ROUNDING: f32 = 12_582_912.0;

/// The integer nearest to `v`, halves to even, for `|v| < 2^22`. Beyond that (and for NaN and infinities) it is what
/// ggml's function of this name makes of the bits, which some blocks of subnormal numbers need.
#[inline(always)]
pub(crate) fn nearest_int(v: f32) -> i32 {
    ((v + ROUNDING).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// `1 / d`, and 0 for 0. Where `d` is so small that this is infinite, NaN: it makes all integers of the block 0, as
/// ggml's casts do on x86.
#[inline(always)]
pub(crate) fn reciprocal(d: f32) -> f32 {
    let inverse = 1.0 / d;
    if d == 0.0 {
        0.0
    } else if inverse.is_finite() {
        inverse
    } else {
        f32::NAN
    }
}

/// The least and the largest of 32 values, each the first of its equals; NaN twice where one is not finite.
#[inline]
pub(crate) fn range(x: &[f32; 32]) -> (f32, f32) {
    const WIDTH: usize = 8;
    // Selections, not `f32::min`: what a comparison with NaN gives does not matter here, and they are single instructions.
    let (mut min, mut max, mut fault) = ([x[0]; WIDTH], [x[0]; WIDTH], [0.0; WIDTH]);
    for part in x.as_chunks::<WIDTH>().0 {
        for k in 0..WIDTH {
            min[k] = if part[k] < min[k] { part[k] } else { min[k] };
            max[k] = if part[k] > max[k] { part[k] } else { max[k] };
            // Zero for what is finite, NaN for all else.
            fault[k] += part[k] * 0.0;
        }
    }
    let min = min.into_iter().fold(x[0], |a, b| if b < a { b } else { a });
    let max = max.into_iter().fold(x[0], |a, b| if b > a { b } else { a });
    if fault.into_iter().sum::<f32>().is_nan() {
        return (f32::NAN, f32::NAN);
    }
    let first_zero = || x.iter().copied().find(|v| *v == 0.0).unwrap_or(0.0);
    let value = |value: f32| if value == 0.0 { first_zero() } else { value };
    (value(min), value(max))
}

/// The first of largest magnitude of 32 values; NaN where one is not finite.
#[inline]
pub(crate) fn largest(x: &[f32; 32]) -> f32 {
    let (min, max) = range(x);
    if max > -min {
        max
    } else if max < -min {
        min
    } else {
        // Equal, or not comparable.
        x.iter().copied().find(|v| v.abs() == max).unwrap_or(max)
    }
}

/// The integers of a group. A loop over a slice, because `array::map` is not turned into vector instructions.
#[inline(always)]
pub(crate) fn quants<const N: usize, Q: Copy + Default>(x: &[f32; N], quant: impl Fn(f32) -> Q) -> [Q; N] {
    let mut q = [Q::default(); N];
    for (q, &x) in q.iter_mut().zip(x) {
        *q = quant(x);
    }
    q
}

/// `v` without its fraction, for 0 <= v < 128; 0 for NaN.
#[inline(always)]
pub(crate) fn truncate(v: f32) -> u8 {
    const ONE_PER_ULP: f32 = 8_388_608.0; // 2^23: the sum's low bits are the nearest integer
    let sum = v + ONE_PER_ULP;
    (sum.to_bits() as u8 & 127) - u8::from(sum - ONE_PER_ULP > v)
}

/// Brings up to [`LANES`] groups of `N` values side by side; missing lanes are zero.
#[inline]
pub(crate) fn transpose<const N: usize>(groups: &[[f32; N]]) -> [Lanes; N] {
    let mut lanes = [[0.0; LANES]; N];
    if let Ok(groups) = <&[[f32; N]; LANES]>::try_from(groups) {
        for (i, lanes) in lanes.iter_mut().enumerate() {
            for (lane, group) in lanes.iter_mut().zip(groups) {
                *lane = group[i];
            }
        }
    } else {
        for (k, group) in groups.iter().take(LANES).enumerate() {
            for (lanes, &value) in lanes.iter_mut().zip(group) {
                lanes[k] = value;
            }
        }
    }
    lanes
}

/// Trials of inverse scales around `max_q / range`: trial `i` of `0..=last` takes `(first + step * i + max_q) / range`.
#[derive(Clone, Copy)]
pub(crate) struct Trials {
    pub(crate) first: f32,
    pub(crate) step: f32,
    pub(crate) last: u8,
}

/// The trials where an importance matrix is given, for every type with a minimum.
pub(crate) const WEIGHTED_TRIALS: Trials = Trials { first: -0.9, step: 0.05, last: 36 };

/// What [`fit_affine`] found: `value = scale * q - minimum`.
pub(crate) struct Affine {
    /// The scales; 0 where all values of the group are equal and not positive.
    pub(crate) scale: Lanes,
    /// What is subtracted, at least 0.
    pub(crate) minimum: Lanes,
    max_q: f32,
    inverse: Lanes,
    base: Lanes,
}

impl Affine {
    /// The integer of `x`, a value of the group in `lane`.
    #[inline]
    pub(crate) fn quant(&self, lane: usize, x: f32) -> u8 {
        to_range(self.inverse[lane] * (x - self.base[lane]), 0.0, self.max_q) as u8
    }
}

/// The nearest integer, brought into `low..=high`.
#[inline(always)]
fn to_range(v: f32, low: f32, high: f32) -> f32 {
    let q = nearest_int(v) as f32;
    let q = if q > low { q } else { low };
    if q < high { q } else { high }
}

/// Finds scale and minimum of each group so that the squared error, weighted with `w`, is small: each trial scale gives
/// integers, for which the best scale and minimum follow by linear regression.
pub(crate) fn fit_affine<const N: usize>(
    x: &[Lanes; N],
    w: &[Lanes; N],
    max_q: u8,
    trials: Trials,
) -> Affine {
    let max_q = f32::from(max_q);
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = w[0];
    let mut sum_x = [0.0; LANES];
    for k in 0..LANES {
        sum_x[k] = w[0][k] * x[0][k];
    }
    for i in 1..N {
        for k in 0..LANES {
            min[k] = if x[i][k] < min[k] { x[i][k] } else { min[k] };
            max[k] = if x[i][k] > max[k] { x[i][k] } else { max[k] };
            sum_w[k] += w[i][k];
            sum_x[k] += w[i][k] * x[i][k];
        }
    }
    let (mut inverse, mut scale) = ([0.0; LANES], [0.0; LANES]);
    let mut flat = [false; LANES];
    for k in 0..LANES {
        min[k] = if min[k] > 0.0 { 0.0 } else { min[k] };
        flat[k] = max[k] == min[k];
        inverse[k] = max_q / (max[k] - min[k]);
        scale[k] = 1.0 / inverse[k];
    }
    let mut base = min;
    let mut best_error = [0.0; LANES];
    for i in 0..N {
        for k in 0..LANES {
            let q = to_range(inverse[k] * (x[i][k] - min[k]), 0.0, max_q);
            let difference = scale[k] * q + min[k] - x[i][k];
            best_error[k] += w[i][k] * (difference * difference);
        }
    }
    let mut q = [[0.0; LANES]; N];
    for trial in 0..=trials.last {
        let factor = trials.first + trials.step * f32::from(trial) + max_q;
        let mut trial_inverse = [0.0; LANES];
        for k in 0..LANES {
            trial_inverse[k] = factor / (max[k] - min[k]);
        }
        let (mut sum_q, mut sum_q2, mut sum_xq) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for i in 0..N {
            for k in 0..LANES {
                q[i][k] = to_range(trial_inverse[k] * (x[i][k] - min[k]), 0.0, max_q);
                let wq = w[i][k] * q[i][k];
                sum_q[k] += wq;
                sum_q2[k] += wq * q[i][k];
                sum_xq[k] += wq * x[i][k];
            }
        }
        let (mut determinant, mut trial_scale, mut trial_min) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for k in 0..LANES {
            let d = sum_w[k] * sum_q2[k] - sum_q[k] * sum_q[k];
            let with_min = (sum_w[k] * sum_xq[k] - sum_x[k] * sum_q[k]) / d;
            let m = (sum_q2[k] * sum_x[k] - sum_q[k] * sum_xq[k]) / d;
            let without_min = sum_xq[k] / sum_q2[k];
            determinant[k] = d;
            trial_scale[k] = if m > 0.0 { without_min } else { with_min };
            trial_min[k] = if m > 0.0 { 0.0 } else { m };
        }
        let mut error = [0.0; LANES];
        for i in 0..N {
            for k in 0..LANES {
                let difference = trial_scale[k] * q[i][k] + trial_min[k] - x[i][k];
                error[k] += w[i][k] * (difference * difference);
            }
        }
        for k in 0..LANES {
            if determinant[k] > 0.0 && error[k] < best_error[k] {
                inverse[k] = trial_inverse[k];
                base[k] = min[k];
                best_error[k] = error[k];
                scale[k] = trial_scale[k];
                min[k] = trial_min[k];
            }
        }
    }
    for k in 0..LANES {
        if flat[k] {
            scale[k] = 0.0;
            inverse[k] = 0.0;
        }
    }
    Affine { scale, minimum: min.map(|m| -m), max_q, inverse, base }
}

/// What [`fit_symmetric`] found: `value = scale * q` with `q` in `-max_q..max_q`.
pub(crate) struct Symmetric {
    /// The scales, of either sign; 0 where the group counts as zeros.
    pub(crate) scale: Lanes,
    max_q: f32,
    inverse: Lanes,
    zeros: [bool; LANES],
}

impl Symmetric {
    /// The integer of `x`, a value of the group in `lane`, plus `max_q`. In a group that counts as zeros it is 0.
    #[inline]
    pub(crate) fn quant(&self, lane: usize, x: f32) -> u8 {
        if self.zeros[lane] {
            return 0;
        }
        (to_range(self.inverse[lane] * x, -self.max_q, self.max_q - 1.0) + self.max_q) as u8
    }
}

/// Finds the scale of each group so that the squared error, weighted with `w`, is small. Of 19 trial scales around the
/// one that maps the largest magnitude to `-max_q`, each gives integers, for which the best scale follows.
pub(crate) fn fit_symmetric<const N: usize>(x: &[Lanes; N], w: &[Lanes; N], max_q: u8) -> Symmetric {
    let max_q = f32::from(max_q);
    let (mut max, mut magnitude) = ([0.0f32; LANES], [0.0f32; LANES]);
    for x in x {
        for k in 0..LANES {
            let larger = x[k].abs() > magnitude[k];
            magnitude[k] = if larger { x[k].abs() } else { magnitude[k] };
            max[k] = if larger { x[k] } else { max[k] };
        }
    }
    let mut wx = *w;
    for (wx, x) in wx.iter_mut().zip(x) {
        for k in 0..LANES {
            wx[k] *= x[k];
        }
    }
    let (mut inverse, mut scale, mut best) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    // The trial without a shift comes first; it is taken whatever its error.
    for trial in [0i8].into_iter().chain(-9..=-1).chain(1..=9) {
        let factor = if trial == 0 { -max_q } else { -(max_q + 0.1 * f32::from(trial)) };
        let mut trial_inverse = [0.0; LANES];
        for k in 0..LANES {
            trial_inverse[k] = factor / max[k];
        }
        let (mut sum_xq, mut sum_q2) = ([0.0; LANES], [0.0; LANES]);
        for i in 0..N {
            for k in 0..LANES {
                let q = to_range(trial_inverse[k] * x[i][k], -max_q, max_q - 1.0);
                sum_xq[k] += wx[i][k] * q;
                sum_q2[k] += w[i][k] * q * q;
            }
        }
        for k in 0..LANES {
            let better = sum_q2[k] > 0.0 && sum_xq[k] * sum_xq[k] > best[k] * sum_q2[k];
            if trial == 0 || better {
                inverse[k] = trial_inverse[k];
                scale[k] = if sum_q2[k] == 0.0 { 0.0 } else { sum_xq[k] / sum_q2[k] };
                best[k] = scale[k] * sum_xq[k];
            }
        }
    }
    let zeros = magnitude.map(|m| m < SMALLEST_GROUP);
    for k in 0..LANES {
        if zeros[k] {
            scale[k] = 0.0;
        }
    }
    Symmetric { scale, max_q, inverse, zeros }
}

/// Finds a scale and integers `0..=max_q` for eight numbers of at least 0 (block scales or minimums of a super-block),
/// weighted with `w`: nine trial scales, then single integers are moved while that helps.
pub(crate) fn fit_positive(x: &[f32; 8], w: &[f32; 8], max_q: u8) -> (f32, [u8; 8]) {
    let max_q = i32::from(max_q);
    let max = x.iter().fold(0.0f32, |max, &x| if x > max { x } else { max });
    if max < SMALLEST_GROUP {
        return (0.0, [0; 8]);
    }
    let error = |inverse: f32, limit: i32| {
        let scale = 1.0 / inverse;
        x.iter().zip(w).fold(0.0f32, |error, (&x, &w)| {
            let difference = x - scale * nearest_int(inverse * x).min(limit) as f32;
            error + w * difference * difference
        })
    };
    let mut inverse = max_q as f32 / max;
    let mut best = error(inverse, i32::MAX);
    for trial in [-4i8, -3, -2, -1, 1, 2, 3, 4] {
        let trial_inverse = (0.1 * f32::from(trial) + max_q as f32) / max;
        let trial_error = error(trial_inverse, max_q);
        if trial_error < best {
            best = trial_error;
            inverse = trial_inverse;
        }
    }
    let mut q = x.map(|x| nearest_int(inverse * x).min(max_q) as u8);
    let (mut sum_xq, mut sum_q2) = (0.0f32, 0.0f32);
    for j in 0..8 {
        let q = f32::from(q[j]);
        sum_xq += w[j] * x[j] * q;
        sum_q2 += w[j] * q * q;
    }
    for _ in 0..5 {
        let mut changed = false;
        for j in 0..8 {
            let old = f32::from(q[j]);
            let mut xq = sum_xq - w[j] * x[j] * old;
            let mut q2 = sum_q2 - w[j] * old * old;
            if !(xq > 0.0 && q2 > 0.0) {
                continue;
            }
            let moved = nearest_int(x[j] * q2 / xq).min(max_q);
            if moved == i32::from(q[j]) {
                continue;
            }
            xq += w[j] * x[j] * moved as f32;
            q2 += w[j] * moved as f32 * moved as f32;
            if xq * xq * sum_q2 > sum_xq * sum_xq * q2 {
                q[j] = moved as u8;
                sum_xq = xq;
                sum_q2 = q2;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    (if sum_q2 > 0.0 { sum_xq / sum_q2 } else { 0.0 }, q)
}
