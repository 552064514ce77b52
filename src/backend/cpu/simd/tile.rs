//! Activations of a run, in tiles of up to 16 tokens, interleaved so that what a kernel broadcasts lies side by side.
//!
//! A quantized tile of width T is, for each block of 32 columns, 13 rows of T words: 8 of four bytes each (columns
//! `4 g .. 4 g + 4` of every token), then minus the sums of columns 0..16, 16..32 and 0..32, the scale, and scale times
//! sum (float bits). The sums serve weights that are stored with an offset: `sum((w - o) x) = sum(w x) - o sum(x)`.
//! A float tile is one row of T words per column.
//!
//! A run of M tokens has as many full tiles as fit, then one that is padded with zeros to the next of 1, 4, 8, 16.

use std::ops::Range;

use super::isa::Isa;
use crate::backend::cpu::pool::{PoolError, SharedBuffer};
use crate::plan::Activations;
use crate::quant::TensorType;

/// Words per token of a block of 32 columns.
pub(super) const WORDS: usize = 13;
/// Rows of words in a block after the 8 of bytes: minus the sums of both halves, minus their sum, scale, scale * sum.
pub(super) const NEGATIVE_HALVES: [usize; 2] = [8, 9];
pub(super) const NEGATIVE_SUM: usize = 10;
pub(super) const SCALE: usize = 11;
pub(super) const SCALED_SUM: usize = 12;

/// The widest tile.
pub const MAX_TILE: usize = 16;

/// How activations are stored for a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TileKind {
    /// float32.
    F32,
    /// int8, a scale per 32 values: `quant::Q8Row::quantize`.
    Q8,
    /// int8, an f16 scale per 32 values: `quant::Q8Row::quantize_q8_0`.
    Q8_0,
    /// int8, a scale per 256 values: `quant::Q8KRow`.
    Q8K,
}

impl TileKind {
    /// What weights of a type are multiplied with.
    pub const fn of(activations: Activations, tensor_type: TensorType) -> Self {
        match activations {
            _ if tensor_type.is_float() => Self::F32,
            Activations::F32 => Self::F32,
            Activations::Q8 => Self::Q8,
            Activations::Q8K if tensor_type.block_len() == 256 => Self::Q8K,
            Activations::Q8K => Self::Q8_0,
        }
    }

    /// Words per token of `cols` columns.
    pub const fn words(self, cols: usize) -> usize {
        match self {
            Self::F32 => cols,
            _ => cols.div_ceil(32) * WORDS,
        }
    }
}

/// A tile's place in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The first token.
    pub first: usize,
    /// Tokens in the tile.
    pub tokens: usize,
    /// Tokens with the padding: 1, 4, 8 or 16.
    pub width: usize,
}

impl Tile {
    /// Tiles of a run of `tokens`.
    pub const fn count(isa: Isa, tokens: usize) -> usize {
        tokens.div_ceil(isa.tile())
    }

    /// Tile `index` of a run of `tokens`.
    pub const fn get(isa: Isa, tokens: usize, index: usize) -> Self {
        let first = index * isa.tile();
        let rest = tokens.saturating_sub(first);
        let tokens = if rest < isa.tile() { rest } else { isa.tile() };
        let width = match tokens {
            0..=1 => 1,
            2..=4 => 4,
            5..=8 => 8,
            _ => 16,
        };
        Self { first, tokens, width }
    }
}

/// Storage for the activations of a run, written tile by tile by the workers.
#[derive(Debug)]
pub struct Tiles {
    kind: TileKind,
    cols: usize,
    words: SharedBuffer<i32>,
}

impl Tiles {
    /// Storage for up to `tokens` tokens of `cols` values.
    ///
    /// # Errors
    /// [`PoolError::Memory`] if the system has no room for it.
    pub fn new(kind: TileKind, cols: usize, tokens: usize) -> Result<Self, PoolError> {
        let padded = if tokens <= 1 { 1 } else { tokens.saturating_add(MAX_TILE) };
        Ok(Self { kind, cols, words: SharedBuffer::new(padded.saturating_mul(kind.words(cols)))? })
    }

    /// How values are stored.
    pub const fn kind(&self) -> TileKind {
        self.kind
    }

    /// Values per token.
    pub const fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes held.
    pub const fn bytes(&self) -> usize {
        self.words.len() * 4
    }

    /// Where a tile's words lie.
    const fn range(&self, tile: Tile) -> Range<usize> {
        let words = self.kind.words(self.cols);
        tile.first * words..(tile.first + tile.width) * words
    }

    /// A tile's words.
    ///
    /// # Safety
    /// No worker may write the tile meanwhile: a barrier lies between writing and reading.
    pub(super) unsafe fn read(&self, tile: Tile) -> &[i32] {
        // SAFETY: the caller's obligation is the same.
        unsafe { self.words.slice(self.range(tile)) }
    }

    /// A tile's words for writing.
    ///
    /// # Safety
    /// No other worker may access the tile meanwhile: each tile has one writer, a barrier lies before and after.
    #[expect(clippy::mut_from_ref, reason = "as in SharedBuffer; the obligations are the caller's")]
    pub(super) unsafe fn write(&self, tile: Tile) -> &mut [i32] {
        // SAFETY: the caller's obligation is the same.
        unsafe { self.words.slice_mut(self.range(tile)) }
    }
}
