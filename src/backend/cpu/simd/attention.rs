//! Attention over the KV cache: softmax(q k / sqrt(head_dim)) v for each row and head.
//!
//! # Order
//!
//! The positions that a row sees are cut at multiples of 256 into splits, so the cuts do not depend on the batch, the
//! chunk or the threads. Each split gives a part: the largest score m, the sum of e^(score - m), and the values weighted
//! by e^(score - m). Parts are merged in the order of positions (an online softmax); the last step divides by the sum.
//!
//! - A score is a dot of head_dim products: lane i of 16 adds up dimensions i, i + 16, ... by fma, then halves of the
//!   lanes are added; the result is multiplied by 1 / sqrt(head_dim).
//! - Within a part, lane i of 16 adds up the weights of positions i, i + 16, ... counted from the part's first, then
//!   halves are added; values are added up by fma in the order of positions.
//!
//! # Speed
//!
//! Up to four heads of a group that shares keys and values pass over them together, so a key is loaded and widened from
//! f16 once for four dots; 16 positions are reduced at a time, by a transposing sum. With many rows (prefill) a worker
//! takes a few neighbouring rows at a time through one split after the other, so that a split's keys and values, which
//! fit the second-level cache, are read from memory once. With few rows the splits themselves are divided among the
//! workers; the parts then go through memory and are merged after a barrier.

use super::isa::{Isa, Task};
use super::lanes::{Lanes, exp, reduce_add, reduce_max};
use crate::backend::cpu::pool::{Barrier, PoolError, SharedBuffer};
use crate::plan::{KvLayout, KvType, Row, Shape};

/// Positions in a split.
pub const SPLIT: usize = 256;
/// The widest head.
pub const MAX_HEAD_DIM: usize = 1024;
/// Heads that pass over keys and values together, at most.
const HEADS: usize = 4;
/// Rows that a worker takes through a split together, at most.
const ROW_BLOCK: usize = 8;

/// Keys and values of all layers: `[layer][slot][kv_head][position][head_dim]`, keys and values apart.
#[derive(Debug)]
pub struct KvCache {
    layout: KvLayout,
    keys: SharedBuffer<u8>,
    values: SharedBuffer<u8>,
}

impl KvCache {
    /// An empty cache. Memory is taken as positions are filled.
    ///
    /// # Errors
    /// [`PoolError::Memory`] if the system has no room for it.
    pub fn new(layout: KvLayout) -> Result<Self, PoolError> {
        let sizes = [layout.slots, layout.num_kv_heads, layout.context, layout.head_dim];
        let bytes = sizes.into_iter().fold(layout.num_layers, usize::saturating_mul);
        let bytes = bytes.saturating_mul(layout.kv_type.bytes());
        Ok(Self { layout, keys: SharedBuffer::new(bytes)?, values: SharedBuffer::new(bytes)? })
    }

    /// Sizes and type.
    pub const fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Bytes of address space, taken when all positions of all slots are filled.
    pub const fn bytes(&self) -> usize {
        self.keys.len() + self.values.len()
    }

    /// The byte at which a position's vector starts; `None` outside of the cache.
    fn offset(&self, layer: usize, slot: usize, kv_head: usize, position: usize) -> Option<usize> {
        let l = &self.layout;
        let inside =
            layer < l.num_layers && slot < l.slots && kv_head < l.num_kv_heads && position < l.context;
        let head = (layer * l.slots + slot) * l.num_kv_heads + kv_head;
        inside.then(|| (head * l.context + position) * l.head_dim * l.kv_type.bytes())
    }

    /// Stores the key and the value of one position of one head, rounded to the cache's type. A place outside of the
    /// cache is ignored: rows are checked before they run.
    ///
    /// # Safety
    /// Nobody else may access this position of this head meanwhile: each has one writer, a barrier lies before reading.
    pub unsafe fn store(
        &self,
        isa: Isa,
        layer: usize,
        (slot, kv_head, position): (usize, usize, usize),
        key: &[f32],
        value: &[f32],
    ) {
        let Some(start) = self.offset(layer, slot, kv_head, position) else { return };
        let range = start..start + self.layout.head_dim * self.layout.kv_type.bytes();
        // SAFETY: the caller's obligation is the same.
        let (keys, values) = unsafe { (self.keys.slice_mut(range.clone()), self.values.slice_mut(range)) };
        for (from, to) in [(key, keys), (value, values)] {
            match self.layout.kv_type {
                KvType::F16 => isa.run(StoreF16 { from, to }),
                KvType::F32 => {
                    for (from, to) in from.iter().zip(to.as_chunks_mut::<4>().0) {
                        *to = from.to_le_bytes();
                    }
                }
            }
        }
    }
}

impl KvType {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Rounds to half precision.
struct StoreF16<'a> {
    from: &'a [f32],
    to: &'a mut [u8],
}

impl Task for StoreF16<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (from, to) in self.from.chunks(16).zip(self.to.chunks_mut(32)) {
            match (from.first_chunk::<16>(), to.first_chunk_mut::<32>()) {
                (Some(from), Some(to)) => l.store_f16(l.load(from), to),
                _ => {
                    for (from, to) in from.iter().zip(to.as_chunks_mut::<2>().0) {
                        *to = half::f16::from_f32(*from).to_le_bytes();
                    }
                }
            }
        }
    }
}

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
    /// Sizes of the model.
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
    /// Memory, made for at least as many rows.
    pub scratch: &'a AttentionScratch,
}

/// Computes this worker's share. A row whose slot or position lies outside of the cache becomes NaN.
///
/// # Safety
/// All workers of the run call this with the same arguments but `worker`, each with its own; nobody else writes the
/// cache's layer or accesses `out` and the scratch memory between the barriers before and after this call.
pub unsafe fn attend(isa: Isa, attention: &Attention<'_>, worker: usize, barrier: &Barrier) {
    let a = attention;
    let (rows, kv_heads, workers) = (a.rows.len(), a.shape.num_kv_heads, barrier.workers());
    let one_split = a.rows.iter().all(|row| a.splits(row).len() <= 1);
    if one_split || rows * kv_heads >= 4 * workers || rows > a.scratch.part_rows {
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
    let splits = a.rows.iter().map(|row| a.splits(row).end).max().unwrap_or(0);
    for item in (worker..rows * kv_heads * splits).step_by(workers) {
        let (row, kv_head, split) = (item / splits / kv_heads, item / splits % kv_heads, item % splits);
        if a.rows.get(row).is_some_and(|row| a.splits(row).contains(&split)) {
            // SAFETY: the part of an item belongs to one worker.
            unsafe { a.one_part(isa, row, kv_head, split) };
        }
    }
    barrier.wait();
    for item in (worker..rows * a.shape.num_heads).step_by(workers) {
        // SAFETY: the parts are written, a barrier lies between; the row's head belongs to one worker.
        unsafe { a.merge_parts(isa, item / a.shape.num_heads, item % a.shape.num_heads) };
    }
}

impl Attention<'_> {
    /// The positions that a row sees.
    fn positions(&self, row: &Row) -> std::ops::Range<usize> {
        let end = row.position as usize + 1;
        self.shape.sliding_window.map_or(0, |window| end.saturating_sub(window))..end
    }

    /// The splits that these positions lie in.
    fn splits(&self, row: &Row) -> std::ops::Range<usize> {
        let positions = self.positions(row);
        positions.start / SPLIT..positions.end.div_ceil(SPLIT)
    }

    /// Heads of a group, so many at a time: `(first head, heads)`.
    fn heads(&self, kv_head: usize) -> impl Iterator<Item = (usize, usize)> {
        let group = self.shape.num_heads / self.shape.num_kv_heads.max(1);
        let at_once = HEADS.min(MAX_HEAD_DIM / self.shape.head_dim.max(1)).max(1);
        (0..group).step_by(at_once).map(move |h| (kv_head * group + h, at_once.min(group - h)))
    }

    /// One part of some heads of a group: `sums` is `[head][max, sum]`, `values` is `[head][head_dim]`.
    ///
    /// # Safety
    /// Nobody writes the cache's layer meanwhile.
    unsafe fn part(
        &self,
        isa: Isa,
        (row, split): (usize, usize),
        (first, heads): (usize, usize),
        (sums, values): (&mut [[f32; 2]], &mut [f32]),
    ) {
        let dim = self.shape.head_dim;
        let group = (self.shape.num_heads / self.shape.num_kv_heads.max(1)).max(1);
        let run = || {
            let r = self.rows.get(row)?;
            let seen = self.positions(r);
            let range = seen.start.max(split * SPLIT)..seen.end.min((split + 1) * SPLIT);
            let slot = r.slot as usize;
            // Both ends, so that a range that leaves the cache is refused.
            let start = self.cache.offset(self.layer, slot, first / group, range.start)?;
            let last = self.cache.offset(self.layer, slot, first / group, range.end.checked_sub(1)?)?;
            let bytes = start..last + dim * self.cache.layout.kv_type.bytes();
            let query = row * self.shape.num_heads * dim + first * dim;
            // SAFETY: nobody writes these positions meanwhile, as the caller promises.
            let (keys, stored) =
                unsafe { (self.cache.keys.slice(bytes.clone()), self.cache.values.slice(bytes)) };
            Some((self.query.get(query..query + heads * dim)?, keys, stored))
        };
        let Some((query, keys, stored)) = run().filter(|_| dim <= MAX_HEAD_DIM) else {
            sums.fill([f32::NAN; 2]);
            values.fill(f32::NAN);
            return;
        };
        let part = Part { dim, query, keys, stored, sums, values };
        match self.cache.layout.kv_type {
            KvType::F16 => part.run_on::<Half>(isa, heads),
            KvType::F32 => part.run_on::<Single>(isa, heads),
        }
    }

    /// Some rows of one group, from the first split to the last.
    ///
    /// # Safety
    /// Nobody else accesses these rows and heads in `out` and the scratch memory meanwhile.
    unsafe fn whole_rows(&self, isa: Isa, rows: std::ops::Range<usize>, kv_head: usize) {
        let (dim, num_heads) = (self.shape.head_dim, self.shape.num_heads);
        let splits = |row: usize| self.rows.get(row).map_or(0..0, |row| self.splits(row));
        let first = rows.clone().map(|row| splits(row).start).min().unwrap_or(0);
        let last = rows.clone().map(|row| splits(row).end).max().unwrap_or(0);
        let mut values = [0.0; MAX_HEAD_DIM];
        for split in first..last {
            for row in rows.clone().filter(|&row| splits(row).contains(&split)) {
                for (head, heads) in self.heads(kv_head) {
                    let at = row * num_heads + head;
                    // SAFETY: these belong to this worker.
                    let (state, out) = unsafe {
                        (
                            self.scratch.state.slice_mut(2 * at..2 * (at + heads)),
                            self.out.slice_mut(at * dim..(at + heads) * dim),
                        )
                    };
                    let state = state.as_chunks_mut::<2>().0;
                    if split == splits(row).start {
                        // SAFETY: as the caller promises.
                        unsafe { self.part(isa, (row, split), (head, heads), (state, out)) };
                    } else {
                        let mut sums = [[0.0; 2]; HEADS];
                        let sums = &mut sums[..heads];
                        let values = values.get_mut(..heads * dim).unwrap_or(&mut []);
                        // SAFETY: as the caller promises.
                        unsafe { self.part(isa, (row, split), (head, heads), (sums, values)) };
                        let each = values.chunks(dim).zip(out.chunks_mut(dim)).zip(sums).zip(&mut *state);
                        for (((values, out), sums), state) in each {
                            isa.run(Merge { state, out, sums: *sums, values });
                        }
                    }
                    if split + 1 == splits(row).end {
                        for (state, out) in state.iter().zip(out.chunks_mut(dim)) {
                            isa.run(Divide { sum: state[1], out });
                        }
                    }
                }
            }
        }
    }

    /// Values per row and split in `parts`.
    const fn part_len(&self) -> usize {
        self.shape.num_heads * (self.shape.head_dim + 2)
    }

    /// One split of one group of one row, into the scratch memory.
    ///
    /// # Safety
    /// Nobody else accesses this part meanwhile.
    unsafe fn one_part(&self, isa: Isa, row: usize, kv_head: usize, split: usize) {
        let (dim, num_heads) = (self.shape.head_dim, self.shape.num_heads);
        let base = (row * self.scratch.splits + split) * self.part_len();
        for (head, heads) in self.heads(kv_head) {
            let sums = base + 2 * head;
            let values = base + 2 * num_heads + head * dim;
            // SAFETY: these belong to this worker.
            let (sums, values) = unsafe {
                (
                    self.scratch.parts.slice_mut(sums..sums + 2 * heads),
                    self.scratch.parts.slice_mut(values..values + heads * dim),
                )
            };
            // SAFETY: as the caller promises.
            unsafe { self.part(isa, (row, split), (head, heads), (sums.as_chunks_mut().0, values)) };
        }
    }

    /// Merges the parts of one head of one row.
    ///
    /// # Safety
    /// The parts are not written any more, and nobody else accesses this row and head in `out`.
    unsafe fn merge_parts(&self, isa: Isa, row: usize, head: usize) {
        let (dim, num_heads) = (self.shape.head_dim, self.shape.num_heads);
        let Some(splits) = self.rows.get(row).map(|row| self.splits(row)) else { return };
        let at = (row * num_heads + head) * dim;
        // SAFETY: as the caller promises.
        let out = unsafe { self.out.slice_mut(at..at + dim) };
        let mut state = [0.0; 2];
        for split in splits.clone() {
            let base = (row * self.scratch.splits + split) * self.part_len();
            let values = base + 2 * num_heads + head * dim;
            // SAFETY: as the caller promises.
            let (sums, values) = unsafe {
                (
                    self.scratch.parts.slice(base + 2 * head..base + 2 * head + 2),
                    self.scratch.parts.slice(values..values + dim),
                )
            };
            let sums = sums.first_chunk::<2>().copied().unwrap_or([f32::NAN; 2]);
            if split == splits.start {
                state = sums;
                for (out, value) in out.iter_mut().zip(values) {
                    *out = *value;
                }
            } else {
                isa.run(Merge { state: &mut state, out, sums, values });
            }
        }
        isa.run(Divide { sum: state[1], out });
    }
}

/// Adds a part to what the parts before it came to.
struct Merge<'a> {
    state: &'a mut [f32; 2],
    out: &'a mut [f32],
    sums: [f32; 2],
    values: &'a [f32],
}

impl Task for Merge<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let [old, new] = [self.state[0], self.sums[0]];
        let max = if new > old { new } else { old };
        let mut factors = [0.0; 16];
        let mut exponents = [0.0; 16];
        exponents[0] = old - max;
        exponents[1] = new - max;
        l.store(exp(l, l.load(&exponents)), &mut factors);
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
    /// 16 values from the start of `bytes`.
    fn load<L: Lanes>(l: L, bytes: &[u8]) -> L::F;
    /// One value from the start of `bytes`.
    fn one(bytes: &[u8]) -> f32;
}

struct Half;
impl Stored for Half {
    const BYTES: usize = 2;
    #[inline(always)]
    fn load<L: Lanes>(l: L, bytes: &[u8]) -> L::F {
        l.load_f16(bytes.first_chunk().unwrap_or(&[0; 32]))
    }
    #[inline(always)]
    fn one(bytes: &[u8]) -> f32 {
        half::f16::from_le_bytes(*bytes.first_chunk().unwrap_or(&[0; 2])).to_f32()
    }
}

struct Single;
impl Stored for Single {
    const BYTES: usize = 4;
    #[inline(always)]
    fn load<L: Lanes>(l: L, bytes: &[u8]) -> L::F {
        let mut x = [0.0; 16];
        for (x, bytes) in x.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *x = f32::from_le_bytes(*bytes);
        }
        l.load(&x)
    }
    #[inline(always)]
    fn one(bytes: &[u8]) -> f32 {
        f32::from_le_bytes(*bytes.first_chunk().unwrap_or(&[0; 4]))
    }
}

/// Dimensions `16 c ..` of a stored vector; zeros beyond its end.
#[inline(always)]
fn chunk<L: Lanes, S: Stored>(l: L, vector: &[u8], c: usize) -> L::F {
    let rest = vector.get(16 * c * S::BYTES..).unwrap_or(&[]);
    if rest.len() >= 16 * S::BYTES {
        return S::load(l, rest);
    }
    let mut x = [0.0; 16];
    for (x, bytes) in x.iter_mut().zip(rest.chunks_exact(S::BYTES)) {
        *x = S::one(bytes);
    }
    l.load(&x)
}

/// One part: what it reads and writes.
struct Part<'a> {
    dim: usize,
    /// `[head][head_dim]`.
    query: &'a [f32],
    /// `[position][head_dim]`.
    keys: &'a [u8],
    /// `[position][head_dim]`.
    stored: &'a [u8],
    sums: &'a mut [[f32; 2]],
    values: &'a mut [f32],
}

impl Part<'_> {
    /// Compiled for the number of heads.
    fn run_on<S: Stored>(self, isa: Isa, heads: usize) {
        match heads {
            1 => isa.run(PartOf::<S, 1>(self, std::marker::PhantomData)),
            2 => isa.run(PartOf::<S, 2>(self, std::marker::PhantomData)),
            3 => isa.run(PartOf::<S, 3>(self, std::marker::PhantomData)),
            _ => isa.run(PartOf::<S, HEADS>(self, std::marker::PhantomData)),
        }
    }
}

struct PartOf<'a, S, const H: usize>(Part<'a>, std::marker::PhantomData<S>);

impl<S: Stored, const H: usize> Task for PartOf<'_, S, H> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Part { dim, query, keys, stored, sums, values } = self.0;
        let bytes = dim * S::BYTES;
        let count = (keys.len() / bytes.max(1)).min(SPLIT);
        let chunks = dim.div_ceil(16);

        // The queries in whole chunks.
        let mut q = [[0.0f32; 16]; MAX_HEAD_DIM / 16 + HEADS];
        for (head, query) in query.chunks(dim).enumerate().take(H) {
            for (c, query) in query.chunks(16).enumerate() {
                q[head * chunks + c][..query.len()].copy_from_slice(query);
            }
        }

        let mut weights = [[0.0f32; SPLIT]; H];
        let scale = l.splat(1.0 / (dim as f32).sqrt());
        for start in (0..count).step_by(16) {
            let mut lanes = [[l.splat(0.0); 16]; H];
            for (i, key) in keys.chunks_exact(bytes).skip(start).take(16).enumerate() {
                let mut acc = [l.splat(0.0); H];
                for c in 0..chunks {
                    let key = chunk::<L, S>(l, key, c);
                    for h in 0..H {
                        acc[h] = l.fma(l.load(&q[h * chunks + c]), key, acc[h]);
                    }
                }
                for h in 0..H {
                    lanes[h][i] = acc[h];
                }
            }
            for h in 0..H {
                if let Some(to) = weights[h].get_mut(start..).and_then(|w| w.first_chunk_mut()) {
                    l.store(l.mul(l.sum_each(&lanes[h]), scale), to);
                }
            }
        }

        for h in 0..H {
            // Places beyond the last position must not be the maximum, nor weigh anything.
            weights[h][count..].fill(f32::NEG_INFINITY);
            let (tiles, _) = weights[h].as_chunks_mut::<16>();
            let mut max = l.splat(f32::NEG_INFINITY);
            for tile in tiles.iter().take(count.div_ceil(16)) {
                max = l.max(l.load(tile), max);
            }
            let max = reduce_max(l, max);
            for tile in tiles.iter_mut().take(count.div_ceil(16)) {
                l.store(exp(l, l.sub(l.load(tile), l.splat(max))), tile);
            }
            weights[h][count..].fill(0.0);
            let mut sum = l.splat(0.0);
            for tile in weights[h].as_chunks::<16>().0.iter().take(count.div_ceil(16)) {
                sum = l.add(sum, l.load(tile));
            }
            if let Some(to) = sums.get_mut(h) {
                *to = [max, reduce_add(l, sum)];
            }
        }

        let mut c = 0;
        while c < chunks {
            if c + 4 <= chunks {
                weigh::<L, S, H, 4>(l, (dim, c), stored, &weights, count, values);
                c += 4;
            } else {
                weigh::<L, S, H, 1>(l, (dim, c), stored, &weights, count, values);
                c += 1;
            }
        }
    }
}

/// Adds up dimensions `16 c .. 16 (c + C)` of the values of all positions.
#[inline(always)]
fn weigh<L: Lanes, S: Stored, const H: usize, const C: usize>(
    l: L,
    (dim, c): (usize, usize),
    stored: &[u8],
    weights: &[[f32; SPLIT]; H],
    count: usize,
    values: &mut [f32],
) {
    let mut acc = [[l.splat(0.0); C]; H];
    for (i, vector) in stored.chunks_exact(dim * S::BYTES).enumerate().take(count) {
        let mut v = [l.splat(0.0); C];
        for j in 0..C {
            v[j] = chunk::<L, S>(l, vector, c + j);
        }
        for h in 0..H {
            let weight = l.splat(weights[h][i]);
            for j in 0..C {
                acc[h][j] = l.fma(weight, v[j], acc[h][j]);
            }
        }
    }
    for (acc, values) in acc.iter().zip(values.chunks_mut(dim)) {
        for (acc, values) in acc.iter().zip(values.chunks_mut(16).skip(c)) {
            let mut x = [0.0; 16];
            l.store(*acc, &mut x);
            for (to, x) in values.iter_mut().zip(x) {
                *to = x;
            }
        }
    }
}
