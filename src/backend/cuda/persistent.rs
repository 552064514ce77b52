//! A captured pass as one cooperative launch: `kernels/decode.ptx` over a table of phases, in place of the list of
//! launches. The table has for each launch what that would have been given, and what to fetch ahead for the next
//! product; it is made once per capture, for its bucket of positions.
//!
//! It is there for chips without programmatic dependent launch (sm_80 to sm_89), was never timed, and so is taken only
//! where it is asked for.

use super::body::{PARAMS_AT, THREADS_AT};
use super::device::Gpu;
use super::driver::{DeviceMemory, DriverError, Kernel, Stream};
use super::launch::Launch;
use super::modules::Loaded;
use super::sources::{self, Target};
use crate::backend::Error;
use crate::backend::gpu::grid::Extent;
use crate::backend::gpu::params::Params;
use bytemuck::{Pod, Zeroable};
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::str::FromStr;
use std::sync::Arc;

/// How a captured pass over a decode plan is launched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Pass {
    /// A launch for each phase of an op.
    #[default]
    Launches,
    /// One cooperative launch, then `sample`.
    Persistent,
}

impl FromStr for Pass {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "launches" => Ok(Self::Launches),
            "persistent" => Ok(Self::Persistent),
            _ => Err("expected launches or persistent".to_owned()),
        }
    }
}

/// Warps of a resident block.
const WARPS: u32 = 16;
const THREADS: u32 = 32 * WARPS;
/// There are 16 barriers, one of which is the whole block's.
const MOST_GROUPS: u32 = 15;
/// Bytes of a segment that are fetched ahead at a barrier.
const FETCHED: u32 = 4096;
/// Buffers of a function.
const BUFFERS: usize = PARAMS_AT / 8;

/// Rows of weights that the tasks of a product begin with: of one of its matrices.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
struct Ahead {
    address: u64,
    panel_bytes: u32,
    segment_bytes: u32,
    /// The task that has the first panel, and how many there are.
    first: u32,
    panels: u32,
}

/// One launch of the list, as `kernels/decode.ptx` reads it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Phase {
    buffers: [u64; BUFFERS],
    params: Params,
    function: u32,
    /// Threads of a task.
    threads: u32,
    /// 65536 / (warps of a task), rounded up.
    inverse_warps: u32,
    /// Tasks side by side in a block.
    groups: u32,
    /// Tasks in all, and the grid that they would have been.
    tasks: u32,
    tasks_x: u32,
    tasks_y: u32,
    /// Bytes of shared memory of a group.
    slice: u32,
    /// Of the product that comes next: segments, bytes of each that were fetched at barriers before, and its matrices.
    segments: u32,
    skip: u32,
    ahead: [Ahead; 3],
    /// Its place in the table, and 1 for the last.
    number: u32,
    last: u32,
    padding: [u32; 2],
}

const _: () = assert!(offset_of!(Phase, params) == PARAMS_AT && offset_of!(Phase, threads) == THREADS_AT);
const _: () = assert!(offset_of!(Phase, ahead) == 248 && size_of::<Phase>() == 336);

/// What a launch becomes, whatever the extent.
struct Function {
    number: u32,
    groups: u32,
    slice: u32,
}

/// The kernel of a graph's captured passes.
pub(super) struct Persistent {
    kernel: Arc<Loaded>,
    /// By launch: the first of a pass, in order.
    functions: Vec<Function>,
    arrivals: Arc<DeviceMemory>,
    blocks: u32,
    shared_bytes: u32,
}

/// A table of phases on the device.
pub(super) struct Table {
    memory: Arc<DeviceMemory>,
}

impl Table {
    /// Bytes on the device.
    pub(super) fn bytes(&self) -> u64 {
        self.memory.bytes()
    }
}

/// The launches of a pass that are replaced: those before `sample`, whose blocks are larger.
fn replaced(launches: &[Launch]) -> impl Iterator<Item = &Launch> {
    launches.iter().filter(|launch| launch.runs(0)).take_while(|launch| launch.threads <= THREADS)
}

impl Persistent {
    /// The kernel for a pass of these launches.
    ///
    /// # Errors
    /// A multiprocessor has no room for a block.
    pub(super) fn new(gpu: &Gpu, launches: &[Launch]) -> Result<Self, Error> {
        let refused = |what: String| gpu.error("decode", format!("{what}; use --cuda-pass launches"));
        // What runs most often is compared first.
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for launch in replaced(launches) {
            *counts.entry(&launch.kernel.key).or_default() += 1;
        }
        let mut keys: Vec<(&str, usize)> = counts.into_iter().collect();
        keys.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        let keys: Vec<&str> = keys.into_iter().map(|(key, _)| key).collect();

        let mut functions = Vec::new();
        for launch in replaced(launches) {
            let number = keys.iter().position(|&key| key == launch.kernel.key).unwrap_or(0) as u32;
            if launch.addresses.len() > BUFFERS {
                return Err(refused(format!("{} has {} buffers", launch.kernel.key, launch.addresses.len())));
            }
            let declared = sources::function_shared_bytes(&launch.kernel.key)?;
            let slice = (declared + launch.shared_bytes).next_multiple_of(16);
            let groups = (WARPS / launch.threads.div_ceil(32).max(1)).min(MOST_GROUPS);
            functions.push(Function { number, groups, slice });
        }
        let shared_bytes =
            functions.iter().map(|function| function.groups * function.slice).max().unwrap_or(0);

        let kernel = gpu.modules.kernel(&(sources::decode_key(&keys), Target::Sm80))?;
        let limits = kernel.limits;
        let needs = format!(
            "a block of {THREADS} threads with {} registers each and {} bytes of shared memory",
            limits.registers,
            shared_bytes + limits.shared_bytes
        );
        if shared_bytes + limits.shared_bytes > gpu.shared_opt_in || THREADS > limits.max_threads {
            return Err(refused(format!("{needs} is more than a block may have")));
        }
        let failed = |error: DriverError| gpu.error("decode", error);
        kernel.allow_shared(shared_bytes, gpu.shared_opt_in).map_err(failed)?;
        if kernel.function.blocks_per_multiprocessor(THREADS, shared_bytes).map_err(failed)? == 0 {
            return Err(refused(format!("{needs} does not fit a multiprocessor")));
        }
        let arrivals = gpu.zeroed("arrivals at barriers", 16)?;
        Ok(Self { kernel, functions, arrivals, blocks: gpu.summary.multiprocessors, shared_bytes })
    }

    /// Launches that it replaces.
    pub(super) fn replaces(&self) -> usize {
        self.functions.len()
    }

    /// The phases of a pass over `launches`, those that [`Self::new`] was given.
    pub(super) fn table(&self, gpu: &Gpu, launches: &[Launch], extent: Extent) -> Result<Table, Error> {
        let present: Vec<(&Launch, &Function, [u32; 3])> = replaced(launches)
            .zip(&self.functions)
            .filter_map(|(launch, function)| Some((launch, function, launch.grid.size(extent)?)))
            .collect();
        let mut phases: Vec<Phase> =
            present.iter().map(|(launch, function, grid)| phase(launch, function, *grid)).collect();
        let products: Vec<bool> = present.iter().map(|(launch, ..)| launch.weight_bytes > 0).collect();
        for (at, (product, skip)) in next_products(&products).into_iter().enumerate() {
            let Some((launch, ..)) = present.get(product) else { continue };
            (phases[at].segments, phases[at].skip) = (launch.params.segments, skip);
            phases[at].ahead = ahead(launch);
        }
        for (number, phase) in phases.iter_mut().enumerate() {
            phase.number = number as u32;
        }
        if let Some(last) = phases.last_mut() {
            last.last = 1;
        }
        let bytes = bytemuck::cast_slice(&phases);
        let memory = gpu.uninitialized("the phases of a pass", bytes.len() as u64)?;
        gpu.write(&memory, 0, bytes)?;
        Ok(Table { memory })
    }

    /// Queues a pass.
    pub(super) fn queue(&self, stream: &Stream, table: &Table) -> Result<(), DriverError> {
        let unused = Params::zeroed();
        let kernel = Kernel {
            function: &self.kernel.function,
            grid: [self.blocks, 1, 1],
            threads: THREADS,
            shared_bytes: self.shared_bytes,
            buffers: &[table.memory.address(), self.arrivals.address()],
            params: bytemuck::bytes_of(&unused),
            dependent: false,
            cooperative: true,
        };
        kernel.launch(stream)
    }
}

fn phase(launch: &Launch, function: &Function, grid: [u32; 3]) -> Phase {
    let mut buffers = [0; BUFFERS];
    for (into, &address) in buffers.iter_mut().zip(&launch.addresses) {
        *into = address;
    }
    Phase {
        buffers,
        params: launch.params,
        function: function.number,
        threads: launch.threads,
        inverse_warps: (1u32 << 16).div_ceil(launch.threads.div_ceil(32).max(1)),
        groups: function.groups,
        tasks: grid.iter().product(),
        tasks_x: grid[0],
        tasks_y: grid[1],
        slice: function.slice,
        ..Phase::zeroed()
    }
}

/// For each phase the product behind it, where the pass begins anew behind its end, and how many bytes of each of its
/// segments the phases between it and the product before have fetched. No entry where nothing is a product.
fn next_products(products: &[bool]) -> Vec<(usize, u32)> {
    let count = products.len();
    let is_product = |at: usize| products.get(at % count.max(1)).copied().unwrap_or(false);
    let of = |at: usize| {
        let next = (1..=count).map(|distance| at + distance).find(|&at| is_product(at))?;
        let since = (0..count).find(|&distance| is_product(at + count - distance))?;
        Some((next % count, since as u32 * FETCHED))
    };
    (0..count).filter_map(of).collect()
}

/// Where the panels of a product lie.
fn ahead(launch: &Launch) -> [Ahead; 3] {
    let weights = launch.kernel.buffers.iter().position(|name| name == "weights");
    let Some(&weights) = weights.and_then(|at| launch.addresses.get(at)) else { return Default::default() };
    panels(&launch.params, weights, launch.kernel.key.starts_with("gate_up"))
}

/// The same for weights at an address; `beside` where each task has a panel of every matrix.
fn panels(params: &Params, weights: u64, beside: bool) -> [Ahead; 3] {
    let mut all = [Ahead::default(); 3];
    let mut first = 0;
    for (matrix, into) in all.iter_mut().enumerate() {
        let is_second = params.second >> matrix & 1 == 1;
        let stride = if is_second { params.stride_b } else { params.stride_a };
        let panel_bytes = stride.saturating_mul(16);
        *into = Ahead {
            address: weights + 16 * u64::from(params.base[matrix]),
            panel_bytes,
            segment_bytes: panel_bytes / params.segments.max(1),
            first: if beside { 0 } else { first },
            panels: params.panels[matrix],
        };
        first += params.panels[matrix];
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_fetches_for_the_product_behind_it() {
        // embed, qkv, attention, join, out, head
        let products = [false, true, false, false, true, true];
        let expected = [(1, 4096), (4, 0), (4, 4096), (4, 8192), (5, 0), (1, 0)];
        assert_eq!(next_products(&products), expected);
        assert_eq!(next_products(&[true]), [(0, 0)]);
        assert!(next_products(&[false, false]).is_empty() && next_products(&[]).is_empty());
    }

    #[test]
    fn panels_follow_each_other_or_lie_side_by_side() {
        let params = Params {
            segments: 4,
            base: [0, 100, 200],
            panels: [3, 2, 1],
            stride_a: 10,
            stride_b: 20,
            second: 4,
            ..Params::zeroed()
        };
        let places = |beside: bool| panels(&params, 4096, beside).map(|p| (p.address, p.first, p.panels));
        assert_eq!(places(false), [(4096, 0, 3), (5696, 3, 2), (7296, 5, 1)]);
        assert_eq!(places(true).map(|(_, first, _)| first), [0; 3]);
        let bytes = panels(&params, 0, false).map(|p| (p.panel_bytes, p.segment_bytes));
        assert_eq!(bytes, [(160, 40), (160, 40), (320, 80)]);
    }

    #[test]
    fn warps_are_dealt_to_groups_by_a_multiplication() {
        for warps in 1..=WARPS {
            for warp in 0..WARPS {
                assert_eq!((warp * (1u32 << 16).div_ceil(warps)) >> 16, warp / warps);
            }
        }
    }
}
