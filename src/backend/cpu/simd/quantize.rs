//! The norm's weights and the quantization of activations, fused: a row is read and written once, as a tile.
//!
//! RMSNorm is `y = x * weight / rms`. In front of a product `x * weight` is quantized, and the product multiplied by 1 /
//! rms ([`inverse_rms`]); for `q8_k` the row is normed before. The orders of both sums of squares are those of
//! `twin/rms_norm.rs`.

use super::isa::{Isa, Task};
use super::lanes::{Lanes, reduce_add};
use super::tile::{NEGATIVE_HALVES, NEGATIVE_SUM, SCALE, SCALED_SUM, Tile, TileKind, Tiles, WORDS};
use crate::quant::{BlockQ8_0, Cut, SegmentSum, q8, q8_k};

/// A norm.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a> {
    /// One factor per column.
    pub weight: &'a [f32],
    /// Added to the mean of squares, where the row is divided by its rms; `None`: that is left to the products.
    pub eps: Option<f32>,
}

/// Where the activations of a run come from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Rows of at least as many values as the tiles have columns.
    pub x: &'a [f32],
    /// Values from one row to the next.
    pub stride: usize,
    /// The row of each token; `None`: token i is row i.
    pub rows: Option<&'a [usize]>,
}

impl<'a> Source<'a> {
    /// The row of a token; empty where there is none.
    fn row(&self, token: usize, cols: usize) -> &'a [f32] {
        let row = match self.rows {
            Some(rows) => rows.get(token).copied(),
            None => Some(token),
        };
        let start = row.and_then(|row| row.checked_mul(self.stride));
        start.and_then(|start| self.x.get(start..start.checked_add(cols)?)).unwrap_or(&[])
    }
}

/// Normalizes and quantizes the tokens of one tile.
///
/// A token whose row is missing in the source becomes zeros, as the padding does.
///
/// # Safety
/// No other worker may access the tile meanwhile: each tile has one writer, and a barrier before anyone reads it.
pub unsafe fn quantize_tile(isa: Isa, tiles: &Tiles, tile: Tile, source: Source<'_>, norm: Option<Norm<'_>>) {
    // SAFETY: the caller's obligation is the same.
    let words = unsafe { tiles.write(tile) };
    let (kind, cols) = (tiles.kind(), tiles.cols());
    match tile.width {
        1 => isa.run(Quantize::<1> { kind, cols, tile, source, norm, words }),
        4 => isa.run(Quantize::<4> { kind, cols, tile, source, norm, words }),
        8 => isa.run(Quantize::<8> { kind, cols, tile, source, norm, words }),
        _ => isa.run(Quantize::<16> { kind, cols, tile, source, norm, words }),
    }
}

/// 1 / sqrt(mean(x^2) + eps) for products whose columns are cut like this.
pub fn inverse_rms(isa: Isa, x: &[f32], cut: Cut, eps: f32) -> f32 {
    isa.run(InverseRms { x, cut, eps })
}

struct InverseRms<'a> {
    x: &'a [f32],
    cut: Cut,
    eps: f32,
}

impl Task for InverseRms<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f32 {
        let mut sum = SegmentSum::new(self.cut, self.x.len());
        for x in self.x.chunks(32) {
            let mut block = [0.0; 32];
            for (to, x) in block.iter_mut().zip(x) {
                *to = *x;
            }
            let [low, high] = block.as_chunks::<16>().0 else { break };
            let (low, high) = (l.load(low), l.load(high));
            let squares = reduce_add(l, l.add(l.mul(low, low), l.mul(high, high)));
            sum.add(1, |part| part + squares);
        }
        1.0 / (sum.total() / self.x.len() as f32 + self.eps).sqrt()
    }
}

/// The same for a whole row that is normed before it is quantized.
#[inline(always)]
fn inverse_rms_of_row<L: Lanes>(l: L, x: &[f32], eps: f32) -> f32 {
    let mut lanes = [l.splat(0.0); 16];
    for x in x.chunks(256) {
        let mut padded = [0.0; 256];
        for (to, x) in padded.iter_mut().zip(x) {
            *to = *x;
        }
        for (lanes, x) in lanes.iter_mut().zip(padded.as_chunks::<16>().0) {
            let x = l.load(x);
            *lanes = l.fma(x, x, *lanes);
        }
    }
    let mut sum = 0.0;
    for [low, high] in lanes.as_chunks::<2>().0 {
        sum += reduce_add(l, l.add(*low, *high));
    }
    1.0 / (sum / x.len() as f32 + eps).sqrt()
}

struct Quantize<'a, const T: usize> {
    kind: TileKind,
    cols: usize,
    tile: Tile,
    source: Source<'a>,
    norm: Option<Norm<'a>>,
    words: &'a mut [i32],
}

impl<const T: usize> Task for Quantize<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let rows = self.words.as_chunks_mut::<T>().0;
        for t in 0..T {
            let x = if t < self.tile.tokens { self.source.row(self.tile.first + t, self.cols) } else { &[] };
            if x.is_empty() {
                for row in rows.iter_mut() {
                    row[t] = 0;
                }
                continue;
            }
            let factor = match self.norm {
                Some(Norm { weight, eps: Some(eps) }) => Some((inverse_rms_of_row(l, x, eps), weight)),
                Some(Norm { weight, eps: None }) => Some((1.0, weight)),
                None => None,
            };
            match self.kind {
                TileKind::F32 => {
                    for (i, (x, row)) in x.iter().zip(rows.iter_mut()).enumerate() {
                        row[t] = normalized(*x, i, factor).to_bits().cast_signed();
                    }
                }
                TileKind::Q8 => {
                    let blocks = rows.as_chunks_mut::<WORDS>().0.iter_mut().zip(x.as_chunks::<32>().0);
                    for (i, (block, x)) in blocks.enumerate() {
                        quantize_block(l, x, 32 * i, factor, block, t);
                    }
                }
                TileKind::Q8_0 => {
                    let blocks = rows.as_chunks_mut::<WORDS>().0.iter_mut().zip(x.as_chunks::<32>().0);
                    for (i, (block, x)) in blocks.enumerate() {
                        let mut y = *x;
                        for (j, y) in y.iter_mut().enumerate() {
                            *y = normalized(*y, 32 * i + j, factor);
                        }
                        let q8_0 = BlockQ8_0::encode(&y);
                        write_block(block, t, q8_0.d.to_f32(), words(&q8_0.qs));
                    }
                }
                TileKind::Q8K => {
                    let blocks = rows.as_chunks_mut::<WORDS>().0.as_chunks_mut::<8>().0;
                    for (i, (blocks, x)) in blocks.iter_mut().zip(x.as_chunks::<256>().0).enumerate() {
                        let mut y = *x;
                        for (j, y) in y.iter_mut().enumerate() {
                            *y = normalized(*y, 256 * i + j, factor);
                        }
                        let (scale, q) = q8_k::quantize_block(&y);
                        for (block, q) in blocks.iter_mut().zip(q.as_chunks::<32>().0) {
                            write_block(block, t, scale, words(q));
                        }
                    }
                }
            }
        }
    }
}

/// One value after RMSNorm.
#[inline(always)]
fn normalized(x: f32, column: usize, factor: Option<(f32, &[f32])>) -> f32 {
    match factor {
        Some((r, weight)) => (x * r) * weight.get(column).copied().unwrap_or(f32::NAN),
        None => x,
    }
}

/// Writes a quantized block of one token into its tile. The 32 integers come as eight bytes per word, little-endian:
/// words that were just stored as vectors can be loaded so, narrower or wider loads would wait for the stores.
#[inline(always)]
fn write_block<const T: usize>(block: &mut [[i32; T]; WORDS], t: usize, scale: f32, q: [u64; 4]) {
    for i in 0..4 {
        block[2 * i][t] = (q[i] as u32).cast_signed();
        block[2 * i + 1][t] = ((q[i] >> 32) as u32).cast_signed();
    }
    let halves = [sum_of_bytes(q[0]) + sum_of_bytes(q[1]), sum_of_bytes(q[2]) + sum_of_bytes(q[3])];
    for (half, row) in halves.iter().zip(NEGATIVE_HALVES) {
        block[row][t] = -half;
    }
    let sum = halves[0] + halves[1];
    block[NEGATIVE_SUM][t] = -sum;
    block[SCALE][t] = scale.to_bits().cast_signed();
    block[SCALED_SUM][t] = (scale * sum as f32).to_bits().cast_signed();
}

/// The sum of eight signed bytes: 128 is added to each, they are added in pairs, and a multiplication adds the pairs.
#[inline(always)]
const fn sum_of_bytes(q: u64) -> i32 {
    const PAIRS: u64 = 0x00ff_00ff_00ff_00ff;
    let q = q ^ 0x8080_8080_8080_8080;
    let pairs = (q & PAIRS) + ((q >> 8) & PAIRS);
    (pairs.wrapping_mul(0x0001_0001_0001_0001) >> 48) as i32 - 8 * 128
}

/// 32 integers as words.
#[inline(always)]
fn words(q: &[i8; 32]) -> [u64; 4] {
    let mut out = [0; 4];
    for (out, q) in out.iter_mut().zip(q.as_chunks::<8>().0) {
        *out = u64::from_le_bytes(q.map(i8::cast_unsigned));
    }
    out
}

/// Quantizes 32 values of one token as `quant::q8::quantize_block` does.
#[inline(always)]
fn quantize_block<L: Lanes, const T: usize>(
    l: L,
    x: &[f32; 32],
    column: usize,
    factor: Option<(f32, &[f32])>,
    block: &mut [[i32; T]; WORDS],
    t: usize,
) {
    let mut y = [l.splat(0.0); 2];
    for (i, x) in x.as_chunks::<16>().0.iter().enumerate() {
        y[i] = l.load(x);
        if let Some((r, weight)) = factor {
            let weight = weight.get(column + 16 * i..).and_then(|w| w.first_chunk::<16>());
            y[i] = l.mul(l.mul(y[i], l.splat(r)), l.load(weight.unwrap_or(&[f32::NAN; 16])));
        }
    }
    // As integers, the bits of floats without a sign are ordered like the floats, and NaN comes last.
    let bits = [l.and_i(l.bits(y[0]), i32::MAX), l.and_i(l.bits(y[1]), i32::MAX)];
    let max = l.reduce_max_i(l.max_i(bits[0], bits[1]));
    let max = f32::from_bits(max.cast_unsigned());
    let scale = if max < q8::SMALLEST_MAXIMUM { 0.0 } else { max / 127.0 };
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut q = [[0u8; 16]; 2];
    for i in 0..2 {
        l.store_low_bytes(l.to_i(l.mul(y[i], l.splat(inverse))), &mut q[i]);
    }
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(q.as_flattened().as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    write_block(block, t, scale, words);
}
