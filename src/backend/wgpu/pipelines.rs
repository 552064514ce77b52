//! Compute pipelines, compiled once per shader variant and set of constants, several at a time.

use super::gpu::Gpu;
use super::shaders::{BindingKind, Variant};
use super::trusted;
use crate::backend::Error;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The line of `shaders/shared/fused.wgsl` that trusts the adapter's `fma` to round once.
const FUSED: &str = "const FUSED: bool = true;";

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
        if missing.is_empty() {
            return Ok(());
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        let (next, missing) = (AtomicUsize::new(0), &missing);
        let work = || -> Result<(), Error> {
            while let Some(key) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.compile_one(key)?;
            }
            Ok(())
        };
        let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            let failed = || Err(self.error("a shader", "the compiler broke off"));
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| failed())).collect()
        });
        self.pipeline_cache.store();
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
        let pipeline = Arc::new(self.compile_variant(variant, &key.constants)?);
        let mut compiled = self.pipelines.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.insert(key.clone(), pipeline);
        Ok(())
    }

    fn compile_variant(
        &self,
        variant: &'static Variant,
        constants: &[(&str, u32)],
    ) -> Result<Pipeline, Error> {
        let most = self.limits.max_compute_workgroup_storage_size;
        if variant.shared_bytes > most {
            let needed = variant.shared_bytes;
            return Err(
                self.error(variant.key, format!("needs {needed} bytes of workgroup memory of {most}"))
            );
        }
        if variant.subgroups && !self.subgroups {
            return Err(self.error(variant.key, "needs subgroups, which were not asked of the adapter"));
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
        let text = match self.fused {
            true => variant.text.into(),
            false => variant.text.replace(FUSED, "const FUSED: bool = false;").into(),
        };
        let source = wgpu::ShaderSource::Wgsl(text);
        let module = trusted::shader_module(&self.device, wgpu::ShaderModuleDescriptor { label, source });
        let pipeline_layout = self.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label,
            bind_group_layouts: &[Some(&layout)],
            immediate_size: 0,
        });
        let constants: Vec<(&str, f64)> =
            constants.iter().map(|&(name, value)| (name, f64::from(value))).collect();
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
            cache: self.pipeline_cache.cache.as_ref(),
        });
        let internal = pollster::block_on(internal.pop());
        let validation = pollster::block_on(validation.pop());
        if let Some(error) = internal.or(validation) {
            return Err(self.error(variant.key, format!("does not compile: {error}")));
        }
        Ok(Pipeline { variant, pipeline, layout })
    }
}

#[cfg(test)]
mod tests {
    use super::super::adapter::AdapterChoice;
    use super::super::shaders::Binding;
    use super::*;

    const WHOLE: Variant = Variant {
        key: "test op",
        text: "@group(0) @binding(0) var<storage, read_write> x: array<u32>;
            override WG: u32 = 64u;
            @compute @workgroup_size(WG) fn main() { x[0] = 1u; }",
        entry: "main",
        shared_bytes: 0,
        subgroups: false,
        bindings: &[Binding { index: 0, name: "x", kind: BindingKind::Write }],
    };
    // What a compiler may refuse: the text, its interface, its needs.
    static WORKS: Variant = WHOLE;
    static DOES_NOT_PARSE: Variant = Variant { text: "fn main() { let", ..WHOLE };
    static OTHER_TYPES: Variant = Variant {
        text: "@group(0) @binding(0) var<storage, read_write> x: array<u32>;
            @compute @workgroup_size(64) fn main() { x[0] = 1.0f; }",
        ..WHOLE
    };
    static READS_ONLY: Variant =
        Variant { bindings: &[Binding { index: 0, name: "x", kind: BindingKind::Read }], ..WHOLE };
    static NO_ENTRY: Variant = Variant { entry: "other", ..WHOLE };
    static TOO_MUCH_MEMORY: Variant = Variant { shared_bytes: 1 << 30, ..WHOLE };
    static SUBGROUPS: Variant = Variant { subgroups: true, ..WHOLE };

    #[test]
    fn a_shader_that_is_refused_is_named_with_its_adapter() {
        let choice =
            AdapterChoice { allow_software: true, subgroups: Some(false), ..AdapterChoice::default() };
        let Ok(gpu) = Gpu::open(&choice) else {
            println!("skipped: no adapter");
            return;
        };
        assert!(gpu.compile_variant(&WORKS, &[("WG", 32)]).is_ok());
        let refused: [(&'static Variant, &[(&str, u32)]); 7] = [
            (&DOES_NOT_PARSE, &[]),
            (&OTHER_TYPES, &[]),
            (&READS_ONLY, &[]),
            (&NO_ENTRY, &[]),
            (&TOO_MUCH_MEMORY, &[]),
            (&SUBGROUPS, &[]),
            (&WORKS, &[("WG", 1 << 20)]),
        ];
        for (index, (variant, constants)) in refused.into_iter().enumerate() {
            match gpu.compile_variant(variant, constants).err() {
                Some(Error::Device { kernel, adapter, reason }) => {
                    assert_eq!((kernel.as_str(), &adapter), ("test op", &gpu.summary.name), "{index}");
                    assert!(reason.contains("compile") || reason.contains("needs"), "{index}: {reason}");
                }
                other => panic!("{index}: {:?}", other.map(|error| error.to_string())),
            }
        }
        // Nothing of it hangs on to the device.
        assert!(gpu.check("after").is_ok());
        assert!(gpu.compile_variant(&WORKS, &[]).is_ok());
        let unknown = PipelineKey { variant: "no such op", constants: vec![] };
        assert!(gpu.compile(&[unknown]).unwrap_err().to_string().contains("no such shader"));
    }
}
