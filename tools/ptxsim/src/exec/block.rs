//! A block and the grid it belongs to.

use super::barrier::Barrier;
use super::order::join_known;
use super::shared::SharedMemory;
use super::warp::Warp;
use crate::error::{Fault, FaultKind};
use crate::ir::{Inst, Kernel};
use crate::memory::{Known, Memory};
use crate::options::Options;
use crate::report::Report;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

/// Result of a step; the fault is boxed because it is large and rare.
pub(crate) type Step<T> = Result<T, Box<Fault>>;

/// What all blocks of a launch share.
pub(crate) struct Grid<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) memory: &'a Memory,
    pub(crate) params: &'a [u8],
    pub(crate) options: &'a Options,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) dynamic_shared: usize,
    /// Warps in a block.
    pub(crate) warps: u32,
    /// Number of the launch, for the tags of global memory.
    pub(crate) epoch: u64,
    /// First launch that may still run beside this one.
    pub(crate) running_since: u64,
    /// Some warp has executed `griddepcontrol.wait`.
    pub(crate) waited: AtomicBool,
    /// The host's vector unit may be used.
    pub(crate) vector: bool,
    /// What was passed on at each address, see [`super::order`].
    pub(crate) released_at: Mutex<HashMap<u64, Option<Arc<Known>>>>,
    /// Guards atomics of 64 bits, which are two words here.
    pub(crate) wide_atomics: Mutex<()>,
    /// Slices that got somewhere.
    pub(crate) progress: AtomicU64,
    pub(crate) stop: AtomicBool,
}

/// A block without its warps.
pub(crate) struct Block<'a> {
    pub(super) grid: &'a Grid<'a>,
    pub(super) index: u32,
    pub(super) position: [u32; 3],
    pub(super) shared: SharedMemory,
    pub(super) barriers: Vec<Barrier>,
    pub(super) released_at: HashMap<u64, Vec<u32>>,
    pub(super) report: Report,
    random: u64,
}

/// A block with its warps.
pub(crate) struct Resident<'a> {
    pub(super) block: Block<'a>,
    pub(super) warps: Vec<Warp>,
}

/// What a pass over the warps of a block came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    Done,
    Progress,
    /// Every warp waits or spins.
    Idle,
}

impl Block<'_> {
    /// A fault at an instruction.
    #[cold]
    pub(super) fn fault<T>(
        &self,
        w: &Warp,
        inst: &Inst,
        lanes: u32,
        kind: FaultKind,
        message: impl Into<String>,
    ) -> Step<T> {
        let kernel = self.grid.kernel;
        Err(Box::new(Fault {
            kind,
            kernel: kernel.name.clone(),
            line: inst.line,
            source: kernel.source(inst.line),
            block: self.position,
            warp: w.id,
            lanes,
            message: message.into(),
        }))
    }

    /// A number below `n`, from the seed (SplitMix64).
    pub(super) fn draw(&mut self, n: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n.max(1)
    }
}

impl<'a> Resident<'a> {
    /// A block at its first instruction.
    pub(crate) fn new(grid: &'a Grid<'a>, index: u32) -> Self {
        let [x, y, _] = grid.grid.map(u64::from);
        let i = u64::from(index);
        let position = [(i % x) as u32, (i / x % y) as u32, (i / x / y) as u32];
        let threads = grid.block.iter().product::<u32>();
        let shared = SharedMemory::new(
            grid.kernel.shared + grid.dynamic_shared,
            grid.options.checks.initialized,
            grid.options.checks.shared_races,
        );
        let warps = (0..grid.warps)
            .map(|id| Warp::new(grid.kernel, id, threads - id * 32, grid.warps as usize))
            .collect();
        let random = grid.options.seed ^ (i << 32);
        let block = Block {
            grid,
            index,
            position,
            shared,
            barriers: (0..16).map(|_| Barrier::default()).collect(),
            released_at: HashMap::new(),
            report: Report { blocks: 1, ..Report::default() },
            random,
        };
        Resident { block, warps }
    }

    /// What it did so far.
    pub(crate) fn report(&self) -> &Report {
        &self.block.report
    }

    /// Runs each warp that can go on for a slice.
    pub(crate) fn pass(&mut self) -> Step<Pass> {
        let count = self.warps.len();
        let seeded = self.block.grid.options.seed != 0;
        let start = if seeded { self.block.draw(count as u64) as usize } else { 0 };
        // an odd stride that shares no factor with the count visits every warp
        let stride = if seeded && count > 1 { [1, count - 1][self.block.draw(2) as usize] } else { 1 };
        let mut progress = false;
        for k in 0..count {
            let at = (start + k * stride) % count;
            let Some(w) = self.warps.get_mut(at) else { continue };
            if w.alive == 0 || w.waiting.is_some() {
                continue;
            }
            let slice = if seeded {
                16 + self.block.draw(496)
            } else if self.block.grid.options.cooperative {
                4096
            } else {
                1 << 20
            };
            w.yields = false;
            let got_on = self.block.run_slice(w, slice.min(self.block.grid.options.max_instructions))?;
            progress |= got_on;
            if got_on {
                self.block.grid.progress.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            self.settle_barriers()?;
        }
        if self.block.report.warp_instructions > self.block.grid.options.max_instructions {
            return self
                .stuck(FaultKind::Limit, "the block ran over the limit of instructions: an endless loop?");
        }
        if self.warps.iter().all(|w| w.alive == 0) {
            return Ok(Pass::Done);
        }
        Ok(if progress { Pass::Progress } else { Pass::Idle })
    }

    /// A fault at whatever the block is waiting for.
    pub(crate) fn stuck<T>(&self, kind: FaultKind, message: &str) -> Step<T> {
        let waiting = |w: &&Warp| w.alive != 0 && w.waiting.is_some();
        let spinning = self.warps.iter().find(|w| w.alive != 0 && w.waiting.is_none());
        let w = spinning.or_else(|| self.warps.iter().find(waiting));
        let inst = w.and_then(|w| {
            let pc = w.groups.last()?.pc;
            // a warp at a barrier already stands behind it
            let at = if w.waiting.is_some() { pc.saturating_sub(1) } else { pc };
            self.block.grid.kernel.code.get(at as usize)
        });
        if let (Some(w), Some(inst)) = (w, inst) {
            return self.block.fault(w, inst, w.alive, kind, message);
        }
        Err(Box::new(Fault {
            kind,
            kernel: self.block.grid.kernel.name.clone(),
            line: 0,
            source: None,
            block: self.block.position,
            warp: 0,
            lanes: 0,
            message: message.into(),
        }))
    }

    /// What nothing can resolve any more: every warp waits or spins for good.
    pub(crate) fn deadlock(&self) -> Step<()> {
        let mut ids: Vec<u32> = self.warps.iter().filter_map(|w| w.waiting).collect();
        ids.sort_unstable();
        ids.dedup();
        let all_at_barriers = self.only_barriers();
        if all_at_barriers && ids.len() > 1 {
            return self
                .stuck(FaultKind::MismatchedBarrier, &format!("warps wait at different barriers: {ids:?}"));
        }
        if all_at_barriers {
            return self.stuck(
                FaultKind::Deadlock,
                "every warp that is left waits at a barrier that cannot complete",
            );
        }
        let hint = if self.block.grid.options.cooperative {
            "it spins for a value that no block will write"
        } else {
            "it spins for a value that no warp of its block will write; waiting for another block needs a cooperative launch"
        };
        self.stuck(FaultKind::Deadlock, hint)
    }

    /// Whether every warp that is left waits at a barrier, so that more passes change nothing.
    pub(crate) fn only_barriers(&self) -> bool {
        self.warps.iter().all(|w| w.alive == 0 || w.waiting.is_some())
    }

    /// Joins what the warps of a barrier know of other blocks.
    pub(super) fn join_known_of(&mut self, warps: &[u32]) {
        let mut all = None;
        for w in warps {
            if let Some(w) = self.warps.get(*w as usize) {
                join_known(&mut all, &w.clocks.known);
            }
        }
        if all.is_some() {
            for w in warps {
                if let Some(w) = self.warps.get_mut(*w as usize) {
                    w.clocks.known = all.clone();
                }
            }
        }
    }
}
