//! Device memory: allocations at addresses of their own, with wide gaps between them, never used twice.

mod allocation;
mod shadow;

pub(crate) use allocation::Allocation;
pub(crate) use shadow::{Conflict, Known, MAX_CLOCK, MAX_EPOCH, MAX_WARPS, Observer};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

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
