//! Which kernel attends to how many heads and rows at a time.
//!
//! A tile of a prompt is rows of one sequence: several of them share what is read of its keys and values
//! (`kernels/attention_tile.ptx`). These go row by row (`kernels/attention.ptx`): up to eight rows, rows of several sequences, runs
//! so small that tiles would leave multiprocessors without a block, and models whose part of the values does not fit the shared
//! memory of a block. Either way a row has the same bits. What the rows of a run are is known when it is queued, so a graph of more
//! than eight rows has both launches, of which a run takes one (`Grid::SplitsOr`).

use super::device::Gpu;
use crate::backend::gpu::{MAX_M, SPLIT};
use crate::plan::{KvType, Plan};

/// Floats of shared memory that `attention` keeps queries in.
const QUERY_FLOATS: usize = 1024;
/// The most dimensions of a head whose queries have room where `attention_tile` has the weights later.
const MOST_TILE_DIMENSIONS: usize = 256;

/// How heads are dealt to blocks.
pub(super) struct Heads {
    /// Blocks for each row and part.
    pub(super) blocks: u32,
    /// The key of the kernel that takes one row.
    pub(super) key: String,
    /// The kernel that takes several.
    pub(super) tile: Option<Tile>,
}

/// A kernel for several rows of one sequence.
pub(super) struct Tile {
    pub(super) key: String,
    pub(super) rows: u32,
    /// Dynamic shared memory.
    pub(super) shared_bytes: u32,
    /// The fewest blocks that it is worth it with: as many as there are multiprocessors.
    pub(super) fill: u32,
}

impl Heads {
    /// Of a plan's attention on a device.
    pub(super) fn new(gpu: &Gpu, plan: &Plan) -> Self {
        let shape = &plan.shape;
        // Up to eight heads of a group at a time, as many as shared memory has room for.
        let group = shape.num_heads / shape.num_kv_heads.max(1);
        let most = (QUERY_FLOATS / shape.head_dim.max(1)).clamp(1, 8);
        let passes = group.div_ceil(most).max(1);
        let at_a_time = group.div_ceil(passes).max(1);
        let (kv, size) = match plan.numerics.kv {
            KvType::F16 => ("f16", 2),
            KvType::F32 => ("f32", 4),
        };
        let tile = tile(at_a_time, shape.head_dim, size, gpu.shared_opt_in as usize);
        Self {
            blocks: (shape.num_kv_heads * passes) as u32,
            key: format!("attention GROUP={at_a_time} KV={kv}"),
            tile: tile.filter(|_| plan.rows > MAX_M).map(|(rows, shared_bytes)| Tile {
                key: format!("attention_tile GROUP={at_a_time} KV={kv} ROWS={rows}"),
                rows: rows as u32,
                shared_bytes: shared_bytes as u32,
                fill: gpu.summary.multiprocessors,
            }),
        }
    }
}

/// Rows at a time of `attention_tile` and its dynamic shared memory, for heads of `dimensions` of `size` bytes, if a block may have
/// it.
fn tile(heads: usize, dimensions: usize, size: usize, most_shared: usize) -> Option<(usize, usize)> {
    let rows = match heads {
        1 => 16,
        2..=4 => 8,
        _ => 4,
    };
    let pairs = heads * rows;
    let dynamic = 1024 * (8 - heads.min(8) + pairs) + SPLIT * dimensions * size;
    // What the text declares: the span of each row, and a word of eight warps of each row and head, twice.
    let declared = 8 * rows + 64 * pairs;
    (dimensions <= MOST_TILE_DIMENSIONS && dynamic + declared <= most_shared).then_some((rows, dynamic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cuda::sources;

    #[test]
    fn rows_go_together_where_shared_memory_has_room() {
        // sm_86 and sm_89, which have the least.
        assert_eq!(tile(8, 128, 2, 99 << 10), Some((4, 96 << 10)));
        assert_eq!(tile(1, 64, 2, 99 << 10), Some((16, (7 + 16 + 32) << 10)));
        assert_eq!(tile(4, 256, 2, 99 << 10), None);
        assert_eq!(tile(4, 128, 4, 163 << 10), None);
        assert_eq!(tile(4, 128, 4, 227 << 10), Some((8, (4 + 32 + 128) << 10)));
        assert_eq!(tile(2, 264, 2, 227 << 10), None);
    }

    #[test]
    fn every_number_of_heads_has_its_kernel() {
        for heads in 1..=8 {
            let (rows, _) = tile(heads, 32, 2, 99 << 10).unwrap();
            for kv in ["f16", "f32"] {
                assert!(
                    sources::find(&format!("attention_tile GROUP={heads} KV={kv} ROWS={rows}")).is_some()
                );
            }
        }
    }
}
