//! PTX to machine code, loaded modules, kernels and their launch.

use super::{Context, DriverError, Stream, check};
use cudarc::driver::sys::{self, CUfunction_attribute as Attribute, CUjit_option};
use std::ffi::{CString, c_void};
use std::sync::Arc;

/// Bytes of the compiler's log that are kept.
const LOG_BYTES: usize = 16 << 10;

/// Compiles PTX for the device of `context`: machine code, or the error and the compiler's log.
pub(in crate::backend::cuda) fn link(
    context: &Context,
    source: &str,
    name: &str,
) -> Result<Vec<u8>, (DriverError, String)> {
    let plain = |error: DriverError| (error, String::new());
    context.bind().map_err(plain)?;
    let text = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
    let (mut source, name) = (text(source).into_bytes_with_nul(), text(name));
    let mut log = vec![0u8; LOG_BYTES];
    let mut options =
        [CUjit_option::CU_JIT_ERROR_LOG_BUFFER, CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), LOG_BYTES as *mut c_void];
    let mut state = std::ptr::null_mut();
    // SAFETY: two options with two values; the log outlives the link state, which is destroyed below.
    check(unsafe { sys::cuLinkCreate_v2(2, options.as_mut_ptr(), values.as_mut_ptr(), &raw mut state) })
        .map_err(plain)?;
    let mut code = Vec::new();
    // SAFETY: the text ends with a zero byte and is as long as said; there are no further options.
    let added = check(unsafe {
        sys::cuLinkAddData_v2(
            state,
            sys::CUjitInputType::CU_JIT_INPUT_PTX,
            source.as_mut_ptr().cast(),
            source.len(),
            name.as_ptr(),
            0,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    });
    let linked = added.and_then(|()| {
        let (mut at, mut bytes) = (std::ptr::null_mut(), 0usize);
        // SAFETY: writes a pointer and a size; what they mean belongs to the link state.
        check(unsafe { sys::cuLinkComplete(state, &raw mut at, &raw mut bytes) })?;
        if !at.is_null() {
            // SAFETY: the driver gave so many bytes, and they live until the link state is destroyed.
            code = unsafe { std::slice::from_raw_parts(at.cast::<u8>(), bytes) }.to_vec();
        }
        Ok(())
    });
    // SAFETY: created once, destroyed once; the code was copied.
    let _ = unsafe { sys::cuLinkDestroy(state) };
    let said = log.split(|&byte| byte == 0).next().unwrap_or_default();
    let said = String::from_utf8_lossy(said).trim().to_owned();
    linked.map(|()| code).map_err(|error| (error, said))
}

/// A loaded module.
#[derive(Debug)]
struct Module {
    context: Arc<Context>,
    module: sys::CUmodule,
}

// SAFETY: a module is a handle that any thread may use; the driver locks its own data.
unsafe impl Send for Module {}
// SAFETY: as above; it is never changed.
unsafe impl Sync for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        let bound = self.context.bind();
        // SAFETY: loaded once, unloaded once; no kernel of it outlives it.
        let _ = bound.and_then(|()| check(unsafe { sys::cuModuleUnload(self.module) }));
    }
}

/// What a compiled kernel takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::backend::cuda) struct Limits {
    /// Registers per thread.
    pub(in crate::backend::cuda) registers: u32,
    /// Shared memory of a block, without the dynamic part.
    pub(in crate::backend::cuda) shared_bytes: u32,
    /// Memory per thread that registers were spilled to.
    pub(in crate::backend::cuda) local_bytes: u32,
    /// Threads per block, at most.
    pub(in crate::backend::cuda) max_threads: u32,
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub(in crate::backend::cuda) struct Function {
    module: Module,
    function: sys::CUfunction,
}

// SAFETY: a function is a handle into its module.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

impl Function {
    /// Loads machine code and finds the kernel in it.
    pub(in crate::backend::cuda) fn load(
        context: &Arc<Context>,
        code: &[u8],
        entry: &str,
    ) -> Result<Self, DriverError> {
        context.bind()?;
        // A simulator's code is text: let it end wherever it is read as a string.
        let code = [code, &[0]].concat();
        let mut module = std::ptr::null_mut();
        // SAFETY: machine code says itself how long it is, and the driver checks it; writes one handle, unloaded once.
        check(unsafe { sys::cuModuleLoadData(&raw mut module, code.as_ptr().cast()) })?;
        let module = Module { context: Arc::clone(context), module };
        let name = CString::new(entry).unwrap_or_default();
        let mut function = std::ptr::null_mut();
        // SAFETY: the name ends with a zero byte; writes one handle, which belongs to the module.
        check(unsafe { sys::cuModuleGetFunction(&raw mut function, module.module, name.as_ptr()) })?;
        Ok(Self { module, function })
    }

    /// What it takes.
    pub(in crate::backend::cuda) fn limits(&self) -> Result<Limits, DriverError> {
        self.module.context.bind()?;
        let attribute = |which: Attribute| {
            let mut value = 0;
            // SAFETY: the function lives; writes one integer.
            check(unsafe { sys::cuFuncGetAttribute(&raw mut value, which, self.function) })?;
            Ok::<u32, DriverError>(u32::try_from(value).unwrap_or(0))
        };
        Ok(Limits {
            registers: attribute(Attribute::CU_FUNC_ATTRIBUTE_NUM_REGS)?,
            shared_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?,
            local_bytes: attribute(Attribute::CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES)?,
            max_threads: attribute(Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?,
        })
    }

    /// Blocks of so many threads and bytes of dynamic shared memory that a multiprocessor holds at once.
    pub(in crate::backend::cuda) fn blocks_per_multiprocessor(
        &self,
        threads: u32,
        shared_bytes: u32,
    ) -> Result<u32, DriverError> {
        self.module.context.bind()?;
        let (mut blocks, threads) = (0, i32::try_from(threads).unwrap_or(i32::MAX));
        // SAFETY: the function lives; writes one integer.
        check(unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &raw mut blocks,
                self.function,
                threads,
                shared_bytes as usize,
            )
        })?;
        Ok(u32::try_from(blocks).unwrap_or(0))
    }

    /// Lets a launch ask for so much dynamic shared memory.
    pub(in crate::backend::cuda) fn allow_shared(&self, bytes: u32) -> Result<(), DriverError> {
        self.module.context.bind()?;
        let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
        let which = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function lives.
        check(unsafe { sys::cuFuncSetAttribute(self.function, which, bytes) })
    }
}

/// A launch: sizes and arguments. The arguments are those of every kernel here: addresses of buffers, then the
/// parameters by value.
#[derive(Clone, Copy, Debug)]
pub(in crate::backend::cuda) struct Kernel<'a> {
    pub(in crate::backend::cuda) function: &'a Function,
    pub(in crate::backend::cuda) grid: [u32; 3],
    pub(in crate::backend::cuda) threads: u32,
    pub(in crate::backend::cuda) shared_bytes: u32,
    pub(in crate::backend::cuda) buffers: &'a [u64],
    pub(in crate::backend::cuda) params: &'a [u8],
    /// May start before the kernel before it has ended: for kernels that wait by themselves.
    pub(in crate::backend::cuda) dependent: bool,
    /// All blocks are on the device at once, so that they may wait for each other.
    pub(in crate::backend::cuda) cooperative: bool,
}

impl Kernel<'_> {
    /// Queues it. The driver reads as many arguments as the kernel declares: `buffers` and `params` must be those.
    pub(in crate::backend::cuda) fn launch(&self, stream: &Stream) -> Result<(), DriverError> {
        self.function.module.context.bind()?;
        let pointer = |address: &u64| std::ptr::from_ref(address).cast_mut().cast::<c_void>();
        let mut arguments: Vec<*mut c_void> = self.buffers.iter().map(pointer).collect();
        arguments.push(self.params.as_ptr().cast_mut().cast());
        use sys::CUlaunchAttributeID as Id;
        let attribute = |id: Id, value| sys::CUlaunchAttribute { id, pad: [0; 4], value };
        let mut attributes = Vec::new();
        if self.dependent {
            let value = sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 };
            let id = Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
            attributes.push(attribute(id, value));
        }
        if self.cooperative {
            let value = sys::CUlaunchAttributeValue { cooperative: 1 };
            attributes.push(attribute(Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, value));
        }
        let config = sys::CUlaunchConfig {
            gridDimX: self.grid[0],
            gridDimY: self.grid[1],
            gridDimZ: self.grid[2],
            blockDimX: self.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: self.shared_bytes,
            hStream: stream.stream,
            attrs: attributes.as_mut_ptr(),
            numAttrs: attributes.len() as u32,
        };
        // SAFETY: function and stream live. The arguments are copied before the call returns. That they are as many and
        // as large as the kernel declares is checked when the kernel is compiled: its parameters are counted in its text.
        // What the kernel does with the addresses stays on the device.
        check(unsafe {
            sys::cuLaunchKernelEx(
                &raw const config,
                self.function.function,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        })
    }
}
