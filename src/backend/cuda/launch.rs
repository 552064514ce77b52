//! One launch of a graph: when it runs, how many blocks it has, what it is given.

use super::device::Gpu;
use super::driver::{DeviceMemory, DriverError, Kernel, Stream};
use super::modules::{Loaded, ModuleKey};
use super::sources::Target;
use crate::backend::Error;
use crate::backend::gpu::grid::{Extent, Grid, When};
use crate::backend::gpu::params::Params;
use std::sync::Arc;

/// A buffer and the name that kernels have for it.
pub(super) type Bound = (&'static str, Arc<DeviceMemory>);

impl Extent {
    /// The same for a whole bucket of positions: parts are rounded up to a power of two, up to `most`.
    pub(super) fn bucket(self, most: u32) -> Self {
        Self { splits: self.splits.next_power_of_two().min(most.max(self.splits)), ..self }
    }
}

/// A launch before its kernel is compiled.
pub(super) struct Draft {
    pub(super) step: usize,
    pub(super) when: When,
    pub(super) key: ModuleKey,
    pub(super) params: Params,
    pub(super) buffers: Vec<Bound>,
    pub(super) grid: Grid,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
    /// Bytes of weights that it reads.
    pub(super) weight_bytes: u64,
}

impl Draft {
    /// Compiles its kernel and puts its arguments in order.
    pub(super) fn load(self, gpu: &Gpu) -> Result<Launch, Error> {
        let kernel = gpu.modules.kernel(&self.key)?;
        let mut buffers = Vec::new();
        for name in &kernel.buffers {
            let bound = self.buffers.iter().find(|(bound, _)| bound == name);
            let missing = || gpu.error(&kernel.key, format!("nothing is bound to {name}"));
            buffers.push(Arc::clone(&bound.ok_or_else(missing)?.1));
        }
        let limits = kernel.limits;
        let shared_bytes = self.shared_bytes + limits.shared_bytes;
        if self.threads > limits.max_threads || shared_bytes > gpu.shared_opt_in {
            let asked = format!("{} threads and {} bytes", self.threads, self.shared_bytes);
            return Err(gpu.error(&kernel.key, format!("cannot run with {asked}: {limits:?}")));
        }
        let allowed = kernel.allow_shared(self.shared_bytes, gpu.shared_opt_in);
        allowed.map_err(|error| gpu.error(&kernel.key, error))?;
        Ok(Launch {
            step: self.step,
            when: self.when,
            params: self.params,
            addresses: buffers.iter().map(|memory| memory.address()).collect(),
            _buffers: buffers,
            grid: self.grid,
            threads: self.threads,
            shared_bytes: self.shared_bytes,
            weight_bytes: self.weight_bytes,
            dependent: kernel.target == Target::Sm90 && gpu.graphs_overlap(),
            kernel,
        })
    }
}

/// One launch of a graph.
pub(super) struct Launch {
    pub(super) step: usize,
    pub(super) when: When,
    pub(super) kernel: Arc<Loaded>,
    pub(super) params: Params,
    /// Addresses in the order of the kernel's arguments.
    pub(super) addresses: Vec<u64>,
    /// What they point to.
    pub(super) _buffers: Vec<Arc<DeviceMemory>>,
    pub(super) grid: Grid,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
    pub(super) weight_bytes: u64,
    /// Waits by itself for what was launched before.
    pub(super) dependent: bool,
}

impl Launch {
    /// Whether it takes part in a pass that begins with step `first`.
    pub(super) fn runs(&self, first: usize) -> bool {
        self.when.runs(self.step, first)
    }

    /// Queues it; whether there was anything to do.
    pub(super) fn queue(&self, stream: &Stream, extent: Extent) -> Result<bool, DriverError> {
        let Some(grid) = self.grid.size(extent) else { return Ok(false) };
        let kernel = Kernel {
            function: &self.kernel.function,
            grid,
            threads: self.threads,
            shared_bytes: self.shared_bytes,
            buffers: &self.addresses,
            params: bytemuck::bytes_of(&self.params),
            dependent: self.dependent,
            cooperative: false,
        };
        kernel.launch(stream)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_skip_what_is_empty_and_buckets_grow_by_twos() {
        let extent = Extent { rows: 40, asked: 1, splits: 3, one_sequence: true };
        assert_eq!(Grid::Panels(70_000).size(extent), Some([70_000, 1, 1]));
        assert_eq!(Grid::PanelsByRowTiles(3).size(extent), Some([3, 2, 1]));
        assert_eq!(Grid::Splits { heads: 2, first: 32, most: 32 }.size(extent), Some([3, 2, 8]));
        let both = |extent, fill| {
            [false, true].map(|tiles| {
                let (heads, first, most, tile) = (2, 32, 32, 3);
                Grid::SplitsOr { heads, first, most, tile, fill, tiles }.size(extent)
            })
        };
        assert_eq!(both(extent, 18), [None, Some([3, 2, 3])]);
        assert_eq!(both(extent, 19), [Some([3, 2, 8]), None]);
        assert_eq!(both(Extent { one_sequence: false, ..extent }, 1), [Some([3, 2, 8]), None]);
        assert_eq!(Grid::ByRows { x: 3, first: 64, most: 32 }.size(extent), None);
        assert_eq!(extent.bucket(16).splits, 4);
        assert_eq!(extent.bucket(3).splits, 3);
    }
}
