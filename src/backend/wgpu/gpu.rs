//! An open device on an adapter: what it was asked for, its buffers, its errors.

use super::adapter::{
    AdapterChoice, AdapterSummary, choose, instance, matvec_invocations, summary, use_subgroups, variants,
};
use super::pipeline_cache::PipelineCache;
use super::pipelines::Pipelines;
use crate::backend::Error;
use std::sync::{Arc, Mutex, PoisonError};
use wgpu::{Features, Limits};

/// What a callback of the device has to say.
type Fault = Arc<Mutex<Option<String>>>;

/// An open device with the pipelines compiled on it; backends may share one.
pub struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) summary: AdapterSummary,
    pub(super) limits: Limits,
    pub(super) timestamps: bool,
    /// Invocations of a matrix-vector workgroup.
    pub(super) invocations: u32,
    /// Whether `fma` rounds once. Software adapters have been seen to round twice.
    pub(super) fused: bool,
    /// Whether shader variants that use subgroups are taken.
    pub(super) subgroups: bool,
    pub(super) pipelines: Pipelines,
    pub(super) pipeline_cache: PipelineCache,
    instance: wgpu::Instance,
    /// What went wrong outside of any scope: a submit was refused.
    fault: Fault,
    /// Why the device is lost; that does not pass.
    lost: Fault,
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
        features |= adapter.features() & Features::PIPELINE_CACHE;
        let subgroups = use_subgroups(summary) && !choice.smallest_limits;
        let subgroups =
            choice.subgroups.unwrap_or(subgroups) && adapter.features().contains(Features::SUBGROUP);
        features.set(Features::SUBGROUP, subgroups);
        let description = wgpu::DeviceDescriptor {
            label: Some("aprgpu"),
            required_features: features,
            required_limits: limits.clone(),
            memory_hints: wgpu::MemoryHints::Performance,
            ..Default::default()
        };
        let (device, queue) = pollster::block_on(adapter.request_device(&description))
            .map_err(|error| unavailable(format!("{} cannot be opened: {error}", summary.name)))?;
        let (fault, lost) = (Fault::default(), Fault::default());
        let note = |fault: &Fault, what: String| {
            fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        };
        let faults = Arc::clone(&fault);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| note(&faults, error.to_string())));
        let losses = Arc::clone(&lost);
        device.set_device_lost_callback(move |reason, message| {
            note(&losses, format!("the device was lost ({reason:?}): {message}"));
        });
        let pipeline_cache =
            PipelineCache::open(&device, &adapter.get_info(), choice.pipeline_cache.as_deref());
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
            summary: AdapterSummary { variants: variants(invocations, subgroups), ..summary.clone() },
            limits,
            timestamps: features.contains(timing),
            invocations,
            fused: !summary.software,
            subgroups,
            pipelines: Pipelines::default(),
            pipeline_cache,
            instance,
            fault,
            lost,
        })
    }

    /// What it is.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }

    /// Takes what the user should know of the device beside its summary.
    pub fn take_notes(&self) -> Vec<String> {
        self.pipeline_cache.take_notes()
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

    /// Gives the device up, whoever still uses it: all that is asked of it from now on fails.
    pub fn destroy(&self) {
        self.device.destroy();
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

    /// Fails where something has gone wrong since the last call, or the device is lost.
    pub(super) fn check(&self, doing: &str) -> Result<(), Error> {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner).take();
        match lost.or(fault) {
            Some(reason) => Err(self.error(doing, reason)),
            None => Ok(()),
        }
    }

    /// Waits for everything that was submitted.
    pub(super) fn wait(&self, doing: &str) -> Result<(), Error> {
        self.wait_for(None, doing)
    }

    /// Waits for a submit and all before it; `None`: for everything that was submitted.
    pub(super) fn wait_for(
        &self,
        submission_index: Option<wgpu::SubmissionIndex>,
        doing: &str,
    ) -> Result<(), Error> {
        let polled = self.device.poll(wgpu::PollType::Wait { submission_index, timeout: None });
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
