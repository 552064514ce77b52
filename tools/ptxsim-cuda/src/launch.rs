//! Commands of a stream, their execution, and the launch calls.

use crate::code::{
    COOPERATIVE_LAUNCH_TOO_LARGE, Code, INVALID_HANDLE, INVALID_VALUE, LAUNCH_OUT_OF_RESOURCES,
    NOT_SUPPORTED, STREAM_CAPTURE_UNSUPPORTED, of_fault, of_memory,
};
use crate::context::driver_version;
use crate::raw::{Handle, bytes_from, bytes_to, element, entry, text_to};
use crate::state::{Driver, done, ready, with};
use ptxsim::{FaultKind, Module, Options, launch};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::Arc;

/// What a stream does, and what a graph replays.
#[derive(Clone)]
pub(crate) enum Command {
    Launch(Arc<Launch>),
    /// Host addresses are read and written when the command runs, as by the device.
    HostToDevice {
        to: u64,
        from: usize,
        len: usize,
    },
    DeviceToHost {
        to: usize,
        from: u64,
        len: usize,
    },
    DeviceToDevice {
        to: u64,
        from: u64,
        len: usize,
    },
    /// `count` times the `unit` low bytes of `value`.
    Set {
        to: u64,
        value: u32,
        unit: usize,
        count: usize,
    },
}

pub(crate) struct Launch {
    pub(crate) module: Arc<Module>,
    pub(crate) kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared: usize,
    params: Vec<u8>,
    cooperative: bool,
    dependent: bool,
}

/// The driver whose graphs are the first that can say that a kernel may begin before the one before it ends.
const DEPENDENT_GRAPHS: c_int = 12030;

impl Driver {
    /// Runs a command now, or leaves it to the capture of its stream.
    pub(crate) fn submit(&mut self, stream: Handle, command: Command) -> Result<(), Code> {
        self.healthy()?;
        match self.stream(stream)?.capture {
            Some(capture) => {
                let capture = self.captures.get_mut(&capture).ok_or(INVALID_HANDLE)?;
                if matches!(&command, Command::Launch(l) if l.dependent)
                    && driver_version() < DEPENDENT_GRAPHS
                {
                    capture.spoiled = true;
                    return Err(STREAM_CAPTURE_UNSUPPORTED);
                }
                capture.commands.push(command);
                Ok(())
            }
            None => self.execute(&command),
        }
    }

    pub(crate) fn execute(&mut self, command: &Command) -> Result<(), Code> {
        if !matches!(command, Command::Launch(_)) {
            self.memory.synchronize();
        }
        let memory = |r: Result<(), ptxsim::MemoryError>| r.map_err(|e| of_memory(&e));
        match command {
            Command::Launch(l) => self.run(l),
            Command::HostToDevice { to, from, len } => {
                let bytes = bytes_from(*from as *const c_void, *len).ok_or(INVALID_VALUE)?;
                memory(self.memory.write(*to, &bytes))
            }
            Command::DeviceToHost { to, from, len } => {
                let bytes = self.memory.download(*from, *len).map_err(|e| of_memory(&e))?;
                done(bytes_to(*to as *mut c_void, &bytes))
            }
            Command::DeviceToDevice { to, from, len } => {
                let bytes = self.memory.download(*from, *len).map_err(|e| of_memory(&e))?;
                memory(self.memory.write(*to, &bytes))
            }
            Command::Set { to, value, unit, count } => {
                let bytes = value.to_le_bytes();
                let pattern = bytes.get(..*unit).ok_or(INVALID_VALUE)?;
                memory(self.memory.write(*to, &pattern.repeat(*count)))
            }
        }
    }

    /// A fault breaks the context: as on a device, later calls report it.
    fn run(&mut self, l: &Launch) -> Result<(), Code> {
        let kernel = l.module.kernel(&l.kernel).ok_or(INVALID_HANDLE)?;
        let hopper = self.device.capability.0 >= 9;
        let options =
            Options { cooperative: l.cooperative, dependent: l.dependent && hopper, ..self.options.clone() };
        self.launches += 1;
        let result = launch(kernel, &self.memory, l.grid, l.block, l.dynamic_shared, &l.params, &options);
        let Err(fault) = result else { return Ok(()) };
        eprintln!("ptxsim-cuda: {fault}");
        let code = of_fault(&fault);
        let refused = fault.kind == FaultKind::Launch;
        self.last_fault = Some(fault);
        if refused {
            return Err(code);
        }
        self.broken = Some(code);
        Ok(())
    }

    fn prepare(
        &self,
        function: Handle,
        (grid, block, dynamic): ([u32; 3], [u32; 3], u32),
        args: *const *const c_void,
        (cooperative, dependent): (bool, bool),
    ) -> Result<Command, Code> {
        let f = self.function(function)?;
        let kernel = f.kernel().ok_or(INVALID_HANDLE)?;
        let threads = block.iter().try_fold(1u32, |p, n| p.checked_mul(*n)).ok_or(INVALID_VALUE)?;
        let blocks = grid.iter().map(|n| u64::from(*n)).product::<u64>();
        if threads == 0
            || threads > 1024
            || block[2] > 64
            || blocks == 0
            || grid[1] > 65535
            || grid[2] > 65535
        {
            return Err(INVALID_VALUE);
        }
        // the limit of 48 KiB counts static memory too
        let shared = kernel.static_shared() as u32 + dynamic;
        if dynamic > f.max_dynamic_shared || (f.max_dynamic_shared <= 48 << 10 && shared > 48 << 10) {
            return Err(INVALID_VALUE);
        }
        if kernel.max_threads().is_some_and(|max| threads > max) {
            return Err(LAUNCH_OUT_OF_RESOURCES);
        }
        if cooperative && !self.device.cooperative {
            return Err(NOT_SUPPORTED);
        }
        if cooperative && blocks > self.resident_blocks(f, threads, dynamic as usize) {
            return Err(COOPERATIVE_LAUNCH_TOO_LARGE);
        }
        let mut params = vec![0; kernel.param_size()];
        for (i, p) in kernel.params().iter().enumerate() {
            let bytes = element(args, i).and_then(|at| bytes_from(at, p.size)).ok_or(INVALID_VALUE)?;
            params.get_mut(p.offset..p.offset + p.size).ok_or(INVALID_VALUE)?.copy_from_slice(&bytes);
        }
        Ok(Command::Launch(Arc::new(Launch {
            module: f.module.clone(),
            kernel: f.name.clone(),
            grid,
            block,
            dynamic_shared: dynamic as usize,
            params,
            cooperative,
            dependent,
        })))
    }
}

/// `CUlaunchAttribute`: an id, padding, and a value of 64 bytes of which the first word is looked at.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Attribute {
    id: c_uint,
    _pad: [u8; 4],
    value: c_int,
    _rest: [u8; 60],
}

const COOPERATIVE: c_uint = 2;
const PROGRAMMATIC_STREAM_SERIALIZATION: c_uint = 6;

/// `CUlaunchConfig`
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Config {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared: c_uint,
    stream: Handle,
    attributes: *const Attribute,
    count: c_uint,
}

entry! {
    /// Launches with an array of pointers to the arguments; the packed form (`extra`) is not taken.
    cuLaunchKernel(
        function: Handle, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint,
        shared: c_uint, stream: Handle, args: *const *const c_void, _extra: *const *const c_void,
    ) {
        ready(|d| {
            let command = d.prepare(function, ([gx, gy, gz], [bx, by, bz], shared), args, (false, false))?;
            d.submit(stream, command)
        })
    }

    /// All blocks resident.
    cuLaunchCooperativeKernel(
        function: Handle, gx: c_uint, gy: c_uint, gz: c_uint, bx: c_uint, by: c_uint, bz: c_uint,
        shared: c_uint, stream: Handle, args: *const *const c_void,
    ) {
        ready(|d| {
            let command = d.prepare(function, ([gx, gy, gz], [bx, by, bz], shared), args, (true, false))?;
            d.submit(stream, command)
        })
    }

    /// With attributes: cooperative, and programmatic stream serialization. Clusters are not simulated.
    cuLaunchKernelEx(config: *const Config, function: Handle, args: *const *const c_void, _extra: *const *const c_void) {
        ready(|d| {
            let c = element(config, 0).ok_or(INVALID_VALUE)?;
            let attributes: Vec<Attribute> = (0..c.count as usize).filter_map(|i| element(c.attributes, i)).collect();
            let on = |id| attributes.iter().any(|a| a.id == id && a.value != 0);
            let kind = (on(COOPERATIVE), on(PROGRAMMATIC_STREAM_SERIALIZATION));
            let command = d.prepare(function, (c.grid, c.block, c.shared), args, kind)?;
            d.submit(c.stream, command)
        })
    }

    /// Not NVIDIA's: the text of the last fault, empty if there was none.
    ptxsimLastFault(text: *mut c_char, len: usize) {
        with(|d| {
            let message = d.last_fault.as_ref().map_or(String::new(), ToString::to_string);
            done(text_to(text, len, &message))
        })
    }

    /// Not NVIDIA's: kernels launched so far, replays included.
    ptxsimLaunchCount(count: *mut u64) { with(|d| done(crate::raw::put(count, d.launches))) }
}
