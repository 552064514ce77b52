//! Passes that continue the last one: captured once per number of rows and bucket of positions, then launched as one
//! graph each. Many may be under way: the end of each is an event, so the tokens of one can be read while the next run.
//!
//! A capture holds the grids of its bucket (parts of attention, rounded up to a power of two): what a row does not have
//! yet ends at once. Everything else that changes lies in device memory, so a replay takes no parameters.

use super::driver::{self, DriverError, Event};
use super::persistent::Table;
use super::{CudaBackend, Gpu, Graph};
use crate::backend::Error;
use crate::backend::gpu::RING;
use crate::backend::gpu::grid::Extent;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// What went wrong while a pass was recorded.
enum Broken {
    Driver(DriverError),
    Kernel(String, DriverError),
}

impl From<DriverError> for Broken {
    fn from(error: DriverError) -> Self {
        Self::Driver(error)
    }
}

/// A captured pass.
struct Captured {
    graph: driver::Graph,
    launches: u64,
    /// What a persistent kernel walks.
    table: Option<Table>,
}

/// The captured passes of a graph, and the end of each pass that is under way.
pub(super) struct Replays {
    captured: HashMap<Extent, Captured>,
    /// By pass, modulo the size of the ring.
    ends: Vec<Event>,
}

impl Replays {
    pub(super) fn new(gpu: &Gpu) -> Result<Self, Error> {
        let event = |_| Event::new(&gpu.context, false);
        let ends = (0..RING).map(event).collect::<Result<_, _>>();
        Ok(Self { captured: HashMap::new(), ends: ends.map_err(|error| gpu.error("an event", error))? })
    }

    /// Captures that there are.
    pub(super) fn len(&self) -> usize {
        self.captured.len()
    }

    /// Bytes of what they hold on the device.
    pub(super) fn bytes(&self) -> u64 {
        self.captured.values().filter_map(|captured| captured.table.as_ref()).map(Table::bytes).sum()
    }

    /// Everything queued so far belongs to `pass`.
    pub(super) fn mark(&self, gpu: &Gpu, pass: usize) -> Result<(), Error> {
        let marked = self.ends[pass % RING].record(&gpu.stream);
        marked.map_err(|error| gpu.error("the end of a pass", error))
    }

    /// Waits for the end of `pass`.
    pub(super) fn wait(&self, gpu: &Gpu, pass: usize) -> Result<(), Error> {
        self.ends[pass % RING].wait().map_err(|error| gpu.error("a pass", error))
    }
}

impl Graph {
    /// Captures a pass over the whole plan.
    fn capture(&self, gpu: &Gpu, extent: Extent) -> Result<Captured, Error> {
        let persistent = match &self.compiled.persistent {
            Some(persistent) => Some((persistent, persistent.table(gpu, &self.compiled.launches, extent)?)),
            None => None,
        };
        let replaced = persistent.as_ref().map_or(0, |(persistent, _)| persistent.replaces());
        let mut launches = 0;
        let captured = driver::Graph::capture(&gpu.stream, || {
            if let Some((persistent, table)) = &persistent {
                let queued = persistent.queue(&gpu.stream, table);
                queued.map_err(|error| Broken::Kernel("decode".to_owned(), error))?;
                launches += 1;
            }
            let pass = self.compiled.launches.iter().filter(|launch| launch.runs(0));
            for launch in pass.skip(replaced) {
                let queued = launch.queue(&gpu.stream, extent);
                let named = |error| Broken::Kernel(launch.kernel.key.clone(), error);
                launches += u64::from(queued.map_err(named)?);
            }
            let buffers = &self.compiled.buffers;
            buffers.ring.read_into(&gpu.stream, &buffers.pinned, 4 * RING * self.plan.logit_rows)?;
            Ok(())
        });
        match captured {
            Ok(graph) => Ok(Captured { graph, launches, table: persistent.map(|(_, table)| table) }),
            Err(Broken::Driver(error)) => Err(gpu.error("the capture of a pass", error)),
            Err(Broken::Kernel(kernel, error)) => Err(gpu.error(kernel, error)),
        }
    }
}

impl CudaBackend {
    /// One more pass, each row one position on.
    pub(super) fn replay_one(&mut self, index: usize) -> Result<(), Error> {
        if self.graphs[index].unread >= RING {
            self.fetch(index, usize::MAX)?;
        }
        let graph = &mut self.graphs[index];
        for row in &mut graph.rows {
            row.position += 1;
        }
        if self.profile.is_some() {
            return self.queue(index, &(0..usize::MAX));
        }
        let clock = Instant::now();
        let gpu = Arc::clone(&self.gpu);
        let extent = Extent::new(&graph.rows, 0).bucket(self.cache.splits() as u32);
        if !graph.replays.captured.contains_key(&extent) {
            let captured = graph.capture(&gpu, extent)?;
            graph.replays.captured.insert(extent, captured);
        }
        if let Some(captured) = graph.replays.captured.get(&extent) {
            captured.graph.launch(&gpu.stream).map_err(|error| gpu.error("a captured pass", error))?;
            self.counters.launches += captured.launches;
        }
        graph.replays.mark(&gpu, graph.passes)?;
        (graph.passes, graph.unread) = (graph.passes + 1, graph.unread + 1);
        self.counters.submits += 1;
        self.counters.rows += graph.rows.len() as u64;
        self.counters.host_nanoseconds += clock.elapsed().as_nanos() as u64;
        Ok(())
    }
}
