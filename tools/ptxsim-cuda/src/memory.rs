//! Device and pinned memory, copies, fills.

use crate::code::{INVALID_VALUE, OK, of_memory};
use crate::launch::Command;
use crate::raw::{Handle, entry, put, put_if};
use crate::state::{done, ready};
use std::alloc::Layout;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr::null_mut;

entry! {
    /// Free and total bytes.
    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        ready(|d| {
            put_if(free, (d.memory.capacity() - d.memory.used()) as usize);
            done(put(total, d.memory.capacity() as usize))
        })
    }

    /// Device memory, not initialized.
    cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        ready(|d| {
            d.healthy()?;
            if bytes == 0 {
                return Err(INVALID_VALUE);
            }
            let at = d.memory.alloc(bytes).map_err(|e| of_memory(&e))?;
            done(put(address, at))
        })
    }

    /// The same: every command has run when its call returns.
    cuMemAllocAsync(address: *mut u64, bytes: usize, _stream: Handle) { cuMemAlloc_v2(address, bytes) }

    /// Frees device memory.
    cuMemFree_v2(address: u64) {
        ready(|d| if address == 0 { Ok(()) } else { d.memory.free(address).map_err(|e| of_memory(&e)) })
    }

    /// The same.
    cuMemFreeAsync(address: u64, _stream: Handle) { cuMemFree_v2(address) }

    /// Pinned host memory: ordinary memory here, zeroed.
    cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        ready(|d| {
            let layout = Layout::from_size_align(bytes.max(1), 4096).map_err(|_| INVALID_VALUE)?;
            // SAFETY: the layout's size is not zero.
            let at = unsafe { std::alloc::alloc_zeroed(layout) };
            if at.is_null() {
                return Err(crate::code::OUT_OF_MEMORY);
            }
            d.host.insert(at as usize, layout);
            done(put(pointer, at.cast()))
        })
    }

    /// Frees what [`cuMemHostAlloc`] gave.
    cuMemFreeHost(pointer: *mut c_void) {
        ready(|d| {
            let layout = d.host.remove(&(pointer as usize)).ok_or(INVALID_VALUE)?;
            // SAFETY: the table holds what `alloc_zeroed` returned, with its layout, and each entry only once.
            unsafe { std::alloc::dealloc(pointer.cast(), layout) };
            Ok(())
        })
    }

    /// Host to device in a stream.
    cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, len: usize, stream: Handle) {
        ready(|d| d.submit(stream, Command::HostToDevice { to, from: from as usize, len }))
    }

    /// Host to device.
    cuMemcpyHtoD_v2(to: u64, from: *const c_void, len: usize) { cuMemcpyHtoDAsync_v2(to, from, len, null_mut()) }

    /// Device to host in a stream.
    cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, len: usize, stream: Handle) {
        ready(|d| d.submit(stream, Command::DeviceToHost { to: to as usize, from, len }))
    }

    /// Device to host.
    cuMemcpyDtoH_v2(to: *mut c_void, from: u64, len: usize) { cuMemcpyDtoHAsync_v2(to, from, len, null_mut()) }

    /// Device to device in a stream.
    cuMemcpyDtoDAsync_v2(to: u64, from: u64, len: usize, stream: Handle) {
        ready(|d| d.submit(stream, Command::DeviceToDevice { to, from, len }))
    }

    /// Device to device.
    cuMemcpyDtoD_v2(to: u64, from: u64, len: usize) { cuMemcpyDtoDAsync_v2(to, from, len, null_mut()) }

    /// Fills bytes in a stream.
    cuMemsetD8Async(to: u64, value: u8, count: usize, stream: Handle) {
        ready(|d| d.submit(stream, Command::Set { to, value: u32::from(value), unit: 1, count }))
    }

    /// Fills bytes.
    cuMemsetD8_v2(to: u64, value: u8, count: usize) { cuMemsetD8Async(to, value, count, null_mut()) }

    /// Fills words in a stream.
    cuMemsetD32Async(to: u64, value: u32, count: usize, stream: Handle) {
        ready(|d| d.submit(stream, Command::Set { to, value, unit: 4, count }))
    }

    /// Fills words.
    cuMemsetD32_v2(to: u64, value: u32, count: usize) { cuMemsetD32Async(to, value, count, null_mut()) }

    /// Advice changes nothing.
    cuMemAdvise_v2(_address: u64, _bytes: usize, _advice: c_int, _location: u64) { OK }
}
