//! Weights on the device: matrices in panels of 32 rows, in buffers that the adapter can bind; all vectors in one buffer.
//!
//! The matrices that one dispatch reads share a buffer (Q, K and V; gate and up), so that eight bindings are enough. A
//! buffer never exceeds the adapter's limit: what is larger is cut by rows, one dispatch per piece.

use super::adapter::Gpu;
use crate::backend::Error;
use crate::plan::{Linear, Op, Pairing, Plan, Shape, Weight, WeightId, WeightSource};
use crate::quant::{self, PANEL_ROWS, RowPanels, TensorType};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes that are staged on the host at a time.
const STAGED: usize = 16 << 20;

/// Some panels of one matrix in a buffer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) tensor_type: TensorType,
    /// Where the panels begin, in units of 16 bytes.
    pub(super) base: u32,
    /// The matrix's panel that comes first.
    pub(super) first_panel: u32,
    /// How many.
    pub(super) panels: u32,
    /// Distance of panels, in units of 16 bytes.
    pub(super) stride: u32,
}

/// A buffer of panels, one part per matrix of the group; a part may be empty.
#[derive(Clone)]
pub(super) struct Chunk {
    pub(super) buffer: wgpu::Buffer,
    pub(super) parts: Vec<Part>,
}

/// All weights.
pub(super) struct Weights {
    groups: HashMap<Vec<WeightId>, Vec<Chunk>>,
    vectors: wgpu::Buffer,
    places: HashMap<WeightId, u32>,
    /// Bytes on the device.
    pub(super) bytes: u64,
}

/// The order in which the rows of queries and keys are stored: the two dimensions that RoPE turns together are
/// neighbours. Gives the model's row for a stored row.
pub(super) fn row_order(shape: &Shape, stored: usize) -> usize {
    let (head, at) = (stored / shape.head_dim, stored % shape.head_dim);
    let dim = match shape.rope_pairing {
        Pairing::Neox if at < shape.rope_dim => at / 2 + (at % 2) * (shape.rope_dim / 2),
        _ => at,
    };
    head * shape.head_dim + dim
}

/// Which matrices share a buffer, and how.
struct Group {
    ids: Vec<WeightId>,
    /// How many of them, from the first, have their rows in the order of RoPE's pairs.
    rotated: usize,
    /// Whether the matrices must be cut at the same rows.
    side_by_side: bool,
}

fn group(op: &Op) -> Option<Group> {
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

/// The matrices of an op that has any: the key of its chunks.
pub(super) fn matrices(op: &Op) -> Vec<WeightId> {
    group(op).map_or(Vec::new(), |group| group.ids)
}

/// Uploads one model.
struct Upload<'a> {
    gpu: &'a Gpu,
    shape: &'a Shape,
    source: &'a dyn WeightSource,
    limit: u64,
    done: u64,
    total: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

/// Which panels of each matrix of a group go into one buffer: first panel and count.
type Cut = Vec<(usize, usize)>;

impl Weights {
    /// Repacks and uploads all weights of `plan`; `progress` gets bytes done and in all. `max_binding` may set a lower
    /// limit than the adapter's.
    pub(super) fn upload(
        gpu: &Gpu,
        plan: &Plan,
        source: &Arc<dyn WeightSource + Send + Sync>,
        max_binding: Option<u64>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let adapter = gpu.limits.max_storage_buffer_binding_size.min(gpu.limits.max_buffer_size);
        let mut upload = Upload {
            gpu,
            shape: &plan.shape,
            source: &**source,
            limit: max_binding.map_or(adapter, |max| max.min(adapter)),
            done: 0,
            total: plan.weights.iter().map(Weight::bytes).sum(),
            progress,
        };
        let (vectors, places) = upload.vectors(plan)?;
        let mut groups = HashMap::new();
        for step in &plan.steps {
            if let Some(group) = group(&step.op)
                && !groups.contains_key(&group.ids)
            {
                let chunks = upload.group(plan, &group)?;
                for &id in &group.ids {
                    source.release(id);
                }
                groups.insert(group.ids, chunks);
            }
        }
        gpu.wait("the upload of the weights")?;
        let sizes = groups.values().flatten().map(|chunk| chunk.buffer.size());
        let bytes = sizes.sum::<u64>() + vectors.size();
        Ok(Self { groups, vectors, places, bytes })
    }

    /// The chunks of an op's matrices.
    pub(super) fn chunks(&self, ids: &[WeightId]) -> &[Chunk] {
        self.groups.get(ids).map_or(&[], Vec::as_slice)
    }

    /// All vectors.
    pub(super) fn vectors(&self) -> &wgpu::Buffer {
        &self.vectors
    }

    /// Where a vector begins in the buffer of vectors.
    pub(super) fn place(&self, id: Option<WeightId>) -> u32 {
        id.and_then(|id| self.places.get(&id).copied()).unwrap_or(super::params::NONE)
    }
}

impl Upload<'_> {
    fn vectors(&mut self, plan: &Plan) -> Result<(wgpu::Buffer, HashMap<WeightId, u32>), Error> {
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
            quant::decode_row(weight.tensor_type, self.source.row(id, 0), &mut vector)
                .map_err(|error| Error::BadWeight { name: weight.name.clone(), what: error.to_string() })?;
            places.insert(id, values.len() as u32);
            if rotated.contains(&id) {
                let stored = |at| vector.get(row_order(self.shape, at)).copied().unwrap_or(0.0);
                values.extend((0..vector.len()).map(stored));
            } else {
                values.extend(vector);
            }
            self.done += weight.bytes();
            self.source.release(id);
        }
        let buffer = self.gpu.storage("norms and biases", 4 * values.len() as u64)?;
        self.gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&values));
        Ok((buffer, places))
    }

    fn group(&mut self, plan: &Plan, group: &Group) -> Result<Vec<Chunk>, Error> {
        let matrices: Vec<(WeightId, &Weight, RowPanels, u64)> = group
            .ids
            .iter()
            .filter_map(|&id| {
                let weight = plan.weights.get(id.0 as usize)?;
                let panels = RowPanels::new(weight.tensor_type)?;
                Some((id, weight, panels, panels.panel_bytes(weight.cols)? as u64))
            })
            .collect();
        if matrices.len() != group.ids.len() {
            let name = plan.weights.get(group.ids[0].0 as usize).map_or("a weight", |w| &w.name);
            return Err(Error::BadWeight {
                name: name.to_owned(),
                what: "it (or one beside it) is of a type, or has rows of a length, for which there is no shader"
                    .to_owned(),
            });
        }
        let counts: Vec<usize> = matrices.iter().map(|(_, w, _, _)| w.rows.div_ceil(PANEL_ROWS)).collect();
        let sizes: Vec<u64> = matrices.iter().map(|&(_, _, _, bytes)| bytes).collect();
        let types: Vec<TensorType> = matrices.iter().map(|(_, w, _, _)| w.tensor_type).collect();
        let together = group.side_by_side || super::forms::in_one_dispatch(&types);
        let cuts = cut(&counts, &sizes, self.limit, group.side_by_side, together);
        let Some(cuts) = cuts else {
            return Err(Error::OutOfMemory {
                what: format!("32 rows of {}", matrices[0].1.name),
                needed: sizes.iter().copied().max().unwrap_or(0),
                available: self.limit,
                advice: "the adapter's bindings are too small for this model".to_owned(),
            });
        };
        cuts.iter().map(|cut| self.chunk(&matrices, cut, group.rotated)).collect()
    }

    fn chunk(
        &mut self,
        matrices: &[(WeightId, &Weight, RowPanels, u64)],
        cut: &Cut,
        rotated: usize,
    ) -> Result<Chunk, Error> {
        let bytes: u64 = matrices.iter().zip(cut).map(|(m, &(_, count))| m.3 * count as u64).sum();
        let name = matrices.first().map_or("", |m| &m.1.name);
        let buffer = self.gpu.storage(name, bytes)?;
        let (mut at, mut parts) = (0u64, Vec::new());
        for (index, (&(id, weight, panels, panel_bytes), &(first, count))) in
            matrices.iter().zip(cut).enumerate()
        {
            parts.push(Part {
                tensor_type: weight.tensor_type,
                base: (at / 16) as u32,
                first_panel: first as u32,
                panels: count as u32,
                stride: (panel_bytes / 16) as u32,
            });
            let at_a_time = (STAGED / panel_bytes.max(1) as usize).max(1);
            let mut panel = first;
            while panel < first + count {
                let many = at_a_time.min(first + count - panel);
                let mut staged = vec![0u8; many * panel_bytes as usize];
                for (i, out) in staged.chunks_exact_mut(panel_bytes as usize).enumerate() {
                    let start = (panel + i) * PANEL_ROWS;
                    let rows: Vec<&[u8]> = (start..weight.rows.min(start + PANEL_ROWS))
                        .map(|row| {
                            let row = if index < rotated { row_order(self.shape, row) } else { row };
                            self.source.row(id, row)
                        })
                        .collect();
                    for (i, row) in rows.iter().enumerate() {
                        quant::finite_scales(weight.tensor_type, row).map_err(|error| Error::BadWeight {
                            name: weight.name.clone(),
                            what: format!("row {}: {error}", start + i),
                        })?;
                    }
                    panels.repack(rows.into_iter(), out);
                    let read = weight.rows.min(start + PANEL_ROWS) - start;
                    self.done += weight.bytes() / weight.rows.max(1) as u64 * read as u64;
                }
                self.gpu.queue.write_buffer(&buffer, at, &staged);
                // Staging memory is given back when its copy is done.
                self.gpu.queue.submit([]);
                self.gpu.wait(&weight.name)?;
                (self.progress)(self.done.min(self.total), self.total);
                at += staged.len() as u64;
                panel += many;
            }
        }
        Ok(Chunk { buffer, parts })
    }
}

/// Cuts matrices of `counts` panels of `sizes` bytes into buffers of up to `limit` bytes. Side by side: every buffer has
/// the same panels of all. Otherwise all in one buffer where that fits and `together` allows it, else each by itself.
/// `None` where not even one panel fits.
fn cut(counts: &[usize], sizes: &[u64], limit: u64, side_by_side: bool, together: bool) -> Option<Vec<Cut>> {
    let all: u64 = counts.iter().zip(sizes).map(|(&count, &size)| count as u64 * size).sum();
    if together && all <= limit {
        return Some(vec![counts.iter().map(|&count| (0, count)).collect()]);
    }
    let mut cuts = Vec::new();
    if side_by_side {
        let count = counts.first().copied().unwrap_or(0);
        let per = (limit / sizes.iter().sum::<u64>().max(1)) as usize;
        let firsts = (per > 0).then(|| (0..count).step_by(per))?;
        cuts.extend(firsts.map(|first| vec![(first, per.min(count - first)); counts.len()]));
        return Some(cuts);
    }
    for (index, (&count, &size)) in counts.iter().zip(sizes).enumerate() {
        let per = (limit / size.max(1)) as usize;
        let firsts = (per > 0).then(|| (0..count).step_by(per))?;
        for first in firsts {
            let mut cut = vec![(0, 0); counts.len()];
            cut[index] = (first, per.min(count - first));
            cuts.push(cut);
        }
    }
    Some(cuts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_cut_by_rows() {
        assert_eq!(
            cut(&[4, 2, 2], &[10, 10, 20], 100, false, true),
            Some(vec![vec![(0, 4), (0, 2), (0, 2)]])
        );
        let apart =
            vec![vec![(0, 4), (0, 0), (0, 0)], vec![(0, 0), (0, 2), (0, 0)], vec![(0, 0), (0, 0), (0, 2)]];
        assert_eq!(cut(&[4, 2, 2], &[10, 10, 20], 100, false, false), Some(apart));
        assert_eq!(cut(&[5], &[10], 25, false, true), Some(vec![vec![(0, 2)], vec![(2, 2)], vec![(4, 1)]]));
        let pairs = vec![vec![(0, 2), (0, 2)], vec![(2, 1), (2, 1)]];
        assert_eq!(cut(&[3, 3], &[10, 10], 45, true, true), Some(pairs));
        assert_eq!(cut(&[3], &[10], 9, false, true), None);
    }

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
