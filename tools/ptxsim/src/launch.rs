//! Launching a kernel over a grid.

use crate::error::{Fault, FaultKind};
use crate::exec::{Grid, Pass, Resident, has_vector_unit};
use crate::ir::Kernel;
use crate::memory::{MAX_WARPS, Memory};
use crate::options::Options;
use crate::report::Report;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A kernel argument.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// Four bytes: `.u32`, `.s32`, `.b32`.
    U32(u32),
    /// Eight bytes: `.u64`, a pointer.
    U64(u64),
    /// `.f32`
    F32(f32),
    /// Anything else, as it lies in memory.
    Bytes(Vec<u8>),
}

impl Kernel {
    /// Lays arguments out as the kernel's parameter block.
    ///
    /// # Errors
    /// The count or a size does not fit the kernel's parameters.
    pub fn pack(&self, args: &[Arg]) -> Result<Vec<u8>, Fault> {
        if args.len() != self.params.len() {
            return Err(refuse(self, format!("takes {} arguments, found {}", self.params.len(), args.len())));
        }
        let mut block = vec![0; self.param_size];
        for (arg, p) in args.iter().zip(&self.params) {
            let bytes = match arg {
                Arg::U32(v) => v.to_le_bytes().to_vec(),
                Arg::U64(v) => v.to_le_bytes().to_vec(),
                Arg::F32(v) => v.to_le_bytes().to_vec(),
                Arg::Bytes(v) => v.clone(),
            };
            let slot = block.get_mut(p.offset..p.offset + p.size).filter(|s| s.len() == bytes.len());
            let Some(slot) = slot else {
                let message =
                    format!("parameter '{}' has {} bytes, the argument {}", p.name, p.size, bytes.len());
                return Err(refuse(self, message));
            };
            slot.copy_from_slice(&bytes);
        }
        Ok(block)
    }
}

fn refuse(kernel: &Kernel, message: String) -> Fault {
    Fault {
        kind: FaultKind::Launch,
        kernel: kernel.name.clone(),
        line: 0,
        source: None,
        block: [0; 3],
        warp: 0,
        lanes: 0,
        message,
    }
}

/// Runs `kernel` over `grid` blocks of `block` threads, with `dynamic_shared` bytes of shared memory on top of what
/// the kernel declares and `params` as [`Kernel::pack`] lays them out.
///
/// # Errors
/// The first fault that was found. Memory then holds what was written until then.
pub fn launch(
    kernel: &Kernel,
    memory: &Memory,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: usize,
    params: &[u8],
    options: &Options,
) -> Result<Report, Fault> {
    let blocks = check_shape(kernel, grid, block, dynamic_shared, params, options)?;
    let (epoch, running_since) = memory.begin_launch(options.dependent);
    let threads = block.iter().product::<u32>();
    let warps = threads.div_ceil(32);
    if options.checks.global_races && u64::from(blocks) * u64::from(warps) > MAX_WARPS {
        let message = format!(
            "{blocks} blocks of {warps} warps: the check of global races tells {MAX_WARPS} warps apart"
        );
        return Err(refuse(kernel, message));
    }
    let state = Grid {
        kernel,
        memory,
        params,
        options,
        grid,
        block,
        dynamic_shared,
        warps,
        epoch,
        running_since,
        waited: AtomicBool::new(false),
        vector: has_vector_unit(),
        released_at: Mutex::default(),
        wide_atomics: Mutex::new(()),
        progress: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let order = block_order(blocks, options.seed);
    let workers = options.threads.clamp(1, blocks as usize);
    let next = AtomicUsize::new(0);
    let work = |worker: usize| {
        let done = if options.cooperative {
            let own: Vec<u32> = order.iter().copied().skip(worker).step_by(workers).collect();
            run_together(&state, &own, workers)
        } else {
            run_one_by_one(&state, &order, &next)
        };
        if done.is_err() {
            state.stop.store(true, Relaxed);
        }
        done
    };
    let results: Vec<Result<Report, Box<Fault>>> = if workers == 1 {
        vec![work(0)]
    } else {
        std::thread::scope(|scope| {
            let work = &work;
            let handles: Vec<_> = (0..workers).map(|w| scope.spawn(move || work(w))).collect();
            handles.into_iter().filter_map(|h| h.join().ok()).collect()
        })
    };
    let mut total = Report::default();
    if results.len() != workers {
        return Err(refuse(kernel, "a worker thread of the simulator broke down".into()));
    }
    for r in results {
        total.add(&r.map_err(|f| *f)?);
    }
    if options.checks.global_races && options.dependent && !state.waited.load(Relaxed) {
        let message = "the launch has ended and no thread executed griddepcontrol.wait: the next launch, which waits for \
                       this one alone, may find those before it still running";
        return Err(Fault { kind: FaultKind::DependentLaunch, ..refuse(kernel, message.into()) });
    }
    Ok(total)
}

fn check_shape(
    kernel: &Kernel,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: usize,
    params: &[u8],
    options: &Options,
) -> Result<u32, Fault> {
    let product = |v: [u32; 3]| v.iter().try_fold(1u32, |p, n| p.checked_mul(*n));
    let threads = product(block).filter(|n| (1..=1024).contains(n) && block[2] <= 64);
    let Some(threads) = threads else {
        return Err(refuse(kernel, format!("a block of {block:?} threads: expected 1 to 1024 in all")));
    };
    if let Some(max) = kernel.max_threads.filter(|max| threads > *max) {
        return Err(refuse(kernel, format!("a block of {threads} threads: the kernel allows {max}")));
    }
    if kernel.required_block.is_some_and(|r| r != block) {
        return Err(refuse(
            kernel,
            format!("a block of {block:?}: the kernel requires {:?}", kernel.required_block),
        ));
    }
    let shared = kernel.shared.saturating_add(dynamic_shared);
    if shared > options.max_shared {
        let message = format!("{shared} bytes of shared memory: a block may have {}", options.max_shared);
        return Err(refuse(kernel, message));
    }
    if params.len() != kernel.param_size {
        let message = format!("{} bytes of parameters: the kernel takes {}", params.len(), kernel.param_size);
        return Err(refuse(kernel, message));
    }
    let blocks = product(grid).filter(|n| *n > 0 && grid[1] <= 65535 && grid[2] <= 65535);
    blocks.ok_or_else(|| {
        refuse(kernel, format!("a grid of {grid:?} blocks: expected at least 1 and fewer than 2^32"))
    })
}

/// The order in which blocks start: as numbered, or drawn from the seed.
fn block_order(blocks: u32, seed: u64) -> Vec<u32> {
    let mut order: Vec<u32> = (0..blocks).collect();
    let mut state = seed;
    for i in (1..order.len()).rev().filter(|_| seed != 0) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}

/// Passes without progress after which a block alone is taken to wait for ever.
const IDLE_PASSES: u32 = 20_000;

/// Takes blocks from a common list; each runs to its end before the next.
fn run_one_by_one(grid: &Grid<'_>, order: &[u32], next: &AtomicUsize) -> Result<Report, Box<Fault>> {
    let mut total = Report::default();
    while let Some(index) = order.get(next.fetch_add(1, Relaxed)) {
        if grid.stop.load(Relaxed) {
            break;
        }
        let mut block = Resident::new(grid, *index);
        let mut idle = 0;
        loop {
            match block.pass()? {
                Pass::Done => break,
                Pass::Progress => idle = 0,
                Pass::Idle => idle += 1,
            }
            if idle > IDLE_PASSES || (idle > 0 && block.only_barriers()) {
                block.deadlock()?;
            }
        }
        total.add(block.report());
    }
    Ok(total)
}

/// Runs all of `own` side by side, a slice each, until the last has ended.
fn run_together(grid: &Grid<'_>, own: &[u32], workers: usize) -> Result<Report, Box<Fault>> {
    let mut total = Report::default();
    let mut blocks: Vec<Resident<'_>> = own.iter().map(|i| Resident::new(grid, *i)).collect();
    let (mut idle, mut seen, mut since) = (0u32, grid.progress.load(Relaxed), Instant::now());
    while !blocks.is_empty() && !grid.stop.load(Relaxed) {
        let mut running = Vec::with_capacity(blocks.len());
        for mut block in blocks {
            match block.pass()? {
                Pass::Done => total.add(block.report()),
                _ => running.push(block),
            }
        }
        blocks = running;
        let now = grid.progress.load(Relaxed);
        if now != seen {
            (idle, seen, since) = (0, now, Instant::now());
            continue;
        }
        idle += 1;
        // another thread's slice may be on its way: give it time
        let waited = workers == 1 || since.elapsed() > Duration::from_secs(3);
        if idle > IDLE_PASSES.min(2_000)
            && waited
            && let Some(block) = blocks.first()
        {
            block.deadlock()?;
        }
        if workers > 1 {
            std::thread::yield_now();
        }
    }
    Ok(total)
}
