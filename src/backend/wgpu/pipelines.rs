//! Compute pipelines, compiled once per shader variant and set of constants, several at a time.

use super::adapter::Gpu;
use super::shaders::{BindingKind, Variant};
use crate::backend::Error;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// A variant with the values of its `override` constants.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct PipelineKey {
    pub(super) variant: &'static str,
    pub(super) constants: Vec<(&'static str, u32)>,
}

/// A compiled pipeline and the layout of its bind group.
pub(super) struct Pipeline {
    pub(super) variant: &'static Variant,
    pub(super) pipeline: wgpu::ComputePipeline,
    pub(super) layout: wgpu::BindGroupLayout,
}

/// The pipelines of a device.
#[derive(Default)]
pub(super) struct Pipelines {
    compiled: Mutex<HashMap<PipelineKey, Arc<Pipeline>>>,
}

impl Gpu {
    /// The pipelines of all `keys`; those that are new are compiled side by side.
    pub(super) fn compile(&self, keys: &[PipelineKey]) -> Result<(), Error> {
        let mut missing: Vec<&PipelineKey> = Vec::new();
        {
            let compiled = self.pipelines.compiled.lock().unwrap_or_else(PoisonError::into_inner);
            for key in keys {
                if !compiled.contains_key(key) && !missing.contains(&key) {
                    missing.push(key);
                }
            }
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = missing.len().div_ceil(threads).max(1);
        let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
            let workers: Vec<_> = missing
                .chunks(share)
                .map(|keys| scope.spawn(move || keys.iter().try_for_each(|key| self.compile_one(key))))
                .collect();
            let failed = || Err(self.error("a shader", "the compiler broke off"));
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| failed())).collect()
        });
        results.into_iter().collect()
    }

    /// A pipeline, compiled if it is not yet.
    pub(super) fn pipeline(&self, key: &PipelineKey) -> Result<Arc<Pipeline>, Error> {
        self.compile(std::slice::from_ref(key))?;
        let compiled = self.pipelines.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.get(key).cloned().ok_or_else(|| self.error(key.variant, "was not compiled"))
    }

    fn compile_one(&self, key: &PipelineKey) -> Result<(), Error> {
        let missing = || self.error(key.variant, "there is no such shader; see shaders/variants");
        let variant = super::shaders::find(key.variant).ok_or_else(missing)?;
        let most = self.limits.max_compute_workgroup_storage_size;
        if variant.shared_bytes > most {
            let needed = variant.shared_bytes;
            return Err(
                self.error(key.variant, format!("needs {needed} bytes of workgroup memory of {most}"))
            );
        }
        let entries: Vec<_> = variant
            .bindings
            .iter()
            .map(|binding| wgpu::BindGroupLayoutEntry {
                binding: binding.index,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: match binding.kind {
                        BindingKind::Uniform => wgpu::BufferBindingType::Uniform,
                        BindingKind::Read => wgpu::BufferBindingType::Storage { read_only: true },
                        BindingKind::Write => wgpu::BufferBindingType::Storage { read_only: false },
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let label = Some(variant.key);
        let validation = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = self.device.push_error_scope(wgpu::ErrorFilter::Internal);
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label, entries: &entries });
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label,
            source: wgpu::ShaderSource::Wgsl(variant.text.into()),
        });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let constants: Vec<(&str, f64)> =
            key.constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label,
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(variant.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every shader writes its workgroup memory before it reads it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        let internal = pollster::block_on(internal.pop());
        let validation = pollster::block_on(validation.pop());
        if let Some(error) = internal.or(validation) {
            return Err(self.error(variant.key, format!("does not compile: {error}")));
        }
        let pipeline = Arc::new(Pipeline { variant, pipeline, layout });
        let mut compiled = self.pipelines.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.insert(key.clone(), pipeline);
        Ok(())
    }
}
