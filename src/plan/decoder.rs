//! A configuration turned into the list of steps of a decoder.

use super::{
    Activations, Buffer, BufferId, Cost, KvLayout, KvType, Linear, Numerics, Op, Pairing, Plan, Shape, Step,
    Weight, WeightId,
};
use crate::model::{ModelConfig, Role, RopePairing};

/// Why no plan can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The model lacks a weight that its configuration asks for.
    #[error("{0} is missing: the configuration asks for it")]
    MissingWeight(String),
    /// A matrix has the wrong shape.
    #[error("{name} is [{rows}, {cols}], the configuration asks for [{expected_rows}, {expected_cols}]")]
    WrongShape {
        /// The weight.
        name: String,
        /// Rows found.
        rows: usize,
        /// Columns found.
        cols: usize,
        /// Rows expected.
        expected_rows: usize,
        /// Columns expected.
        expected_cols: usize,
    },
    /// Kernels exist for some row lengths only.
    #[error("{name} has rows of {cols} values in {tensor_type}: a multiple of 32 is needed")]
    RowLength {
        /// The weight.
        name: String,
        /// Columns found.
        cols: usize,
        /// The type's name.
        tensor_type: &'static str,
    },
}

/// How many rows a plan is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rows {
    /// Rows per run: the batch of a decode plan, the tile of a prefill plan.
    pub rows: usize,
    /// How many of them may ask for logits.
    pub logit_rows: usize,
    /// Whether the plan ends in `Sample`.
    pub sample: bool,
}

/// A decoder as data: its sizes, its weights, and the ops over them. Every plan of a model is made from one of these,
/// so all share one table of weights.
#[derive(Clone, Debug)]
pub struct Decoder {
    shape: Shape,
    weights: Vec<Weight>,
    roles: Vec<(Role, Option<usize>)>,
    embed: Op,
    layers: Vec<[Op; 5]>,
    head: Op,
}

/// Collects the weights in the order in which the forward pass meets them.
struct Collector<'a> {
    lookup: &'a dyn Fn(Role, Option<usize>) -> Option<Weight>,
    weights: Vec<Weight>,
    roles: Vec<(Role, Option<usize>)>,
}

impl Collector<'_> {
    fn weight(
        &mut self,
        role: Role,
        layer: Option<usize>,
        rows: usize,
        cols: usize,
    ) -> Result<WeightId, PlanError> {
        let Some(weight) = (self.lookup)(role, layer) else {
            let place = layer.map_or(String::new(), |layer| format!("layer {layer}: "));
            return Err(PlanError::MissingWeight(format!("{place}{role:?}")));
        };
        if (weight.rows, weight.cols) != (rows, cols) {
            return Err(PlanError::WrongShape {
                name: weight.name,
                rows: weight.rows,
                cols: weight.cols,
                expected_rows: rows,
                expected_cols: cols,
            });
        }
        if weight.tensor_type.row_bytes(cols).is_none() {
            return Err(PlanError::RowLength {
                name: weight.name,
                cols,
                tensor_type: weight.tensor_type.name(),
            });
        }
        let id = WeightId(self.weights.len() as u32);
        self.weights.push(weight);
        self.roles.push((role, layer));
        Ok(id)
    }

    fn vector(&mut self, role: Role, layer: Option<usize>, len: usize) -> Result<WeightId, PlanError> {
        self.weight(role, layer, 1, len)
    }

    fn linear(
        &mut self,
        (role, bias_role): (Role, Role),
        layer: usize,
        (rows, cols): (usize, usize),
        has_bias: bool,
    ) -> Result<Linear, PlanError> {
        let weight = self.weight(role, Some(layer), rows, cols)?;
        let bias = has_bias.then(|| self.vector(bias_role, Some(layer), rows)).transpose()?;
        Ok(Linear { weight, bias })
    }
}

impl Decoder {
    /// Looks every weight up by role and layer and checks its shape against the configuration.
    pub fn new(
        config: &ModelConfig,
        lookup: &dyn Fn(Role, Option<usize>) -> Option<Weight>,
    ) -> Result<Self, PlanError> {
        let shape = Shape {
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_layers: config.num_layers,
            num_heads: config.num_heads,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            rms_norm_eps: config.rms_norm_eps,
            rope_dim: config.rope.dim,
            rope_pairing: match config.rope.pairing {
                RopePairing::Norm => Pairing::Norm,
                RopePairing::Neox => Pairing::Neox,
            },
            sliding_window: config.sliding_window,
        };
        let (hidden, ffn) = (shape.hidden_size, shape.intermediate_size);
        let (query, kv) = (shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim);
        let mut collect = Collector { lookup, weights: Vec::new(), roles: Vec::new() };

        let table = collect.weight(Role::TokenEmbedding, None, shape.vocab_size, hidden)?;
        let mut layers = Vec::new();
        for layer in 0..shape.num_layers {
            let bias = config.qkv_bias;
            let at = Some(layer);
            let qkv_rope = Op::QkvRope {
                norm: collect.vector(Role::AttnNorm, at, hidden)?,
                q: collect.linear((Role::AttnQ, Role::AttnQBias), layer, (query, hidden), bias)?,
                k: collect.linear((Role::AttnK, Role::AttnKBias), layer, (kv, hidden), bias)?,
                v: collect.linear((Role::AttnV, Role::AttnVBias), layer, (kv, hidden), bias)?,
                q_norm: config
                    .qk_norm
                    .then(|| collect.vector(Role::AttnQNorm, at, shape.head_dim))
                    .transpose()?,
                k_norm: config
                    .qk_norm
                    .then(|| collect.vector(Role::AttnKNorm, at, shape.head_dim))
                    .transpose()?,
            };
            let output_roles = (Role::AttnOutput, Role::AttnOutputBias);
            let attn_out = Op::AttnOut {
                output: collect.linear(output_roles, layer, (hidden, query), config.output_bias)?,
            };
            let bias = config.mlp_bias;
            let gate_up = Op::GateUp {
                norm: collect.vector(Role::FfnNorm, at, hidden)?,
                gate: collect.linear((Role::FfnGate, Role::FfnGateBias), layer, (ffn, hidden), bias)?,
                up: collect.linear((Role::FfnUp, Role::FfnUpBias), layer, (ffn, hidden), bias)?,
            };
            let down = Op::Down {
                down: collect.linear((Role::FfnDown, Role::FfnDownBias), layer, (hidden, ffn), bias)?,
            };
            layers.push([qkv_rope, Op::Attention, attn_out, gate_up, down]);
        }
        let norm = collect.vector(Role::OutputNorm, None, hidden)?;
        let output = match config.tied_embeddings {
            true => table,
            false => collect.weight(Role::Output, None, shape.vocab_size, hidden)?,
        };
        Ok(Self {
            shape,
            weights: collect.weights,
            roles: collect.roles,
            embed: Op::Embed { table },
            layers,
            head: Op::Head { norm, output },
        })
    }

    /// The sizes.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The weights, by id.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// The role and layer of a weight.
    pub fn role(&self, id: WeightId) -> Option<(Role, Option<usize>)> {
        self.roles.get(id.0 as usize).copied()
    }

    /// Whether a matrix is multiplied with, not only looked up in.
    pub fn is_multiplied(&self, id: WeightId) -> bool {
        let ops = self.layers.iter().flatten().chain([&self.head]);
        ops.flat_map(Op::weights).any(|weight| weight == id)
    }

    /// The cache for `slots` sequences of up to `context` positions.
    pub fn kv_layout(&self, slots: usize, context: usize, kv_type: KvType) -> KvLayout {
        KvLayout {
            num_layers: self.shape.num_layers,
            slots,
            num_kv_heads: self.shape.num_kv_heads,
            context,
            head_dim: self.shape.head_dim,
            kv_type,
        }
    }

    /// The list of steps for `rows`.
    pub fn plan(&self, rows: Rows, numerics: Numerics) -> Plan {
        let shape = &self.shape;
        let query = shape.num_heads * shape.head_dim;
        let buffers = vec![
            Buffer { name: "residual", rows: rows.rows, width: shape.hidden_size },
            Buffer { name: "query", rows: rows.rows, width: query },
            Buffer { name: "attention", rows: rows.rows, width: query },
            Buffer { name: "gated", rows: rows.rows, width: shape.intermediate_size },
            Buffer { name: "logits", rows: rows.logit_rows, width: shape.vocab_size },
        ];
        let mut plan = Plan {
            rows: rows.rows,
            logit_rows: rows.logit_rows,
            shape: shape.clone(),
            numerics,
            weights: self.weights.clone(),
            buffers,
            steps: Vec::new(),
        };
        self.push(&mut plan, self.embed, None);
        for (layer, ops) in self.layers.iter().enumerate() {
            for op in ops {
                self.push(&mut plan, *op, Some(layer));
            }
        }
        self.push(&mut plan, self.head, None);
        if rows.sample {
            self.push(&mut plan, Op::Sample, None);
        }
        plan
    }

    fn push(&self, plan: &mut Plan, op: Op, layer: Option<usize>) {
        let (reads, writes): (&[BufferId], &[BufferId]) = match op {
            Op::Embed { .. } => (&[], &[Plan::RESIDUAL]),
            Op::QkvRope { .. } => (&[Plan::RESIDUAL], &[Plan::QUERY]),
            Op::Attention => (&[Plan::QUERY], &[Plan::ATTENTION]),
            Op::AttnOut { .. } => (&[Plan::ATTENTION, Plan::RESIDUAL], &[Plan::RESIDUAL]),
            Op::GateUp { .. } => (&[Plan::RESIDUAL], &[Plan::GATED]),
            Op::Down { .. } => (&[Plan::GATED, Plan::RESIDUAL], &[Plan::RESIDUAL]),
            Op::Head { .. } => (&[Plan::RESIDUAL], &[Plan::LOGITS]),
            Op::Sample => (&[Plan::LOGITS], &[]),
        };
        let cost = self.cost(plan, &op, reads, writes);
        plan.steps.push(Step { op, layer, reads: reads.to_vec(), writes: writes.to_vec(), cost });
    }

    fn cost(&self, plan: &Plan, op: &Op, reads: &[BufferId], writes: &[BufferId]) -> Cost {
        let rows = plan.rows as u64;
        let float = size_of::<f32>() as u64;
        let buffer_bytes = |id: &BufferId| {
            plan.buffers.get(id.0 as usize).map_or(0, |buffer| (buffer.rows * buffer.width) as u64 * float)
        };
        let activation_bytes = reads.iter().chain(writes).map(buffer_bytes).sum();
        let shape = &self.shape;
        let mut cost = Cost { activation_bytes, ..Cost::default() };
        match op {
            // One row of the table per token, not the table.
            Op::Embed { table } => {
                let row = self.weights.get(table.0 as usize).map_or(0, |w| w.bytes() / w.rows.max(1) as u64);
                cost.weight_bytes = row * rows;
            }
            Op::Attention => {
                let kv_size = match plan.numerics.kv {
                    KvType::F16 => 2,
                    KvType::F32 => 4,
                };
                cost.kv_bytes_per_position =
                    (2 * shape.num_kv_heads * shape.head_dim * kv_size) as u64 * rows;
                cost.flops_per_position = (4 * shape.num_heads * shape.head_dim) as u64 * rows;
            }
            _ => {
                let rows = if matches!(op, Op::Head { .. }) { plan.logit_rows as u64 } else { rows };
                for id in op.weights() {
                    if let Some(weight) = self.weights.get(id.0 as usize) {
                        cost.weight_bytes += weight.bytes();
                        cost.flops += 2 * rows * (weight.rows * weight.cols) as u64;
                    }
                }
            }
        }
        cost
    }
}

impl Plan {
    /// The residual stream.
    pub const RESIDUAL: BufferId = BufferId(0);
    /// Queries after RoPE.
    pub const QUERY: BufferId = BufferId(1);
    /// The attention heads' outputs.
    pub const ATTENTION: BufferId = BufferId(2);
    /// SiLU(gate) * up.
    pub const GATED: BufferId = BufferId(3);
    /// Logits of the rows that ask for them.
    pub const LOGITS: BufferId = BufferId(4);

    /// The norm that the next op with one will want of the residual stream that `step` leaves.
    pub fn next_norm(&self, step: usize) -> Option<WeightId> {
        self.steps.iter().skip(step + 1).find_map(|step| match step.op {
            Op::QkvRope { norm, .. } | Op::GateUp { norm, .. } | Op::Head { norm, .. } => Some(norm),
            _ => None,
        })
    }

    /// Launches of a pass on a GPU, and of the layer that has most; see [`Op::launches`].
    pub fn launches(&self) -> (usize, usize) {
        let of = |step: &Step| step.op.launches(self.numerics.activations);
        let layer = |layer: usize| self.steps.iter().filter(|step| step.layer == Some(layer)).map(of).sum();
        let most = (0..self.shape.num_layers).map(layer).max().unwrap_or(0);
        (self.steps.iter().map(of).sum(), most)
    }

    /// Bytes of weights that one run reads.
    pub fn weight_bytes(&self) -> u64 {
        self.steps.iter().map(|step| step.cost.weight_bytes).sum()
    }
}

impl Activations {
    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::Q8K => "q8_k",
            Self::F32 => "f32",
        }
    }
}
