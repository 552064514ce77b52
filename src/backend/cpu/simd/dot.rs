//! A panel times a tile: 16 rows by up to 16 tokens.
//!
//! The order of every sum is that of `quant::dot`: one lane per row, one accumulator per lane and token, block after block;
//! where a segment ends, its sum is added to the row's, and the next begins with 0. So nothing here depends on the width of
//! the tile.
//!
//! The integers of a block of weights (8 x 64 bytes) are unpacked once per tile and stay in registers while the tokens
//! pass by: per token and block 8 byte dots, a conversion, a multiplication and one or two FMAs for 512 products. The
//! accumulators of a wide tile live in the first-level cache, those of one token in registers. The dots of one token are
//! a chain of dependent instructions; chains of neighbouring tokens (or, with one token, of neighbouring blocks) overlap
//! in the CPU's window, so they are not split by hand.
//!
//! Tried and lost (Zen 5): unrolling the eight blocks of a super-block, so that shifts are constants (30 GB/s of Q6_K
//! instead of 44, the code no longer fits the decoder's cache); asking the cache for a whole super-block at once instead
//! of a part with each block (28 GB/s of Q4_K instead of 41: a burst fills the line buffers). (Zen 4): emptying and adding
//! up a wide tile's accumulators in passes of their own where a segment ends (each costs as much as half a block: 16
//! segments of 2 blocks took 20 % longer), so the first and the last block of a segment have their own forms; the same
//! forms for one token (25 % longer: four copies of the loop); a `match` over the four places of Q6_K's upper bits (its
//! jump table costs 20 to 30 % from memory), and a test of bounds for each 64 bytes instead of one for a unit.

use std::marker::PhantomData;

use super::block::{Format, Offset, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0, Scales, at, six_bit};
use super::isa::{Isa, Task};
use super::lanes::Lanes;
use super::panel::{Panels, ROWS, body_start, tail_start};
use super::tile::{NEGATIVE_HALVES, NEGATIVE_SUM, SCALE, SCALED_SUM, TileKind, WORDS};
use crate::quant::{Cut, TensorType};

/// How far ahead of the loads the cache is asked for weights, in bytes. Measured on Zen 5 with matrices in memory, one
/// thread, Q4_K: 1 KiB 26 GB/s, 2 KiB 33, 4 KiB 35, 8 KiB 41, 16 KiB 40 (and without any 28).
const PREFETCH: usize = 8192;

/// Sums of a tile: `[token][row]`.
pub(super) type Sums = [[f32; ROWS]];

/// How rows are cut into segments, in blocks of 32 columns; made once for many panels, since it takes divisions.
#[derive(Clone, Copy)]
pub(super) struct Segments {
    /// Blocks of every segment, of a unit, and how many of the segments to come have a unit more.
    each: usize,
    unit: usize,
    longer: usize,
    /// Blocks that the present segment still has, and whether it has had any.
    left: usize,
    begun: bool,
}

impl Segments {
    /// The cut of rows of `cols` columns, at the first segment.
    pub(super) fn new(cut: Cut, cols: usize) -> Self {
        let (each, unit, longer) = cut.blocks(cols);
        let mut segments = Self { each, unit, longer, left: 0, begun: false };
        segments.next();
        segments
    }

    #[inline(always)]
    fn next(&mut self) {
        self.left = self.each;
        if self.longer > 0 {
            self.longer -= 1;
            self.left += self.unit;
        }
    }

    /// Goes on by some blocks, none of which lies in another segment: whether they are its first, and whether its last.
    #[inline(always)]
    fn pass(&mut self, blocks: usize) -> (bool, bool) {
        let first = !self.begun;
        self.left = self.left.wrapping_sub(blocks);
        let last = self.left == 0;
        if last {
            self.next();
        }
        self.begun = !last;
        (first, last)
    }
}

/// Adds a segment's sums to the row's, and begins the next.
#[inline(always)]
fn close_segment<L: Lanes, const T: usize>(l: L, acc: &mut [L::F; T], total: &mut [L::F; T]) {
    for t in 0..T {
        total[t] = l.add(total[t], acc[t]);
        acc[t] = l.splat(0.0);
    }
}

/// Writes the sums of rows.
#[inline(always)]
fn finish<L: Lanes, const T: usize>(l: L, total: &[L::F; T], out: &mut Sums) {
    for (total, out) in total.iter().zip(out) {
        l.store(*total, out);
    }
}

/// Rows `16 panel ..` of `weights` times a tile of `width` tokens, into `out`, which has `width` entries.
pub(super) fn dot_panel(
    isa: Isa,
    weights: &Panels,
    panel: usize,
    (kind, width): (TileKind, usize),
    x: &[i32],
    segments: Segments,
    out: &mut Sums,
) {
    let args = Args { cols: weights.cols(), bytes: weights.panels_from(panel), x, segments, out };
    match width {
        1 => dot_width::<1>(isa, weights.tensor_type(), kind, args),
        4 => dot_width::<4>(isa, weights.tensor_type(), kind, args),
        8 => dot_width::<8>(isa, weights.tensor_type(), kind, args),
        _ => dot_width::<16>(isa, weights.tensor_type(), kind, args),
    }
}

/// What every kernel takes.
struct Args<'a> {
    cols: usize,
    bytes: &'a [u8],
    x: &'a [i32],
    segments: Segments,
    out: &'a mut Sums,
}

/// Chooses the kernel by type.
fn dot_width<const T: usize>(isa: Isa, tensor_type: TensorType, kind: TileKind, args: Args<'_>) {
    use TensorType as W;
    match tensor_type {
        W::F32 => isa.run(Floats::<Single, T>(args, PhantomData)),
        W::F16 => isa.run(Floats::<Half, T>(args, PhantomData)),
        W::BF16 => isa.run(Floats::<Brain, T>(args, PhantomData)),
        W::Q4_0 => dot_format::<Q4_0, T>(isa, kind, args),
        W::Q4_1 => dot_format::<Q4_1, T>(isa, kind, args),
        W::Q5_0 => dot_format::<Q5_0, T>(isa, kind, args),
        W::Q5_1 => dot_format::<Q5_1, T>(isa, kind, args),
        W::Q8_0 => dot_format::<Q8_0, T>(isa, kind, args),
        W::Q4_K => dot_format::<Q4K, T>(isa, kind, args),
        W::Q5_K => dot_format::<Q5K, T>(isa, kind, args),
        W::Q6_K => dot_format::<Q6K, T>(isa, kind, args),
        _ => {}
    }
}

/// Chooses the kernel by the kind of activations.
fn dot_format<W: Format, const T: usize>(isa: Isa, kind: TileKind, args: Args<'_>) {
    match kind {
        TileKind::F32 => isa.run(Decoded::<W, T>(args, PhantomData)),
        TileKind::Q8 | TileKind::Q8_0 => isa.run(Blocks::<W, T>(args, PhantomData)),
        TileKind::Q8K => isa.run(SuperBlocks::<W, T>(args, PhantomData)),
    }
}

/// A block of activations: rows of words, one word per token.
type XBlock<const T: usize> = [[i32; T]; WORDS];

/// Whether no tile is so wide with these lanes (see [`Isa::tile`]): such a kernel is never called, and need not be
/// compiled.
#[inline(always)]
const fn too_wide<L: Lanes, const T: usize>() -> bool {
    T > 8 && !L::WIDE
}

/// Unit `u` of a panel: its body and its tail. `None` where the panel is too short, which no caller lets happen: the sums are
/// then NaN, which the engine's checks name.
#[inline(always)]
fn unit<W: Format>(bytes: &[u8], u: usize) -> Option<(&[u8], &[u8; 32])> {
    let start = body_start(u, W::BODY, W::TAIL);
    let body = bytes.get(start..start + W::BODY)?;
    let tail = if W::TAIL == 0 { &[0; 32] } else { at(bytes, tail_start(u, W::BODY, W::TAIL)) };
    Some((body, tail))
}

/// The exact dot of columns `4 from .. 4 to` of a block with one token, the offset taken off; `sum` is the row of words
/// that holds minus the sum of those columns.
#[inline(always)]
fn dot<L: Lanes, W: Format, const T: usize>(
    l: L,
    w: &[L::B; 8],
    x: &XBlock<T>,
    t: usize,
    (from, to, sum): (usize, usize, usize),
) -> L::I {
    let mut dot = match W::OFFSET {
        Offset::None => l.splat_i(0),
        Offset::Power(power) => l.shl_i(l.splat_i(x[sum][t]), power),
        Offset::Whole => l.start_128(x[sum][t]),
    };
    for g in from..to {
        dot = match W::OFFSET {
            Offset::Whole => l.dot_128(dot, w[g], x[g][t]),
            _ => l.dot(dot, w[g], x[g][t]),
        };
    }
    dot
}

const WHOLE: (usize, usize, usize) = (0, 8, NEGATIVE_SUM);
const HALVES: [(usize, usize, usize); 2] = [(0, 4, NEGATIVE_HALVES[0]), (4, 8, NEGATIVE_HALVES[1])];

/// A word that holds a float.
#[inline(always)]
fn float(word: i32) -> f32 {
    f32::from_bits(word.cast_unsigned())
}

/// Asks for what will be read `PREFETCH` bytes after block `s` of a unit; a part at a time, since a burst of requests
/// stalls on the line fill buffers.
#[inline(always)]
fn prefetch_part<L: Lanes, W: Format>(l: L, body: &[u8], s: usize) {
    if s == 0 && W::TAIL > 0 {
        // Half a line more than the body; asking for it with every unit is cheaper than telling odd from even.
        l.prefetch(body, PREFETCH + W::BODY);
    }
    let lines = W::BODY / 64;
    for line in s * lines / W::BLOCKS..(s + 1) * lines / W::BLOCKS {
        l.prefetch(body, PREFETCH + 64 * line);
    }
}

/// Quantized weights, a scale of the activations per 32 columns.
struct Blocks<'a, W, const T: usize>(Args<'a>, PhantomData<W>);

impl<W: Format, const T: usize> Task for Blocks<'_, W, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        if too_wide::<L, T>() {
            return;
        }
        let Args { bytes, mut segments, out, .. } = self.0;
        let xs = self.0.x.as_chunks::<T>().0.as_chunks::<WORDS>().0;
        let (mut acc, mut total) = ([l.splat(0.0); T], [l.splat(0.0); T]);
        for (u, xs) in xs.chunks_exact(W::BLOCKS).enumerate() {
            let Some((body, tail)) = unit::<W>(bytes, u) else { return out.fill([f32::NAN; ROWS]) };
            let unit_scales = unit_scales::<L, W>(l, body, tail);
            for (s, x) in xs.iter().enumerate() {
                prefetch_part::<L, W>(l, body, s);
                let scales = block_scales::<L, W>(l, body, &unit_scales, s);
                let w = W::integers(l, body, s, T == 1);
                let sums = (&mut acc, &mut total);
                match segments.pass(1) {
                    // The sums of one token stay in registers.
                    (_, last) if T == 1 => {
                        add_block::<L, W, T, false, false>(l, &w, scales, x, sums);
                        if last {
                            close_segment(l, &mut acc, &mut total);
                        }
                    }
                    (false, false) => add_block::<L, W, T, false, false>(l, &w, scales, x, sums),
                    (true, false) => add_block::<L, W, T, true, false>(l, &w, scales, x, sums),
                    (false, true) => add_block::<L, W, T, false, true>(l, &w, scales, x, sums),
                    (true, true) => add_block::<L, W, T, true, true>(l, &w, scales, x, sums),
                }
            }
        }
        finish(l, &total, out);
    }
}

/// What a unit says of its blocks' scales.
struct UnitScales<L: Lanes> {
    /// The scale, and what is added per sum of activations.
    scale: L::F,
    minimum: L::F,
    /// [`Scales::SixBit`] unpacked: eight rows of scales, eight of minima.
    small: [[u8; 16]; 16],
}

#[inline(always)]
fn unit_scales<L: Lanes, W: Format>(l: L, body: &[u8], tail: &[u8; 32]) -> UnitScales<L> {
    let zero = l.splat(0.0);
    let small = if W::SCALES == Scales::SixBit { six_bit(l, body) } else { [[0; 16]; 16] };
    match W::SCALES {
        Scales::One | Scales::Halves => UnitScales { scale: l.load_f16(tail), minimum: zero, small },
        Scales::WithMinimum => {
            UnitScales { scale: l.load_f16(at(body, 0)), minimum: l.load_f16(at(body, 32)), small }
        }
        Scales::SixBit => {
            let minimum = l.sub(zero, l.load_f16(at(body, 32)));
            UnitScales { scale: l.load_f16(at(body, 0)), minimum, small }
        }
    }
}

/// What the integers of a block are multiplied with.
struct BlockScales<L: Lanes> {
    scale: L::F,
    minimum: L::F,
    /// [`Scales::Halves`]: of the first 16 columns and of the others, besides the scale.
    halves: [L::F; 2],
}

/// Those of block `s` of a unit.
#[inline(always)]
fn block_scales<L: Lanes, W: Format>(l: L, body: &[u8], unit: &UnitScales<L>, s: usize) -> BlockScales<L> {
    let UnitScales { scale, minimum, small } = unit;
    let none = [l.splat(0.0); 2];
    match W::SCALES {
        Scales::One | Scales::WithMinimum => BlockScales { scale: *scale, minimum: *minimum, halves: none },
        Scales::SixBit => BlockScales {
            scale: l.mul(*scale, l.to_f(l.widen_u8(&small[s]))),
            minimum: l.mul(*minimum, l.to_f(l.widen_u8(&small[8 + s]))),
            halves: none,
        },
        Scales::Halves => {
            let halves = [0, 1].map(|h| at::<16>(body, 16 * (2 * s + h)));
            let halves = [l.to_f(l.widen_i8(halves[0])), l.to_f(l.widen_i8(halves[1]))];
            BlockScales { scale: *scale, minimum: *minimum, halves }
        }
    }
}

/// acc = fma(dot * scale, x_scale, acc), then, where there are minima, fma(minimum, x_scale * sum, acc). With scales of
/// halves, the dot times the scale is (scale0 * dot0 + scale1 * dot1) * d.
///
/// The `FIRST` block of a segment begins with 0, the `LAST` adds the segment's sum to the row's. The sums of a wide tile live
/// in memory: to empty and to add them up in passes of their own ([`close_segment`]) costs as much as half a block.
///
/// The specification adds the integers of halves. Here they are floats, and as exact: |dot| <= 16 * 32 * 127, times 128,
/// twice, is below 2^24.
#[inline(always)]
fn add_block<L: Lanes, W: Format, const T: usize, const FIRST: bool, const LAST: bool>(
    l: L,
    w: &[L::B; 8],
    scales: BlockScales<L>,
    x: &XBlock<T>,
    (acc, total): (&mut [L::F; T], &mut [L::F; T]),
) {
    let zero = l.splat(0.0);
    for t in 0..T {
        let product = match W::SCALES {
            Scales::Halves => {
                let first = l.to_f(dot::<L, W, T>(l, w, x, t, HALVES[0]));
                let second = l.to_f(dot::<L, W, T>(l, w, x, t, HALVES[1]));
                l.mul(l.fma(first, scales.halves[0], l.mul(second, scales.halves[1])), scales.scale)
            }
            _ => l.mul(l.to_f(dot::<L, W, T>(l, w, x, t, WHOLE)), scales.scale),
        };
        let mut sum = l.fma(product, l.splat(float(x[SCALE][t])), if FIRST { zero } else { acc[t] });
        if matches!(W::SCALES, Scales::WithMinimum | Scales::SixBit) {
            sum = l.fma(scales.minimum, l.splat(float(x[SCALED_SUM][t])), sum);
        }
        if LAST {
            total[t] = l.add(total[t], sum);
        } else {
            acc[t] = sum;
        }
    }
}

/// Weights in super-blocks, a scale of the activations per 256 columns: ggml's arithmetic.
struct SuperBlocks<'a, W, const T: usize>(Args<'a>, PhantomData<W>);

impl<W: Format, const T: usize> Task for SuperBlocks<'_, W, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        if too_wide::<L, T>() {
            return;
        }
        let units = self.0.cols / (32 * W::BLOCKS);
        let xs = self.0.x.as_chunks::<T>().0.as_chunks::<WORDS>().0;
        let (mut acc, mut total) = ([l.splat(0.0); T], [l.splat(0.0); T]);
        let mut segments = self.0.segments;
        for (u, x) in xs.chunks_exact(W::BLOCKS).take(units).enumerate() {
            let Some((body, tail)) = unit::<W>(self.0.bytes, u) else {
                return self.0.out.fill([f32::NAN; ROWS]);
            };
            let mut dots = [l.splat_i(0); T];
            let mut sums = [l.splat_i(0); T];
            let (d, dmin) = if W::SCALES == Scales::SixBit {
                let small = six_bit(l, body);
                for s in 0..W::BLOCKS {
                    prefetch_part::<L, W>(l, body, s);
                    let w = W::integers(l, body, s, T == 1);
                    let (scale, minimum) = (l.widen_u8(&small[s]), l.widen_u8(&small[8 + s]));
                    for t in 0..T {
                        let dot = dot::<L, W, T>(l, &w, &x[s], t, WHOLE);
                        dots[t] = l.add_i(dots[t], l.mul_i(dot, scale));
                        let sum = l.splat_i(x[s][NEGATIVE_SUM][t]);
                        sums[t] = l.add_i(sums[t], l.mul_i(sum, minimum));
                    }
                }
                (l.load_f16(at(body, 0)), Some(l.load_f16(at(body, 32))))
            } else {
                for s in 0..W::BLOCKS {
                    prefetch_part::<L, W>(l, body, s);
                    let w = W::integers(l, body, s, T == 1);
                    let scale0 = l.widen_i8(at(body, 32 * s));
                    let scale1 = l.widen_i8(at(body, 32 * s + 16));
                    for t in 0..T {
                        let first = dot::<L, W, T>(l, &w, &x[s], t, HALVES[0]);
                        let second = dot::<L, W, T>(l, &w, &x[s], t, HALVES[1]);
                        let both = l.add_i(l.mul_i(first, scale0), l.mul_i(second, scale1));
                        dots[t] = l.add_i(dots[t], both);
                    }
                }
                (l.load_f16(tail), None)
            };
            for t in 0..T {
                let x_scale = l.splat(float(x[0][SCALE][t]));
                acc[t] = l.fma(l.to_f(dots[t]), l.mul(d, x_scale), acc[t]);
                if let Some(dmin) = dmin {
                    acc[t] = l.fma(l.to_f(sums[t]), l.mul(dmin, x_scale), acc[t]);
                }
            }
            if segments.pass(W::BLOCKS).1 {
                close_segment(l, &mut acc, &mut total);
            }
        }
        finish(l, &total, self.0.out);
    }
}

/// Quantized weights, decoded to float; a partial sum per 32 columns.
struct Decoded<'a, W, const T: usize>(Args<'a>, PhantomData<W>);

impl<W: Format, const T: usize> Task for Decoded<'_, W, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        if too_wide::<L, T>() {
            return;
        }
        let units = self.0.cols / (32 * W::BLOCKS);
        let xs = self.0.x.as_chunks::<T>().0.as_chunks::<32>().0;
        let (mut acc, mut total) = ([l.splat(0.0); T], [l.splat(0.0); T]);
        let mut segments = self.0.segments;
        for (u, x) in xs.chunks_exact(W::BLOCKS).take(units).enumerate() {
            let Some((body, tail)) = unit::<W>(self.0.bytes, u) else {
                return self.0.out.fill([f32::NAN; ROWS]);
            };
            let small = if W::SCALES == Scales::SixBit { six_bit(l, body) } else { [[0; 16]; 16] };
            for s in 0..W::BLOCKS {
                prefetch_part::<L, W>(l, body, s);
                // Scales of both halves of the block, and what is added: `scale * q + minimum`, two roundings.
                let (scales, minimum) = match W::SCALES {
                    Scales::One => ([l.load_f16(tail); 2], None),
                    Scales::WithMinimum => ([l.load_f16(at(body, 0)); 2], Some(l.load_f16(at(body, 32)))),
                    Scales::SixBit => {
                        let d = l.mul(l.load_f16(at(body, 0)), l.to_f(l.widen_u8(&small[s])));
                        let m = l.mul(l.load_f16(at(body, 32)), l.to_f(l.widen_u8(&small[8 + s])));
                        ([d; 2], Some(l.sub(l.splat(0.0), m)))
                    }
                    Scales::Halves => {
                        let d = l.load_f16(tail);
                        let scale0 = l.to_f(l.widen_i8(at(body, 32 * s)));
                        let scale1 = l.to_f(l.widen_i8(at(body, 32 * s + 16)));
                        ([l.mul(d, scale0), l.mul(d, scale1)], None)
                    }
                };
                let offset = match W::OFFSET {
                    Offset::None => 0,
                    Offset::Power(power) => -(1 << power),
                    Offset::Whole => -128,
                };
                let w = W::integers(l, body, s, T == 1);
                let mut partial = [l.splat(0.0); T];
                for g in 0..8 {
                    for i in 0..4 {
                        let q = l.add_i(l.byte(w[g], i as u32), l.splat_i(offset));
                        let mut weight = l.mul(scales[g / 4], l.to_f(q));
                        if let Some(minimum) = minimum {
                            weight = l.add(weight, minimum);
                        }
                        for t in 0..T {
                            let x = l.splat(float(x[s][4 * g + i][t]));
                            partial[t] = l.fma(weight, x, partial[t]);
                        }
                    }
                }
                for t in 0..T {
                    acc[t] = l.add(acc[t], partial[t]);
                }
                if segments.pass(1).1 {
                    close_segment(l, &mut acc, &mut total);
                }
            }
        }
        finish(l, &total, self.0.out);
    }
}

/// A layout of float weights.
trait FloatFormat {
    /// Bytes of 16 values.
    const BYTES: usize;
    /// Value `k` of 16 rows.
    fn load<L: Lanes>(l: L, bytes: &[u8]) -> L::F;
}

struct Single;
impl FloatFormat for Single {
    const BYTES: usize = 64;
    #[inline(always)]
    fn load<L: Lanes>(l: L, bytes: &[u8]) -> L::F {
        l.load_f32(at(bytes, 0))
    }
}

struct Half;
impl FloatFormat for Half {
    const BYTES: usize = 32;
    #[inline(always)]
    fn load<L: Lanes>(l: L, bytes: &[u8]) -> L::F {
        l.load_f16(at(bytes, 0))
    }
}

struct Brain;
impl FloatFormat for Brain {
    const BYTES: usize = 32;
    #[inline(always)]
    fn load<L: Lanes>(l: L, bytes: &[u8]) -> L::F {
        l.load_bf16(at(bytes, 0))
    }
}

/// Float weights and activations; a partial sum per 32 columns, the last of what is left.
struct Floats<'a, W, const T: usize>(Args<'a>, PhantomData<W>);

impl<W: FloatFormat, const T: usize> Task for Floats<'_, W, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        if too_wide::<L, T>() {
            return;
        }
        let xs = self.0.x.as_chunks::<T>().0;
        let (mut acc, mut total) = ([l.splat(0.0); T], [l.splat(0.0); T]);
        let mut segments = self.0.segments;
        let Some(bytes) = self.0.bytes.get(..self.0.cols * W::BYTES) else { return };
        let blocks = self.0.cols / 32;
        for block in 0..blocks {
            let mut partial = [l.splat(0.0); T];
            let (Some(bytes), Some(xs)) = (
                bytes.get(block * 32 * W::BYTES..(block + 1) * 32 * W::BYTES),
                xs.get(block * 32..).and_then(|xs| xs.first_chunk::<32>()),
            ) else {
                return;
            };
            for k in 0..32 {
                if k % (64 / W::BYTES) == 0 {
                    l.prefetch(bytes, PREFETCH + k * W::BYTES);
                }
                let w = W::load(l, &bytes[k * W::BYTES..(k + 1) * W::BYTES]);
                for t in 0..T {
                    partial[t] = l.fma(w, l.splat(float(xs[k][t])), partial[t]);
                }
            }
            for t in 0..T {
                acc[t] = l.add(acc[t], partial[t]);
            }
            if segments.pass(1).1 {
                close_segment(l, &mut acc, &mut total);
            }
        }
        let rest = bytes.chunks_exact(W::BYTES).zip(xs).skip(32 * blocks);
        if !self.0.cols.is_multiple_of(32) {
            let mut partial = [l.splat(0.0); T];
            for (bytes, x) in rest {
                let w = W::load(l, bytes);
                for t in 0..T {
                    partial[t] = l.fma(w, l.splat(float(x[t])), partial[t]);
                }
            }
            for t in 0..T {
                acc[t] = l.add(acc[t], partial[t]);
            }
            if segments.pass(1).1 {
                close_segment(l, &mut acc, &mut total);
            }
        }
        finish(l, &total, self.0.out);
    }
}
