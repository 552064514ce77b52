//! Modules and functions.

use crate::code::{
    Code, INVALID_HANDLE, INVALID_IMAGE, INVALID_PTX, INVALID_VALUE, NO_BINARY_FOR_GPU, NOT_FOUND, OK,
    UNSUPPORTED_PTX_VERSION,
};
use crate::raw::{Handle, element, entry, put, put_if, text, text_to};
use crate::state::{Driver, Function, done, ready};
use ptxsim::{Kernel, Module};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

/// `CUjit_option`s that carry the error log.
const ERROR_LOG: c_int = 5;
const ERROR_LOG_SIZE: c_int = 6;

/// Parses PTX text and checks that the device takes it; the message is what the log says.
pub(crate) fn compile(d: &Driver, source: &str) -> Result<Module, (Code, String)> {
    let module = Module::parse(source).map_err(|e| {
        let at = e.source.as_ref().map_or(String::new(), |s| format!(" ({s})"));
        (INVALID_PTX, format!("ptxas application ptx input, line {}{at}; error   : {}", e.line, e.message))
    })?;
    if module.version() > d.device.ptx {
        let message =
            format!("Unsupported .version {:?}; the driver takes {:?}", module.version(), d.device.ptx);
        return Err((UNSUPPORTED_PTX_VERSION, message));
    }
    let digits: String = module.target().chars().filter(char::is_ascii_digit).collect();
    let (major, minor) = d.device.capability;
    let specific = module.target().ends_with('a');
    let wanted = digits.parse::<i32>().unwrap_or(0);
    let have = major * 10 + minor;
    if wanted > have || (specific && wanted != have) {
        return Err((
            NO_BINARY_FOR_GPU,
            format!("the module is for {}, the device is sm_{have}", module.target()),
        ));
    }
    Ok(module)
}

/// Loads PTX text, or what a link made of it.
fn load(d: &mut Driver, image: *const c_void) -> Result<usize, (Code, String)> {
    let image = text(image.cast()).ok_or((INVALID_VALUE, "no image".to_owned()))?;
    let source = crate::link::unwrap(&image).ok_or((INVALID_IMAGE, "a damaged image".to_owned()))?;
    let module = compile(d, source)?;
    let handle = d.handle();
    d.modules.insert(handle, (Arc::new(module), vec![]));
    Ok(handle)
}

impl Function {
    pub(crate) fn kernel(&self) -> Option<&Kernel> {
        self.module.kernel(&self.name)
    }
}

impl Driver {
    /// The kernel of a function handle.
    pub(crate) fn function(&self, function: Handle) -> Result<&Function, Code> {
        self.functions.get(&(function as usize)).ok_or(INVALID_HANDLE)
    }

    /// Blocks of a kernel that fit on a multiprocessor.
    fn blocks_per_multiprocessor(&self, f: &Function, threads: c_int, dynamic: usize) -> u32 {
        let threads = u32::try_from(threads).unwrap_or(0).max(1);
        let shared = f.kernel().map_or(0, |k| k.static_shared() + dynamic + 1024) as u32;
        if threads > 1024 || shared > self.device.shared_per_multiprocessor {
            return 0;
        }
        (self.device.threads_per_multiprocessor / threads.next_multiple_of(32))
            .min(self.device.shared_per_multiprocessor / shared)
            .min(self.device.threads_per_multiprocessor / 64)
    }

    /// Blocks of a kernel that the device holds at once.
    pub(crate) fn resident_blocks(&self, f: &Function, threads: u32, dynamic: usize) -> u64 {
        let each = self.blocks_per_multiprocessor(f, threads as c_int, dynamic);
        u64::from(each) * u64::from(self.device.multiprocessors)
    }
}

entry! {
    /// Loads PTX text; what is wrong with it goes to stderr, as no log is asked for.
    cuModuleLoadData(module: *mut Handle, image: *const c_void) {
        ready(|d| {
            d.healthy()?;
            let handle = load(d, image).map_err(|(code, message)| {
                eprintln!("ptxsim-cuda: {message}");
                code
            })?;
            done(put(module, handle as Handle))
        })
    }

    /// Loads PTX text; what is wrong with it goes to the error log buffer.
    cuModuleLoadDataEx(
        module: *mut Handle, image: *const c_void, count: c_uint, options: *const c_int, values: *const *mut c_void,
    ) {
        ready(|d| {
            d.healthy()?;
            let value = |wanted: c_int| {
                let at = (0..count as usize).find(|i| element(options, *i) == Some(wanted))?;
                element(values, at)
            };
            let handle = load(d, image).map_err(|(code, message)| {
                if let (Some(buffer), Some(len)) = (value(ERROR_LOG), value(ERROR_LOG_SIZE)) {
                    text_to(buffer.cast(), len as usize, &message);
                }
                code
            })?;
            if let (Some(buffer), Some(len)) = (value(ERROR_LOG), value(ERROR_LOG_SIZE)) {
                text_to(buffer.cast(), len as usize, "");
            }
            done(put(module, handle as Handle))
        })
    }

    /// Unloads a module and its functions; graphs that hold them stay usable.
    cuModuleUnload(module: Handle) {
        ready(|d| {
            let (_, functions) = d.modules.remove(&(module as usize)).ok_or(INVALID_HANDLE)?;
            for f in functions {
                d.functions.remove(&f);
            }
            Ok(())
        })
    }

    /// Finds a kernel by name.
    cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) {
        ready(|d| {
            let name = text(name).ok_or(INVALID_VALUE)?;
            let handle = d.handle();
            let (module, functions) = d.modules.get_mut(&(module as usize)).ok_or(INVALID_HANDLE)?;
            module.kernel(&name).ok_or(NOT_FOUND)?;
            functions.push(handle);
            let module = module.clone();
            d.functions.insert(handle, Function { module, name, max_dynamic_shared: 48 << 10 });
            done(put(function, handle as Handle))
        })
    }

    /// Module variables are constants here and have no address to give.
    cuModuleGetGlobal_v2(_address: *mut u64, _bytes: *mut usize, _module: Handle, _name: *const c_char) { NOT_FOUND }

    /// Limits of a kernel. Registers are those of the text, not of an assembler.
    cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: Handle) {
        ready(|d| {
            let f = d.function(function)?;
            let k = f.kernel().ok_or(INVALID_HANDLE)?;
            let (major, minor) = f.module.version();
            let v = match attribute {
                0 => k.max_threads().unwrap_or(1024).min(1024),
                1 => k.static_shared() as u32,
                3 => k.local_bytes() as u32,
                4 => (k.registers() as u32).min(255),
                5 => major * 10 + minor,
                6 => (d.device.capability.0 * 10 + d.device.capability.1) as u32,
                8 => f.max_dynamic_shared,
                _ => 0,
            };
            done(put(value, v as c_int))
        })
    }

    /// Attribute 8 raises the dynamic shared memory that a launch may ask for.
    cuFuncSetAttribute(function: Handle, attribute: c_int, value: c_int) {
        ready(|d| {
            let limit = d.device.shared_opt_in;
            let f = d.functions.get_mut(&(function as usize)).ok_or(INVALID_HANDLE)?;
            if attribute == 8 {
                let fixed = f.kernel().map_or(0, Kernel::static_shared) as u32;
                let value = u32::try_from(value).ok().filter(|v| v.saturating_add(fixed) <= limit);
                f.max_dynamic_shared = value.ok_or(INVALID_VALUE)?;
            }
            Ok(())
        })
    }

    /// Taken and ignored.
    cuFuncSetCacheConfig(_function: Handle, _config: c_int) { OK }

    /// By threads and shared memory; registers are not known.
    cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks: *mut c_int, function: Handle, threads: c_int, dynamic: usize) {
        ready(|d| {
            let n = d.blocks_per_multiprocessor(d.function(function)?, threads, dynamic);
            done(put(blocks, n as c_int))
        })
    }

    /// The same.
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int, function: Handle, threads: c_int, dynamic: usize, _flags: c_uint,
    ) {
        cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, dynamic)
    }

    /// The largest block the kernel takes.
    cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int, block: *mut c_int, function: Handle, _sizes: *const c_void, dynamic: usize, limit: c_int,
    ) {
        ready(|d| {
            let f = d.function(function)?;
            let most = f.kernel().and_then(Kernel::max_threads).unwrap_or(1024).min(1024) as c_int;
            let threads = if limit > 0 { most.min(limit) } else { most };
            put_if(grid, d.resident_blocks(f, threads as u32, dynamic) as c_int);
            done(put(block, threads))
        })
    }
}
