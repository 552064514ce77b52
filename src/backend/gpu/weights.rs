//! Weights on their way to a device: which matrices lie together, in which order their rows are stored, and panels of 32
//! rows with every scale checked.

use crate::backend::Error;
use crate::plan::{Linear, Op, Pairing, Plan, Shape, Weight, WeightId, WeightSource};
use crate::quant::{self, PANEL_ROWS, RowPanels, TensorType};
use std::collections::HashMap;

/// The order in which the rows of queries and keys are stored: the two dimensions that RoPE turns together are
/// neighbours. Gives the model's row for a stored row.
pub(in crate::backend) fn row_order(shape: &Shape, stored: usize) -> usize {
    let (head, at) = (stored / shape.head_dim, stored % shape.head_dim);
    let dim = match shape.rope_pairing {
        Pairing::Neox if at < shape.rope_dim => at / 2 + (at % 2) * (shape.rope_dim / 2),
        _ => at,
    };
    head * shape.head_dim + dim
}

/// Which matrices share a buffer, and how.
pub(in crate::backend) struct Group {
    pub(in crate::backend) ids: Vec<WeightId>,
    /// How many of them, from the first, have their rows in the order of RoPE's pairs.
    pub(in crate::backend) rotated: usize,
    /// Whether the matrices must be cut at the same rows.
    pub(in crate::backend) side_by_side: bool,
}

/// The matrices of an op.
pub(in crate::backend) fn group(op: &Op) -> Option<Group> {
    let single = |id| Group { ids: vec![id], rotated: 0, side_by_side: false };
    Some(match *op {
        Op::Embed { table } => single(table),
        Op::QkvRope { q, k, v, .. } => {
            Group { ids: vec![q.weight, k.weight, v.weight], rotated: 2, side_by_side: false }
        }
        Op::AttnOut { output } => single(output.weight),
        Op::GateUp { gate, up, .. } => {
            Group { ids: vec![gate.weight, up.weight], rotated: 0, side_by_side: true }
        }
        Op::Down { down } => single(down.weight),
        Op::Head { output, .. } => single(output),
        Op::Attention | Op::Sample => return None,
    })
}

/// The matrices of an op that has any: the key of its buffers.
pub(in crate::backend) fn matrices(op: &Op) -> Vec<WeightId> {
    group(op).map_or(Vec::new(), |group| group.ids)
}

/// A matrix that is to be stored in panels.
pub(in crate::backend) struct Matrix<'a> {
    pub(in crate::backend) id: WeightId,
    pub(in crate::backend) weight: &'a Weight,
    pub(in crate::backend) panels: RowPanels,
    /// Bytes of one panel.
    pub(in crate::backend) panel_bytes: u64,
}

impl Matrix<'_> {
    /// Panels of the whole matrix.
    pub(in crate::backend) fn count(&self) -> usize {
        self.weight.rows.div_ceil(PANEL_ROWS)
    }

    /// Repacks panels `first..` into `out`, which holds whole panels; `rotated` takes the rows in the order of RoPE's
    /// pairs.
    ///
    /// # Errors
    /// A block scale that is not finite, by name and row.
    pub(in crate::backend) fn repack(
        &self,
        shape: &Shape,
        source: &dyn WeightSource,
        rotated: bool,
        first: usize,
        out: &mut [u8],
    ) -> Result<(), Error> {
        let weight = self.weight;
        for (i, out) in out.chunks_exact_mut((self.panel_bytes as usize).max(1)).enumerate() {
            let start = (first + i) * PANEL_ROWS;
            let stored = start..weight.rows.min(start + PANEL_ROWS);
            let model_row = |row: usize| if rotated { row_order(shape, row) } else { row };
            let rows: Vec<&[u8]> = stored.map(|row| source.row(self.id, model_row(row))).collect();
            for (i, row) in rows.iter().enumerate() {
                quant::finite_scales(weight.tensor_type, row).map_err(|error| Error::BadWeight {
                    name: weight.name.clone(),
                    what: format!("row {}: {error}", start + i),
                })?;
            }
            self.panels.repack(rows.into_iter(), out);
        }
        Ok(())
    }
}

/// The matrices of a group.
///
/// # Errors
/// A type, or a length of rows, for which there are no panels.
pub(in crate::backend) fn group_matrices<'p>(
    plan: &'p Plan,
    group: &Group,
) -> Result<Vec<Matrix<'p>>, Error> {
    let matrix = |&id: &WeightId| {
        let weight = plan.weights.get(id.0 as usize)?;
        let panels = RowPanels::new(weight.tensor_type)?;
        let panel_bytes = panels.panel_bytes(weight.cols)? as u64;
        Some(Matrix { id, weight, panels, panel_bytes })
    };
    let matrices: Vec<Matrix<'p>> = group.ids.iter().filter_map(matrix).collect();
    if matrices.len() == group.ids.len() {
        return Ok(matrices);
    }
    let first = group.ids.first().and_then(|id| plan.weights.get(id.0 as usize));
    Err(Error::BadWeight {
        name: first.map_or("a weight", |weight| &weight.name).to_owned(),
        what: "it (or one beside it) is of a type, or has rows of a length, for which there is no kernel"
            .to_owned(),
    })
}

/// The one or two types of matrices that are multiplied together, the second being the one that a kernel `takes` second.
/// `None` for more than two, and for two that no kernel takes.
pub(in crate::backend) fn mixture(
    types: &[TensorType],
    takes: impl Fn(TensorType, TensorType) -> bool,
) -> Option<(TensorType, Option<TensorType>)> {
    let first = *types.first()?;
    let Some(&other) = types.iter().find(|&&t| t != first) else { return Some((first, None)) };
    if types.iter().any(|&t| t != first && t != other) {
        return None;
    }
    let (a, b) = [(first, other), (other, first)].into_iter().find(|&(a, b)| takes(a, b))?;
    Some((a, Some(b)))
}

/// All norms and biases end to end, and where each begins.
pub(in crate::backend) type Vectors = (Vec<f32>, HashMap<WeightId, u32>);

/// Collects the vectors of a plan; those that belong to the rows of queries and keys are stored in their order.
///
/// # Errors
/// A vector that cannot be decoded.
pub(in crate::backend) fn vectors(plan: &Plan, source: &dyn WeightSource) -> Result<Vectors, Error> {
    let mut rotated = Vec::new();
    for step in &plan.steps {
        if let Op::QkvRope { q, k, q_norm, k_norm, .. } = step.op {
            let bias = |linear: Linear| linear.bias;
            rotated.extend([bias(q), bias(k), q_norm, k_norm].into_iter().flatten());
        }
    }
    let mut values: Vec<f32> = Vec::new();
    let mut places = HashMap::new();
    for (index, weight) in plan.weights.iter().enumerate().filter(|(_, weight)| weight.is_vector()) {
        let id = WeightId(index as u32);
        let mut vector = vec![0.0; weight.cols];
        quant::decode_row(weight.tensor_type, source.row(id, 0), &mut vector)
            .map_err(|error| Error::BadWeight { name: weight.name.clone(), what: error.to_string() })?;
        places.insert(id, values.len() as u32);
        if rotated.contains(&id) {
            let stored = |at| vector.get(row_order(&plan.shape, at)).copied().unwrap_or(0.0);
            values.extend((0..vector.len()).map(stored));
        } else {
            values.extend(vector);
        }
        source.release(id);
    }
    Ok((values, places))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_rows_hold_pairs_side_by_side() {
        let mut shape = Shape {
            hidden_size: 16,
            intermediate_size: 32,
            num_layers: 1,
            num_heads: 2,
            num_kv_heads: 1,
            head_dim: 8,
            vocab_size: 4,
            rms_norm_eps: 1e-6,
            rope_dim: 6,
            rope_pairing: Pairing::Neox,
            sliding_window: None,
        };
        let order: Vec<usize> = (8..16).map(|stored| row_order(&shape, stored)).collect();
        assert_eq!(order, [8, 11, 9, 12, 10, 13, 14, 15]);
        shape.rope_pairing = Pairing::Norm;
        assert!((0..16).all(|stored| row_order(&shape, stored) == stored));
    }
}
