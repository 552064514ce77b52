//! Adapters: which there are, and which one is taken.

use std::fmt;
use std::path::PathBuf;
use wgpu::{DeviceType, Features, Limits};

/// Which adapter to use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterChoice {
    /// A part of its name, or its place in the list of `devices`; `None` takes the first real GPU, discrete ones first.
    pub adapter: Option<String>,
    /// Whether a CPU that plays GPU will do, where none was asked for by name.
    pub allow_software: bool,
    /// Use no more than every WebGPU device has: a test of the smallest device on a larger one.
    pub smallest_limits: bool,
    /// Most invocations of a matrix-vector workgroup, 256, 512 or 1024, instead of what suits the adapter. For tests.
    pub invocations: Option<u32>,
    /// Whether to take shader variants that use subgroups, instead of what suits the adapter. For tests.
    pub subgroups: Option<bool>,
    /// The folder in which compiled pipelines are kept: `APRGPU_CACHE`, or the system's for caches.
    pub pipeline_cache: Option<PathBuf>,
}

impl AdapterChoice {
    /// What a user asks for, with pipelines kept in the user's folder.
    pub fn of_user(adapter: Option<String>, allow_software: bool) -> Self {
        let pipeline_cache = crate::backend::gpu::cache_folder::user_cache_folder();
        Self { adapter, allow_software, pipeline_cache, ..Self::default() }
    }
}

/// An adapter, for the list of devices.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AdapterSummary {
    /// Its place in the list.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// The API it is driven through, for example `vulkan`.
    pub api: String,
    /// The driver and its version.
    pub driver: String,
    /// Whether it is a CPU.
    pub software: bool,
    /// Smallest and largest subgroup.
    pub subgroup_sizes: (u32, u32),
    /// Bytes of the largest binding.
    pub max_binding: u64,
    /// Invocations of the largest workgroup.
    pub max_invocations: u32,
    /// Bytes of workgroup memory.
    pub workgroup_memory: u32,
    /// Storage buffers per shader.
    pub storage_buffers: u32,
    /// What it has of the features that this backend can use.
    pub features: Vec<&'static str>,
    /// Which shader variants will be used.
    pub variants: String,
}

impl fmt::Display for AdapterSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let software = if self.software { ", software" } else { "" };
        write!(
            f,
            "{}: {} ({}, {}{software}); subgroups {}..{}, {} invocations, {} KiB workgroup memory, {} storage buffers, \
             bindings up to {} MiB; {}; {}",
            self.index,
            self.name,
            self.api,
            self.driver,
            self.subgroup_sizes.0,
            self.subgroup_sizes.1,
            self.max_invocations,
            self.workgroup_memory >> 10,
            self.storage_buffers,
            self.max_binding >> 20,
            self.features.join(" "),
            self.variants
        )
    }
}

/// Most invocations of a matrix-vector workgroup: 32 rows times the segments that are summed at a time. A software adapter
/// gains nothing from more than the least.
pub(super) fn matvec_invocations(software: bool, limits: &Limits) -> u32 {
    match limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x) {
        _ if software => 256,
        1024.. => 1024,
        512.. => 512,
        _ => 256,
    }
}

/// Whether subgroups are so large that combining their results is cheaper than walking over workgroup memory.
pub(super) fn use_subgroups(adapter: &AdapterSummary) -> bool {
    adapter.features.contains(&"subgroups") && adapter.subgroup_sizes.0 >= 32
}

/// Which shader variants are used, in words.
pub(super) fn variants(invocations: u32, subgroups: bool) -> String {
    let subgroups = if subgroups { "attention through subgroups" } else { "no subgroups" };
    format!("shaders: matvec of {invocations} invocations, {subgroups}, float16 stored only")
}

pub(super) fn instance() -> wgpu::Instance {
    let mut description = wgpu::InstanceDescriptor::new_without_display_handle();
    description.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    description.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(description.with_env())
}

pub(super) fn summary(index: usize, adapter: &wgpu::Adapter) -> AdapterSummary {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let software = info.device_type == DeviceType::Cpu;
    let known = [
        (Features::SUBGROUP, "subgroups"),
        (Features::SHADER_F16, "f16"),
        (Features::TIMESTAMP_QUERY_INSIDE_PASSES, "timestamps"),
        (Features::PIPELINE_CACHE, "pipeline-cache"),
    ];
    let invocations = matvec_invocations(software, &limits);
    let mut summary = AdapterSummary {
        index,
        api: format!("{:?}", info.backend).to_lowercase(),
        driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
        software,
        subgroup_sizes: (info.subgroup_min_size, info.subgroup_max_size),
        max_binding: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
        max_invocations: limits.max_compute_invocations_per_workgroup,
        workgroup_memory: limits.max_compute_workgroup_storage_size,
        storage_buffers: limits.max_storage_buffers_per_shader_stage,
        features: known.iter().filter(|(f, _)| features.contains(*f)).map(|(_, name)| *name).collect(),
        variants: String::new(),
        name: info.name,
    };
    summary.variants = variants(invocations, use_subgroups(&summary));
    summary
}

/// The adapters of this machine.
pub fn list_adapters() -> Vec<AdapterSummary> {
    let adapters = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::all()));
    adapters.iter().enumerate().map(|(index, adapter)| summary(index, adapter)).collect()
}

/// The index of the adapter that is meant, or what was looked for.
pub(super) fn choose(
    choice: &AdapterChoice,
    adapters: &[AdapterSummary],
    device_type: &dyn Fn(usize) -> Option<DeviceType>,
) -> Result<usize, String> {
    let list = adapters.iter().map(|a| format!("{} ({}, {})", a.index, a.name, a.api)).collect::<Vec<_>>();
    let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    if adapters.is_empty() {
        return Err("looked for Vulkan, Metal and DX12 adapters and found none: install a driver".to_owned());
    }
    if let Some(wanted) = &choice.adapter {
        let by_index = wanted.parse::<usize>().ok().filter(|index| *index < adapters.len());
        let named = |a: &&AdapterSummary| a.name.to_lowercase().contains(&wanted.to_lowercase());
        let by_name = adapters.iter().find(named).map(|adapter| adapter.index);
        return by_index.or(by_name).ok_or_else(|| {
            format!(
                "looked for an adapter whose name contains `{wanted}`, or with that index; there are: {list}"
            )
        });
    }
    let rank = |index: usize| match device_type(index) {
        Some(DeviceType::DiscreteGpu) => 0,
        Some(DeviceType::IntegratedGpu) => 1,
        Some(DeviceType::VirtualGpu) => 2,
        Some(DeviceType::Other) | None => 3,
        Some(DeviceType::Cpu) => 4,
    };
    let usable = adapters.iter().filter(|a| choice.allow_software || !a.software);
    usable.map(|a| a.index).min_by_key(|&index| (rank(index), index)).ok_or_else(|| {
        format!("looked for a GPU and found software adapters only: {list}; take one with --allow-software or --adapter")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(index: usize, name: &str, software: bool) -> AdapterSummary {
        AdapterSummary {
            index,
            name: name.to_owned(),
            api: "vulkan".to_owned(),
            driver: String::new(),
            software,
            subgroup_sizes: (32, 32),
            max_binding: 1 << 27,
            max_invocations: 256,
            workgroup_memory: 16384,
            storage_buffers: 8,
            features: vec![],
            variants: String::new(),
        }
    }

    fn chosen(choice: &AdapterChoice, adapters: &[AdapterSummary]) -> Result<usize, String> {
        choose(choice, adapters, &|index| {
            Some(if adapters[index].software { DeviceType::Cpu } else { DeviceType::DiscreteGpu })
        })
    }

    #[test]
    fn a_software_adapter_is_taken_only_when_asked_for() {
        let adapters = [adapter(0, "llvmpipe", true), adapter(1, "A GPU", false)];
        let by_name =
            |name: &str| AdapterChoice { adapter: Some(name.to_owned()), ..AdapterChoice::default() };
        assert_eq!(chosen(&AdapterChoice::default(), &adapters), Ok(1));
        assert_eq!(chosen(&by_name("LLVM"), &adapters), Ok(0));
        assert_eq!(chosen(&by_name("0"), &adapters), Ok(0));
        let software = AdapterChoice { allow_software: true, ..AdapterChoice::default() };
        assert_eq!(chosen(&software, &adapters), Ok(1), "a real GPU comes first");
        assert_eq!(chosen(&software, &adapters[..1]), Ok(0));
        let error = chosen(&AdapterChoice::default(), &adapters[..1]).unwrap_err();
        assert!(error.contains("llvmpipe") && error.contains("--allow-software"), "{error}");
        assert!(chosen(&by_name("GeForce"), &adapters).unwrap_err().contains("GeForce"));
        assert!(chosen(&software, &[]).unwrap_err().contains("found none"));
    }
}
