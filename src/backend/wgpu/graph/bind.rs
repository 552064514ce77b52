//! Pipelines, parameters and bind groups of all dispatches, made once.

use super::super::dispatch::Dispatch;
use super::super::pipelines::PipelineKey;
use super::{Builder, Compiled};
use crate::backend::Error;
use crate::backend::gpu::params::Params;

/// Bytes between the parameters of two dispatches: the largest offset alignment that a device may ask for.
const PARAMS_STRIDE: u64 = 256;

impl Builder<'_> {
    /// Compiles the pipelines, writes the parameters, makes the bind groups.
    pub(super) fn finish(self) -> Result<Compiled, Error> {
        let gpu = self.gpu;
        let keys: Vec<PipelineKey> = self.drafts.iter().map(|draft| draft.key.clone()).collect();
        gpu.compile(&keys)?;
        let bytes = PARAMS_STRIDE * self.drafts.len() as u64;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let params = gpu.buffer("parameters", bytes, usage)?;
        let mut staged = vec![0u8; bytes as usize];
        for (draft, out) in self.drafts.iter().zip(staged.chunks_exact_mut(PARAMS_STRIDE as usize)) {
            out[..size_of::<Params>()].copy_from_slice(bytemuck::bytes_of(&draft.params));
        }
        gpu.queue.write_buffer(&params, 0, &staged);
        let mut dispatches = Vec::new();
        for (index, draft) in self.drafts.into_iter().enumerate() {
            let pipeline = gpu.pipeline(&draft.key)?;
            let mut entries = Vec::new();
            for binding in pipeline.variant.bindings {
                let resource = if binding.name == "params" {
                    wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &params,
                        offset: PARAMS_STRIDE * index as u64,
                        size: wgpu::BufferSize::new(size_of::<Params>() as u64),
                    })
                } else {
                    let bound = draft.buffers.iter().find(|(name, _)| *name == binding.name);
                    let missing =
                        || gpu.error(draft.key.variant, format!("nothing is bound to {}", binding.name));
                    bound.ok_or_else(missing)?.1.as_entire_binding()
                };
                entries.push(wgpu::BindGroupEntry { binding: binding.index, resource });
            }
            let bind_group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(draft.key.variant),
                layout: &pipeline.layout,
                entries: &entries,
            });
            dispatches.push(Dispatch {
                step: draft.step,
                when: draft.when,
                pipeline,
                bind_group,
                grid: draft.grid,
                weight_bytes: draft.weight_bytes,
            });
        }
        gpu.check("the bind groups of a plan")?;
        Ok(Compiled { dispatches, buffers: self.buffers, bytes: self.bytes + bytes })
    }
}
