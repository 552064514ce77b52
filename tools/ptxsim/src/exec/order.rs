//! What happens before what: vector clocks over the warps of a grid.
//!
//! Each warp has a clock that moves on at barriers and fences. A barrier makes its warps know all that each of them
//! knows. Between blocks, knowledge travels as the memory model says: a fence, then a strong write (volatile,
//! relaxed, atomic), a strong read that sees it, then a fence; or the release and acquire forms of these. A strong
//! write is taken to pass on everything that was released at that address before, which forgives a little more
//! than the model does.

use super::block::Block;
use super::warp::Warp;
use crate::ir::Order;
use crate::memory::{Known, MAX_CLOCK, Observer};
use std::sync::Arc;

/// Takes the later of both clocks, warp by warp.
pub(super) fn join(into: &mut [u32], other: &[u32]) {
    for (a, b) in into.iter_mut().zip(other) {
        *a = (*a).max(*b);
    }
}

/// All that either knows.
pub(super) fn join_known(into: &mut Option<Arc<Known>>, other: &Option<Arc<Known>>) {
    let Some(other) = other else { return };
    let Some(mine) = into else {
        *into = Some(other.clone());
        return;
    };
    if Arc::ptr_eq(mine, other) {
        return;
    }
    let known = Arc::make_mut(mine);
    for (block, clocks) in other.iter() {
        match known.get_mut(block) {
            Some(have) if have.iter().zip(&**clocks).all(|(a, b)| a >= b) => {}
            Some(have) => {
                let mut merged = have.to_vec();
                join(&mut merged, clocks);
                *have = merged.into();
            }
            None => {
                known.insert(*block, clocks.clone());
            }
        }
    }
}

impl Block<'_> {
    /// Moves a warp's own clock on.
    pub(super) fn tick(w: &mut Warp) {
        if let Some(own) = w.clocks.block.get_mut(w.id as usize) {
            *own = (*own + 1).min(MAX_CLOCK);
        }
    }

    /// The warp as the race check of global memory sees it.
    pub(super) fn observer<'o>(&self, w: &'o Warp, strong: bool) -> Observer<'o> {
        let overlaps_since = self.grid.options.dependent.then_some(self.grid.running_since);
        Observer {
            epoch: self.grid.epoch,
            running_since: overlaps_since.filter(|_| !w.waited),
            overlaps_since,
            warps_per_block: u64::from(self.grid.warps),
            block: self.index,
            warp: w.id,
            clocks: &w.clocks.block,
            known: w.clocks.known.as_deref(),
            strong,
        }
    }

    fn ordered(&self) -> bool {
        self.grid.options.checks.global_races || self.grid.options.checks.shared_races
    }

    /// A fence: what strong reads brought is taken in, what is known from here on can be passed on.
    pub(super) fn fence(&self, w: &mut Warp, device: bool) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        if !self.ordered() {
            return;
        }
        self.acquire(w, device);
        w.clocks.released_in_block = Some(w.clocks.block.as_slice().into());
        if device {
            let mut known = w.clocks.known.as_deref().cloned().unwrap_or_default();
            known.insert(self.index, w.clocks.block.as_slice().into());
            w.clocks.released = Some(Arc::new(known));
        }
        Self::tick(w);
    }

    fn acquire(&self, w: &mut Warp, device: bool) {
        if let Some(pending) = w.clocks.pending_in_block.take() {
            join(&mut w.clocks.block, &pending);
        }
        if !device {
            return;
        }
        if let Some(pending) = w.clocks.pending.take() {
            if let Some(own) = pending.get(&self.index) {
                join(&mut w.clocks.block, own);
            }
            join_known(&mut w.clocks.known, &Some(pending));
        }
    }

    /// Before a strong access.
    pub(super) fn before_strong(&self, w: &mut Warp, order: Order) {
        if matches!(order, Order::Release | Order::AcquireRelease) {
            self.fence(w, true);
        }
    }

    /// A strong write to `address` passes on what was released.
    pub(super) fn publish(&mut self, w: &Warp, address: u64) {
        if !self.ordered() {
            return;
        }
        if let Some(released) = &w.clocks.released_in_block {
            let at = self.released_at.entry(address).or_insert_with(|| vec![0; self.grid.warps as usize]);
            join(at, released);
        }
        if w.clocks.released.is_some() {
            let mut map = self.grid.released_at.lock().unwrap_or_else(|e| e.into_inner());
            join_known(map.entry(address).or_default(), &w.clocks.released);
        }
    }

    /// A strong read of `address` brings what was passed on there.
    pub(super) fn receive(&self, w: &mut Warp, address: u64) {
        if !self.ordered() {
            return;
        }
        if let Some(found) = self.released_at.get(&address) {
            match &mut w.clocks.pending_in_block {
                Some(pending) => join(pending, found),
                none => *none = Some(found.clone()),
            }
        }
        let map = self.grid.released_at.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(found) = map.get(&address) {
            join_known(&mut w.clocks.pending, found);
        }
    }

    /// After a strong access: acquires, and notices a spin. `values` is a hash of what was read.
    pub(super) fn after_strong(&self, w: &mut Warp, pc: u32, order: Order, values: u64) {
        if matches!(order, Order::Acquire | Order::AcquireRelease) {
            self.acquire(w, true);
            Self::tick(w);
        }
        match w.seen.iter_mut().find(|s| s.0 == pc) {
            Some(seen) if seen.1 == values => w.yields = true,
            Some(seen) => seen.1 = values,
            None => w.seen.push((pc, values)),
        }
    }
}
