//! Who touched a word of global memory last: the data behind the race checks between blocks and warps.
//!
//! Each 4-byte word that a kernel touches has three tags: its last writer, its last reader, and the last reader
//! of another block than that one. A tag is made of the launch's number, the warp in the grid, that warp's clock
//! and the bytes of the word. An access races with a tag of the same launch and another warp whose clock the
//! accessing warp has not heard of through a barrier, or a fence and a strong access. Where two warps share a word
//! byte by byte, the later one hides the earlier: a race may then go unseen, but none is made up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Words in a page of tags.
pub(super) const PAGE_WORDS: usize = 1024;

/// Tags of a page, made when a kernel first touches it.
pub(super) struct Page {
    writer: Vec<AtomicU64>,
    reader: Vec<AtomicU64>,
    other_reader: Vec<AtomicU64>,
}

const CLOCK_SHIFT: u32 = 4;
const WARP_SHIFT: u32 = 28;
const STRONG: u64 = 1 << 49;
const EPOCH_SHIFT: u32 = 50;
/// Launch numbers run from 1 to this, then from 1 again.
pub(crate) const MAX_EPOCH: u64 = (1 << 14) - 1;
/// Warps of a grid that tags can tell apart.
pub(crate) const MAX_WARPS: u64 = 1 << 21;
/// Clocks of a warp that tags can tell apart.
pub(crate) const MAX_CLOCK: u32 = (1 << 24) - 1;

/// What a warp knows of other blocks: how far each of their warps had come.
pub(crate) type Known = HashMap<u32, Arc<[u32]>>;

/// A tag, unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tag(u64);

impl Tag {
    fn epoch(self) -> u64 {
        self.0 >> EPOCH_SHIFT
    }

    /// Warp within the grid.
    pub(crate) fn warp(self) -> u64 {
        (self.0 >> WARP_SHIFT) & (MAX_WARPS - 1)
    }

    fn clock(self) -> u32 {
        (self.0 >> CLOCK_SHIFT) as u32 & MAX_CLOCK
    }
}

/// The warp that makes an access.
pub(crate) struct Observer<'a> {
    pub(crate) epoch: u64,
    /// First launch that may still be running, while this one has not waited for it.
    pub(crate) running_since: Option<u64>,
    /// First launch that may still have been running when this one began: the same, but waiting changes nothing.
    pub(crate) overlaps_since: Option<u64>,
    pub(crate) warps_per_block: u64,
    pub(crate) block: u32,
    pub(crate) warp: u32,
    pub(crate) clocks: &'a [u32],
    pub(crate) known: Option<&'a Known>,
    pub(crate) strong: bool,
}

/// Why an access is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// Not ordered with this writer.
    Writer(Tag),
    /// Not ordered with this reader.
    Reader(Tag),
    /// Read through `.nc` and written in one launch.
    NonCoherent,
    /// Touched by an earlier launch that may not have ended.
    EarlierLaunch,
    /// Read through `.nc`, and written by a launch that this one may overlap.
    NonCoherentOverlap,
}

impl Observer<'_> {
    fn tag(&self, bytes: u64) -> u64 {
        let warp = u64::from(self.block) * self.warps_per_block + u64::from(self.warp);
        let clock = self.clocks.get(self.warp as usize).copied().unwrap_or(0);
        let strong = if self.strong { STRONG } else { 0 };
        (self.epoch << EPOCH_SHIFT)
            | strong
            | (warp << WARP_SHIFT)
            | (u64::from(clock) << CLOCK_SHIFT)
            | bytes
    }

    fn unfinished(&self, epoch: u64) -> bool {
        self.running_since.is_some_and(|since| epoch != 0 && epoch != self.epoch && epoch >= since)
    }

    /// Whether an access to `bytes` races with the one that left `tag`.
    fn races(&self, tag: u64, bytes: u64) -> bool {
        let t = Tag(tag);
        if t.epoch() != self.epoch || tag & bytes == 0 || (self.strong && tag & STRONG != 0) {
            return false;
        }
        let (block, warp) =
            ((t.warp() / self.warps_per_block) as u32, (t.warp() % self.warps_per_block) as usize);
        let clocks = if block == self.block {
            if warp == self.warp as usize {
                return false;
            }
            Some(self.clocks)
        } else {
            self.known.and_then(|k| k.get(&block)).map(|c| &**c)
        };
        clocks.and_then(|c| c.get(warp)).is_none_or(|clock| *clock < t.clock())
    }
}

impl Page {
    pub(super) fn new() -> Self {
        let tags = || (0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect();
        Page { writer: tags(), reader: tags(), other_reader: tags() }
    }

    pub(super) fn clear(&self) {
        for tag in self.writer.iter().chain(&self.reader).chain(&self.other_reader) {
            tag.store(0, Relaxed);
        }
    }

    /// Records a read of `bytes` (a bit each) of a word.
    pub(super) fn read(&self, word: usize, bytes: u64, me: &Observer<'_>) -> Result<(), Conflict> {
        let (Some(writer), Some(reader), Some(other)) =
            (self.writer.get(word), self.reader.get(word), self.other_reader.get(word))
        else {
            return Ok(());
        };
        let w = writer.load(Relaxed);
        if me.unfinished(Tag(w).epoch()) {
            return Err(Conflict::EarlierLaunch);
        }
        if me.races(w, bytes) {
            return Err(Conflict::Writer(Tag(w)));
        }
        let (mine, last) = (me.tag(bytes), reader.load(Relaxed));
        if last != mine {
            if Tag(last).warp() / me.warps_per_block != u64::from(me.block) {
                other.store(last, Relaxed);
            }
            reader.store(mine, Relaxed);
        }
        Ok(())
    }

    /// A read through `.nc`: nothing in this launch may have written the word.
    pub(super) fn read_non_coherent(&self, word: usize, me: &Observer<'_>) -> Result<(), Conflict> {
        let epoch = self.writer.get(word).map_or(0, |w| Tag(w.load(Relaxed)).epoch());
        if me.unfinished(epoch) {
            return Err(Conflict::EarlierLaunch);
        }
        if epoch == me.epoch {
            return Err(Conflict::NonCoherent);
        }
        match me.overlaps_since {
            Some(since) if epoch != 0 && epoch >= since => Err(Conflict::NonCoherentOverlap),
            _ => Ok(()),
        }
    }

    /// Records a write of `bytes` of a word.
    pub(super) fn write(&self, word: usize, bytes: u64, me: &Observer<'_>) -> Result<(), Conflict> {
        let (Some(writer), Some(reader), Some(other)) =
            (self.writer.get(word), self.reader.get(word), self.other_reader.get(word))
        else {
            return Ok(());
        };
        let (w, r, o) = (writer.load(Relaxed), reader.load(Relaxed), other.load(Relaxed));
        if [w, r, o].iter().any(|t| me.unfinished(Tag(*t).epoch())) {
            return Err(Conflict::EarlierLaunch);
        }
        if me.races(w, bytes) {
            return Err(Conflict::Writer(Tag(w)));
        }
        for tag in [r, o] {
            if me.races(tag, bytes) {
                return Err(Conflict::Reader(Tag(tag)));
            }
        }
        writer.store(me.tag(bytes), Relaxed);
        Ok(())
    }
}
