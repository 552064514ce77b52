//! Which kernel multiplies which weights, and how large its launch is.

use super::sources;
use crate::backend::gpu::weights;
use crate::plan::{Activations, OpKind};
use crate::quant::TensorType;

/// Rows of activations in a tile of a prefill kernel.
pub const TILE: u32 = 32;
/// Rows of activations that a decode kernel can have.
pub const MOST_DECODE_ROWS: u32 = 8;
/// Warps that all blocks of a product should have together, if the matrix has the columns for it: 16 for each of 128
/// multiprocessors. With 1 to 3 KB in flight per warp this covers a microsecond of the fastest memory there is.
const WARPS: u32 = 2048;
/// Most segments of a row: a block has no more than 512 threads, which leaves each 128 registers, and `gate_up` takes two
/// matrices side by side.
const MOST_SEGMENTS: u32 = 16;
/// Fewest: less than four warps per block leave a multiprocessor empty before it runs out of blocks.
const FEWEST_SEGMENTS: u32 = 4;

/// How activations lie in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// 8 bits, a scale per 32 values.
    Q8,
    /// The same as ggml rounds it.
    Q8Zero,
    /// 8 bits, a scale per 256 values.
    Q8K,
}

impl Form {
    /// What weights of a type meet.
    pub fn new(activations: Activations, tensor_type: TensorType) -> Self {
        match activations {
            Activations::Q8 | Activations::F32 => Self::Q8,
            Activations::Q8K if has_super_blocks(tensor_type) => Self::Q8K,
            Activations::Q8K => Self::Q8Zero,
        }
    }

    /// The value of the define `X` of `quantize`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::Q8Zero => "q8_0",
            Self::Q8K => "q8_k",
        }
    }
}

fn has_super_blocks(tensor_type: TensorType) -> bool {
    matches!(tensor_type, TensorType::Q4_K | TensorType::Q5_K | TensorType::Q6_K)
}

/// The define `X` of a product.
pub fn product(activations: Activations, tensor_type: TensorType) -> &'static str {
    match activations {
        _ if tensor_type.is_float() => "f32",
        Activations::F32 => "f32",
        activations if Form::new(activations, tensor_type) == Form::Q8K => "q8_k",
        _ => "q8",
    }
}

/// Columns that one unit of a type's kernel covers.
pub fn unit_columns(tensor_type: TensorType, x: &str) -> u32 {
    match tensor_type {
        TensorType::Q4_K | TensorType::Q5_K | TensorType::Q6_K if x == "q8_k" => 256,
        TensorType::Q4_K | TensorType::Q5_K => 64,
        TensorType::Q6_K => 128,
        _ => 32,
    }
}

/// The two types of a mixture for which there is one kernel, the first being `A`.
pub fn mixture(types: &[TensorType]) -> Option<(TensorType, Option<TensorType>)> {
    weights::mixture(types, |a, b| {
        sources::find(&product_key(OpKind::QkvRope, a, Some(b), "f32", Rows::Decode(1))).is_some()
    })
}

/// Whether matrices of these types can be multiplied in one launch.
pub fn in_one_launch(types: &[TensorType]) -> bool {
    mixture(types).is_some()
}

/// Rows of activations that a kernel is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rows {
    /// So many, 1 to 8.
    Decode(u32),
    /// Tiles of [`TILE`].
    Tile,
}

/// The key of a product's kernel. `x` is what [`product`] gives.
pub fn product_key(op: OpKind, a: TensorType, b: Option<TensorType>, x: &str, rows: Rows) -> String {
    let mut key = format!("{} A={}", op.name(), lower(a));
    if let Some(b) = b {
        key = key + " B=" + &lower(b);
    }
    match rows {
        Rows::Decode(rows) => format!("{key} M={rows} X={x}"),
        Rows::Tile => key + " TILE=1 X=" + x,
    }
}

/// How many parts the columns of a row are cut into: what a row's sum depends on, so it comes from the matrix alone,
/// never from the batch. `panels` are those of all matrices of the launch (of `gate_up`: of one), `units` those of the
/// type that has the fewest.
pub fn segments(op: OpKind, panels: u32, units: u32) -> u32 {
    let (most, matrices) = if op == OpKind::GateUp { (MOST_SEGMENTS / 2, 2) } else { (MOST_SEGMENTS, 1) };
    let wanted = WARPS.div_ceil(panels.max(1) * matrices);
    wanted.clamp(FEWEST_SEGMENTS, most).min(units.max(1))
}

/// Threads and dynamic shared memory of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Threads, all in x.
    pub threads: u32,
    /// Bytes of dynamic shared memory.
    pub shared_bytes: u32,
}

/// The block of a product's launch.
pub fn geometry(op: OpKind, rows: Rows, segments: u32) -> Geometry {
    let matrices = if op == OpKind::GateUp { 2 } else { 1 };
    match rows {
        // Per row of activations and warp: 32 sums, and the squares of its part of the activations.
        Rows::Decode(rows) => {
            let warps = segments * matrices;
            Geometry { threads: 32 * warps, shared_bytes: rows * warps * (128 + 4) }
        }
        // Of each matrix the sums of 32 rows by 32 rows of activations, and the parts of four warps (36 floats per row of
        // activations) with their squares; the squares of all.
        Rows::Tile => {
            Geometry { threads: 128 * matrices, shared_bytes: matrices * (4096 + 4 * (32 * 144 + 128)) + 128 }
        }
    }
}

/// The name of a type in the names of kernels.
pub fn lower(tensor_type: TensorType) -> String {
    tensor_type.name().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_fill_a_device_and_fit_a_block() {
        // 0.5B, 1.5B and 7B: output projection, gate and up, head.
        assert_eq!(segments(OpKind::AttnOut, 28, 28), 16);
        assert_eq!(segments(OpKind::AttnOut, 48, 12), 12);
        assert_eq!(segments(OpKind::GateUp, 280, 24), 4);
        assert_eq!(segments(OpKind::GateUp, 1, 24), 8);
        assert_eq!(segments(OpKind::Head, 4748, 28), 4);
        assert_eq!(segments(OpKind::Down, 48, 1), 1);
        for op in [OpKind::GateUp, OpKind::Down] {
            for panels in 1..5000 {
                let segments = segments(op, panels, 1000);
                let geometry = geometry(op, Rows::Decode(8), segments);
                assert!(geometry.threads <= 512 && geometry.shared_bytes <= 48 << 10);
            }
        }
    }
}
