//! What a forward pass does, as plain data: steps over buffers, each with its bytes and flops. A backend compiles the
//! list once and replays it; nothing here knows a GPU.

mod cost;
mod decoder;
mod numerics;
mod op;
mod rope;
mod segments;

pub use cost::Cost;
pub use decoder::{Decoder, PlanError, Rows};
pub use op::{Linear, Op, OpKind};
pub use rope::RopeTable;

use crate::quant::TensorType;

/// How activations are represented where they meet quantized weights. Float weights always take `F32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Activations {
    /// int8 with one f32 scale per 32 values (the default).
    Q8,
    /// ggml's choice: Q8_K (one scale per 256 values) for Q4_K, Q5_K and Q6_K rows, Q8_0 for the others.
    Q8K,
    /// float32, the verification mode.
    F32,
}

/// The type of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvType {
    /// Half precision (the default).
    F16,
    /// Single precision, the verification mode.
    F32,
}

/// How a run computes: the two choices that change numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Numerics {
    /// Where activations meet quantized weights.
    pub activations: Activations,
    /// Storage of keys and values.
    pub kv: KvType,
}

/// Which dimensions RoPE rotates together; see the model's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pairing {
    /// `2i` and `2i + 1`.
    Norm,
    /// `i` and `i + dim / 2`.
    Neox,
}

/// The sizes that every step shares.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the head.
    pub vocab_size: usize,
    /// RMSNorm epsilon.
    pub rms_norm_eps: f32,
    /// Leading dimensions of a head that RoPE rotates.
    pub rope_dim: usize,
    /// Which of them form pairs.
    pub rope_pairing: Pairing,
    /// Positions that attention sees back from a row, itself included.
    pub sliding_window: Option<usize>,
}

/// The KV cache: `[layer][slot][kv_head][position][head_dim]`, keys and values apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvLayout {
    /// Decoder layers.
    pub num_layers: usize,
    /// Sequences held at a time.
    pub slots: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Positions per slot.
    pub context: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Storage type.
    pub kv_type: KvType,
}

impl KvLayout {
    /// Values in the keys alone; `None` if that overflows.
    pub fn values(&self) -> Option<usize> {
        self.num_layers
            .checked_mul(self.slots)?
            .checked_mul(self.num_kv_heads)?
            .checked_mul(self.context)?
            .checked_mul(self.head_dim)
    }

    /// Bytes of keys and values together; `None` if that overflows.
    pub fn bytes(&self) -> Option<usize> {
        let size = match self.kv_type {
            KvType::F16 => 2,
            KvType::F32 => 4,
        };
        self.values()?.checked_mul(2 * size)
    }

    /// How many sums attention adds up a dimension's values in: the positions of a split go to them in turn. A GPU has 256
    /// threads for a split, each with 16 bytes of a position's values.
    pub fn value_sums(&self) -> usize {
        let in_16_bytes = match self.kv_type {
            KvType::F16 => 8,
            KvType::F32 => 4,
        };
        (256 / (self.head_dim / in_16_bytes).max(1)).max(1)
    }

    /// Index of the first value of a head at a position.
    pub fn at(&self, layer: usize, slot: usize, kv_head: usize, position: usize) -> usize {
        (((layer * self.slots + slot) * self.num_kv_heads + kv_head) * self.context + position)
            * self.head_dim
    }
}

/// Index of a weight in [`Plan::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// A weight as steps see it: a matrix `[rows, cols]`, or a vector with one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// For messages: `layers.3.attn_q`.
    pub name: String,
    /// Storage type; vectors are always `F32`.
    pub tensor_type: TensorType,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

impl Weight {
    /// A float vector: a norm or a bias.
    pub fn is_vector(&self) -> bool {
        self.rows == 1
    }

    /// Bytes in the file's layout.
    pub fn bytes(&self) -> u64 {
        self.tensor_type.row_bytes(self.cols).unwrap_or(0) as u64 * self.rows as u64
    }
}

/// Where a backend takes the bytes of the weights from.
pub trait WeightSource: Sync {
    /// The bytes of row `row` of a weight, in the layout of its type.
    fn row(&self, id: WeightId, row: usize) -> &[u8];
    /// Says that the backend has its own copy and will not read this weight again.
    fn release(&self, id: WeightId);
}

/// Index of a buffer in [`Plan::buffers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// An activation buffer of float32, `[rows, width]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// For messages and dumps: `residual`, `query`, `attention`, `gated`, `logits`.
    pub name: &'static str,
    /// Rows: those of the plan, or fewer where only some rows are asked for.
    pub rows: usize,
    /// Values per row.
    pub width: usize,
}

/// One op of the list, with what it touches.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What is computed.
    pub op: Op,
    /// The layer, for ops that belong to one.
    pub layer: Option<usize>,
    /// Buffers read.
    pub reads: Vec<BufferId>,
    /// Buffers written.
    pub writes: Vec<BufferId>,
    /// Bytes and flops.
    pub cost: Cost,
}

/// A compiled-once list of steps for up to `rows` rows at a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Rows per run: the batch of a decode plan, the tile of a prefill plan.
    pub rows: usize,
    /// How many of them may ask for logits.
    pub logit_rows: usize,
    /// Sizes.
    pub shape: Shape,
    /// Activation and cache types.
    pub numerics: Numerics,
    /// Weights, by [`WeightId`]; the same table for every plan of a model.
    pub weights: Vec<Weight>,
    /// Buffers, by [`BufferId`].
    pub buffers: Vec<Buffer>,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// One row of a run: a token of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// The token whose embedding enters.
    pub token: u32,
    /// The sequence's place in the KV cache.
    pub slot: u32,
    /// The token's position in its sequence.
    pub position: u32,
    /// Whether the head is computed for this row.
    pub logits: bool,
}
