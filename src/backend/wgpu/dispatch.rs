//! One dispatch: when it runs, how many workgroups it has, what it binds.

use super::params::Params;
use super::pipelines::{Pipeline, PipelineKey};
use crate::plan::Row;
use std::sync::Arc;

/// Positions per part of attention.
const SPLIT: usize = 256;
/// Activation rows per tile of a prefill kernel.
pub(super) const TILE: usize = 32;
/// Workgroups per dimension that every device allows.
const MAX_GROUPS: u32 = 65535;

/// A buffer and the name that the shader binds it by.
pub(super) type Bound = (&'static str, wgpu::Buffer);

/// How many workgroups a dispatch has, where that depends on the rows of the run.
#[derive(Clone, Copy, Debug)]
pub(super) enum Grid {
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
    /// Rows that ask.
    Asked,
}

/// What of a run the size of a grid depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    rows: u32,
    asked: u32,
    /// Largest position.
    position: u32,
}

impl Extent {
    /// Of these rows, moved on by `passes` positions.
    pub(super) fn new(rows: &[Row], passes: u32) -> Self {
        let position = rows.iter().map(|row| row.position).max().unwrap_or(0).saturating_add(passes);
        let asked = rows.iter().filter(|row| row.logits).count() as u32;
        Self { rows: rows.len() as u32, asked, position }
    }
}

impl Grid {
    /// Workgroups; `None` where there is nothing to do.
    pub(super) fn size(self, extent: Extent) -> Option<[u32; 3]> {
        let folded = |panels: u32, y: u32| [panels.min(MAX_GROUPS), y, panels.div_ceil(MAX_GROUPS)];
        let tile = TILE as u32;
        let size = match self {
            Self::Panels(panels) => folded(panels, 1),
            Self::PanelsByRowTiles(panels) => folded(panels, extent.rows.div_ceil(tile)),
            Self::PanelsByAskedTiles(panels) => folded(panels, extent.asked.div_ceil(tile)),
            Self::ByRows { x, first, most } => [x, extent.rows.saturating_sub(first).min(most), 1],
            Self::Splits { heads, first, most } => {
                [extent.position / SPLIT as u32 + 1, heads, extent.rows.saturating_sub(first).min(most)]
            }
            Self::Asked => [extent.asked, 1, 1],
        };
        (!size.contains(&0)).then_some(size)
    }
}

/// When a dispatch runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// Only if its step is the first of a run: nobody has written its records.
    First,
    /// Only if its step is not the first of a run.
    Later,
}

/// A dispatch before its pipeline and bind group are made.
pub(super) struct Draft {
    pub(super) step: usize,
    pub(super) when: When,
    pub(super) key: PipelineKey,
    pub(super) params: Params,
    pub(super) buffers: Vec<Bound>,
    pub(super) grid: Grid,
    pub(super) weight_bytes: u64,
}

/// One dispatch of a graph.
pub(super) struct Dispatch {
    pub(super) step: usize,
    pub(super) when: When,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) bind_group: wgpu::BindGroup,
    pub(super) grid: Grid,
    /// Bytes of weights that it reads.
    pub(super) weight_bytes: u64,
}

impl Dispatch {
    /// Whether it runs in a pass that begins with step `first`.
    pub(super) fn runs(&self, first: usize) -> bool {
        let is_first = first > 0 && self.step == first;
        match self.when {
            When::Always => true,
            When::First => is_first,
            When::Later => !is_first,
        }
    }

    /// Records it; whether there was anything to do.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, extent: Extent) -> bool {
        let Some([x, y, z]) = self.grid.size(extent) else { return false };
        pass.set_pipeline(&self.pipeline.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(x, y, z);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_fold_past_the_limit_and_skip_what_is_empty() {
        let extent = Extent { rows: 40, asked: 1, position: 256 };
        assert_eq!(Grid::Panels(70_000).size(extent), Some([65_535, 1, 2]));
        assert_eq!(Grid::PanelsByRowTiles(3).size(extent), Some([3, 2, 1]));
        assert_eq!(Grid::Splits { heads: 2, first: 32, most: 32 }.size(extent), Some([2, 2, 8]));
        assert_eq!(Grid::ByRows { x: 3, first: 64, most: 32 }.size(extent), None);
    }
}
