//! Into how many segments the rows of an op's matrices are cut: see `quant::Cut`.
//!
//! The number is what a GPU needs that reads each row by a segment per warp. It comes from the shapes and types of the
//! op alone, never from the device, the batch or how the op is cut into launches: so the sum of a row has one order on
//! every backend, and whatever runs beside it.

use super::{Activations, Op, Plan, WeightId};
use crate::quant::{Cut, PANEL_ROWS, TensorType, unit_columns};

/// Warps that all blocks of a product should have together, if the matrix has the columns for it: 16 for each of 128
/// multiprocessors. With 1 to 3 KB in flight per warp this covers a microsecond of the fastest memory there is.
const WARPS: usize = 2048;
/// Most segments of a row: a block has no more than 512 threads, which leaves each 128 registers.
const MOST_SEGMENTS: usize = 16;
/// The same for `gate_up`, which takes two matrices side by side and keeps the sums of both: 384 threads leave each 168.
const MOST_BESIDE: usize = 6;
/// Fewest: less than four warps per block leave a multiprocessor empty before it runs out of blocks.
const FEWEST_SEGMENTS: usize = 4;

impl Plan {
    /// How many segments the rows of an op's matrices have.
    pub fn segments(&self, op: &Op) -> usize {
        let matrices = op.matrices();
        let weights = matrices.iter().filter_map(|id| self.weights.get(id.0 as usize));
        let panels = weights.clone().map(|weight| weight.rows.div_ceil(PANEL_ROWS));
        let units = weights.map(|weight| weight.cols.div_ceil(self.unit_columns(weight.tensor_type))).min();
        let (panels, most, side_by_side) = match op {
            Op::GateUp { .. } => (panels.max(), MOST_BESIDE, 2),
            _ => (Some(panels.sum()), MOST_SEGMENTS, 1),
        };
        let wanted = WARPS.div_ceil(panels.unwrap_or(0).max(1) * side_by_side);
        // No more than it takes for the longest to be as short: 28 units are 14 segments of 2, not 16 of 1 or 2.
        let units = units.unwrap_or(0).max(1);
        let longest = units.div_ceil(wanted.clamp(FEWEST_SEGMENTS, most));
        units.div_ceil(longest)
    }

    /// How the rows of one of an op's matrices are cut.
    pub fn cut(&self, op: &Op, id: WeightId) -> Cut {
        let unit = self.weights.get(id.0 as usize).map_or(32, |w| self.unit_columns(w.tensor_type));
        Cut::new(self.segments(op), unit)
    }

    /// How the activations that meet one of an op's matrices are cut where their squares are added up for a norm: like
    /// the matrix; those of `gate_up` once for both, like those of `gate`.
    pub fn squares_cut(&self, op: &Op, id: WeightId) -> Cut {
        match *op {
            Op::GateUp { gate, .. } => self.cut(op, gate.weight),
            _ => self.cut(op, id),
        }
    }

    fn unit_columns(&self, tensor_type: TensorType) -> usize {
        unit_columns(tensor_type, self.numerics.activations == Activations::Q8K)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{KvType, Linear, Numerics, Pairing, Shape, Weight};

    fn plan(matrices: &[(TensorType, usize, usize)]) -> Plan {
        let weight = |&(tensor_type, rows, cols): &(TensorType, usize, usize)| Weight {
            name: String::new(),
            tensor_type,
            rows,
            cols,
        };
        Plan {
            rows: 1,
            logit_rows: 1,
            shape: Shape {
                hidden_size: 32,
                intermediate_size: 32,
                num_layers: 1,
                num_heads: 1,
                num_kv_heads: 1,
                head_dim: 32,
                vocab_size: 1,
                rms_norm_eps: 0.0,
                rope_dim: 32,
                rope_pairing: Pairing::Neox,
                sliding_window: None,
            },
            numerics: Numerics { activations: Activations::Q8, kv: KvType::F16 },
            weights: matrices.iter().map(weight).collect(),
            buffers: vec![],
            steps: vec![],
        }
    }

    #[test]
    fn segments_fill_a_device_and_fit_a_block() {
        use TensorType::{Q4_K, Q5_0, Q6_K};
        let linear = |id| Linear { weight: WeightId(id), bias: None };
        let output = Op::AttnOut { output: linear(0) };
        let gate_up = Op::GateUp { norm: WeightId(9), gate: linear(0), up: linear(1) };
        let head = Op::Head { norm: WeightId(9), output: WeightId(0) };
        // 0.5B, 1.5B and 7B: output projection, gate and up, head.
        assert_eq!(plan(&[(Q5_0, 896, 896)]).segments(&output), 14);
        assert_eq!(plan(&[(Q6_K, 1536, 1536)]).segments(&output), 12);
        assert_eq!(plan(&[(Q4_K, 8960, 1536); 2]).segments(&gate_up), 4);
        assert_eq!(plan(&[(Q4_K, 32, 1536), (Q6_K, 32, 1536)]).segments(&gate_up), 6);
        assert_eq!(plan(&[(Q6_K, 151_936, 3584)]).segments(&head), 4);
        assert_eq!(plan(&[(Q5_0, 1536, 32)]).segments(&output), 1);
        let mixed = plan(&[(Q4_K, 32, 512), (Q6_K, 32, 512)]);
        assert_eq!(mixed.cut(&gate_up, WeightId(0)), Cut::new(4, 64));
        assert_eq!(mixed.cut(&gate_up, WeightId(1)), Cut::new(4, 128));
        assert_eq!(mixed.squares_cut(&gate_up, WeightId(1)), Cut::new(4, 64));
    }
}
