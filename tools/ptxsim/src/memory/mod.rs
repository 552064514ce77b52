//! Device memory: allocations at addresses of their own, with wide gaps between them, never used twice.

mod shadow;

pub(crate) use shadow::{Conflict, Known, MAX_CLOCK, MAX_EPOCH, MAX_WARPS, Observer};
use shadow::{PAGE_WORDS, Page};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// What the host asked of device memory and could not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemoryError {
    /// More than is left of the capacity.
    OutOfMemory {
        /// Bytes asked for.
        asked: u64,
        /// Bytes left.
        free: u64,
    },
    /// A range that is not inside one allocation.
    Outside {
        /// First address.
        address: u64,
        /// Length of the range, bytes.
        len: u64,
    },
    /// An address that no allocation starts at.
    NotAllocated(u64),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MemoryError::OutOfMemory { asked, free } => {
                write!(f, "out of device memory: {asked} bytes asked for, {free} are free")
            }
            MemoryError::Outside { address, len } => {
                write!(f, "{address:#x}, {len} bytes: not inside one allocation")
            }
            MemoryError::NotAllocated(address) => write!(f, "{address:#x} is no allocation's start"),
        }
    }
}

impl std::error::Error for MemoryError {}

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
    read_only: bool,
}

impl Allocation {
    fn new(base: u64, len: u64) -> Self {
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

    fn forget_accesses(&self) {
        for page in self.pages.iter().filter_map(|p| p.get()) {
            page.clear();
        }
        for sector in self.non_coherent.get().into_iter().flatten() {
            sector.store(0, Relaxed);
        }
    }

    fn write_bytes(&self, offset: usize, bytes: &[u8]) {
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

    fn read_bytes(&self, offset: usize, out: &mut [u8]) {
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

/// The memory of one device.
///
/// Addresses start far above 0, every allocation is followed by a gap, and an address is never given out twice:
/// an access outside an allocation, or to one that was freed, is always seen.
pub struct Memory {
    allocations: Vec<Allocation>,
    freed: Vec<(u64, u64)>,
    next: u64,
    used: u64,
    capacity: u64,
    launches: AtomicU64,
    /// Number of the last launch that waited for everything before it.
    full_launch: AtomicU64,
}

impl Default for Memory {
    fn default() -> Self {
        Memory::new()
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory {{ {} allocations, {} bytes }}", self.allocations.len(), self.used)
    }
}

impl Memory {
    /// Empty memory without a limit of its own.
    pub fn new() -> Self {
        Memory::with_capacity(1 << 40)
    }

    /// Empty memory of `capacity` bytes.
    pub fn with_capacity(capacity: u64) -> Self {
        Memory {
            allocations: vec![],
            freed: vec![],
            next: 0x7f00_0000_0000,
            used: 0,
            capacity,
            launches: AtomicU64::new(0),
            full_launch: AtomicU64::new(0),
        }
    }

    /// Bytes allocated.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Bytes there are.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Allocates `len` bytes, uninitialized, at a multiple of 512.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn alloc(&mut self, len: usize) -> Result<u64, MemoryError> {
        let asked = len as u64;
        let free = self.capacity - self.used;
        if asked > free {
            return Err(MemoryError::OutOfMemory { asked, free });
        }
        let base = self.next;
        self.next += asked.next_multiple_of(0x1_0000) + 0x1_0000;
        self.allocations.push(Allocation::new(base, asked));
        self.used += asked;
        Ok(base)
    }

    /// Allocates and fills.
    ///
    /// # Errors
    /// [`MemoryError::OutOfMemory`].
    pub fn upload(&mut self, bytes: &[u8]) -> Result<u64, MemoryError> {
        let address = self.alloc(bytes.len())?;
        self.write(address, bytes)?;
        Ok(address)
    }

    /// Frees an allocation.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`].
    pub fn free(&mut self, address: u64) -> Result<(), MemoryError> {
        let at = self.allocations.binary_search_by_key(&address, |a| a.base);
        let at = at.map_err(|_| MemoryError::NotAllocated(address))?;
        let a = self.allocations.remove(at);
        self.used -= a.len;
        self.freed.push((a.base, a.len));
        Ok(())
    }

    /// Declares an allocation read only for kernels.
    ///
    /// # Errors
    /// [`MemoryError::NotAllocated`].
    pub fn set_read_only(&mut self, address: u64) -> Result<(), MemoryError> {
        let found = self.allocations.iter_mut().find(|a| a.base == address);
        found.map(|a| a.read_only = true).ok_or(MemoryError::NotAllocated(address))
    }

    fn range(&self, address: u64, len: usize) -> Result<(&Allocation, usize), MemoryError> {
        let outside = MemoryError::Outside { address, len: len as u64 };
        let Some((_, a)) = self.find(address) else { return Err(outside) };
        let offset = address - a.base;
        if a.len - offset < len as u64 { Err(outside) } else { Ok((a, offset as usize)) }
    }

    /// Writes bytes from the host.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let (a, offset) = self.range(address, bytes.len())?;
        a.write_bytes(offset, bytes);
        Ok(())
    }

    /// Reads bytes to the host; those that were never written read as 0xcd.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn read(&self, address: u64, out: &mut [u8]) -> Result<(), MemoryError> {
        if out.is_empty() {
            return Ok(());
        }
        let (a, offset) = self.range(address, out.len())?;
        a.read_bytes(offset, out);
        Ok(())
    }

    /// Reads `len` bytes into a new vector.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn download(&self, address: u64, len: usize) -> Result<Vec<u8>, MemoryError> {
        self.range(address, len)?;
        let mut out = vec![0; len];
        self.read(address, &mut out)?;
        Ok(out)
    }

    /// Whether all of a range was written, by the host or by kernels.
    ///
    /// # Errors
    /// [`MemoryError::Outside`].
    pub fn is_initialized(&self, address: u64, len: usize) -> Result<bool, MemoryError> {
        let (a, offset) = self.range(address, len)?;
        Ok((offset..offset + len).all(|at| a.is_written(at, 1)))
    }

    /// The allocation that holds `address`, with its index.
    pub(crate) fn find(&self, address: u64) -> Option<(usize, &Allocation)> {
        let at = self.allocations.partition_point(|a| a.base <= address).checked_sub(1)?;
        let a = self.allocations.get(at)?;
        a.contains(address).then_some((at, a))
    }

    /// The allocation of that index.
    pub(crate) fn allocation(&self, at: usize) -> Option<&Allocation> {
        self.allocations.get(at)
    }

    /// Whether `address` lies in an allocation that was freed.
    pub(crate) fn was_freed(&self, address: u64) -> bool {
        self.freed.iter().any(|(base, len)| address >= *base && address - base < *len)
    }

    /// Everything launched so far has ended: a dependent launch does not overlap with it. Call it where a stream
    /// does something else than launch (a copy, an event the host waits for).
    pub fn synchronize(&self) {
        self.full_launch.store(self.launches.load(Relaxed) + 1, Relaxed);
    }

    /// Numbers a launch; with it, the first launch that may still run beside a dependent one.
    pub(crate) fn begin_launch(&self, dependent: bool) -> (u64, u64) {
        let mut epoch = self.launches.fetch_add(1, Relaxed) + 1;
        if epoch > MAX_EPOCH {
            for a in &self.allocations {
                a.forget_accesses();
            }
            epoch = 1;
            self.launches.store(1, Relaxed);
            self.full_launch.store(0, Relaxed);
        }
        if !dependent {
            self.full_launch.store(epoch, Relaxed);
        }
        (epoch, self.full_launch.load(Relaxed))
    }
}
