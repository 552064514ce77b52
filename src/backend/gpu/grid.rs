//! How many blocks (workgroups) a kernel of a graph has, and when it takes part.

use super::{MAX_M, SPLIT, TILE};
use crate::plan::Row;

/// How many blocks a kernel has, where that depends on the rows of the run.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend) enum Grid {
    /// Panels.
    Panels(u32),
    /// Panels by tiles of rows, or of rows that ask.
    PanelsByRowTiles(u32),
    PanelsByAskedTiles(u32),
    /// So many by the rows of the run, from a row on and no more than so many.
    ByRows {
        x: u32,
        first: u32,
        most: u32,
    },
    /// Splits by heads by rows.
    Splits {
        heads: u32,
        first: u32,
        most: u32,
    },
    /// One of two that do the same: with `tiles`, splits by heads by tiles of `tile` rows, where the rows are of one sequence and
    /// that makes `fill` blocks or more; else splits by heads by rows, where the other one is not there.
    SplitsOr {
        heads: u32,
        first: u32,
        most: u32,
        tile: u32,
        fill: u32,
        tiles: bool,
    },
    /// Rows that ask.
    Asked,
}

/// What of a run the size of a grid depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::backend) struct Extent {
    pub(in crate::backend) rows: u32,
    pub(in crate::backend) asked: u32,
    /// Parts of attention that the largest position has; blocks of parts that a row does not have end at once.
    pub(in crate::backend) splits: u32,
    /// More rows than a decode batch has, and all of one sequence.
    pub(in crate::backend) one_sequence: bool,
}

impl Extent {
    /// Of these rows, moved on by `passes` positions.
    pub(in crate::backend) fn new(rows: &[Row], passes: u32) -> Self {
        let position = rows.iter().map(|row| row.position).max().unwrap_or(0).saturating_add(passes);
        let asked = rows.iter().filter(|row| row.logits).count() as u32;
        let one_sequence = rows.len() > MAX_M && rows.iter().all(|row| row.slot == rows[0].slot);
        Self { rows: rows.len() as u32, asked, splits: position / SPLIT as u32 + 1, one_sequence }
    }
}

impl Grid {
    /// Blocks; `None` where there is nothing to do.
    pub(in crate::backend) fn size(self, extent: Extent) -> Option<[u32; 3]> {
        let tile = TILE as u32;
        let size = match self {
            Self::Panels(panels) => [panels, 1, 1],
            Self::PanelsByRowTiles(panels) => [panels, extent.rows.div_ceil(tile), 1],
            Self::PanelsByAskedTiles(panels) => [panels, extent.asked.div_ceil(tile), 1],
            Self::ByRows { x, first, most } => [x, extent.rows.saturating_sub(first).min(most), 1],
            Self::Splits { heads, first, most } => {
                [extent.splits, heads, extent.rows.saturating_sub(first).min(most)]
            }
            Self::SplitsOr { heads, first, most, tile, fill, tiles } => {
                let rows = extent.rows.saturating_sub(first).min(most);
                let in_tiles = [extent.splits, heads, rows.div_ceil(tile)];
                let together = extent.one_sequence && in_tiles.iter().product::<u32>() >= fill;
                if together != tiles {
                    return None;
                }
                if tiles { in_tiles } else { [extent.splits, heads, rows] }
            }
            Self::Asked => [extent.asked, 1, 1],
        };
        (!size.contains(&0)).then_some(size)
    }
}

/// When a kernel takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend) enum When {
    Always,
    /// Only if its step is the first of a run: nobody has written its records.
    First,
    /// Only if its step is not the first of a run.
    Later,
}

impl When {
    /// Whether a kernel of `step` takes part in a pass that begins with step `first`.
    pub(in crate::backend) fn runs(self, step: usize, first: usize) -> bool {
        let is_first = first > 0 && step == first;
        match self {
            Self::Always => true,
            Self::First => is_first,
            Self::Later => !is_first,
        }
    }
}
