//! A phase: the rows of one or several matrices, divided among the workers, and what happens to each result.
//!
//! Panels of all matrices are laid end to end and cut into one contiguous share per worker, by bytes, so that a phase
//! over matrices of several types (Q, K and V) is balanced and each worker reads memory from one place onwards.
//!
//! Long runs are cut into groups of tiles whose activations stay in the second-level cache: a panel, which fits the
//! first level, meets all tiles of a group before the next panel is read. Weights are then read once per group.

use std::ops::Range;

use super::dot::{Segments, dot_panel};
use super::isa::{Isa, Task};
use super::lanes::{Lanes, silu};
use super::panel::{Panels, ROWS};
use super::tile::{MAX_TILE, Tile, TileKind, Tiles};
use crate::backend::cpu::pool::SharedBuffer;
use crate::quant::Cut;

/// Bytes of activations that a group of tiles may have: they share a 1 MiB second-level cache with a panel.
const GROUP_BYTES: usize = 384 << 10;

/// A matrix with what it is multiplied with.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The weights.
    pub weights: &'a Panels,
    /// The activations; of as many columns as the weights.
    pub x: &'a Tiles,
    /// How its rows are cut into segments.
    pub cut: Cut,
    /// What the results of each token are multiplied by: 1 / rms, where the activations are weighted, but not normed.
    pub factors: Option<&'a [f32]>,
    /// One value per row, added afterwards.
    pub bias: Option<&'a [f32]>,
}

/// What becomes of a result.
#[derive(Clone, Copy, Debug)]
pub enum Epilogue<'a> {
    /// It is written.
    Store,
    /// It is added to what is there.
    Add,
    /// It is a gate: SiLU(result) times the result of this matrix, of the same rows, is written.
    Gate(Matrix<'a>),
}

/// One matrix of a phase.
#[derive(Clone, Copy, Debug)]
pub struct Product<'a> {
    /// What is multiplied.
    pub matrix: Matrix<'a>,
    /// What becomes of the result.
    pub epilogue: Epilogue<'a>,
    /// Token t's result for row r goes to `t * stride + column + r`.
    pub out: &'a SharedBuffer<f32>,
    /// Values from one token to the next.
    pub stride: usize,
    /// Where row 0 goes.
    pub column: usize,
}

impl Matrix<'_> {
    fn segments(&self) -> Segments {
        Segments::new(self.cut, self.weights.cols())
    }
}

impl Product<'_> {
    /// Bytes of weights for one panel of results.
    fn panel_bytes(&self) -> usize {
        let up = match self.epilogue {
            Epilogue::Gate(up) => up.weights.panel_bytes(),
            Epilogue::Store | Epilogue::Add => 0,
        };
        self.matrix.weights.panel_bytes() + up
    }
}

/// Computes this worker's share of the products for a run of `tokens`.
///
/// Results do not depend on the number of workers, nor on which tokens run together.
///
/// # Safety
/// All workers of the run call this with the same arguments but `worker`, each with its own `worker < workers` (and, it
/// may be, with tiles of its own that hold the same); the tiles are filled, and if by others, a barrier lies between that
/// and this call; nobody else accesses the places of `out` that belong to the products (all rows, all tokens) before the
/// next barrier; no two products share places.
pub unsafe fn multiply(isa: Isa, products: &[Product<'_>], tokens: usize, worker: usize, workers: usize) {
    for (product, panels) in products.iter().zip(shares(products, 1, worker, workers)) {
        // SAFETY: the caller's obligation is the same, and the shares of workers are disjoint.
        unsafe { multiply_panels(isa, product, tokens, panels) };
    }
}

/// A worker's panels of each product, in multiples of `together` panels: contiguous, disjoint from the other workers'
/// and with them complete.
pub fn shares(
    products: &[Product<'_>],
    together: usize,
    worker: usize,
    workers: usize,
) -> impl Iterator<Item = Range<usize>> {
    let total: usize = products.iter().map(|p| p.panel_bytes() * p.matrix.weights.panels()).sum();
    let cut = move |worker: usize| (total as u128 * worker as u128 / workers.max(1) as u128) as usize;
    let (start, end) = (cut(worker), cut(worker + 1));
    let mut base = 0;
    products.iter().map(move |product| {
        let (bytes, panels) = (product.panel_bytes(), product.matrix.weights.panels());
        // What goes together belongs to the worker in whose share it starts.
        let index = |at: usize| {
            let granules = at.saturating_sub(base).div_ceil((bytes * together).max(1));
            granules.saturating_mul(together).min(panels)
        };
        let range = index(start)..index(end);
        base += bytes * panels;
        range
    })
}

/// Computes some panels of one product.
///
/// # Safety
/// As for [`multiply`]; the panels are this worker's alone.
pub unsafe fn multiply_panels(isa: Isa, product: &Product<'_>, tokens: usize, panels: Range<usize>) {
    let tiles = Tile::count(isa, tokens);
    let x = product.matrix.x;
    let segments = product.matrix.segments();
    let up_segments = match &product.epilogue {
        Epilogue::Gate(up) => up.segments(),
        Epilogue::Store | Epilogue::Add => segments,
    };
    let tile_bytes = x.kind().words(x.cols()).saturating_mul(4 * isa.tile()).max(1);
    let group = (GROUP_BYTES / tile_bytes).max(1);
    let mut sums = [[0.0; ROWS]; MAX_TILE];
    let mut up_sums = [[0.0; ROWS]; MAX_TILE];
    for start in (0..tiles).step_by(group) {
        for panel in panels.clone() {
            for index in start..(start + group).min(tiles) {
                let tile = Tile::get(isa, tokens, index);
                // SAFETY: the tiles are not written during this phase.
                unsafe { dot_tile(isa, (&product.matrix, segments), panel, tile, &mut sums) };
                if let Epilogue::Gate(up) = &product.epilogue {
                    // SAFETY: as above.
                    unsafe { dot_tile(isa, (up, up_segments), panel, tile, &mut up_sums) };
                    isa.run(Gate { gate: &mut sums[..tile.width], up: &up_sums[..tile.width] });
                }
                let rows = panel * ROWS..((panel + 1) * ROWS).min(product.matrix.weights.rows());
                for (token, sums) in sums.iter().enumerate().take(tile.tokens) {
                    let first = (tile.first + token) * product.stride + product.column;
                    // SAFETY: the places of this panel's rows belong to this worker.
                    let out = unsafe { product.out.slice_mut(first + rows.start..first + rows.end) };
                    match product.epilogue {
                        Epilogue::Store | Epilogue::Gate(_) => {
                            for (out, sum) in out.iter_mut().zip(sums) {
                                *out = *sum;
                            }
                        }
                        Epilogue::Add => {
                            for (out, sum) in out.iter_mut().zip(sums) {
                                *out += *sum;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A panel times a tile, with factors and bias.
///
/// # Safety
/// Nobody writes the tile meanwhile.
unsafe fn dot_tile(
    isa: Isa,
    (matrix, segments): (&Matrix<'_>, Segments),
    panel: usize,
    tile: Tile,
    sums: &mut [[f32; ROWS]; MAX_TILE],
) {
    // SAFETY: the caller's obligation is the same.
    let x = unsafe { matrix.x.read(tile) };
    let fits = matrix.x.cols() == matrix.weights.cols()
        && (matrix.weights.tensor_type().is_float() == (matrix.x.kind() == TileKind::F32)
            || matrix.x.kind() == TileKind::F32);
    if !fits || x.len() != matrix.x.kind().words(matrix.x.cols()) * tile.width {
        // A fault of the caller, made visible: the engine's checks name it.
        *sums = [[f32::NAN; ROWS]; MAX_TILE];
        return;
    }
    let kind = (matrix.x.kind(), tile.width);
    dot_panel(isa, matrix.weights, panel, kind, x, segments, &mut sums[..tile.width]);
    if matrix.factors.is_some() || matrix.bias.is_some() {
        let factors = matrix.factors.map(|factors| factors.get(tile.first..).unwrap_or(&[]));
        let bias = matrix.bias.map(|bias| bias.get(panel * ROWS..).unwrap_or(&[]));
        isa.run(Finish { sums: &mut sums[..tile.tokens], factors, bias });
    }
}

/// sums = sums * factor + bias, two roundings; a factor per token, a bias per row.
struct Finish<'a> {
    sums: &'a mut [[f32; ROWS]],
    factors: Option<&'a [f32]>,
    bias: Option<&'a [f32]>,
}

impl Task for Finish<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        if let Some(factors) = self.factors {
            for (sums, factor) in self.sums.iter_mut().zip(factors) {
                l.store(l.mul(l.load(sums), l.splat(*factor)), sums);
            }
        }
        if let Some(bias) = self.bias {
            let mut padded = [0.0; ROWS];
            for (to, bias) in padded.iter_mut().zip(bias) {
                *to = *bias;
            }
            for sums in self.sums {
                l.store(l.add(l.load(sums), l.load(&padded)), sums);
            }
        }
    }
}

/// gate = SiLU(gate) * up.
struct Gate<'a> {
    gate: &'a mut [[f32; ROWS]],
    up: &'a [[f32; ROWS]],
}

impl Task for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            let gated = l.mul(silu(l, l.load(gate)), l.load(up));
            l.store(gated, gate);
        }
    }
}
