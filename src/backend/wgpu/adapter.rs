//! Adapters: which there are, which one is taken, and an open device on it.

use super::pipelines::Pipelines;
use crate::backend::Error;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Invocations of a matrix-vector workgroup, 256, 512 or 1024, instead of what suits the adapter. For tests.
    pub invocations: Option<u32>,
}

/// An adapter, for the list of devices.
#[derive(Clone, Debug, PartialEq)]
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

/// Invocations of a matrix-vector workgroup: 32 rows times the parts that the columns are cut into. A software adapter
/// gains nothing from more than the least.
fn matvec_invocations(software: bool, limits: &Limits) -> u32 {
    match limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x) {
        _ if software => 256,
        1024.. => 1024,
        512.. => 512,
        _ => 256,
    }
}

fn instance() -> wgpu::Instance {
    let mut description = wgpu::InstanceDescriptor::new_without_display_handle();
    description.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    description.flags = wgpu::InstanceFlags::empty();
    wgpu::Instance::new(description.with_env())
}

fn summary(index: usize, adapter: &wgpu::Adapter) -> AdapterSummary {
    let (info, limits, features) = (adapter.get_info(), adapter.limits(), adapter.features());
    let software = info.device_type == DeviceType::Cpu;
    let known = [
        (Features::SUBGROUP, "subgroups"),
        (Features::SHADER_F16, "f16"),
        (Features::TIMESTAMP_QUERY_INSIDE_PASSES, "timestamps"),
        (Features::PIPELINE_CACHE, "pipeline-cache"),
    ];
    let invocations = matvec_invocations(software, &limits);
    AdapterSummary {
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
        variants: format!("shaders of {invocations} invocations that need neither subgroups nor f16"),
        name: info.name,
    }
}

/// The adapters of this machine.
pub fn list_adapters() -> Vec<AdapterSummary> {
    let adapters = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::all()));
    adapters.iter().enumerate().map(|(index, adapter)| summary(index, adapter)).collect()
}

/// An open device with the pipelines compiled on it; backends may share one.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) summary: AdapterSummary,
    pub(super) limits: Limits,
    pub(super) timestamps: bool,
    /// Invocations of a matrix-vector workgroup.
    pub(super) invocations: u32,
    pub(super) pipelines: Pipelines,
    instance: wgpu::Instance,
    /// What went wrong outside of any scope: the device was lost, a submit was refused.
    fault: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    /// Opens the adapter that `choice` means.
    ///
    /// # Errors
    /// `Unavailable`, saying what was looked for and what there is.
    pub fn open(choice: &AdapterChoice) -> Result<Self, Error> {
        let unavailable = |reason: String| Error::Unavailable { backend: "wgpu", reason };
        let instance = instance();
        let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
        let summaries: Vec<_> = adapters.iter().enumerate().map(|(i, adapter)| summary(i, adapter)).collect();
        let index =
            choose(choice, &summaries, &|index| adapters.get(index).map(|a| a.get_info().device_type))
                .map_err(unavailable)?;
        let (Some(adapter), Some(summary)) = (adapters.get(index), summaries.get(index)) else {
            return Err(unavailable(format!("adapter {index} went away")));
        };
        let has = adapter.limits();
        let mut limits = Limits::defaults();
        if !choice.smallest_limits {
            limits.max_buffer_size = has.max_buffer_size;
            limits.max_storage_buffer_binding_size = has.max_storage_buffer_binding_size;
            limits.max_compute_invocations_per_workgroup = has.max_compute_invocations_per_workgroup;
            limits.max_compute_workgroup_size_x = has.max_compute_workgroup_size_x;
        }
        let mut features = Features::empty();
        let timing = Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_PASSES;
        if adapter.features().contains(timing) {
            features |= timing;
        }
        let description = wgpu::DeviceDescriptor {
            label: Some("aprgpu"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&description))
            .map_err(|error| unavailable(format!("{} cannot be opened: {error}", summary.name)))?;
        let fault = Arc::new(Mutex::new(None));
        let note = |fault: &Arc<Mutex<Option<String>>>, what: String| {
            fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        };
        let faults = Arc::clone(&fault);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| note(&faults, error.to_string())));
        let faults = Arc::clone(&fault);
        device.set_device_lost_callback(move |reason, message| {
            if reason != wgpu::DeviceLostReason::Destroyed {
                note(&faults, format!("the device was lost: {message}"));
            }
        });
        let most = limits.max_compute_invocations_per_workgroup;
        let suited = matvec_invocations(summary.software, &limits);
        let invocations = choice.invocations.map_or(suited, |wanted| match wanted.min(most) {
            1024.. => 1024,
            512.. => 512,
            _ => 256,
        });
        Ok(Self {
            device,
            queue,
            summary: summary.clone(),
            limits,
            timestamps: features.contains(timing),
            invocations,
            pipelines: Pipelines::default(),
            instance,
            fault,
        })
    }

    /// What it is.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }

    /// The device that this process has opened for `choice`, or a new one: opening and compiling take time.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn shared(choice: &AdapterChoice) -> Result<Arc<Self>, Error> {
        static OPEN: Mutex<Vec<(AdapterChoice, Arc<Gpu>)>> = Mutex::new(Vec::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, gpu)) = open.iter().find(|(known, _)| known == choice) {
            return Ok(Arc::clone(gpu));
        }
        let gpu = Arc::new(Self::open(choice)?);
        open.push((choice.clone(), Arc::clone(&gpu)));
        Ok(gpu)
    }

    /// How many buffers and bind groups exist on all devices of this one's instance.
    pub fn live_objects(&self) -> (usize, usize) {
        let report = self.instance.generate_report();
        report.map_or((0, 0), |report| {
            let hub = report.hub_report();
            (hub.buffers.num_allocated, hub.bind_groups.num_allocated)
        })
    }

    /// An error that names what was done and the adapter.
    pub(super) fn error(&self, kernel: impl Into<String>, reason: impl Into<String>) -> Error {
        Error::Device { kernel: kernel.into(), adapter: self.summary.name.clone(), reason: reason.into() }
    }

    /// Fails where something has gone wrong since the last call.
    pub(super) fn check(&self, doing: &str) -> Result<(), Error> {
        match self.fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(reason) => Err(self.error(doing, reason)),
            None => Ok(()),
        }
    }

    /// Waits for everything that was submitted.
    pub(super) fn wait(&self, doing: &str) -> Result<(), Error> {
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check(doing)?;
        polled.map(|_| ()).map_err(|error| self.error(doing, error.to_string()))
    }

    /// A buffer of at least `bytes`, zeroed.
    pub(super) fn buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, Error> {
        let size = bytes.max(16).next_multiple_of(16);
        if size > self.limits.max_buffer_size {
            return Err(Error::OutOfMemory {
                what: label.to_owned(),
                needed: size,
                available: self.limits.max_buffer_size,
                advice: "the adapter allows no larger buffer: use a smaller --ctx or fewer sequences"
                    .to_owned(),
            });
        }
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let description =
            wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        let buffer = self.device.create_buffer(&description);
        match pollster::block_on(scope.pop()) {
            None => Ok(buffer),
            Some(_) => Err(Error::OutOfMemory {
                what: format!("{label} on {}", self.summary.name),
                needed: size,
                available: 0,
                advice: "the device has no room: use a smaller model, --ctx or fewer sequences".to_owned(),
            }),
        }
    }

    /// A buffer that shaders read or write and that can be copied.
    pub(super) fn storage(&self, label: &str, bytes: u64) -> Result<wgpu::Buffer, Error> {
        use wgpu::BufferUsages as Usage;
        let limit = self.limits.max_storage_buffer_binding_size;
        if bytes > limit {
            return Err(Error::OutOfMemory {
                what: label.to_owned(),
                needed: bytes,
                available: limit,
                advice: "the adapter binds no more at a time: use a smaller --ctx or fewer sequences"
                    .to_owned(),
            });
        }
        self.buffer(label, bytes, Usage::STORAGE | Usage::COPY_SRC | Usage::COPY_DST)
    }
}

/// The index of the adapter that is meant, or what was looked for.
fn choose(
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
