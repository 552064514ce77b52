//! Memory of the device and pinned memory of the host. Every access is checked against the allocation's size.

use super::{Context, DriverError, Stream, check};
use cudarc::driver::sys::{self, CUresult};
use std::sync::Arc;

/// An allocation on the device.
#[derive(Debug)]
pub(in crate::backend::cuda) struct DeviceMemory {
    context: Arc<Context>,
    address: u64,
    bytes: u64,
}

/// What a copy out of bounds is refused with.
fn out_of_bounds(what: &str, at: u64, bytes: u64, size: u64) -> DriverError {
    let what = format!("{what} of {bytes} bytes at {at} leaves an allocation of {size}");
    DriverError { code: CUresult::CUDA_ERROR_INVALID_VALUE, what }
}

impl DeviceMemory {
    /// At least `bytes`, a multiple of 256, zeroed.
    pub(in crate::backend::cuda) fn zeroed(stream: &Stream, bytes: u64) -> Result<Self, DriverError> {
        let memory = Self::uninitialized(&stream.context, bytes)?;
        // SAFETY: the allocation has as many bytes, and it lives until the stream has been waited for.
        check(unsafe { sys::cuMemsetD8Async(memory.address, 0, memory.bytes as usize, stream.stream) })?;
        stream.wait()?;
        Ok(memory)
    }

    /// At least `bytes`, a multiple of 256, of whatever was there.
    pub(in crate::backend::cuda) fn uninitialized(
        context: &Arc<Context>,
        bytes: u64,
    ) -> Result<Self, DriverError> {
        context.bind()?;
        let bytes = bytes.max(1).next_multiple_of(256);
        let mut address = 0;
        // SAFETY: writes one address; it is freed once, in `drop`.
        check(unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes as usize) })?;
        Ok(Self { context: Arc::clone(context), address, bytes })
    }

    /// Its address on the device: only ever passed to kernels.
    pub(in crate::backend::cuda) fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub(in crate::backend::cuda) fn bytes(&self) -> u64 {
        self.bytes
    }

    fn range(&self, what: &str, at: u64, bytes: usize) -> Result<u64, DriverError> {
        match at.checked_add(bytes as u64) {
            Some(end) if end <= self.bytes => Ok(self.address + at),
            _ => Err(out_of_bounds(what, at, bytes as u64, self.bytes)),
        }
    }

    /// Copies `bytes` to `at`, in the order of the stream; done when it returns.
    pub(in crate::backend::cuda) fn write(
        &self,
        stream: &Stream,
        at: u64,
        bytes: &[u8],
    ) -> Result<(), DriverError> {
        let to = self.range("a copy to the device", at, bytes.len())?;
        if bytes.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: the range lies in the allocation; `bytes` lives until the stream has been waited for below.
        check(unsafe { sys::cuMemcpyHtoDAsync_v2(to, bytes.as_ptr().cast(), bytes.len(), stream.stream) })?;
        stream.wait()
    }

    /// Copies from `at` into `into`, in the order of the stream; done when it returns.
    pub(in crate::backend::cuda) fn read(
        &self,
        stream: &Stream,
        at: u64,
        into: &mut [u8],
    ) -> Result<(), DriverError> {
        let from = self.range("a copy from the device", at, into.len())?;
        if into.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        // SAFETY: the range lies in the allocation; `into` is borrowed until the stream has been waited for below.
        let copied = check(unsafe {
            sys::cuMemcpyDtoHAsync_v2(into.as_mut_ptr().cast(), from, into.len(), stream.stream)
        });
        // Also after a failure: nothing may be under way into `into` when it returns.
        let waited = stream.wait();
        copied.and(waited)
    }

    /// Queues a copy of `bytes` from the beginning into pinned memory; a capture records it.
    pub(in crate::backend::cuda) fn read_into(
        &self,
        stream: &Stream,
        into: &Pinned,
        bytes: usize,
    ) -> Result<(), DriverError> {
        let from = self.range("a copy from the device", 0, bytes)?;
        if bytes > into.bytes {
            return Err(out_of_bounds("a copy to pinned memory", 0, bytes as u64, into.bytes as u64));
        }
        self.context.bind()?;
        // SAFETY: both ranges lie in their allocations. Whoever queues this keeps both until the stream is idle: a graph
        // owns them, and waits for its stream before it lets go of them.
        check(unsafe { sys::cuMemcpyDtoHAsync_v2(into.pointer.cast(), from, bytes, stream.stream) })
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        let bound = self.context.bind();
        // SAFETY: allocated once, freed once; the driver waits for work that uses it.
        let _ = bound.and_then(|()| check(unsafe { sys::cuMemFree_v2(self.address) }));
    }
}

/// Pinned memory of the host, which the device may write while the host does something else.
#[derive(Debug)]
pub(in crate::backend::cuda) struct Pinned {
    context: Arc<Context>,
    pointer: *mut u32,
    bytes: usize,
}

// SAFETY: owned memory; it is read by volatile loads only, from whichever thread holds it.
unsafe impl Send for Pinned {}

impl Pinned {
    /// `words` words, zeroed.
    pub(in crate::backend::cuda) fn new(context: &Arc<Context>, words: usize) -> Result<Self, DriverError> {
        context.bind()?;
        let bytes = 4 * words.max(1);
        let mut pointer = std::ptr::null_mut();
        // SAFETY: writes one pointer; it is freed once, in `drop`.
        check(unsafe { sys::cuMemHostAlloc(&raw mut pointer, bytes, 0) })?;
        // SAFETY: the allocation has as many bytes, and nobody else knows it yet.
        unsafe { pointer.cast::<u8>().write_bytes(0, bytes) };
        Ok(Self { context: Arc::clone(context), pointer: pointer.cast(), bytes })
    }

    /// The word at `index`; 0 past the end.
    pub(in crate::backend::cuda) fn word(&self, index: usize) -> u32 {
        if index >= self.bytes / 4 {
            return 0;
        }
        // SAFETY: inside of the allocation, which is aligned to pages. The device may be writing other words, or this one
        // with the value that it has: a volatile load sees one or the other.
        unsafe { self.pointer.add(index).read_volatile() }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let bound = self.context.bind();
        // SAFETY: allocated once, freed once; the driver waits for copies that use it.
        let _ = bound.and_then(|()| check(unsafe { sys::cuMemFreeHost(self.pointer.cast()) }));
    }
}
