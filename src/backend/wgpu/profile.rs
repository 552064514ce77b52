//! How long each dispatch takes, by timestamps of the device before and after it, inside the pass.
//!
//! Timestamps keep dispatches from overlapping, so a profiled pass is slower than the sum of a plain one's parts.

use super::gpu::Gpu;
use crate::backend::gpu::profile::{Place, by_kernel};
use crate::backend::{Error, KernelTime};
use std::collections::BTreeMap;

/// Timestamps of one submit: the most that a set of queries may have.
const QUERIES: u32 = 4096;

/// The queries, and what they have found so far.
#[derive(Default)]
pub(super) struct Profile {
    set: Option<Set>,
    /// Which dispatch each pair of timestamps of this submit belongs to.
    marks: Vec<Place>,
    used: u32,
    /// Runs and nanoseconds by graph and dispatch.
    found: BTreeMap<Place, (u64, f64)>,
}

struct Set {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
}

impl Profile {
    /// Begins a submit.
    pub(super) fn begin(&mut self, gpu: &Gpu) {
        self.marks.clear();
        self.used = 0;
        self.set.get_or_insert_with(|| {
            use wgpu::BufferUsages as Usage;
            let buffer = |usage| {
                let size = u64::from(QUERIES) * 8;
                let label = Some("timestamps");
                gpu.device.create_buffer(&wgpu::BufferDescriptor {
                    label,
                    size,
                    usage,
                    mapped_at_creation: false,
                })
            };
            Set {
                queries: gpu.device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("timestamps"),
                    ty: wgpu::QueryType::Timestamp,
                    count: QUERIES,
                }),
                resolved: buffer(Usage::QUERY_RESOLVE | Usage::COPY_SRC),
                staging: buffer(Usage::MAP_READ | Usage::COPY_DST),
            }
        });
    }

    /// Writes the timestamp before or after a dispatch; past the last query nothing is timed.
    pub(super) fn mark(&mut self, pass: &mut wgpu::ComputePass<'_>, dispatch: Place) {
        if let Some(set) = &self.set
            && self.used < QUERIES
        {
            pass.write_timestamp(&set.queries, self.used);
            if self.used.is_multiple_of(2) {
                self.marks.push(dispatch);
            }
            self.used += 1;
        }
    }

    /// Copies the timestamps to where the host can map them.
    pub(super) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        if let Some(set) = &self.set
            && self.used > 0
        {
            encoder.resolve_query_set(&set.queries, 0..self.used, &set.resolved, 0);
            let bytes = u64::from(self.used) * 8;
            encoder.copy_buffer_to_buffer(&set.resolved, 0, &set.staging, 0, bytes);
        }
    }

    /// Reads the timestamps of the submit that was resolved; how many bytes that were.
    pub(super) fn collect(&mut self, gpu: &Gpu) -> Result<u64, Error> {
        let Some(set) = &self.set else { return Ok(0) };
        if self.used == 0 {
            return Ok(0);
        }
        let bytes = u64::from(self.used) * 8;
        let words = super::passes::map(gpu, &set.staging, bytes, None, "timestamps")?;
        let period = f64::from(gpu.queue.get_timestamp_period());
        let times: Vec<u64> = words
            .as_chunks::<2>()
            .0
            .iter()
            .map(|[low, high]| u64::from(*low) | u64::from(*high) << 32)
            .collect();
        for (mark, [begin, end]) in self.marks.iter().zip(times.as_chunks::<2>().0) {
            let (runs, nanoseconds) = self.found.entry(*mark).or_default();
            *runs += 1;
            *nanoseconds += end.saturating_sub(*begin) as f64 * period;
        }
        Ok(bytes)
    }

    /// The times so far by kernel; the next begin from nothing.
    pub(super) fn take(
        &mut self,
        describe: &dyn Fn(Place) -> Option<(String, &'static str, u64)>,
    ) -> Vec<KernelTime> {
        by_kernel(std::mem::take(&mut self.found), describe)
    }
}
