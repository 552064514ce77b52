//! One dispatch: when it runs, how many workgroups it has, what it binds.

use super::pipelines::{Pipeline, PipelineKey};
use crate::backend::gpu::grid::{Extent, Grid, When};
use crate::backend::gpu::params::Params;
use std::sync::Arc;

/// Workgroups per dimension that every device allows.
const MAX_GROUPS: u32 = 65535;

/// A buffer and the name that the shader binds it by.
pub(super) type Bound = (&'static str, wgpu::Buffer);

/// Workgroups of a grid; panels past the limit of a dimension fold into the third.
fn workgroups(grid: Grid, extent: Extent) -> Option<[u32; 3]> {
    let [x, y, z] = grid.size(extent)?;
    Some([x.min(MAX_GROUPS), y, z.max(x.div_ceil(MAX_GROUPS))])
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
        self.when.runs(self.step, first)
    }

    /// Records it; whether there was anything to do.
    pub(super) fn record(&self, pass: &mut wgpu::ComputePass<'_>, extent: Extent) -> bool {
        let Some([x, y, z]) = workgroups(self.grid, extent) else { return false };
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
        let extent = Extent { rows: 40, asked: 1, splits: 2, one_sequence: true };
        assert_eq!(workgroups(Grid::Panels(70_000), extent), Some([65_535, 1, 2]));
        assert_eq!(workgroups(Grid::PanelsByRowTiles(3), extent), Some([3, 2, 1]));
        assert_eq!(workgroups(Grid::Splits { heads: 2, first: 32, most: 32 }, extent), Some([2, 2, 8]));
        assert_eq!(workgroups(Grid::ByRows { x: 3, first: 64, most: 32 }, extent), None);
    }
}
