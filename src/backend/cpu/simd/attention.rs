//! Attention over the KV cache: softmax(q k / sqrt(head_dim)) v for each row and head.
//!
//! # Order
//!
//! The positions that a row sees are cut at multiples of 256 into splits, so the cuts do not depend on the batch, the
//! chunk or the threads. Each split gives a part: the largest score m, the sum of the weights e^(score - m), and the
//! values weighted by them. Parts are merged in the order of positions (an online softmax); the last step divides by
//! the sum.
//!
//! - A score is a dot of head_dim products, by fma in the order of RoPE's pairs, then multiplied by 1 / sqrt(head_dim).
//! - In a part, weights are added up 32 positions at a time by halves (16 + 16, 8 + 8, ..., 1 + 1), then the eight sums in
//!   order; values go to [`KvLayout::value_sums`](crate::plan::KvLayout::value_sums) sums in turn, by fma in the order of
//!   positions, which are then added in order.
//!
//! # Speed
//!
//! Queries that share keys and values (the heads of a group, in prefill those of neighbouring rows too) pass over a split
//! together, up to eight at a time. For scores a lane is a position: the cache keeps keys transposed in tiles of 16, each
//! load of a dimension serves all queries, which are broadcast. For values a lane is a dimension. Positions that one
//! query of the eight does not see get the weight 0 there.
//!
//! With many rows a worker takes up to eight neighbouring rows through one split after the other, so that a split's keys
//! and values, which fit the second-level cache, are read from memory once. With few rows the splits themselves are
//! divided among the workers; the parts then go through memory and are merged after a barrier.
//!
//! Tried and lost: a lane per dimension for scores too, with keys as they come and a transposing sum over 16 positions.
//! The sums and the tails of heads that are not multiples of 16 cost more than half the time.

use std::marker::PhantomData;
use std::ops::Range;

use super::cache::{KvCache, SPLIT};
use super::isa::{Isa, Task};
use super::lanes::{Lanes, exp, reduce_add, reduce_max};
use crate::backend::cpu::pool::{Barrier, PoolError, SharedBuffer};
use crate::plan::{KvType, Pairing, Row, Shape};

/// The widest head.
pub const MAX_HEAD_DIM: usize = 512;
/// Queries that pass over keys and values together, at most (half as many where registers are few).
const QUERIES: usize = 8;
/// Rows that a worker takes through a split together, at most.
const ROW_BLOCK: usize = 8;

/// Memory for parts and their sums.
#[derive(Debug)]
pub struct AttentionScratch {
    /// `[row][head][max, sum]`.
    state: SharedBuffer<f32>,
    /// `[row][split][head][max, sum, values]`, for few rows.
    parts: SharedBuffer<f32>,
    /// Rows that `parts` has room for.
    part_rows: usize,
    splits: usize,
}

impl AttentionScratch {
    /// Memory for runs of up to `rows` rows on `workers` threads.
    ///
    /// # Errors
    /// [`PoolError::Memory`] if the system has no room for it.
    pub fn new(shape: &Shape, context: usize, rows: usize, workers: usize) -> Result<Self, PoolError> {
        let splits = context.div_ceil(SPLIT);
        // More rows than this are divided by rows.
        let part_rows = rows.min((4 * workers).div_ceil(shape.num_kv_heads.max(1)));
        let part = shape.num_heads.saturating_mul(shape.head_dim + 2);
        Ok(Self {
            state: SharedBuffer::new(rows.saturating_mul(shape.num_heads).saturating_mul(2))?,
            parts: SharedBuffer::new(part_rows.saturating_mul(splits).saturating_mul(part))?,
            part_rows,
            splits,
        })
    }
}

/// The attention of one layer over the rows of a run.
#[derive(Clone, Copy, Debug)]
pub struct Attention<'a> {
    /// Sizes of the model; heads are at most [`MAX_HEAD_DIM`] wide.
    pub shape: &'a Shape,
    /// Keys and values; those of the rows' own positions are stored already.
    pub cache: &'a KvCache,
    /// The layer.
    pub layer: usize,
    /// The rows.
    pub rows: &'a [Row],
    /// `[rows, num_heads * head_dim]`.
    pub query: &'a [f32],
    /// `[rows, num_heads * head_dim]`.
    pub out: &'a SharedBuffer<f32>,
    /// Memory, made for at least as many rows and as long a context.
    pub scratch: &'a AttentionScratch,
}

/// Computes this worker's share. Where a row's slot or position lies outside of the cache, it and the rows that are
/// computed with it become NaN.
///
/// # Safety
/// All workers of the run call this with the same arguments but `worker`, each with its own; nobody else writes the
/// cache's layer or accesses `out` and the scratch memory between the barriers before and after this call.
pub unsafe fn attend(isa: Isa, attention: &Attention<'_>, worker: usize, barrier: &Barrier) {
    let a = attention;
    let (rows, kv_heads, workers) = (a.rows.len(), a.shape.num_kv_heads, barrier.workers());
    let splits = a.rows.iter().map(|row| a.splits(row).end).max().unwrap_or(0);
    let one_split = a.rows.iter().all(|row| a.splits(row).len() <= 1);
    let few = rows * kv_heads < 4 * workers && rows <= a.scratch.part_rows && splits <= a.scratch.splits;
    if one_split || !few {
        let block = (rows * kv_heads / (4 * workers)).clamp(1, ROW_BLOCK);
        let blocks = rows.div_ceil(block);
        // Later rows see more: dealing blocks out in turn balances them.
        for item in (worker..blocks * kv_heads).step_by(workers) {
            let first = item % blocks * block;
            // SAFETY: the rows and heads of an item belong to one worker.
            unsafe { a.whole_rows(isa, first..(first + block).min(rows), item / blocks) };
        }
        return;
    }
    for item in (worker..rows * kv_heads * splits).step_by(workers) {
        let (row, kv_head, split) = (item / splits / kv_heads, item / splits % kv_heads, item % splits);
        // SAFETY: the part of an item belongs to one worker.
        unsafe { a.one_part(isa, row, kv_head, split) };
    }
    barrier.wait();
    for item in (worker..rows * a.shape.num_heads).step_by(workers) {
        // SAFETY: the parts are written, a barrier lies between; the row's head belongs to one worker.
        unsafe { a.merge_parts(isa, item / a.shape.num_heads, item % a.shape.num_heads) };
    }
}

/// A query: a row and a head, and the positions of the split at hand that it sees.
#[derive(Clone, Copy, Debug, Default)]
struct Query {
    row: usize,
    head: usize,
    start: usize,
    end: usize,
}

/// The parts of up to [`QUERIES`] queries.
struct Parts {
    /// Largest score and sum of weights.
    sums: [[f32; 2]; QUERIES],
    /// Weighted values.
    values: [[f32; MAX_HEAD_DIM]; QUERIES],
}

impl Attention<'_> {
    /// The positions that a row sees.
    fn positions(&self, row: &Row) -> Range<usize> {
        let end = row.position as usize + 1;
        self.shape.sliding_window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// The splits that these positions lie in.
    fn splits(&self, row: &Row) -> Range<usize> {
        let positions = self.positions(row);
        positions.start / SPLIT..positions.end.div_ceil(SPLIT)
    }

    /// Query heads per key and value head.
    fn group(&self) -> usize {
        (self.shape.num_heads / self.shape.num_kv_heads.max(1)).max(1)
    }

    /// The query of a row and head in a split; `None` where it sees nothing of it.
    fn query(&self, row: usize, head: usize, split: usize) -> Option<Query> {
        let seen = self.positions(self.rows.get(row)?);
        let from = split * SPLIT;
        let (start, end) = (seen.start.max(from), seen.end.min(from + SPLIT));
        (start < end).then(|| Query { row, head, start: start - from, end: end - from })
    }

    /// The parts of up to [`QUERIES`] queries of one slot and group.
    ///
    /// # Safety
    /// Nobody writes the cache's layer meanwhile.
    unsafe fn parts(&self, isa: Isa, queries: &[Query], split: usize, parts: &mut Parts) {
        let dim = self.shape.head_dim;
        let context = self.cache.layout().context;
        let inside = |q: &Query| self.rows.get(q.row).is_some_and(|row| (row.position as usize) < context);
        let place = queries.first().filter(|_| queries.iter().all(inside)).and_then(|q| {
            let slot = self.rows.get(q.row)?.slot as usize;
            Some((self.layer, slot, q.head / self.group()))
        });
        // SAFETY: nobody writes the layer meanwhile, as the caller promises.
        let stored = place.and_then(|place| unsafe { self.cache.split(place, split) });
        let fits = self.cache.layout().head_dim == dim && dim <= MAX_HEAD_DIM && queries.len() <= QUERIES;
        let Some((keys, values)) = stored.filter(|_| fits) else {
            parts.sums.fill([f32::NAN; 2]);
            parts.values.as_flattened_mut().fill(f32::NAN);
            return;
        };
        let part = Part {
            dim,
            turned: match self.shape.rope_pairing {
                Pairing::Neox => self.shape.rope_dim / 2,
                Pairing::Norm => 0,
            },
            value_sums: self.cache.layout().value_sums(),
            padded: self.cache.padded_dim(),
            heads: self.shape.num_heads,
            all: self.query,
            queries,
            keys,
            stored: values,
            parts,
        };
        match self.cache.layout().kv_type {
            KvType::F16 => part.run_on::<Half>(isa),
            KvType::F32 => part.run_on::<Single>(isa),
        }
    }

    /// Some rows of one group, from the first split to the last.
    ///
    /// # Safety
    /// Nobody else accesses these rows and heads in `out` and the scratch memory meanwhile.
    unsafe fn whole_rows(&self, isa: Isa, rows: Range<usize>, kv_head: usize) {
        let Some(slice) = self.rows.get(rows.clone()) else { return };
        let mut first = rows.start;
        // Neighbours of the same sequence share keys and values.
        for run in slice.chunk_by(|a, b| a.slot == b.slot) {
            // SAFETY: the caller's obligation is the same.
            unsafe { self.rows_of_one_slot(isa, first..first + run.len(), kv_head) };
            first += run.len();
        }
    }

    /// As [`Self::whole_rows`], for rows of the same slot.
    ///
    /// # Safety
    /// The same.
    unsafe fn rows_of_one_slot(&self, isa: Isa, rows: Range<usize>, kv_head: usize) {
        let (dim, num_heads, group) = (self.shape.head_dim, self.shape.num_heads, self.group());
        let splits = |row: usize| self.rows.get(row).map_or(0..0, |row| self.splits(row));
        let first = rows.clone().map(|row| splits(row).start).min().unwrap_or(0);
        let last = rows.clone().map(|row| splits(row).end).max().unwrap_or(0);
        let mut parts = Parts { sums: [[0.0; 2]; QUERIES], values: [[0.0; MAX_HEAD_DIM]; QUERIES] };
        let mut queries = [Query::default(); QUERIES];
        let at_once = isa.tile() / 2;
        for split in first..last {
            let mut count = 0;
            let all = rows.len() * group;
            for i in 0..all {
                let (row, head) = (rows.start + i / group, kv_head * group + i % group);
                if let Some(query) = self.query(row, head, split) {
                    queries[count] = query;
                    count += 1;
                }
                if count < at_once.min(QUERIES) && i + 1 < all || count == 0 {
                    continue;
                }
                let queries = &queries[..count];
                count = 0;
                // SAFETY: nobody writes the layer meanwhile, as the caller promises.
                unsafe { self.parts(isa, queries, split, &mut parts) };
                for (i, query) in queries.iter().enumerate() {
                    let at = query.row * num_heads + query.head;
                    // SAFETY: these belong to this worker.
                    let (state, out) = unsafe {
                        (
                            self.scratch.state.slice_mut(2 * at..2 * at + 2),
                            self.out.slice_mut(at * dim..(at + 1) * dim),
                        )
                    };
                    let Some(state) = state.first_chunk_mut::<2>() else { continue };
                    let (sums, values) = (parts.sums[i], &parts.values[i][..dim.min(MAX_HEAD_DIM)]);
                    let first = split == splits(query.row).start;
                    isa.run(Merge { first, state, out, sums, values });
                    if split + 1 == splits(query.row).end {
                        isa.run(Divide { sum: state[1], out });
                    }
                }
            }
        }
    }

    /// Values per row and split in the scratch memory.
    const fn part_len(&self) -> usize {
        self.shape.num_heads * (self.shape.head_dim + 2)
    }

    /// Where the part of a head begins.
    const fn part_start(&self, row: usize, split: usize, head: usize) -> usize {
        (row * self.scratch.splits + split) * self.part_len() + head * (self.shape.head_dim + 2)
    }

    /// One split of one group of one row, into the scratch memory.
    ///
    /// # Safety
    /// Nobody else accesses this part meanwhile.
    unsafe fn one_part(&self, isa: Isa, row: usize, kv_head: usize, split: usize) {
        let (dim, group) = (self.shape.head_dim, self.group());
        let mut parts = Parts { sums: [[0.0; 2]; QUERIES], values: [[0.0; MAX_HEAD_DIM]; QUERIES] };
        let at_once = (isa.tile() / 2).min(QUERIES);
        for first in (0..group).step_by(at_once) {
            let mut queries = [Query::default(); QUERIES];
            let mut count = 0;
            for head in first..group.min(first + at_once) {
                if let Some(query) = self.query(row, kv_head * group + head, split) {
                    queries[count] = query;
                    count += 1;
                }
            }
            if count == 0 {
                return;
            }
            // SAFETY: nobody writes the layer meanwhile, as the caller promises.
            unsafe { self.parts(isa, &queries[..count], split, &mut parts) };
            for (i, query) in queries.iter().take(count).enumerate() {
                let start = self.part_start(row, split, query.head);
                // SAFETY: the part belongs to this worker.
                let to = unsafe { self.scratch.parts.slice_mut(start..start + 2 + dim) };
                for (to, from) in to.iter_mut().zip(parts.sums[i].iter().chain(&parts.values[i])) {
                    *to = *from;
                }
            }
        }
    }

    /// Merges the parts of one head of one row.
    ///
    /// # Safety
    /// The parts are not written any more, and nobody else accesses this row and head in `out`.
    unsafe fn merge_parts(&self, isa: Isa, row: usize, head: usize) {
        let dim = self.shape.head_dim;
        let Some(splits) = self.rows.get(row).map(|row| self.splits(row)) else { return };
        let at = (row * self.shape.num_heads + head) * dim;
        // SAFETY: as the caller promises.
        let out = unsafe { self.out.slice_mut(at..at + dim) };
        let mut state = [0.0; 2];
        for split in splits.clone() {
            let start = self.part_start(row, split, head);
            // SAFETY: as the caller promises.
            let part = unsafe { self.scratch.parts.slice(start..start + 2 + dim) };
            let Some((&sums, values)) = part.split_first_chunk::<2>() else { return };
            isa.run(Merge { first: split == splits.start, state: &mut state, out, sums, values });
        }
        isa.run(Divide { sum: state[1], out });
    }
}

/// Adds a part to what the parts before it came to, if there were any.
struct Merge<'a> {
    first: bool,
    state: &'a mut [f32; 2],
    out: &'a mut [f32],
    sums: [f32; 2],
    values: &'a [f32],
}

impl Task for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        if self.first {
            *self.state = self.sums;
            for (out, value) in self.out.iter_mut().zip(self.values) {
                *out = *value;
            }
            return;
        }
        let [old, new] = [self.state[0], self.sums[0]];
        let max = if new > old { new } else { old };
        let mut factors = [0.0; 16];
        factors[0] = old - max;
        factors[1] = new - max;
        l.store(exp(l, l.load(&factors)), &mut factors);
        let [before, after, ..] = factors;
        *self.state = [max, self.sums[1].mul_add(after, self.state[1] * before)];
        for (out, value) in self.out.iter_mut().zip(self.values) {
            *out = value.mul_add(after, *out * before);
        }
    }
}

/// Divides by the sum of the weights.
struct Divide<'a> {
    sum: f32,
    out: &'a mut [f32],
}

impl Task for Divide<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        for out in self.out {
            *out /= self.sum;
        }
    }
}

/// How keys and values are stored.
trait Stored {
    const BYTES: usize;
    /// 16 values, the `index`-th of `bytes`.
    fn load<L: Lanes>(l: L, bytes: &[u8], index: usize) -> L::F;
}

struct Half;
impl Stored for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<L: Lanes>(l: L, bytes: &[u8], index: usize) -> L::F {
        l.load_f16(bytes.as_chunks().0.get(index).unwrap_or(&[0; 32]))
    }
}

struct Single;
impl Stored for Single {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load<L: Lanes>(l: L, bytes: &[u8], index: usize) -> L::F {
        l.load_f32(bytes.as_chunks().0.get(index).unwrap_or(&[0; 64]))
    }
}

/// The parts of some queries over one split.
struct Part<'a> {
    dim: usize,
    /// Pairs of dimensions that lie so far apart; those of the others are neighbours.
    turned: usize,
    value_sums: usize,
    padded: usize,
    heads: usize,
    /// `[row][head][head_dim]`.
    all: &'a [f32],
    queries: &'a [Query],
    /// `[position / 16][head_dim][16]`.
    keys: &'a [u8],
    /// `[position][padded]`.
    stored: &'a [u8],
    parts: &'a mut Parts,
}

impl Part<'_> {
    /// Compiled for 1, 4 or 8 queries.
    fn run_on<S: Stored>(self, isa: Isa) {
        match self.queries.len() {
            1 => isa.run(PartOf::<S, 1>(self, PhantomData)),
            2..=4 => isa.run(PartOf::<S, 4>(self, PhantomData)),
            _ => isa.run(PartOf::<S, QUERIES>(self, PhantomData)),
        }
    }
}

struct PartOf<'a, S, const Q: usize>(Part<'a>, PhantomData<S>);

impl<S: Stored, const Q: usize> Task for PartOf<'_, S, Q> {
    type Output = ();

    /// Takes as many tiles of positions (for scores) and vectors of dimensions (for values) at a time as give enough
    /// independent sums and fit the registers.
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        match (L::WIDE, Q) {
            (true, 1) => self.compute::<L, 8, 8>(l),
            (true, 4) => self.compute::<L, 2, 4>(l),
            (true, _) => self.compute::<L, 2, 2>(l),
            (false, 1) => self.compute::<L, 4, 4>(l),
            (false, _) => self.compute::<L, 1, 1>(l),
        }
    }
}

impl<S: Stored, const Q: usize> PartOf<'_, S, Q> {
    #[inline(always)]
    fn compute<L: Lanes, const P: usize, const C: usize>(self, l: L) {
        let Part { dim, turned, value_sums, padded, heads, all, queries, keys, stored, parts } = self.0;
        let start = queries.iter().map(|q| q.start).min().unwrap_or(0);
        let end = queries.iter().map(|q| q.end).max().unwrap_or(0);

        // The queries, interleaved for broadcasts.
        let mut interleaved = [[0.0f32; Q]; MAX_HEAD_DIM];
        for (i, query) in queries.iter().enumerate().take(Q) {
            let from = all.get((query.row * heads + query.head) * dim..).unwrap_or(&[]);
            for (to, x) in interleaved.iter_mut().zip(from).take(dim) {
                to[i] = *x;
            }
        }
        let interleaved = &interleaved[..dim.min(MAX_HEAD_DIM)];

        let mut weights = [[0.0f32; SPLIT]; Q];
        let scale = l.splat(1.0 / (dim as f32).sqrt());
        let tile_bytes = 16 * dim * S::BYTES;
        let mut tile = start / 16 / P * P;
        while tile * 16 < end {
            let Some(keys) = keys.get(tile * tile_bytes..(tile + P) * tile_bytes) else { break };
            let mut acc = [[l.splat(0.0); P]; Q];
            for pair in 0..dim.div_ceil(2) {
                let two = if pair < turned { [pair, pair + turned] } else { [2 * pair, 2 * pair + 1] };
                for d in two {
                    let Some(query) = interleaved.get(d) else { break };
                    let mut key = [l.splat(0.0); P];
                    for p in 0..P {
                        key[p] = S::load(l, keys, p * dim + d);
                    }
                    for i in 0..Q {
                        let x = l.splat(query[i]);
                        for p in 0..P {
                            acc[i][p] = l.fma(x, key[p], acc[i][p]);
                        }
                    }
                }
            }
            for i in 0..Q {
                for p in 0..P {
                    if let Some(to) = weights[i].as_chunks_mut::<16>().0.get_mut(tile + p) {
                        l.store(l.mul(acc[i][p], scale), to);
                    }
                }
            }
            tile += P;
        }

        for (i, query) in queries.iter().enumerate().take(Q) {
            // Places that the query does not see must not be the maximum, nor weigh anything.
            let seen = query.start / 16..query.end.div_ceil(16);
            weights[i][..query.start].fill(f32::NEG_INFINITY);
            weights[i][query.end..].fill(f32::NEG_INFINITY);
            let tiles = weights[i].as_chunks_mut::<16>().0.get_mut(seen).unwrap_or(&mut []);
            let mut max = l.splat(f32::NEG_INFINITY);
            for tile in tiles.iter() {
                max = l.max(l.load(tile), max);
            }
            let max = reduce_max(l, max);
            for tile in tiles.iter_mut() {
                l.store(exp(l, l.sub(l.load(tile), l.splat(max))), tile);
            }
            weights[i][..query.start].fill(0.0);
            weights[i][query.end..].fill(0.0);
            let mut sum = 0.0;
            let seen = query.start / 32..query.end.div_ceil(32);
            let tiles = weights[i].as_chunks::<16>().0.as_chunks::<2>().0;
            for [low, high] in tiles.get(seen).unwrap_or(&[]) {
                sum += reduce_add(l, l.add(l.load(low), l.load(high)));
            }
            parts.sums[i] = [max, sum];
        }

        let (mut c, chunks) = (0, padded / 16);
        while c < chunks {
            if c + C <= chunks {
                weigh::<L, S, Q, C>(l, (chunks, c), stored, &weights, (start..end, value_sums), parts);
                c += C;
            } else {
                weigh::<L, S, Q, 1>(l, (chunks, c), stored, &weights, (start..end, value_sums), parts);
                c += 1;
            }
        }
    }
}

/// Adds up dimensions `16 c .. 16 (c + C)` of the values of some positions.
#[inline(always)]
fn weigh<L: Lanes, S: Stored, const Q: usize, const C: usize>(
    l: L,
    (chunks, c): (usize, usize),
    stored: &[u8],
    weights: &[[f32; SPLIT]; Q],
    (positions, value_sums): (Range<usize>, usize),
    parts: &mut Parts,
) {
    let end = positions.end.min(SPLIT);
    for i in 0..Q {
        for j in 0..C {
            if let Some(to) = parts.values[i].as_chunks_mut::<16>().0.get_mut(c + j) {
                *to = [0.0; 16];
            }
        }
    }
    let before = positions.start - positions.start % value_sums;
    for sum in 0..value_sums {
        let mut position = before + sum;
        if position < positions.start {
            position += value_sums;
        }
        if position >= end {
            continue;
        }
        let mut acc = [[l.splat(0.0); C]; Q];
        while position < end {
            let mut v = [l.splat(0.0); C];
            for j in 0..C {
                v[j] = S::load(l, stored, position * chunks + c + j);
            }
            for i in 0..Q {
                let weight = l.splat(weights[i][position]);
                for j in 0..C {
                    acc[i][j] = l.fma(weight, v[j], acc[i][j]);
                }
            }
            position += value_sums;
        }
        for i in 0..Q {
            for j in 0..C {
                if let Some(to) = parts.values[i].as_chunks_mut::<16>().0.get_mut(c + j) {
                    l.store(l.add(l.load(to), acc[i][j]), to);
                }
            }
        }
    }
}
