//! The ops of a decoder: each has the same name here, in `backend/cpu/`, in `shaders/`, in `kernels/` and in the tests.

use super::{Activations, WeightId};

/// A matrix with its optional bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear {
    /// The matrix `[rows, cols]`.
    pub weight: WeightId,
    /// A vector of `rows` values.
    pub bias: Option<WeightId>,
}

/// What a step computes. `M` is the number of rows of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Token ids -> `residual` [M, hidden_size].
    Embed {
        /// `[vocab_size, hidden_size]`.
        table: WeightId,
    },
    /// RMSNorm, q, k and v (each of its own type), biases, q/k-norm, RoPE; `query` [M, num_heads * head_dim] is
    /// written, keys and values are appended to the cache at each row's slot and position.
    QkvRope {
        /// RMSNorm weight, `hidden_size` values.
        norm: WeightId,
        /// Queries.
        q: Linear,
        /// Keys.
        k: Linear,
        /// Values.
        v: Linear,
        /// RMSNorm weight over each query head, `head_dim` values.
        q_norm: Option<WeightId>,
        /// The same for keys.
        k_norm: Option<WeightId>,
    },
    /// Softmax(q k / sqrt(head_dim)) v over the row's own sequence -> `attention` [M, num_heads * head_dim].
    Attention,
    /// Output projection, added to `residual`.
    AttnOut {
        /// `[hidden_size, num_heads * head_dim]`.
        output: Linear,
    },
    /// RMSNorm, gate and up rows, SiLU(gate) * up -> `gated` [M, intermediate_size].
    GateUp {
        /// RMSNorm weight, `hidden_size` values.
        norm: WeightId,
        /// `[intermediate_size, hidden_size]`.
        gate: Linear,
        /// `[intermediate_size, hidden_size]`.
        up: Linear,
    },
    /// Down projection, added to `residual`.
    Down {
        /// `[hidden_size, intermediate_size]`.
        down: Linear,
    },
    /// Final RMSNorm and logits [M, vocab_size], for the rows that ask for them.
    Head {
        /// RMSNorm weight, `hidden_size` values.
        norm: WeightId,
        /// `[vocab_size, hidden_size]`; the embedding where the model ties them.
        output: WeightId,
    },
    /// Next token of each row that asked for logits: see `backend::Sampling`.
    Sample,
}

/// An op's name without its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is described at the variant of `Op` of the same name")]
pub enum OpKind {
    Embed,
    QkvRope,
    Attention,
    AttnOut,
    GateUp,
    Down,
    Head,
    Sample,
}

impl OpKind {
    /// All ops, in the order of a forward pass.
    pub const ALL: [Self; 8] = [
        Self::Embed,
        Self::QkvRope,
        Self::Attention,
        Self::AttnOut,
        Self::GateUp,
        Self::Down,
        Self::Head,
        Self::Sample,
    ];

    /// The name that files and reports use, for example `qkv_rope`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embed => "embed",
            Self::QkvRope => "qkv_rope",
            Self::Attention => "attention",
            Self::AttnOut => "attn_out",
            Self::GateUp => "gate_up",
            Self::Down => "down",
            Self::Head => "head",
            Self::Sample => "sample",
        }
    }
}

impl Op {
    /// The op's kind.
    pub const fn kind(&self) -> OpKind {
        match self {
            Self::Embed { .. } => OpKind::Embed,
            Self::QkvRope { .. } => OpKind::QkvRope,
            Self::Attention => OpKind::Attention,
            Self::AttnOut { .. } => OpKind::AttnOut,
            Self::GateUp { .. } => OpKind::GateUp,
            Self::Down { .. } => OpKind::Down,
            Self::Head { .. } => OpKind::Head,
            Self::Sample => OpKind::Sample,
        }
    }
}

impl Op {
    /// Launches of the op with CUDA, in the usual case: one, a second where attention joins its parts and where heads have
    /// norms, and with activations in blocks of 256 (`Q8K`) one more to quantize them where there is a norm in front, because
    /// it comes before the rounding and needs the whole row. Norms and quantization are otherwise done by whoever writes the
    /// activations. (wgpu takes one more for each op that multiplies with `Q8K`.)
    pub const fn launches(&self, activations: Activations) -> usize {
        let quantize = matches!(activations, Activations::Q8K) as usize;
        match self {
            Self::Embed { .. } | Self::AttnOut { .. } | Self::Down { .. } | Self::Sample => 1,
            Self::QkvRope { q_norm: Some(_), .. } => 2 + quantize,
            Self::QkvRope { .. } | Self::GateUp { .. } | Self::Head { .. } => 1 + quantize,
            Self::Attention => 2,
        }
    }

    /// The matrices that the op multiplies with, or looks up in, in the order of its fields.
    pub fn matrices(&self) -> Vec<WeightId> {
        match *self {
            Self::Embed { table } => vec![table],
            Self::QkvRope { q, k, v, .. } => vec![q.weight, k.weight, v.weight],
            Self::Attention | Self::Sample => vec![],
            Self::AttnOut { output } => vec![output.weight],
            Self::GateUp { gate, up, .. } => vec![gate.weight, up.weight],
            Self::Down { down } => vec![down.weight],
            Self::Head { output, .. } => vec![output],
        }
    }

    /// The weights that the op reads.
    pub fn weights(&self) -> Vec<WeightId> {
        let linear = |l: Linear| [Some(l.weight), l.bias];
        let ids: Vec<Option<WeightId>> = match *self {
            Self::Embed { table } => vec![Some(table)],
            Self::QkvRope { norm, q, k, v, q_norm, k_norm } => {
                [&[Some(norm), q_norm, k_norm], &linear(q)[..], &linear(k), &linear(v)].concat()
            }
            Self::Attention | Self::Sample => vec![],
            Self::AttnOut { output } => linear(output).to_vec(),
            Self::GateUp { norm, gate, up } => [&[Some(norm)], &linear(gate)[..], &linear(up)].concat(),
            Self::Down { down } => linear(down).to_vec(),
            Self::Head { norm, output } => vec![Some(norm), Some(output)],
        };
        ids.into_iter().flatten().collect()
    }
}
