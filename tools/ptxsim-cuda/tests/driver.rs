//! The library as a program sees it: found by `dlopen`, called through C.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "helpers of a test file count as production code to these lints"
)]

use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::{null, null_mut};
use std::sync::{Mutex, MutexGuard, OnceLock};

type Handle = *mut c_void;

unsafe extern "C" {
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The address of an entry point.
fn symbol(name: &str) -> *mut c_void {
    static LIBRARY: OnceLock<usize> = OnceLock::new();
    let library = *LIBRARY.get_or_init(|| {
        let here = std::env::current_exe().unwrap();
        let path = here.parent().unwrap().join("libcuda.so");
        let path = CString::new(path.to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with a zero byte; 2 is RTLD_NOW. The library runs no code when it is loaded.
        let library = unsafe { dlopen(path.as_ptr(), 2) };
        assert!(!library.is_null(), "libcuda.so does not lie beside the test");
        library as usize
    });
    let wanted = CString::new(name).unwrap();
    // SAFETY: a library that stays open, and a name that ends with a zero byte.
    let address = unsafe { dlsym(library as *mut c_void, wanted.as_ptr()) };
    assert!(!address.is_null(), "{name} is not exported");
    address
}

/// Calls an entry point by name; the types are those of the arguments.
macro_rules! call {
    ($name:ident($($arg:expr => $ty:ty),* $(,)?)) => {{
        // SAFETY: the entry points are C functions of these argument types that return an int; the arguments are
        // valid for as long as the call runs, or the test says that they are not.
        let f: extern "C" fn($($ty),*) -> c_int = unsafe { std::mem::transmute(symbol(stringify!($name))) };
        f($($arg),*)
    }};
}

const KERNELS: &str = "\
.version 8.0
.target sm_80
.address_size 64
// y[i] = a * x[i] + y[i]
.visible .entry axpy(.param .u64 p_x, .param .u64 p_y, .param .f32 p_a, .param .u32 p_n)
{
.reg .pred %p<2>;
.reg .b32 %r<8>;
.reg .f32 %f<4>;
.reg .b64 %rd<8>;
ld.param.u64 %rd1, [p_x];
ld.param.u64 %rd2, [p_y];
ld.param.f32 %f1, [p_a];
ld.param.u32 %r1, [p_n];
mov.u32 %r2, %ctaid.x;
mov.u32 %r3, %ntid.x;
mov.u32 %r4, %tid.x;
mad.lo.u32 %r5, %r2, %r3, %r4;
setp.ge.u32 %p1, %r5, %r1;
@%p1 bra DONE;
mul.wide.u32 %rd3, %r5, 4;
add.u64 %rd4, %rd1, %rd3;
add.u64 %rd5, %rd2, %rd3;
ld.global.f32 %f2, [%rd4];
ld.global.f32 %f3, [%rd5];
fma.rn.f32 %f3, %f1, %f2, %f3;
st.global.f32 [%rd5], %f3;
DONE:
ret;
}
";

/// One test at a time: the driver is one per process, and a fault breaks it for good.
fn driver() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    let guard = ONE.lock().unwrap_or_else(|e| e.into_inner());
    assert_eq!(call!(cuInit(0 => c_uint)), 0);
    guard
}

fn load(text: &str) -> Result<Handle, (c_int, String)> {
    let source = CString::new(text).unwrap();
    let mut log = vec![0u8; 4096];
    let options = [5i32, 6];
    let values = [log.as_mut_ptr().cast::<c_void>(), log.len() as *mut c_void];
    let mut module: Handle = null_mut();
    let code = call!(cuModuleLoadDataEx(
        &mut module => *mut Handle, source.as_ptr().cast() => *const c_void, 2 => c_uint,
        options.as_ptr() => *const c_int, values.as_ptr() => *const *mut c_void
    ));
    let log = CStr::from_bytes_until_nul(&log).unwrap().to_string_lossy().into_owned();
    if code == 0 { Ok(module) } else { Err((code, log)) }
}

fn function(module: Handle, name: &str) -> Result<Handle, c_int> {
    let name = CString::new(name).unwrap();
    let mut f: Handle = null_mut();
    let code = call!(cuModuleGetFunction(
        &mut f => *mut Handle, module => Handle, name.as_ptr() => *const c_char
    ));
    if code == 0 { Ok(f) } else { Err(code) }
}

fn upload(values: &[f32]) -> u64 {
    let mut at = 0u64;
    let len = values.len() * 4;
    assert_eq!(call!(cuMemAlloc_v2(&mut at => *mut u64, len => usize)), 0);
    assert_eq!(call!(cuMemcpyHtoD_v2(at => u64, values.as_ptr().cast() => *const c_void, len => usize)), 0);
    at
}

fn download(at: u64, n: usize) -> Result<Vec<f32>, c_int> {
    let mut out = vec![0f32; n];
    match call!(cuMemcpyDtoH_v2(out.as_mut_ptr().cast() => *mut c_void, at => u64, n * 4 => usize)) {
        0 => Ok(out),
        code => Err(code),
    }
}

fn axpy(f: Handle, stream: Handle, x: u64, y: u64, n: u32, block: u32) -> c_int {
    let (a, n) = (2f32, n);
    let args: [*const c_void; 4] =
        [(&raw const x).cast(), (&raw const y).cast(), (&raw const a).cast(), (&raw const n).cast()];
    call!(cuLaunchKernel(
        f => Handle, n.div_ceil(block.max(1)) => c_uint, 1 => c_uint, 1 => c_uint,
        block => c_uint, 1 => c_uint, 1 => c_uint, 0 => c_uint, stream => Handle,
        args.as_ptr() => *const *const c_void, null() => *const *const c_void
    ))
}

fn new_stream() -> Handle {
    let mut s: Handle = null_mut();
    assert_eq!(call!(cuStreamCreate(&mut s => *mut Handle, 0 => c_uint)), 0);
    s
}

fn end_capture(stream: Handle) -> Result<Handle, c_int> {
    let mut graph: Handle = null_mut();
    match call!(cuStreamEndCapture(stream => Handle, &mut graph => *mut Handle)) {
        0 => Ok(graph),
        code => Err(code),
    }
}

#[test]
fn the_device_describes_itself() {
    let _one = driver();
    let (mut count, mut major, mut warp) = (0, 0, 0);
    assert_eq!(call!(cuDeviceGetCount(&mut count => *mut c_int)), 0);
    assert_eq!(call!(cuDeviceGetAttribute(&mut major => *mut c_int, 75 => c_int, 0 => c_int)), 0);
    assert_eq!(call!(cuDeviceGetAttribute(&mut warp => *mut c_int, 10 => c_int, 0 => c_int)), 0);
    assert_eq!((count, major, warp), (1, 8, 32));
    let mut name = [0 as c_char; 64];
    assert_eq!(call!(cuDeviceGetName(name.as_mut_ptr() => *mut c_char, 64 => c_int, 0 => c_int)), 0);
    // SAFETY: the call ended the name with a zero byte.
    assert_eq!(unsafe { CStr::from_ptr(name.as_ptr()) }.to_str(), Ok("ptxsim (no GPU)"));
    assert_eq!(call!(cuDeviceGet(&mut count => *mut c_int, 1 => c_int)), 101);
    let mut text: *const c_char = null();
    assert_eq!(call!(cuGetErrorName(700 => c_int, &mut text => *mut *const c_char)), 0);
    // SAFETY: the names are static strings.
    assert_eq!(unsafe { CStr::from_ptr(text) }.to_str(), Ok("CUDA_ERROR_ILLEGAL_ADDRESS"));
}

#[test]
fn modules_load_or_say_why_not() {
    let _one = driver();
    let module = load(KERNELS).unwrap();
    function(module, "axpy").unwrap();
    assert_eq!(function(module, "axpi"), Err(500));
    assert_eq!(call!(cuModuleUnload(module => Handle)), 0);
    assert_eq!(call!(cuModuleUnload(module => Handle)), 400);
    let (code, log) = load(&KERNELS.replace("fma.rn", "fmaa.rn")).unwrap_err();
    assert_eq!(code, 218);
    assert!(log.contains("line 26") && log.contains("fmaa.rn.f32"), "{log}");
    assert_eq!(load(&KERNELS.replace("sm_80", "sm_90")).unwrap_err().0, 209);
    assert_eq!(load(&KERNELS.replace("8.0", "99.0")).unwrap_err().0, 222);
}

#[test]
fn launches_copies_and_fills() {
    let _one = driver();
    let f = function(load(KERNELS).unwrap(), "axpy").unwrap();
    let n = 1000;
    let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let (xp, yp) = (upload(&x), upload(&vec![1.0; n]));
    assert_eq!(axpy(f, null_mut(), xp, yp, n as u32, 128), 0);
    assert_eq!(call!(cuCtxSynchronize()), 0);
    assert!(download(yp, n).unwrap().iter().enumerate().all(|(i, v)| *v == 2.0 * i as f32 + 1.0));
    assert_eq!(
        call!(cuMemsetD32Async(yp => u64, 1f32.to_bits() => u32, 500 => usize, null_mut() => Handle)),
        0
    );
    assert_eq!(
        call!(cuMemcpyDtoDAsync_v2(yp + 2000 => u64, yp => u64, 2000 => usize, null_mut() => Handle)),
        0
    );
    assert_eq!(download(yp, n).unwrap(), vec![1.0; n]);
    let mut count = 0u64;
    assert_eq!(call!(ptxsimLaunchCount(&mut count => *mut u64)), 0);
    assert!(count >= 1);
    // shapes that no device takes are refused at once and break nothing
    assert_eq!(axpy(f, null_mut(), xp, yp, 1000, 2048), 1);
    assert_eq!(axpy(f, 0x77 as Handle, xp, yp, 1000, 128), 400);
    assert_eq!(download(yp + 1, n), Err(1));
    assert_eq!(call!(cuMemFree_v2(xp => u64)), 0);
    assert_eq!(call!(cuMemFree_v2(xp => u64)), 1);
    let mut at = 0u64;
    assert_eq!(call!(cuMemAlloc_v2(&mut at => *mut u64, 1 << 40 => usize)), 2);
    let mut pinned: *mut c_void = null_mut();
    assert_eq!(call!(cuMemHostAlloc(&mut pinned => *mut *mut c_void, 64 => usize, 0 => c_uint)), 0);
    assert_eq!(
        call!(cuMemcpyDtoHAsync_v2(pinned => *mut c_void, yp => u64, 64 => usize, null_mut() => Handle)),
        0
    );
    // SAFETY: 64 bytes were allocated, aligned to a page, and the copy filled them.
    assert_eq!(unsafe { std::slice::from_raw_parts(pinned.cast::<f32>(), 16) }, [1.0; 16]);
    assert_eq!(call!(cuMemFreeHost(pinned => *mut c_void)), 0);
}

#[test]
fn a_captured_stream_replays() {
    let _one = driver();
    let f = function(load(KERNELS).unwrap(), "axpy").unwrap();
    let n = 256;
    let (xp, yp) = (upload(&vec![1.0; n]), upload(&vec![0.0; n]));
    let (stream, side) = (new_stream(), new_stream());
    let mut fork: Handle = null_mut();
    assert_eq!(call!(cuEventCreate(&mut fork => *mut Handle, 0 => c_uint)), 0);
    let mut host = vec![0f32; n];
    assert_eq!(call!(cuStreamBeginCapture_v2(stream => Handle, 1 => c_int)), 0);
    assert_eq!(axpy(f, stream, xp, yp, n as u32, 64), 0);
    // another stream joins through an event
    assert_eq!(call!(cuEventRecord(fork => Handle, stream => Handle)), 0);
    assert_eq!(call!(cuStreamWaitEvent(side => Handle, fork => Handle, 0 => c_uint)), 0);
    assert_eq!(axpy(f, side, xp, yp, n as u32, 64), 0);
    assert_eq!(
        call!(cuMemcpyDtoHAsync_v2(
            host.as_mut_ptr().cast() => *mut c_void, yp => u64, n * 4 => usize, stream => Handle
        )),
        0
    );
    let mut status = 0;
    assert_eq!(call!(cuStreamIsCapturing(side => Handle, &mut status => *mut c_int)), 0);
    assert_eq!(status, 1);
    let graph = end_capture(stream).unwrap();
    assert_eq!(download(yp, n).unwrap(), vec![0.0; n], "a capture runs nothing");
    let mut nodes = 0usize;
    assert_eq!(
        call!(cuGraphGetNodes(graph => Handle, null_mut() => *mut Handle, &mut nodes => *mut usize)),
        0
    );
    assert_eq!(nodes, 3);
    let mut handles = vec![null_mut(); 3];
    assert_eq!(
        call!(cuGraphGetNodes(graph => Handle, handles.as_mut_ptr() => *mut Handle, &mut nodes => *mut usize)),
        0
    );
    let mut kind = 9u32;
    assert_eq!(call!(cuGraphNodeGetType(handles[2] => Handle, &mut kind => *mut c_uint)), 0);
    assert_eq!(kind, 1);
    let mut exec: Handle = null_mut();
    assert_eq!(call!(cuGraphInstantiateWithFlags(&mut exec => *mut Handle, graph => Handle, 0 => u64)), 0);
    assert_eq!(call!(cuGraphDestroy(graph => Handle)), 0);
    assert_eq!(call!(cuGraphUpload(exec => Handle, stream => Handle)), 0);
    for replay in 1..4 {
        assert_eq!(call!(cuGraphLaunch(exec => Handle, stream => Handle)), 0);
        assert_eq!(call!(cuStreamSynchronize(stream => Handle)), 0);
        assert_eq!(host, vec![4.0 * replay as f32; n]);
    }
    assert_eq!(call!(cuGraphExecDestroy(exec => Handle)), 0);
    assert_eq!(call!(cuGraphLaunch(exec => Handle, stream => Handle)), 400);
    // what a capture does not allow spoils it
    assert_eq!(end_capture(stream), Err(401));
    assert_eq!(call!(cuStreamBeginCapture_v2(null_mut() => Handle, 1 => c_int)), 900);
    assert_eq!(call!(cuStreamBeginCapture_v2(stream => Handle, 1 => c_int)), 0);
    assert_eq!(call!(cuStreamSynchronize(stream => Handle)), 900);
    assert_eq!(end_capture(stream), Err(901));
    assert_eq!(call!(cuStreamDestroy_v2(stream => Handle)), 0);
}

#[test]
fn a_driver_without_a_device() {
    if std::env::var_os("PTXSIM_DEVICES").is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_driver_without_a_device"]).env("PTXSIM_DEVICES", "0");
        assert!(command.output().unwrap().status.success());
        return;
    }
    assert_eq!(call!(cuInit(0 => c_uint)), 100);
    let mut count = 0;
    assert_eq!(call!(cuDeviceGetCount(&mut count => *mut c_int)), 3);
}

/// A fault breaks the process's driver, so this test runs itself in a process of its own.
#[test]
fn a_fault_shows_at_the_next_synchronization_and_stays() {
    if std::env::var_os("PTXSIM_TEST_FAULT").is_none() {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_fault_shows_at_the_next_synchronization_and_stays"]);
        let output = command.env("PTXSIM_TEST_FAULT", "1").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        assert!(String::from_utf8_lossy(&output.stderr).contains("axpy, line 24"));
        return;
    }
    let _one = driver();
    let f = function(load(KERNELS).unwrap(), "axpy").unwrap();
    let (xp, yp) = (upload(&[1.0; 8]), upload(&[1.0; 16]));
    assert_eq!(axpy(f, null_mut(), xp, yp, 16, 32), 0, "a launch does not wait for its kernel");
    assert_eq!(call!(cuCtxSynchronize()), 700);
    assert_eq!(download(yp, 16), Err(700));
    assert_eq!(axpy(f, null_mut(), yp, yp, 16, 32), 700);
    let mut text = [0 as c_char; 512];
    assert_eq!(call!(ptxsimLastFault(text.as_mut_ptr() => *mut c_char, 512 => usize)), 0);
    // SAFETY: the call ended the text with a zero byte.
    let text = unsafe { CStr::from_ptr(text.as_ptr()) }.to_str().unwrap();
    assert!(text.contains("axpy, line 24, block (0, 0, 0), warp 0, lanes 0x00000100"), "{text}");
}
