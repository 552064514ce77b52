//! Weights on the device: matrices in panels of 32 rows, in buffers that the adapter can bind; all vectors in one buffer.
//!
//! The matrices that one dispatch reads share a buffer (Q, K and V; gate and up), so that eight bindings are enough. A
//! buffer never exceeds the adapter's limit: what is larger is cut by rows, one dispatch per piece. Gate and up of
//! different types lie in buffers of their own, those of up first: `gate_up.wgsl` says why.

use super::gpu::Gpu;
use crate::backend::Error;
use crate::backend::gpu::params::NONE;
use crate::backend::gpu::weights::{Group, Matrix, group, group_matrices, vectors};
use crate::plan::{Plan, Shape, Weight, WeightId, WeightSource};
use crate::quant::{PANEL_ROWS, TensorType};
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
        id.and_then(|id| self.places.get(&id).copied()).unwrap_or(NONE)
    }
}

impl Upload<'_> {
    fn vectors(&mut self, plan: &Plan) -> Result<(wgpu::Buffer, HashMap<WeightId, u32>), Error> {
        let (values, places) = vectors(plan, self.source)?;
        self.done += plan.weights.iter().filter(|weight| weight.is_vector()).map(Weight::bytes).sum::<u64>();
        let buffer = self.gpu.storage("norms and biases", 4 * values.len() as u64)?;
        self.gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&values));
        Ok((buffer, places))
    }

    fn group(&mut self, plan: &Plan, group: &Group) -> Result<Vec<Chunk>, Error> {
        let matrices = group_matrices(plan, group)?;
        let counts: Vec<usize> = matrices.iter().map(Matrix::count).collect();
        let sizes: Vec<u64> = matrices.iter().map(|matrix| matrix.panel_bytes).collect();
        let types: Vec<TensorType> = matrices.iter().map(|matrix| matrix.weight.tensor_type).collect();
        let alike = types.iter().all(|&of_one| Some(of_one) == types.first().copied());
        let side_by_side = group.side_by_side && alike;
        let together = if group.side_by_side { alike } else { super::forms::in_one_dispatch(&types) };
        let cuts = cut(&counts, &sizes, self.limit, side_by_side, together);
        let Some(mut cuts) = cuts else {
            return Err(Error::OutOfMemory {
                what: format!("32 rows of {}", matrices[0].weight.name),
                needed: sizes.iter().copied().max().unwrap_or(0),
                available: self.limit,
                advice: "the adapter's bindings are too small for this model".to_owned(),
            });
        };
        if group.side_by_side && !side_by_side {
            cuts.reverse();
        }
        cuts.iter().map(|cut| self.chunk(&matrices, cut, group.rotated)).collect()
    }

    fn chunk(&mut self, matrices: &[Matrix<'_>], cut: &Cut, rotated: usize) -> Result<Chunk, Error> {
        let bytes: u64 = matrices.iter().zip(cut).map(|(m, &(_, count))| m.panel_bytes * count as u64).sum();
        let name = matrices.first().map_or("", |matrix| &matrix.weight.name);
        let buffer = self.gpu.storage(name, bytes)?;
        let (mut at, mut parts) = (0u64, Vec::new());
        for (index, (matrix, &(first, count))) in matrices.iter().zip(cut).enumerate() {
            let weight = matrix.weight;
            parts.push(Part {
                tensor_type: weight.tensor_type,
                base: (at / 16) as u32,
                first_panel: first as u32,
                panels: count as u32,
                stride: (matrix.panel_bytes / 16) as u32,
            });
            let at_a_time = (STAGED / matrix.panel_bytes.max(1) as usize).max(1);
            let mut panel = first;
            while panel < first + count {
                let many = at_a_time.min(first + count - panel);
                let mut staged = vec![0u8; many * matrix.panel_bytes as usize];
                matrix.repack(self.shape, self.source, index < rotated, panel, &mut staged)?;
                let rows = (many * PANEL_ROWS).min(weight.rows - panel * PANEL_ROWS);
                self.done += weight.bytes() / weight.rows.max(1) as u64 * rows as u64;
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
}
