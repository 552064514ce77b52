//! A pass over a plan: each step as phases that all threads run together, with a barrier after each.
//!
//! A phase that multiplies is preceded by one that fills tiles: activations are normalized and quantized once, however
//! many matrices read them. Between two barriers every place of a buffer has one writer and no reader but it, or only
//! readers: that is the safety argument of every `unsafe` block here, and each names its partition.
//!
//! # Few rows
//!
//! A run of up to [`FEW_ROWS`] rows (decoding) spends its time on weights, and what is done to activations is too short
//! to be worth a meeting. So each worker fills tiles of its own, all of them, and goes on to multiply at once: a phase
//! never writes the buffer that its tiles are made of. Where heads are short, a worker computes whole heads of Q, K and
//! V, and norms, turns and stores what it has computed itself. That leaves five barriers a layer of ten.

use super::pool::{Barrier, Pool, PoolError, SharedBuffer, share};
use super::simd::{
    Attention, AttentionScratch, Epilogue, Isa, KvCache, Matrix, Norm, Panels, Product, ROWS, Source, Tile,
    TileKind, Tiles, attend, inverse_rms, multiply, multiply_panels, quantize_tile, shares,
};
use super::slots::check_finite;
use crate::backend::Error;
use crate::plan::{
    Activations, BufferId, Linear, Op, Pairing, Plan, RopeTable, Row, Shape, Step, Weight, WeightId,
    WeightSource,
};
use crate::quant::{self, Cut};
use std::ops::Range;
use std::sync::Arc;

/// Rows of a run whose activations every worker quantizes for itself.
const FEW_ROWS: usize = 4;
/// Bytes of a head's weights up to which a worker takes whole heads: uneven shares then cost less than a barrier.
const HEAD_BYTES: usize = 48 << 10;

/// Weights as the fast path holds them.
pub(super) struct Weights {
    pub(super) list: Vec<Weight>,
    /// Of every matrix that is multiplied.
    pub(super) panels: Vec<Option<Panels>>,
    /// Of every vector; empty for matrices.
    pub(super) vectors: Vec<Vec<f32>>,
    /// For an embedding that is only looked up.
    pub(super) source: Arc<dyn WeightSource + Send + Sync>,
}

impl Weights {
    fn vector(&self, id: WeightId) -> &[f32] {
        self.vectors.get(id.0 as usize).map_or(&[], Vec::as_slice)
    }

    fn decode_row(&self, id: WeightId, row: usize, out: &mut [f32]) {
        match self.panels.get(id.0 as usize) {
            Some(Some(panels)) => panels.decode_row(row, out),
            _ => {
                let tensor_type = self.list[id.0 as usize].tensor_type;
                if quant::decode_row(tensor_type, self.source.row(id, row), out).is_err() {
                    out.fill(f32::NAN);
                }
            }
        }
    }
}

/// A graph's memory.
pub(super) struct Buffers {
    /// The plan's buffers, by id.
    pub(super) activations: Vec<SharedBuffer<f32>>,
    /// Keys and values of a run before they enter the cache, `[rows, num_kv_heads * head_dim]`.
    key: SharedBuffer<f32>,
    value: SharedBuffer<f32>,
    /// Quantized inputs, one per kind and width that the plan's products ask for: a set that all workers share, or,
    /// for few rows, a set for each.
    tiles: Vec<Vec<Tiles>>,
    /// 1 / rms for each of an op's up to three matrices and each row, `[3, rows]`: as many sets.
    factors: Vec<SharedBuffer<f32>>,
    /// How the rows of each matrix are cut, and the activations where their squares are added up; by weight.
    cuts: Vec<(Cut, Cut)>,
    scratch: AttentionScratch,
}

impl Buffers {
    /// Memory for runs of the plan over a cache of `context` positions, by `threads` threads.
    pub(super) fn new(plan: &Plan, context: usize, threads: usize) -> Result<Self, PoolError> {
        let kv_width = plan.shape.num_kv_heads * plan.shape.head_dim;
        let sets = if plan.rows <= FEW_ROWS { threads.max(1) } else { 1 };
        let mut kinds: Vec<(TileKind, usize)> = Vec::new();
        for id in plan
            .steps
            .iter()
            .filter(|step| !matches!(step.op, Op::Embed { .. }))
            .flat_map(|step| step.op.weights())
        {
            let weight = &plan.weights[id.0 as usize];
            let kind = TileKind::of(plan.numerics.activations, weight.tensor_type);
            if !weight.is_vector() && !kinds.contains(&(kind, weight.cols)) {
                kinds.push((kind, weight.cols));
            }
        }
        let mut cuts = vec![(Cut::WHOLE, Cut::WHOLE); plan.weights.len()];
        for op in plan.steps.iter().map(|step| &step.op).filter(|op| !matches!(op, Op::Embed { .. })) {
            for id in op.matrices() {
                if let Some(cuts) = cuts.get_mut(id.0 as usize) {
                    *cuts = (plan.cut(op, id), plan.squares_cut(op, id));
                }
            }
        }
        let factors = (0..sets).map(|_| SharedBuffer::new(plan.rows.saturating_mul(3)));
        let set = |_| kinds.iter().map(|&(kind, cols)| Tiles::new(kind, cols, plan.rows)).collect();
        let activations = plan.buffers.iter().map(|buffer| SharedBuffer::new(buffer.rows * buffer.width));
        Ok(Self {
            activations: activations.collect::<Result<_, _>>()?,
            key: SharedBuffer::new(plan.rows * kv_width)?,
            value: SharedBuffer::new(plan.rows * kv_width)?,
            tiles: (0..sets).map(set).collect::<Result<_, _>>()?,
            factors: factors.collect::<Result<_, _>>()?,
            cuts,
            scratch: AttentionScratch::new(&plan.shape, context, plan.rows, threads)?,
        })
    }
}

/// What the threads of a pass share.
#[derive(Clone, Copy)]
pub(super) struct Pass<'a> {
    pub(super) isa: Isa,
    pub(super) plan: &'a Plan,
    pub(super) weights: &'a Weights,
    pub(super) rope: &'a RopeTable,
    pub(super) kv_cache: &'a KvCache,
    pub(super) buffers: &'a Buffers,
    pub(super) rows: &'a [Row],
    /// The rows that ask for logits.
    pub(super) asked: &'a [usize],
}

/// A thread's place in a pass.
#[derive(Clone, Copy)]
struct Worker<'a> {
    index: usize,
    count: usize,
    barrier: &'a Barrier,
}

/// What becomes of the heads of Q, K and V.
#[derive(Clone, Copy)]
struct Heads {
    layer: usize,
    q_norm: Option<WeightId>,
    k_norm: Option<WeightId>,
}

impl<'a> Pass<'a> {
    /// Runs `steps`; `Sample` is left to the caller.
    pub(super) fn run(&self, pool: &Pool, steps: &[Step]) -> Result<(), PoolError> {
        pool.run(|index, barrier| {
            let worker = Worker { index, count: pool.threads(), barrier };
            for step in steps {
                self.step(step, worker);
            }
        })
    }

    /// Looks for values that are not numbers in what a step has written; no pass may be running.
    pub(super) fn check_finite(&self, step: &Step) -> Result<(), Error> {
        // SAFETY: the pool is at rest, so nobody writes.
        check_finite(self.plan, step, self.rows, |id| unsafe { self.activation(id).slice(0..usize::MAX) })
    }

    fn step(&self, step: &Step, worker: Worker<'_>) {
        let residual = Plan::RESIDUAL;
        match step.op {
            Op::Embed { table } => self.embed(table, worker),
            Op::QkvRope { norm, q, k, v, q_norm, k_norm } => {
                self.fill_tiles(&[q.weight, k.weight, v.weight], residual, Some(norm), None, worker);
                let query = (self.activation(Plan::QUERY), self.width(Plan::QUERY));
                let kv_width = self.kv_width();
                let products = [
                    self.product((q, Some(0)), Epilogue::Store, query, worker),
                    self.product((k, Some(1)), Epilogue::Store, (&self.buffers.key, kv_width), worker),
                    self.product((v, Some(2)), Epilogue::Store, (&self.buffers.value, kv_width), worker),
                ];
                let heads = Heads { layer: step.layer.unwrap_or(0), q_norm, k_norm };
                match products {
                    [Some(q), Some(k), Some(v)] if self.takes_whole_heads(&[q, k, v]) => {
                        self.whole_heads(&[q, k, v], heads, worker);
                    }
                    _ => {
                        self.multiply(&products, self.rows.len(), worker);
                        self.rope_and_append(heads, worker);
                    }
                }
            }
            Op::Attention => self.attention(step.layer.unwrap_or(0), worker),
            Op::AttnOut { output } => self.add_to_residual(output, Plan::ATTENTION, worker),
            Op::Down { down } => self.add_to_residual(down, Plan::GATED, worker),
            Op::GateUp { norm, gate, up } => {
                self.fill_tiles(&[gate.weight, up.weight], residual, Some(norm), None, worker);
                let gated = (self.activation(Plan::GATED), self.width(Plan::GATED));
                let Some(up) = self.matrix((up, Some(1)), worker) else { return };
                let product = self.product((gate, Some(0)), Epilogue::Gate(up), gated, worker);
                self.multiply(&[product], self.rows.len(), worker);
            }
            Op::Head { norm, output } => {
                self.fill_tiles(&[output], residual, Some(norm), Some(self.asked), worker);
                let logits = (self.activation(Plan::LOGITS), self.width(Plan::LOGITS));
                let output = Linear { weight: output, bias: None };
                let product = self.product((output, Some(0)), Epilogue::Store, logits, worker);
                self.multiply(&[product], self.asked.len(), worker);
            }
            Op::Sample => {}
        }
    }

    fn embed(&self, table: WeightId, worker: Worker<'_>) {
        let width = self.width(Plan::RESIDUAL);
        for row in share(self.rows.len(), worker.index, worker.count) {
            // SAFETY: each row is written by the one worker whose share it is; a barrier follows.
            let out = unsafe { self.activation(Plan::RESIDUAL).slice_mut(row * width..(row + 1) * width) };
            self.weights.decode_row(table, self.rows[row].token as usize, out);
        }
        worker.barrier.wait();
    }

    fn add_to_residual(&self, linear: Linear, from: BufferId, worker: Worker<'_>) {
        self.fill_tiles(&[linear.weight], from, None, None, worker);
        let residual = (self.activation(Plan::RESIDUAL), self.width(Plan::RESIDUAL));
        let product = self.product((linear, None), Epilogue::Add, residual, worker);
        self.multiply(&[product], self.rows.len(), worker);
    }

    /// This worker's tiles, and whether they are its own.
    fn tiles(&self, worker: Worker<'_>) -> (&'a [Tiles], bool) {
        match self.buffers.tiles.as_slice() {
            [shared] => (shared, worker.count == 1),
            sets => (sets.get(worker.index).map_or(&[], Vec::as_slice), true),
        }
    }

    /// Weights with a norm and quantizes a buffer's rows into the tiles that `weights` read; computes 1 / rms for each.
    fn fill_tiles(
        &self,
        weights: &[WeightId],
        from: BufferId,
        norm: Option<WeightId>,
        rows: Option<&[usize]>,
        worker: Worker<'_>,
    ) {
        let (width, tokens) = (self.width(from), rows.map_or(self.rows.len(), <[usize]>::len));
        // SAFETY: the buffer was written before the last barrier and is only read in this phase.
        let x = unsafe { self.activation(from).slice(0..self.rows.len() * width) };
        let eps = self.plan.shape.rms_norm_eps;
        let whole = (!self.norms_products()).then_some(eps);
        let norm = norm.map(|id| Norm { weight: self.weights.vector(id), eps: whole });
        let count = Tile::count(self.isa, tokens);
        let (tiles, own) = self.tiles(worker);
        let asked =
            |tiles: &&Tiles| tiles.cols() == width && weights.iter().any(|&id| self.kind(id) == tiles.kind());
        for (index, tiles) in tiles.iter().filter(asked).enumerate() {
            for tile in (0..count).filter(|t| own || (index * count + t) % worker.count == worker.index) {
                let source = Source { x, stride: width, rows };
                let tile = Tile::get(self.isa, tokens, tile);
                // SAFETY: the tiles are this worker's own, or each has one writer, by its number, and a barrier follows
                // before anyone reads it.
                unsafe { quantize_tile(self.isa, tiles, tile, source, norm) };
            }
        }
        if norm.is_some() && self.norms_products() {
            for token in (0..tokens).filter(|token| own || token % worker.count == worker.index) {
                let row = rows.map_or(Some(token), |rows| rows.get(token).copied());
                let x = row.and_then(|row| x.get(row * width..(row + 1) * width)).unwrap_or(&[]);
                let mut last: Option<(Cut, f32)> = None;
                for (index, id) in weights.iter().enumerate().take(3) {
                    let cut = self.buffers.cuts[id.0 as usize].1;
                    let factor = match last {
                        Some((same, factor)) if same == cut => factor,
                        _ => inverse_rms(self.isa, x, cut, eps),
                    };
                    last = Some((cut, factor));
                    let at = index * self.plan.rows + token;
                    // SAFETY: the factors are this worker's own, or each token's have one writer, by its number, and a
                    // barrier follows before anyone reads them.
                    unsafe { self.factors(worker).slice_mut(at..at + 1).fill(factor) };
                }
            }
        }
        if !own {
            worker.barrier.wait();
        }
    }

    /// Whether norms are left to the products that they are in front of.
    fn norms_products(&self) -> bool {
        self.plan.numerics.activations != Activations::Q8K
    }

    /// This worker's factors: its own where its tiles are.
    fn factors(&self, worker: Worker<'_>) -> &'a SharedBuffer<f32> {
        let factors = &self.buffers.factors;
        &factors[worker.index.min(factors.len() - 1)]
    }

    fn multiply(&self, products: &[Option<Product<'_>>], tokens: usize, worker: Worker<'_>) {
        let mut found = [None; 3];
        for (slot, product) in found.iter_mut().zip(products.iter().flatten()) {
            *slot = Some(*product);
        }
        let count = found.iter().flatten().count();
        if let Some(Some(first)) = found.first() {
            let filled = [*first, found[1].unwrap_or(*first), found[2].unwrap_or(*first)];
            // SAFETY: every worker calls this with the same products; the tiles were filled before the last barrier, or
            // by this worker; the products write disjoint buffers, which nobody else touches before the next barrier.
            unsafe { multiply(self.isa, &filled[..count], tokens, worker.index, worker.count) };
        }
        worker.barrier.wait();
    }

    /// Head norms, rotation, and the append to the cache, after a barrier; one item is one head of one row.
    fn rope_and_append(&self, heads: Heads, worker: Worker<'_>) {
        let shape = &self.plan.shape;
        let count = shape.num_heads + 2 * shape.num_kv_heads;
        for item in share(self.rows.len() * count, worker.index, worker.count) {
            // SAFETY: the heads were written before the last barrier, each item is one worker's, and a barrier follows.
            unsafe { self.finish_head(heads, item / count, item % count) };
        }
        worker.barrier.wait();
    }

    /// Whether the run is short, and heads are whole panels and short.
    fn takes_whole_heads(&self, products: &[Product<'_>; 3]) -> bool {
        let head_dim = self.plan.shape.head_dim;
        let short = |p: &Product<'_>| p.matrix.weights.panel_bytes() * (head_dim / ROWS) <= HEAD_BYTES;
        self.rows.len() <= FEW_ROWS && head_dim.is_multiple_of(ROWS) && products.iter().all(short)
    }

    /// Q, K and V of a worker's heads, with all that follows, without a barrier between.
    fn whole_heads(&self, products: &[Product<'_>; 3], heads: Heads, worker: Worker<'_>) {
        let shape = &self.plan.shape;
        let panels = shape.head_dim / ROWS;
        let shares = shares(products, panels, worker.index, worker.count);
        let firsts = [0, shape.num_heads, shape.num_heads + shape.num_kv_heads];
        for ((product, share), first) in products.iter().zip(shares).zip(firsts) {
            // SAFETY: shares are disjoint, and for the rest as in `Self::multiply`.
            unsafe { multiply_panels(self.isa, product, self.rows.len(), share.clone()) };
            let mine: Range<usize> = first + share.start / panels..first + share.end / panels;
            for m in 0..self.rows.len() {
                for head in mine.clone() {
                    // SAFETY: this worker has just written these heads, and they are its own till the barrier below.
                    unsafe { self.finish_head(heads, m, head) };
                }
            }
        }
        worker.barrier.wait();
    }

    /// Norms and turns a head of a row's Q or K; stores it if it is of K or V. Heads count through Q, K and V.
    ///
    /// # Safety
    /// The head is written, and nobody else accesses it, or this row's place for it in the cache, before a barrier.
    unsafe fn finish_head(&self, heads: Heads, m: usize, head: usize) {
        let shape = &self.plan.shape;
        let (query_heads, kv_heads, head_dim) = (shape.num_heads, shape.num_kv_heads, shape.head_dim);
        let row = &self.rows[m];
        let (buffer, width, h, norm) = match head {
            _ if head < query_heads => {
                (self.activation(Plan::QUERY), self.width(Plan::QUERY), head, heads.q_norm)
            }
            _ if head < query_heads + kv_heads => {
                (&self.buffers.key, self.kv_width(), head - query_heads, heads.k_norm)
            }
            _ => (&self.buffers.value, self.kv_width(), head - query_heads - kv_heads, None),
        };
        let at = m * width + h * head_dim;
        // SAFETY: as the caller promises.
        let values = unsafe { buffer.slice_mut(at..at + head_dim) };
        let place = (row.slot as usize, h, row.position as usize);
        if head >= query_heads + kv_heads {
            // SAFETY: rows of a run have places of their own in the cache; else as the caller promises.
            return unsafe { self.kv_cache.store_value(self.isa, heads.layer, place, values) };
        }
        if let Some(norm) = norm {
            head_norm(values, self.weights.vector(norm), shape);
        }
        rotate(values, shape.rope_pairing, self.rope, row.position as usize);
        if head >= query_heads {
            // SAFETY: as above.
            unsafe { self.kv_cache.store_key(self.isa, heads.layer, place, values) };
        }
    }

    fn attention(&self, layer: usize, worker: Worker<'_>) {
        let width = self.width(Plan::QUERY);
        // SAFETY: queries were written before the last barrier and are only read in this phase.
        let query = unsafe { self.activation(Plan::QUERY).slice(0..self.rows.len() * width) };
        let attention = Attention {
            shape: &self.plan.shape,
            cache: self.kv_cache,
            layer,
            rows: self.rows,
            query,
            out: self.activation(Plan::ATTENTION),
            scratch: &self.buffers.scratch,
        };
        // SAFETY: keys and values were stored before the last barrier; the kernel divides the output among the workers,
        // who all call it, and nobody else touches it or the scratch memory before the next barrier.
        unsafe { attend(self.isa, &attention, worker.index, worker.barrier) };
        worker.barrier.wait();
    }

    /// A matrix with what it is multiplied with; where a norm stands in front, its place among the op's matrices.
    fn matrix(&self, (linear, normed): (Linear, Option<usize>), worker: Worker<'_>) -> Option<Matrix<'a>> {
        let weights = self.weights.panels.get(linear.weight.0 as usize)?.as_ref()?;
        let kind = self.kind(linear.weight);
        let x = self.tiles(worker).0.iter().find(|t| (t.kind(), t.cols()) == (kind, weights.cols()))?;
        let factors = normed.filter(|_| self.norms_products()).map(|index| {
            let at = index * self.plan.rows;
            // SAFETY: as for the tiles: they are this worker's own and written, or were written before the last barrier.
            unsafe { self.factors(worker).slice(at..at + self.plan.rows) }
        });
        let cut = self.buffers.cuts[linear.weight.0 as usize].0;
        Some(Matrix { weights, x, cut, factors, bias: linear.bias.map(|bias| self.weights.vector(bias)) })
    }

    fn product(
        &self,
        linear: (Linear, Option<usize>),
        epilogue: Epilogue<'a>,
        (out, stride): (&'a SharedBuffer<f32>, usize),
        worker: Worker<'_>,
    ) -> Option<Product<'a>> {
        Some(Product { matrix: self.matrix(linear, worker)?, epilogue, out, stride, column: 0 })
    }

    fn kind(&self, id: WeightId) -> TileKind {
        TileKind::of(self.plan.numerics.activations, self.plan.weights[id.0 as usize].tensor_type)
    }

    fn activation(&self, id: BufferId) -> &'a SharedBuffer<f32> {
        &self.buffers.activations[id.0 as usize]
    }

    fn width(&self, id: BufferId) -> usize {
        self.plan.buffers[id.0 as usize].width
    }

    fn kv_width(&self) -> usize {
        self.plan.shape.num_kv_heads * self.plan.shape.head_dim
    }
}

/// Norms a head of queries or keys in place, in the order of `twin/rms_norm.rs`.
fn head_norm(head: &mut [f32], weight: &[f32], shape: &Shape) {
    let pairs = shape.rope_dim / 2;
    let mut lanes = [0.0f32; 32];
    for pair in 0..head.len() / 2 {
        let (a, b) = match shape.rope_pairing {
            Pairing::Neox if pair < pairs => (pair, pair + pairs),
            _ => (2 * pair, 2 * pair + 1),
        };
        let (Some(a), Some(b)) = (head.get(a), head.get(b)) else { continue };
        let lane = &mut lanes[pair % 32];
        *lane = b.mul_add(*b, a.mul_add(*a, *lane));
    }
    let mut half = 16;
    while half > 0 {
        for i in 0..half {
            lanes[i] += lanes[i + half];
        }
        half /= 2;
    }
    let scale = 1.0 / (lanes[0] / head.len() as f32 + shape.rms_norm_eps).sqrt();
    for (x, weight) in head.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

/// Rotates the pairs of one head; dimensions past `2 * pairs` stay.
fn rotate(head: &mut [f32], pairing: Pairing, rope: &RopeTable, position: usize) {
    let pairs = rope.pairs;
    let (Some(cos), Some(sin)) = (
        rope.cos.get(position * pairs..(position + 1) * pairs),
        rope.sin.get(position * pairs..(position + 1) * pairs),
    ) else {
        return;
    };
    let turn = |a: &mut f32, b: &mut f32, cos: f32, sin: f32| {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    };
    match pairing {
        Pairing::Norm => {
            for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                let [a, b] = pair;
                turn(a, b, *cos, *sin);
            }
        }
        Pairing::Neox => {
            let Some((first, rest)) = head.split_at_mut_checked(pairs) else { return };
            for (((a, b), cos), sin) in first.iter_mut().zip(rest).zip(cos).zip(sin) {
                turn(a, b, *cos, *sin);
            }
        }
    }
}
