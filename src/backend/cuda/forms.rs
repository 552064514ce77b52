//! Which kernel multiplies which weights, and how large its launch is.

use super::sources;
use crate::backend::gpu::weights;
use crate::plan::{Activations, OpKind};
use crate::quant::{self, TensorType};

/// Rows of activations in a tile of a prefill kernel.
pub const TILE: u32 = 32;
/// Rows of activations that a decode kernel can have.
pub const MOST_DECODE_ROWS: u32 = 8;
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
    quant::unit_columns(tensor_type, x == "q8_k") as u32
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
    fn segments_fit_a_block() {
        // As many as `Plan::segments` gives, of `gate_up` more.
        for (op, segments) in [(OpKind::GateUp, 8), (OpKind::Down, 16)] {
            let geometry = geometry(op, Rows::Decode(8), segments);
            assert!(geometry.threads <= 512 && geometry.shared_bytes <= 48 << 10);
        }
    }
}
