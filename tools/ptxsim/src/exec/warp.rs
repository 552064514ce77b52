//! The state of one warp: registers, groups of lanes that run together, and what it knows of other warps.

use super::lanes::{V32, V64};
use crate::ir::{Kernel, Reg};
use crate::memory::Known;
use std::sync::Arc;

/// Lanes at one instruction.
#[derive(Debug, Clone)]
pub(super) struct Group {
    pub(super) pc: u32,
    pub(super) mask: u32,
    /// Waits for other lanes of the warp.
    pub(super) blocked: bool,
}

/// Bytes of a `cp.async` that have not arrived.
pub(super) struct PendingCopy {
    pub(super) lane: u8,
    pub(super) to: usize,
    pub(super) len: u8,
    pub(super) bytes: [u8; 16],
    pub(super) group: u32,
}

/// The warp's part in the memory model; see [`super::order`].
#[derive(Default)]
pub(super) struct Clocks {
    /// How far each warp of the block had come when this one last heard of it.
    pub(super) block: Vec<u32>,
    pub(super) known: Option<Arc<Known>>,
    /// What a strong write passes on, since the last fence.
    pub(super) released: Option<Arc<Known>>,
    pub(super) released_in_block: Option<Arc<[u32]>>,
    /// What strong reads brought, until a fence takes it in.
    pub(super) pending: Option<Arc<Known>>,
    pub(super) pending_in_block: Option<Vec<u32>>,
}

pub(super) struct Warp {
    pub(super) id: u32,
    pub(super) narrow: Vec<V32>,
    pub(super) wide: Vec<V64>,
    pub(super) preds: Vec<u32>,
    pub(super) narrow_set: Vec<u32>,
    pub(super) wide_set: Vec<u32>,
    pub(super) pred_set: Vec<u32>,
    /// By `pc`, highest first: the last one runs.
    pub(super) groups: Vec<Group>,
    /// Lanes that exist.
    pub(super) launched: u32,
    /// Lanes that have not returned.
    pub(super) alive: u32,
    /// The barrier it waits at.
    pub(super) waiting: Option<u32>,
    pub(super) clocks: Clocks,
    pub(super) copies: Vec<PendingCopy>,
    pub(super) copy_group: [u32; 32],
    /// Local memory, lane after lane.
    pub(super) local: Vec<u8>,
    pub(super) local_set: Vec<bool>,
    /// Allocation that was used last.
    pub(super) last_allocation: usize,
    /// `griddepcontrol.wait` was executed.
    pub(super) waited: bool,
    /// What strong reads returned last, by instruction.
    pub(super) seen: Vec<(u32, u64)>,
    /// The slice ends here: it spins, or asked to.
    pub(super) yields: bool,
    /// The next slice starts with another group.
    pub(super) rotate: bool,
}

impl Warp {
    pub(super) fn new(kernel: &Kernel, id: u32, lanes: u32, warps: usize) -> Self {
        let launched = if lanes >= 32 { !0 } else { (1 << lanes) - 1 };
        let mut block = vec![0; warps];
        if let Some(own) = block.get_mut(id as usize) {
            *own = 1;
        }
        let (n, w, p) = (kernel.narrow_names.len(), kernel.wide_names.len(), kernel.pred_names.len());
        Warp {
            id,
            narrow: vec![[0xdead_beef; 32]; n],
            wide: vec![[0xdead_beef_dead_beef; 32]; w],
            preds: vec![0x5555_5555; p],
            narrow_set: vec![0; n],
            wide_set: vec![0; w],
            pred_set: vec![0; p],
            groups: vec![Group { pc: 0, mask: launched, blocked: false }],
            launched,
            alive: launched,
            waiting: None,
            clocks: Clocks { block, ..Clocks::default() },
            copies: vec![],
            copy_group: [0; 32],
            local: vec![0xcd; kernel.local * 32],
            local_set: vec![false; kernel.local * 32],
            last_allocation: 0,
            waited: false,
            seen: vec![],
            yields: false,
            rotate: false,
        }
    }

    /// Writes the lanes of `mask`.
    #[inline(always)]
    pub(super) fn set32(&mut self, d: Reg, value: &V32, mask: u32) {
        let r = &mut self.narrow[d as usize];
        if mask == !0 {
            *r = *value;
        } else {
            for i in 0..32 {
                r[i] = if mask >> i & 1 == 1 { value[i] } else { r[i] };
            }
        }
        self.narrow_set[d as usize] |= mask;
    }

    #[inline(always)]
    pub(super) fn set64(&mut self, d: Reg, value: &V64, mask: u32) {
        let r = &mut self.wide[d as usize];
        if mask == !0 {
            *r = *value;
        } else {
            for i in 0..32 {
                r[i] = if mask >> i & 1 == 1 { value[i] } else { r[i] };
            }
        }
        self.wide_set[d as usize] |= mask;
    }

    #[inline(always)]
    pub(super) fn set_pred(&mut self, d: Reg, value: u32, mask: u32) {
        let p = &mut self.preds[d as usize];
        *p = (*p & !mask) | (value & mask);
        self.pred_set[d as usize] |= mask;
    }

    /// Puts lanes at `pc`, merged with those that stand there.
    pub(super) fn insert(&mut self, pc: u32, mask: u32) {
        if let Some(group) = self.groups.iter_mut().find(|g| g.pc == pc) {
            group.mask |= mask;
            group.blocked = false;
            return;
        }
        let at = self.groups.iter().position(|g| g.pc < pc).unwrap_or(self.groups.len());
        self.groups.insert(at, Group { pc, mask, blocked: false });
    }
}
