//! The bytes of one allocation, and what is known of each.

use super::shadow::{Conflict, Observer, PAGE_WORDS, Page};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering::Relaxed};

/// One allocation. Words are atomic because blocks run on several host threads.
pub(crate) struct Allocation {
    pub(crate) base: u64,
    pub(crate) len: u64,
    words: Box<[AtomicU32]>,
    /// Of each word, a bit for each byte that was written.
    written: Box<[AtomicU8]>,
    pages: Box<[OnceLock<Box<Page>>]>,
    /// Of each 32-byte sector, the launch that last read it through `.nc`.
    non_coherent: OnceLock<Box<[AtomicU16]>>,
    pub(super) read_only: bool,
}

impl Allocation {
    pub(super) fn new(base: u64, len: u64) -> Self {
        let words = (len as usize).div_ceil(4);
        Allocation {
            base,
            len,
            words: (0..words).map(|_| AtomicU32::new(0xcdcd_cdcd)).collect(),
            written: (0..words).map(|_| AtomicU8::new(0)).collect(),
            pages: (0..words.div_ceil(PAGE_WORDS)).map(|_| OnceLock::new()).collect(),
            non_coherent: OnceLock::new(),
            read_only: false,
        }
    }

    pub(crate) fn is_read_only(&self) -> bool {
        self.read_only
    }

    pub(crate) fn contains(&self, address: u64) -> bool {
        address >= self.base && address - self.base < self.len
    }

    /// The words that hold `len` aligned bytes at `offset`, which is within bounds.
    #[inline(always)]
    pub(crate) fn words(&self, offset: usize, len: usize) -> &[AtomicU32] {
        let first = offset / 4;
        self.words.get(first..first + len.div_ceil(4)).unwrap_or_default()
    }

    /// Loads up to 32 aligned bytes as words; fewer than four are shifted down.
    #[inline(always)]
    pub(crate) fn load(&self, offset: usize, len: usize, out: &mut [u32; 8]) {
        for (slot, word) in out.iter_mut().zip(self.words(offset, len)) {
            *slot = word.load(Relaxed);
        }
        if len < 4 {
            out[0] = (out[0] >> (8 * (offset % 4))) & (u32::MAX >> (32 - 8 * len));
        }
    }

    /// Stores aligned bytes.
    #[inline(always)]
    pub(crate) fn store(&self, offset: usize, len: usize, value: &[u32; 8]) {
        if len >= 4 {
            for (word, v) in self.words(offset, len).iter().zip(value) {
                word.store(*v, Relaxed);
            }
        } else if let Some(word) = self.words(offset, len).first() {
            let shift = 8 * (offset % 4);
            let mask = (u32::MAX >> (32 - 8 * len)) << shift;
            // other bytes of the word may be written by another thread at the same time
            let _ = word.fetch_update(Relaxed, Relaxed, |w| Some((w & !mask) | ((value[0] << shift) & mask)));
        }
        self.mark_written(offset, len);
    }

    pub(crate) fn mark_written(&self, offset: usize, len: usize) {
        let first = offset / 4;
        if len >= 4 {
            for byte in self.written.get(first..first + len / 4).unwrap_or_default() {
                byte.store(0xf, Relaxed);
            }
        } else if let Some(byte) = self.written.get(first) {
            byte.fetch_or(byte_mask(offset, len), Relaxed);
        }
    }

    /// Whether aligned bytes were all written.
    #[inline(always)]
    pub(crate) fn is_written(&self, offset: usize, len: usize) -> bool {
        let first = offset / 4;
        let want = if len >= 4 { 0xf } else { byte_mask(offset, len) };
        let bytes = self.written.get(first..first + len.div_ceil(4)).unwrap_or_default();
        bytes.iter().fold(want, |all, b| all & b.load(Relaxed)) == want
    }

    fn page(&self, word: usize) -> Option<&Page> {
        Some(self.pages.get(word / PAGE_WORDS)?.get_or_init(|| Box::new(Page::new())))
    }

    fn each_word(
        offset: usize,
        len: usize,
        mut f: impl FnMut(usize, u64) -> Result<(), Conflict>,
    ) -> Result<(), Conflict> {
        let bytes = if len >= 4 { 0xf } else { u64::from(byte_mask(offset, len)) };
        (offset / 4..offset / 4 + len.div_ceil(4)).try_for_each(|word| f(word, bytes))
    }

    /// Records a read for the race check.
    pub(crate) fn note_read(&self, offset: usize, len: usize, me: &Observer<'_>) -> Result<(), Conflict> {
        Self::each_word(offset, len, |word, bytes| match self.page(word) {
            Some(page) => page.read(word % PAGE_WORDS, bytes, me),
            None => Ok(()),
        })
    }

    /// Records a read through the read-only path.
    pub(crate) fn note_non_coherent(
        &self,
        offset: usize,
        len: usize,
        me: &Observer<'_>,
    ) -> Result<(), Conflict> {
        let sectors = self
            .non_coherent
            .get_or_init(|| (0..(self.len as usize).div_ceil(32)).map(|_| AtomicU16::new(0)).collect());
        if let Some(sector) = sectors.get(offset / 32)
            && u64::from(sector.load(Relaxed)) != me.epoch
        {
            sector.store(me.epoch as u16, Relaxed);
        }
        Self::each_word(offset, len, |word, _| {
            match self.pages.get(word / PAGE_WORDS).and_then(|p| p.get()) {
                Some(page) => page.read_non_coherent(word % PAGE_WORDS, me),
                None => Ok(()),
            }
        })
    }

    /// Records a write.
    pub(crate) fn note_write(&self, offset: usize, len: usize, me: &Observer<'_>) -> Result<(), Conflict> {
        if let Some(sector) = self.non_coherent.get().and_then(|s| s.get(offset / 32)) {
            let epoch = u64::from(sector.load(Relaxed));
            if epoch == me.epoch {
                return Err(Conflict::NonCoherent);
            }
            if me.running_since.is_some_and(|since| epoch != 0 && epoch >= since) {
                return Err(Conflict::EarlierLaunch);
            }
        }
        Self::each_word(offset, len, |word, bytes| match self.page(word) {
            Some(page) => page.write(word % PAGE_WORDS, bytes, me),
            None => Ok(()),
        })
    }

    pub(super) fn forget_accesses(&self) {
        for page in self.pages.iter().filter_map(|p| p.get()) {
            page.clear();
        }
        for sector in self.non_coherent.get().into_iter().flatten() {
            sector.store(0, Relaxed);
        }
    }

    pub(super) fn write_bytes(&self, offset: usize, bytes: &[u8]) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let len = if at.is_multiple_of(4) && rest.len() >= 4 { 4 } else { 1 };
            let (now, later) = rest.split_at(len);
            let value = now.iter().rev().fold(0u32, |v, b| (v << 8) | u32::from(*b));
            self.store(at, len, &[value, 0, 0, 0, 0, 0, 0, 0]);
            at += len;
            rest = later;
        }
    }

    pub(super) fn read_bytes(&self, offset: usize, out: &mut [u8]) {
        let mut words = [0u32; 8];
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let len = if at.is_multiple_of(4) && rest.len() >= 4 { 4 } else { 1 };
            let (now, later) = rest.split_at_mut(len);
            self.load(at, len, &mut words);
            now.copy_from_slice(words[0].to_le_bytes().get(..len).unwrap_or_default());
            at += len;
            rest = later;
        }
    }
}

fn byte_mask(offset: usize, len: usize) -> u8 {
    ((1u8 << len) - 1) << (offset % 4)
}
