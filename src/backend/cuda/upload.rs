//! Weights on the device: matrices in panels of 32 rows, the matrices of an op in one allocation; all vectors in one.

use super::device::Gpu;
use super::driver::DeviceMemory;
use super::forms::in_one_launch;
use crate::backend::Error;
use crate::backend::gpu::params::NONE;
use crate::backend::gpu::weights::{Matrix, group, group_matrices, vectors};
use crate::plan::{Plan, Weight, WeightId, WeightSource};
use crate::quant::{PANEL_ROWS, TensorType};
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes that are staged on the host at a time.
const STAGED: usize = 16 << 20;

/// The panels of one matrix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Part {
    pub(super) tensor_type: TensorType,
    /// Where the panels begin, in units of 16 bytes.
    pub(super) base: u32,
    /// How many; 0 where a launch leaves this matrix to another.
    pub(super) panels: u32,
    /// Distance of panels, in units of 16 bytes.
    pub(super) stride: u32,
    /// Bytes that a launch reads of it.
    pub(super) bytes: u64,
}

/// The matrices of an op on the device.
pub(super) struct Matrices {
    pub(super) memory: Arc<DeviceMemory>,
    parts: Vec<Part>,
}

impl Matrices {
    /// All of them, in the order of the op.
    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// What one launch each multiplies: all matrices where there is a kernel for their mixture of types, else one by one,
    /// the last first: `up` leaves what `gate` finds.
    pub(super) fn launches(&self) -> Vec<Vec<Part>> {
        let types: Vec<TensorType> = self.parts.iter().map(|part| part.tensor_type).collect();
        if in_one_launch(&types) {
            return vec![self.parts.clone()];
        }
        let only = |kept: usize| {
            let cut = |(index, part): (usize, &Part)| match index == kept {
                true => *part,
                false => Part { panels: 0, bytes: 0, ..*part },
            };
            self.parts.iter().enumerate().map(cut).collect()
        };
        (0..self.parts.len()).rev().map(only).collect()
    }
}

/// All weights.
pub(super) struct Weights {
    groups: HashMap<Vec<WeightId>, Matrices>,
    pub(super) vectors: Arc<DeviceMemory>,
    places: HashMap<WeightId, u32>,
    /// Bytes on the device.
    pub(super) bytes: u64,
}

/// Bytes that the weights of a plan take on the device.
pub(super) fn bytes_needed(plan: &Plan) -> Result<u64, Error> {
    let mut seen: Vec<Vec<WeightId>> = Vec::new();
    let vectors = plan.weights.iter().filter(|weight| weight.is_vector());
    let mut bytes = vectors.map(|weight| 4 * weight.cols as u64).sum::<u64>();
    for step in &plan.steps {
        let Some(group) = group(&step.op).filter(|group| !seen.contains(&group.ids)) else { continue };
        let matrices = group_matrices(plan, &group)?;
        let sizes = matrices.iter().map(|matrix| matrix.panel_bytes.saturating_mul(matrix.count() as u64));
        bytes = sizes.fold(bytes, u64::saturating_add).saturating_add(256);
        seen.push(group.ids);
    }
    Ok(bytes)
}

impl Weights {
    /// Repacks and uploads all weights of `plan`; `progress` gets bytes done and in all.
    pub(super) fn upload(
        gpu: &Gpu,
        plan: &Plan,
        source: &Arc<dyn WeightSource + Send + Sync>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let total: u64 = plan.weights.iter().map(Weight::bytes).sum();
        let mut done: u64 = plan.weights.iter().filter(|weight| weight.is_vector()).map(Weight::bytes).sum();
        let (values, places) = vectors(plan, &**source)?;
        let vectors = gpu.uninitialized("norms and biases", 4 * values.len() as u64)?;
        gpu.write(&vectors, 0, bytemuck::cast_slice(&values))?;
        let mut groups = HashMap::new();
        let mut bytes = vectors.bytes();
        for step in &plan.steps {
            let Some(group) = group(&step.op).filter(|group| !groups.contains_key(&group.ids)) else {
                continue;
            };
            let matrices = group_matrices(plan, &group)?;
            let name = matrices.first().map_or("", |matrix| &matrix.weight.name);
            let size = matrices.iter().map(|matrix| matrix.panel_bytes * matrix.count() as u64).sum();
            let memory = gpu.uninitialized(name, size)?;
            bytes += memory.bytes();
            let (mut at, mut parts) = (0u64, Vec::new());
            for (index, matrix) in matrices.iter().enumerate() {
                let rotated = index < group.rotated;
                parts.push(part(matrix, at));
                let at_a_time = (STAGED / matrix.panel_bytes.max(1) as usize).max(1);
                for first in (0..matrix.count()).step_by(at_a_time) {
                    let many = at_a_time.min(matrix.count() - first);
                    let mut staged = vec![0u8; many * matrix.panel_bytes as usize];
                    matrix.repack(&plan.shape, &**source, rotated, first, &mut staged)?;
                    gpu.write(&memory, at, &staged)?;
                    at += staged.len() as u64;
                    let rows = (many * PANEL_ROWS).min(matrix.weight.rows - first * PANEL_ROWS);
                    done += matrix.weight.bytes() / matrix.weight.rows.max(1) as u64 * rows as u64;
                    progress(done.min(total), total);
                }
            }
            for &id in &group.ids {
                source.release(id);
            }
            groups.insert(group.ids, Matrices { memory, parts });
        }
        gpu.wait("the upload of the weights")?;
        Ok(Self { groups, vectors, places, bytes })
    }

    /// An op's matrices.
    pub(super) fn matrices(&self, ids: &[WeightId]) -> Option<&Matrices> {
        self.groups.get(ids)
    }

    /// Where a vector begins among the vectors.
    pub(super) fn place(&self, id: Option<WeightId>) -> u32 {
        id.and_then(|id| self.places.get(&id).copied()).unwrap_or(NONE)
    }
}

fn part(matrix: &Matrix<'_>, at: u64) -> Part {
    Part {
        tensor_type: matrix.weight.tensor_type,
        base: (at / 16) as u32,
        panels: matrix.count() as u32,
        stride: (matrix.panel_bytes / 16) as u32,
        bytes: matrix.panel_bytes * matrix.count() as u64,
    }
}
