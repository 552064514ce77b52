//! Passes over a graph: recorded, submitted, and their tokens read when they are wanted.
//!
//! A submit may hold several passes, and several submits may be on their way: each copies its tokens from the ring in
//! device memory to a buffer of its own that the host maps, so the host waits for the one it wants and the device goes
//! on with the next.

use super::WgpuBackend;
use super::cache::Cache;
use super::gpu::Gpu;
use super::graph::{self, Compiled};
use super::upload::Weights;
use crate::backend::gpu::RING;
use crate::backend::gpu::grid::Extent;
use crate::backend::gpu::params;
use crate::backend::gpu::passes::{first_not_finite, rows_of_pass};
use crate::backend::gpu::state::{StateLayout, buffer_len};
use crate::backend::{Error, GraphId};
use crate::plan::{BufferId, Op, Plan, Row};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

/// Submits whose tokens the host has not read, at most.
pub(super) const FLIGHTS: usize = 3;

/// A submit that samples.
struct Flight {
    passes: usize,
    tokens: wgpu::Buffer,
    submission: wgpu::SubmissionIndex,
}

/// A compiled plan and where its run stands.
pub(super) struct Graph {
    pub(super) plan: Plan,
    pub(super) compiled: Compiled,
    pub(super) layout: StateLayout,
    /// Rows of the last pass, with the tokens that the host knows of.
    pub(super) rows: Vec<Row>,
    /// Whether the last pass sampled, so that it can be continued.
    pub(super) continues: bool,
    /// Passes since the state was written, and how many of them the host has read the tokens of.
    passes: usize,
    landed: usize,
    /// Tokens of the last pass read.
    pub(super) last: Vec<u32>,
    /// Tokens read and not yet taken.
    pub(super) sampled: Vec<Vec<u32>>,
    flights: VecDeque<Flight>,
    /// Buffers for the tokens of further submits.
    spare: Vec<wgpu::Buffer>,
}

impl Graph {
    pub(super) fn new(gpu: &Gpu, plan: &Plan, weights: &Weights, cache: &Cache) -> Result<Self, Error> {
        let compiled = graph::compile(gpu, plan, weights, cache)?;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let bytes = 4 * (RING * plan.logit_rows) as u64;
        let spare = (0..FLIGHTS).map(|_| gpu.buffer("tokens for the host", bytes, usage));
        Ok(Self {
            plan: plan.clone(),
            compiled,
            layout: StateLayout { rows: plan.rows, logit_rows: plan.logit_rows },
            rows: Vec::new(),
            continues: false,
            passes: 0,
            landed: 0,
            last: Vec::new(),
            sampled: Vec::new(),
            flights: VecDeque::new(),
            spare: spare.collect::<Result<_, _>>()?,
        })
    }

    /// Begins anew with `rows`.
    pub(super) fn set_rows(&mut self, gpu: &Gpu, rows: &[Row]) {
        self.rows = rows.to_vec();
        (self.passes, self.landed) = (0, 0);
        let words = self.layout.encode(rows);
        gpu.queue.write_buffer(&self.compiled.buffers.state, 0, bytemuck::cast_slice(&words));
    }

    /// Whether tokens are on their way.
    pub(super) fn is_flying(&self) -> bool {
        !self.flights.is_empty()
    }
}

impl WgpuBackend {
    /// Records and submits `passes` passes over `steps`, each one position on. Where they sample, their tokens are copied
    /// to where the host can map them, in the same submit.
    pub(super) fn submit(&mut self, index: usize, steps: &Range<usize>, passes: u32) -> Result<(), Error> {
        while self.graphs[index].spare.is_empty() {
            self.land(index)?;
        }
        let clock = Instant::now();
        let graph = &mut self.graphs[index];
        let label = wgpu::CommandEncoderDescriptor { label: Some("pass") };
        let mut encoder = self.gpu.device.create_command_encoder(&label);
        let mut launches = 0;
        let timing = self.profile.as_mut().map(|profile| profile.begin(&self.gpu));
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for ahead in 0..passes {
                let extent = Extent::new(&graph.rows, ahead);
                for (i, dispatch) in graph.compiled.dispatches.iter().enumerate() {
                    if !steps.contains(&dispatch.step) || !dispatch.runs(steps.start) {
                        continue;
                    }
                    if let Some(profile) = &mut self.profile {
                        profile.mark(&mut pass, (index, i));
                    }
                    launches += u64::from(dispatch.record(&mut pass, extent));
                    if let Some(profile) = &mut self.profile {
                        profile.mark(&mut pass, (index, i));
                    }
                }
            }
        }
        let samples = graph.plan.steps.iter().position(|step| step.op == Op::Sample);
        graph.continues = samples.is_some_and(|step| steps.contains(&step));
        let tokens = if graph.continues { graph.spare.pop() } else { None };
        if let Some(tokens) = &tokens {
            let width = 4 * graph.plan.logit_rows as u64;
            for place in 0..passes as usize {
                let from = ((graph.passes + place) % RING) as u64 * width;
                let ring = &graph.compiled.buffers.ring;
                encoder.copy_buffer_to_buffer(ring, from, tokens, place as u64 * width, width);
            }
        }
        if let (Some(profile), Some(_)) = (&mut self.profile, timing) {
            profile.resolve(&mut encoder);
        }
        for row in &mut graph.rows {
            row.position += passes - 1;
        }
        let rows = graph.rows.len() as u64 * u64::from(passes);
        let commands = encoder.finish();
        let recorded = clock.elapsed();
        let submission = self.gpu.queue.submit([commands]);
        // A driver may wait here for the submit before this one; that is no work of the CPU.
        let spent = if graph.is_flying() { recorded } else { clock.elapsed() };
        if let Some(tokens) = tokens {
            graph.passes += passes as usize;
            graph.flights.push_back(Flight { passes: passes as usize, tokens, submission });
        }
        self.counters.launches += launches;
        self.counters.submits += 1;
        self.counters.rows += rows;
        self.counters.host_nanoseconds += spent.as_nanos() as u64;
        self.gpu.check("a pass")?;
        if let Some(profile) = &mut self.profile {
            self.counters.mapped_bytes += profile.collect(&self.gpu)?;
        }
        Ok(())
    }

    /// Waits for the oldest submit on its way and reads its tokens.
    pub(super) fn land(&mut self, index: usize) -> Result<(), Error> {
        let graph = &mut self.graphs[index];
        let Some(Flight { passes, tokens: buffer, submission }) = graph.flights.pop_front() else {
            return Ok(());
        };
        let (width, first) = (graph.plan.logit_rows, graph.landed);
        let asked = graph.rows.iter().filter(|row| row.logits).count();
        graph.landed += passes;
        let bytes = 4 * (width * passes) as u64;
        let words = map(&self.gpu, &buffer, bytes, Some(submission), "the sampled tokens");
        graph.spare.push(buffer);
        self.counters.mapped_bytes += bytes;
        for (pass, tokens) in words?.chunks_exact(width.max(1)).enumerate() {
            let tokens = tokens.get(..asked).unwrap_or(tokens).to_vec();
            if tokens.contains(&params::NONE) {
                return Err(self.locate(index, first + pass)?);
            }
            let graph = &mut self.graphs[index];
            graph.last.clone_from(&tokens);
            graph.sampled.push(tokens);
        }
        Ok(())
    }

    /// Reads all tokens that are on their way.
    pub(super) fn fetch(&mut self, index: usize) -> Result<(), Error> {
        while self.graphs[index].is_flying() {
            self.land(index)?;
        }
        Ok(())
    }

    /// Finds the step that wrote the value that is not finite, in a pass counted from when the state was written: runs it
    /// again one step at a time.
    fn locate(&mut self, index: usize, pass: usize) -> Result<Error, Error> {
        self.gpu.wait("a pass")?;
        let graph = &mut self.graphs[index];
        graph.continues = false;
        // What was queued behind is worth nothing.
        let flights = graph.flights.drain(..).map(|flight| flight.tokens);
        graph.spare.extend(flights);
        let rows = rows_of_pass(&graph.rows, &graph.last, pass, graph.passes);
        let (id, plan) = (GraphId(index as u32), graph.plan.clone());
        let found = first_not_finite(self, id, &plan, &rows, |backend, buffer| backend.read(index, buffer))?;
        let nothing = "a logit was not finite, and is when the pass is run step by step";
        Ok(found.unwrap_or_else(|| self.gpu.error("head", nothing)))
    }

    /// A buffer's values for the rows of the last pass, which must be finite.
    pub(super) fn read_finite(&mut self, index: usize, buffer: BufferId) -> Result<Vec<f32>, Error> {
        let values = self.read(index, buffer)?;
        if values.iter().all(|value| value.is_finite()) {
            return Ok(values);
        }
        let last = self.graphs[index].passes.saturating_sub(1);
        Err(self.locate(index, last)?)
    }

    fn read(&mut self, index: usize, buffer: BufferId) -> Result<Vec<f32>, Error> {
        let graph = &self.graphs[index];
        let bytes = 4 * buffer_len(&graph.plan, &graph.rows, buffer)? as u64;
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let from = &graph.compiled.buffers.activations[buffer.0 as usize];
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = self.gpu.buffer("a copy for the host", bytes, usage)?;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(from, 0, &staging, 0, bytes);
        let submission = self.gpu.queue.submit([encoder.finish()]);
        let words = map(&self.gpu, &staging, bytes, Some(submission), "a copy for the host")?;
        self.counters.mapped_bytes += bytes;
        Ok(words.into_iter().map(f32::from_bits).collect())
    }
}

/// Reads the first `bytes` of a mappable buffer once `submission`, or everything submitted, is done.
pub(super) fn map(
    gpu: &Gpu,
    buffer: &wgpu::Buffer,
    bytes: u64,
    submission: Option<wgpu::SubmissionIndex>,
    what: &str,
) -> Result<Vec<u32>, Error> {
    let slice = buffer.slice(..bytes);
    slice.map_async(wgpu::MapMode::Read, |_| {});
    gpu.wait_for(submission, what)?;
    let words = match slice.get_mapped_range() {
        Ok(view) => bytemuck::pod_collect_to_vec(&view[..]),
        Err(error) => return Err(gpu.error(what, format!("cannot be read: {error}"))),
    };
    buffer.unmap();
    Ok(words)
}
