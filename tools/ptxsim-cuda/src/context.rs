//! Initialization, the one device, and contexts.

use crate::code::{INVALID_CONTEXT, INVALID_DEVICE, INVALID_VALUE, NO_DEVICE, OK};
use crate::raw::{Handle, bytes_to, entry, put, text_to};
use crate::state::{done, ready, with};
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_uint};

/// The handle of the device's primary context.
const PRIMARY: usize = 0x100;

thread_local! {
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// A machine with a driver and nothing behind it.
fn no_device() -> bool {
    std::env::var("PTXSIM_DEVICES").is_ok_and(|n| n == "0")
}

/// CUDA 12.8, the bindings that this library was tried with, or `PTXSIM_DRIVER`.
pub(crate) fn driver_version() -> c_int {
    std::env::var("PTXSIM_DRIVER").ok().and_then(|v| v.parse().ok()).unwrap_or(12080)
}

entry! {
    /// Makes the driver ready.
    cuInit(flags: c_uint) {
        if flags != 0 {
            return INVALID_VALUE;
        }
        if no_device() {
            return NO_DEVICE;
        }
        with(|d| {
            d.initialized = true;
            Ok(())
        })
    }

    /// What it plays.
    cuDriverGetVersion(version: *mut c_int) { put(version, driver_version()) }

    /// One device.
    cuDeviceGetCount(count: *mut c_int) { ready(|_| done(put(count, 1))) }

    /// Device 0.
    cuDeviceGet(device: *mut c_int, ordinal: c_int) {
        ready(|_| if ordinal == 0 { done(put(device, 0)) } else { Err(INVALID_DEVICE) })
    }

    /// A name that nobody takes for a GPU's.
    cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) {
        text_to(name, usize::try_from(len).unwrap_or(0), "ptxsim (no GPU)")
    }

    /// A fixed number.
    cuDeviceGetUuid(uuid: *mut u8, _device: c_int) { bytes_to(uuid.cast(), b"ptxsim, no GPU!!") }

    /// The same.
    cuDeviceGetUuid_v2(uuid: *mut u8, _device: c_int) { bytes_to(uuid.cast(), b"ptxsim, no GPU!!") }

    /// Bytes of `PTXSIM_MEMORY`.
    cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) {
        ready(|d| done(put(bytes, d.memory.capacity() as usize)))
    }

    /// The attributes that a backend sizes its work by; 0 for features that are not there.
    cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) {
        ready(|d| {
            let device = &d.device;
            let v = match attribute {
                1..=3 => 1024,                               // threads per block, block x, y
                4 => 64,                                         // block z
                5 => c_int::MAX,                                 // grid x
                6 | 7 => 65535,                                  // grid y, z
                8 => 48 << 10,                                   // shared memory per block
                9 => 64 << 10,                                   // constant memory
                10 => 32,                                        // warp size
                12 | 82 => 65536,                                // registers per block, multiprocessor
                13 | 36 => 1_000_000,                            // clock, memory clock, kHz
                14 => 512,                                       // texture alignment
                16 => device.multiprocessors as c_int,
                31 | 41 | 78 => 1,                               // concurrent kernels, unified addressing, priorities
                95 => c_int::from(device.cooperative),           // cooperative launches
                37 => 256,                                       // memory bus, bits
                38 => 32 << 20,                                  // L2
                39 => device.threads_per_multiprocessor as c_int,
                75 => device.capability.0,
                76 => device.capability.1,
                81 => device.shared_per_multiprocessor as c_int,
                97 => device.shared_opt_in as c_int,
                106 => (device.threads_per_multiprocessor / 64) as c_int, // blocks per multiprocessor
                111 => 1 << 10,                                  // reserved shared memory per block
                _ => 0,
            };
            done(put(value, v))
        })
    }

    /// Compute capability, the old way.
    cuDeviceComputeCapability(major: *mut c_int, minor: *mut c_int, _device: c_int) {
        ready(|d| {
            done(put(major, d.device.capability.0))?;
            done(put(minor, d.device.capability.1))
        })
    }

    /// The primary context.
    cuDevicePrimaryCtxRetain(context: *mut Handle, device: c_int) {
        ready(|_| if device == 0 { done(put(context, PRIMARY as Handle)) } else { Err(INVALID_DEVICE) })
    }

    /// Nothing is freed: other users of the process may hold the context.
    cuDevicePrimaryCtxRelease_v2(_device: c_int) { OK }

    /// The context of this thread.
    cuCtxGetCurrent(context: *mut Handle) { put(context, CURRENT.get() as Handle) }

    /// Sets the context of this thread.
    cuCtxSetCurrent(context: Handle) {
        if context as usize != PRIMARY && !context.is_null() {
            return INVALID_CONTEXT;
        }
        CURRENT.set(context as usize);
        OK
    }

    /// The device of this thread's context.
    cuCtxGetDevice(device: *mut c_int) { if CURRENT.get() == PRIMARY { put(device, 0) } else { INVALID_CONTEXT } }

    /// Reports what broke, if anything did.
    cuCtxSynchronize() {
        ready(|d| {
            d.memory.synchronize();
            d.healthy()
        })
    }

    /// One priority.
    cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) {
        ready(|_| {
            done(put(least, 0))?;
            done(put(greatest, 0))
        })
    }

    /// Taken and ignored.
    cuCtxSetFlags(_flags: c_uint) { OK }

    /// Taken and ignored.
    cuCtxSetCacheConfig(_config: c_int) { OK }
}
