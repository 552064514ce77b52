//! The fence around the driver API: the only place of this backend with `unsafe`. Each type owns one driver object and
//! gives it back when it is dropped; each call makes the context current first, so any thread may call.
//!
//! cudarc binds the entry points by name at their first call and panics where one is missing. So [`Context::open`] asks
//! for the library first, then for a driver version that has everything called here.

mod graph;
mod memory;
mod module;

pub(super) use graph::Graph;
pub(super) use memory::{DeviceMemory, Pinned};
pub(super) use module::{Function, Kernel, Limits, link};

use cudarc::driver::sys::{self, CUresult};
use std::ffi::CStr;
use std::fmt;
use std::sync::Arc;

/// What the driver refused, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DriverError {
    code: CUresult,
    what: String,
}

impl DriverError {
    pub(super) fn is_out_of_memory(&self) -> bool {
        self.code == CUresult::CUDA_ERROR_OUT_OF_MEMORY
    }

    /// The driver takes PTX of an older version only, or has no code for this chip.
    pub(super) fn is_wrong_target(&self) -> bool {
        matches!(
            self.code,
            CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU | CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION
        )
    }

    fn is_no_device(&self) -> bool {
        self.code == CUresult::CUDA_ERROR_NO_DEVICE
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// A code as a result.
fn check(code: CUresult) -> Result<(), DriverError> {
    if code == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let text = |get: &dyn Fn(*mut *const std::ffi::c_char) -> CUresult| {
        let mut text = std::ptr::null();
        let found = get(&raw mut text) == CUresult::CUDA_SUCCESS && !text.is_null();
        // SAFETY: on success the driver has set a pointer to a string of its own that is never freed.
        if found { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() } else { String::new() }
    };
    // SAFETY: both only write one pointer; the closure passes one to a live variable.
    let name = text(&|out| unsafe { sys::cuGetErrorName(code, out) });
    // SAFETY: as above.
    let sentence = text(&|out| unsafe { sys::cuGetErrorString(code, out) });
    Err(DriverError { code, what: format!("{name}: {sentence}") })
}

/// Why there is nothing to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// No library.
    NoDriver,
    /// The driver's version, as 1000 major + 10 minor of CUDA.
    TooOld(i32),
    NoDevice,
    /// It is there and does not start.
    Broken(DriverError),
}

/// The oldest driver whose compiler takes `.version 7.8`: CUDA 11.8, release 520.
pub(super) const OLDEST_DRIVER: i32 = 11080;

/// What one device is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Properties {
    pub(super) name: String,
    /// Compute capability, 10 major + minor.
    pub(super) capability: u32,
    pub(super) total_memory: u64,
    pub(super) multiprocessors: u32,
    /// Shared memory that a block may have if it asks.
    pub(super) shared_opt_in: u32,
    /// All blocks of a launch can be on the device at once.
    pub(super) cooperative: bool,
}

/// Starts the driver: its version, and how many devices there are.
pub(super) fn start() -> Result<(i32, usize), Absent> {
    // SAFETY: loads the library that the system's loader finds by the driver's name, as any CUDA program does.
    if !unsafe { sys::is_culib_present() } {
        return Err(Absent::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the library is there; writes one integer.
    check(unsafe { sys::cuDriverGetVersion(&raw mut version) }).map_err(Absent::Broken)?;
    if version < OLDEST_DRIVER {
        return Err(Absent::TooOld(version));
    }
    let absent =
        |error: DriverError| if error.is_no_device() { Absent::NoDevice } else { Absent::Broken(error) };
    // SAFETY: 0 is the only value for the flags.
    check(unsafe { sys::cuInit(0) }).map_err(absent)?;
    let mut count = 0;
    // SAFETY: writes one integer.
    check(unsafe { sys::cuDeviceGetCount(&raw mut count) }).map_err(absent)?;
    match usize::try_from(count) {
        Ok(count @ 1..) => Ok((version, count)),
        _ => Err(Absent::NoDevice),
    }
}

fn device(ordinal: usize) -> Result<sys::CUdevice, DriverError> {
    let mut device = 0;
    let ordinal = i32::try_from(ordinal).unwrap_or(i32::MAX);
    // SAFETY: writes one integer.
    check(unsafe { sys::cuDeviceGet(&raw mut device, ordinal) })?;
    Ok(device)
}

/// What device `ordinal` is; the driver must have been started.
pub(super) fn properties(ordinal: usize) -> Result<Properties, DriverError> {
    use sys::CUdevice_attribute as A;
    let device = device(ordinal)?;
    let mut name = [0; 256];
    // SAFETY: writes at most as many bytes as the array has, with a zero at the end.
    check(unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 256, device) })?;
    let bytes: Vec<u8> = name.iter().map(|&c| c as u8).take_while(|&c| c != 0).collect();
    let mut total = 0;
    // SAFETY: writes one integer.
    check(unsafe { sys::cuDeviceTotalMem_v2(&raw mut total, device) })?;
    let attribute = |which: A| {
        let mut value = 0;
        // SAFETY: writes one integer.
        check(unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) })?;
        Ok::<u32, DriverError>(u32::try_from(value).unwrap_or(0))
    };
    let major = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(Properties {
        name: String::from_utf8_lossy(&bytes).into_owned(),
        capability: 10 * major + minor,
        total_memory: total as u64,
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_opt_in: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        cooperative: attribute(A::CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH)? != 0,
    })
}

/// The primary context of a device.
#[derive(Debug)]
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: a context may be made current on any thread, and the driver locks its own data.
unsafe impl Send for Context {}
// SAFETY: as above; nothing in here is written after `open`.
unsafe impl Sync for Context {}

impl Context {
    /// Retains the context of device `ordinal`; the driver must have been started.
    pub(super) fn open(ordinal: usize) -> Result<Arc<Self>, DriverError> {
        let device = device(ordinal)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: writes one handle; it is released once, in `drop`.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) })?;
        Ok(Arc::new(Self { device, context }))
    }

    /// Makes it current on this thread.
    fn bind(&self) -> Result<(), DriverError> {
        // SAFETY: the context is retained as long as `self` lives.
        check(unsafe { sys::cuCtxSetCurrent(self.context) })
    }

    /// Bytes free and in all.
    pub(super) fn memory(&self) -> Result<(u64, u64), DriverError> {
        self.bind()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two integers.
        check(unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut total) })?;
        Ok((free as u64, total as u64))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once, released once. There is nobody to tell of a failure.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

/// A queue of work on the device.
#[derive(Debug)]
pub(super) struct Stream {
    context: Arc<Context>,
    stream: sys::CUstream,
}

// SAFETY: a stream is a handle that any thread may use; the driver locks its own data.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl Stream {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, DriverError> {
        context.bind()?;
        let mut stream = std::ptr::null_mut();
        // Does not wait for work in the legacy stream.
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: writes one handle; it is destroyed once, in `drop`.
        check(unsafe { sys::cuStreamCreate(&raw mut stream, flags) })?;
        Ok(Self { context: Arc::clone(context), stream })
    }

    /// Waits for everything that was queued.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: the stream lives.
        check(unsafe { sys::cuStreamSynchronize(self.stream) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let bound = self.context.bind();
        // SAFETY: created once, destroyed once; queued work is finished by the driver first.
        let _ = bound.and_then(|()| check(unsafe { sys::cuStreamDestroy_v2(self.stream) }));
    }
}

/// A moment in a stream.
#[derive(Debug)]
pub(super) struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

// SAFETY: an event is a handle that any thread may use; the driver locks its own data.
unsafe impl Send for Event {}

impl Event {
    /// An event; `timed` for [`Self::since`].
    pub(super) fn new(context: &Arc<Context>, timed: bool) -> Result<Self, DriverError> {
        context.bind()?;
        let flags = match timed {
            true => sys::CUevent_flags::CU_EVENT_DEFAULT,
            false => sys::CUevent_flags::CU_EVENT_DISABLE_TIMING,
        };
        let mut event = std::ptr::null_mut();
        // SAFETY: writes one handle; it is destroyed once, in `drop`.
        check(unsafe { sys::cuEventCreate(&raw mut event, flags as u32) })?;
        Ok(Self { context: Arc::clone(context), event })
    }

    pub(super) fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: both live.
        check(unsafe { sys::cuEventRecord(self.event, stream.stream) })
    }

    /// Waits until it has come.
    pub(super) fn wait(&self) -> Result<(), DriverError> {
        self.context.bind()?;
        // SAFETY: the event lives.
        check(unsafe { sys::cuEventSynchronize(self.event) })
    }

    /// Nanoseconds from `start` to this, by the device's clock; both must have come.
    pub(super) fn since(&self, start: &Self) -> Result<f64, DriverError> {
        self.context.bind()?;
        let mut milliseconds = 0.0;
        // SAFETY: both live; writes one number.
        check(unsafe { sys::cuEventElapsedTime(&raw mut milliseconds, start.event, self.event) })?;
        Ok(f64::from(milliseconds) * 1e6)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let bound = self.context.bind();
        // SAFETY: created once, destroyed once.
        let _ = bound.and_then(|()| check(unsafe { sys::cuEventDestroy_v2(self.event) }));
    }
}
