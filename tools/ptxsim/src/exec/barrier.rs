//! Barriers of a block.

use super::block::{Block, Resident, Step};
use super::order::join;
use super::warp::Warp;
use crate::error::FaultKind;
use crate::ir::{Inst, Src};

/// One of the 16 named barriers.
#[derive(Debug, Default)]
pub(crate) struct Barrier {
    /// Threads it was asked to wait for; `None` for the whole block. Set by the first to come.
    expected: Option<Option<u32>>,
    /// Warps that have come, and whether they wait.
    arrived: Vec<(u32, bool)>,
    /// Clocks of those that came without waiting.
    clocks: Vec<u32>,
    /// Instruction of the first to come.
    at: u32,
}

impl Block<'_> {
    /// The whole warp `m` stands at a barrier. True if it has to wait.
    pub(super) fn arrive(
        &mut self,
        w: &mut Warp,
        inst: &Inst,
        pc: u32,
        m: u32,
        (id, threads, wait): (Src, Option<Src>, bool),
    ) -> Step<()> {
        let lead = m.trailing_zeros() as usize;
        let ids = self.get32(w, inst, id, m)?;
        let id = ids[lead & 31];
        let threads = match threads {
            Some(n) => Some(self.get32(w, inst, n, m)?[lead & 31]),
            None => None,
        };
        if (0..32).any(|i| m >> i & 1 == 1 && ids[i] != id) {
            return self.fault(w, inst, m, FaultKind::DivergentBarrier, "the lanes name different barriers");
        }
        let all = self.grid.warps * 32;
        if threads.is_some_and(|n| n % 32 != 0 || n == 0 || n > all) {
            let n = threads.unwrap_or(0);
            let message = format!("a barrier of {n} threads: expected a multiple of 32 up to {all}");
            return self.fault(w, inst, m, FaultKind::MismatchedBarrier, message);
        }
        let Some(barrier) = self.barriers.get_mut(id as usize) else {
            return self.fault(
                w,
                inst,
                m,
                FaultKind::MismatchedBarrier,
                format!("barrier {id}: there are 16, from 0"),
            );
        };
        match barrier.expected {
            Some(other) if other != threads => {
                let message =
                    format!("barrier {id} is for {threads:?} threads here, for {other:?} elsewhere");
                return self.fault(w, inst, m, FaultKind::MismatchedBarrier, message);
            }
            Some(_) => {}
            None => {
                barrier.expected = Some(threads);
                barrier.at = pc;
            }
        }
        barrier.arrived.push((w.id, wait));
        if wait {
            w.waiting = Some(id);
        } else {
            barrier.clocks.resize(w.clocks.block.len(), 0);
            join(&mut barrier.clocks, &w.clocks.block);
            Self::tick(w);
        }
        Ok(())
    }
}

impl Resident<'_> {
    /// Opens barriers that are complete, and reports those that can never be.
    pub(super) fn settle_barriers(&mut self) -> Step<()> {
        for id in 0..self.block.barriers.len() {
            let Some(barrier) = self.block.barriers.get(id) else { continue };
            let Some(expected) = barrier.expected else { continue };
            let need = expected.map_or(self.warps.len(), |n| n as usize / 32);
            if expected.is_none()
                && let Some(gone) = self.warps.iter().find(|w| w.alive != w.launched)
            {
                let Some(inst) = self.block.grid.kernel.code.get(barrier.at as usize) else { continue };
                let lanes = gone.launched & !gone.alive;
                let message = format!(
                    "warp {} has lanes that returned, while others wait at barrier {id} for the whole block",
                    gone.id
                );
                return self.block.fault(gone, inst, lanes, FaultKind::MismatchedBarrier, message);
            }
            if barrier.arrived.len() < need {
                continue;
            }
            let Some(barrier) = self.block.barriers.get_mut(id).map(std::mem::take) else { continue };
            let warps: Vec<u32> = barrier.arrived.iter().map(|a| a.0).collect();
            let mut joined = barrier.clocks;
            joined.resize(self.warps.len(), 0);
            for (w, waits) in &barrier.arrived {
                if let (Some(w), true) = (self.warps.get(*w as usize), *waits) {
                    join(&mut joined, &w.clocks.block);
                }
            }
            self.join_known_of(&warps);
            for (at, waits) in barrier.arrived {
                let Some(w) = self.warps.get_mut(at as usize) else { continue };
                if waits {
                    w.waiting = None;
                    w.clocks.block.clone_from(&joined);
                    Block::tick(w);
                }
            }
        }
        Ok(())
    }
}
