//! The driver API's error codes, their names, and which one a fault becomes.

use crate::raw::{entry, put};
use ptxsim::{Fault, FaultKind, MemoryError};
use std::ffi::{CStr, c_char, c_int};

/// `CUresult`
pub(crate) type Code = c_int;

macro_rules! codes {
    ($($name:ident = $value:literal, $symbol:literal, $message:literal;)*) => {
        $(pub(crate) const $name: Code = $value;)*

        fn describe(code: Code) -> Option<(&'static CStr, &'static CStr)> {
            match code {
                $($value => Some(($symbol, $message)),)*
                _ => None,
            }
        }
    };
}

codes! {
    OK = 0, c"CUDA_SUCCESS", c"no error";
    INVALID_VALUE = 1, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument";
    OUT_OF_MEMORY = 2, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory";
    NOT_INITIALIZED = 3, c"CUDA_ERROR_NOT_INITIALIZED", c"initialization error";
    NO_DEVICE = 100, c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected";
    INVALID_DEVICE = 101, c"CUDA_ERROR_INVALID_DEVICE", c"invalid device ordinal";
    INVALID_IMAGE = 200, c"CUDA_ERROR_INVALID_IMAGE", c"device kernel image is invalid";
    INVALID_CONTEXT = 201, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context";
    NO_BINARY_FOR_GPU = 209, c"CUDA_ERROR_NO_BINARY_FOR_GPU", c"no kernel image is available for execution on the device";
    INVALID_PTX = 218, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed";
    UNSUPPORTED_PTX_VERSION = 222, c"CUDA_ERROR_UNSUPPORTED_PTX_VERSION", c"the provided PTX was compiled with an unsupported toolchain.";
    INVALID_HANDLE = 400, c"CUDA_ERROR_INVALID_HANDLE", c"invalid resource handle";
    ILLEGAL_STATE = 401, c"CUDA_ERROR_ILLEGAL_STATE", c"the operation cannot be performed in the present state";
    NOT_FOUND = 500, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found";
    ILLEGAL_ADDRESS = 700, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered";
    LAUNCH_OUT_OF_RESOURCES = 701, c"CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", c"too many resources requested for launch";
    LAUNCH_TIMEOUT = 702, c"CUDA_ERROR_LAUNCH_TIMEOUT", c"the launch timed out and was terminated";
    MISALIGNED_ADDRESS = 716, c"CUDA_ERROR_MISALIGNED_ADDRESS", c"misaligned address";
    LAUNCH_FAILED = 719, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure";
    COOPERATIVE_LAUNCH_TOO_LARGE = 720, c"CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", c"too many blocks in cooperative launch";
    NOT_SUPPORTED = 801, c"CUDA_ERROR_NOT_SUPPORTED", c"operation not supported";
    STREAM_CAPTURE_UNSUPPORTED = 900, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when stream is capturing";
    STREAM_CAPTURE_INVALIDATED = 901, c"CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", c"operation failed due to a previous error during capture";
    STREAM_CAPTURE_UNMATCHED = 903, c"CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", c"capture was not initiated in this stream";
}

/// The code that a device would report for a fault.
pub(crate) fn of_fault(fault: &Fault) -> Code {
    match fault.kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree | FaultKind::ReadOnly => ILLEGAL_ADDRESS,
        FaultKind::Misaligned => MISALIGNED_ADDRESS,
        FaultKind::Deadlock | FaultKind::Limit => LAUNCH_TIMEOUT,
        FaultKind::Launch => INVALID_VALUE,
        _ => LAUNCH_FAILED,
    }
}

/// The code for what the host asked of memory.
pub(crate) fn of_memory(error: &MemoryError) -> Code {
    match error {
        MemoryError::OutOfMemory { .. } => OUT_OF_MEMORY,
        _ => INVALID_VALUE,
    }
}

entry! {
    /// The symbol of a code.
    cuGetErrorName(code: Code, name: *mut *const c_char) {
        match describe(code) {
            Some((symbol, _)) => put(name, symbol.as_ptr()),
            None => INVALID_VALUE,
        }
    }

    /// The sentence of a code.
    cuGetErrorString(code: Code, message: *mut *const c_char) {
        match describe(code) {
            Some((_, sentence)) => put(message, sentence.as_ptr()),
            None => INVALID_VALUE,
        }
    }
}
