//! Shared memory of a block, and who touched each byte of it last.
//!
//! Each byte has three tags: its last writer, its last reader, and the last reader of another warp or lane than
//! that. An access races with a tag of another warp whose clock the accessing warp has not heard of, and with one
//! of another lane of its own warp if no `bar.warp.sync` or barrier stands between.

use super::block::{Block, Step};
use super::warp::Warp;
use crate::error::FaultKind;
use crate::ir::Inst;

/// What is known of a byte's value.
const UNWRITTEN: u8 = 0;
const WRITTEN: u8 = 1;
/// A `cp.async` is on its way to it.
const IN_FLIGHT: u8 = 2;

#[derive(Clone, Copy, Default)]
struct Tags {
    writer: u32,
    reader: u32,
    other_reader: u32,
}

pub(crate) struct SharedMemory {
    pub(super) bytes: Vec<u8>,
    state: Vec<u8>,
    tags: Vec<Tags>,
}

/// Warp in bits 27.., lane in bits 22.., clock below.
fn tag(warp: u32, lane: u32, clock: u32) -> u32 {
    (warp << 27) | (lane << 22) | (clock & 0x3f_ffff)
}

impl SharedMemory {
    pub(super) fn new(len: usize, track_state: bool, track_races: bool) -> Self {
        SharedMemory {
            bytes: vec![0xcd; len],
            state: vec![UNWRITTEN; if track_state { len } else { 0 }],
            tags: vec![Tags::default(); if track_races { len } else { 0 }],
        }
    }

    /// Loads up to 32 bytes at a checked offset; fewer than four are zero-extended.
    #[inline(always)]
    pub(super) fn load(&self, offset: usize, len: usize, out: &mut [u32; 8]) {
        load_words(&self.bytes, offset, len, out);
    }

    #[inline(always)]
    pub(super) fn store(&mut self, offset: usize, len: usize, value: &[u32; 8]) {
        store_words(&mut self.bytes, offset, len, value);
    }

    pub(super) fn mark(&mut self, offset: usize, len: usize, in_flight: bool) {
        if let Some(state) = self.state.get_mut(offset..offset + len) {
            state.fill(if in_flight { IN_FLIGHT } else { WRITTEN });
        }
    }
}

/// Loads little-endian words from bytes.
#[inline(always)]
pub(super) fn load_words(bytes: &[u8], offset: usize, len: usize, out: &mut [u32; 8]) {
    let Some(source) = bytes.get(offset..offset + len) else { return };
    if len >= 4 {
        for (slot, chunk) in out.iter_mut().zip(source.chunks_exact(4)) {
            *slot = u32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
    } else {
        out[0] = source.iter().rev().fold(0, |v, b| (v << 8) | u32::from(*b));
    }
}

/// Stores little-endian words to bytes.
#[inline(always)]
pub(super) fn store_words(bytes: &mut [u8], offset: usize, len: usize, value: &[u32; 8]) {
    let Some(target) = bytes.get_mut(offset..offset + len) else { return };
    for (chunk, v) in target.chunks_mut(4).zip(value) {
        let bytes = v.to_le_bytes();
        chunk.copy_from_slice(bytes.get(..chunk.len()).unwrap_or_default());
    }
}

impl Block<'_> {
    /// Checks an access of one lane to shared memory, and records it.
    pub(super) fn check_shared(
        &mut self,
        w: &Warp,
        inst: &Inst,
        lane: usize,
        (offset, len): (usize, usize),
        write: bool,
        strong: bool,
    ) -> Step<()> {
        if let Some(state) = self.shared.state.get(offset..offset + len) {
            if let Some(at) = state.iter().position(|s| *s == IN_FLIGHT) {
                let message = format!(
                    "shared byte {:#x} is the target of a cp.async that was not waited for",
                    offset + at
                );
                return self.fault(w, inst, 1 << lane, FaultKind::AsyncCopy, message);
            }
            if let (false, Some(at)) = (write, state.iter().position(|s| *s == UNWRITTEN)) {
                let message = format!("shared byte {:#x} is read before it is written", offset + at);
                return self.fault(w, inst, 1 << lane, FaultKind::UninitializedMemory, message);
            }
        }
        if write {
            self.shared.mark(offset, len, false);
        }
        // strong accesses, atomics above all, are meant to meet
        if strong { Ok(()) } else { self.note_shared(w, inst, lane, (offset, len), write) }
    }

    /// The race check alone.
    pub(super) fn note_shared(
        &mut self,
        w: &Warp,
        inst: &Inst,
        lane: usize,
        (offset, len): (usize, usize),
        write: bool,
    ) -> Step<()> {
        let clocks = &w.clocks.block;
        let own = clocks.get(w.id as usize).copied().unwrap_or(0);
        let mine = tag(w.id, lane as u32, own);
        let unordered = |t: u32| {
            let (warp, clock) = ((t >> 27) as usize, t & 0x3f_ffff);
            let same_lane = t >> 22 == mine >> 22;
            let heard = clocks.get(warp).copied().unwrap_or(0);
            let heard = if warp == w.id as usize { heard.saturating_sub(1) } else { heard };
            t != 0 && !same_lane && clock > heard
        };
        let mut conflict = None;
        let Some(tags) = self.shared.tags.get_mut(offset..offset + len) else { return Ok(()) };
        for (at, t) in tags.iter_mut().enumerate() {
            let found = if unordered(t.writer) {
                Some((t.writer, "written"))
            } else if write && unordered(t.reader) {
                Some((t.reader, "read"))
            } else if write && unordered(t.other_reader) {
                Some((t.other_reader, "read"))
            } else {
                None
            };
            if let Some(found) = found {
                conflict = Some((offset + at, found));
                break;
            }
            if write {
                *t = Tags { writer: mine, reader: 0, other_reader: 0 };
            } else if t.reader != mine {
                if t.reader >> 22 != mine >> 22 {
                    t.other_reader = t.reader;
                }
                t.reader = mine;
            }
        }
        let Some((at, (other, how))) = conflict else { return Ok(()) };
        let now = if write { "written" } else { "read" };
        let message = format!(
            "shared byte {at:#x} is {now} here and was {how} by warp {} lane {}, with no barrier between",
            other >> 27,
            (other >> 22) & 31
        );
        self.fault(w, inst, 1 << lane, FaultKind::SharedRace, message)
    }
}
