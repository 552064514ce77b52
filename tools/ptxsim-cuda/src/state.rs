//! Everything the driver holds, behind one lock: work runs inside the call that submits it.

use crate::code::{Code, INVALID_HANDLE, OK};
use crate::graph::Capture;
use crate::launch::Command;
use crate::raw::Handle;
use ptxsim::{Checks, Fault, Memory, Module, Options};
use std::alloc::Layout;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

/// A kernel of a loaded module.
pub(crate) struct Function {
    pub(crate) module: Arc<Module>,
    pub(crate) name: String,
    pub(crate) max_dynamic_shared: u32,
}

#[derive(Default)]
pub(crate) struct Stream {
    /// The capture that this stream takes part in.
    pub(crate) capture: Option<usize>,
}

#[derive(Default)]
pub(crate) struct Event {
    pub(crate) recorded: Option<Instant>,
    /// The capture it was recorded in.
    pub(crate) capture: Option<usize>,
}

/// What the device is, from the environment.
pub(crate) struct Device {
    /// Compute capability, major and minor.
    pub(crate) capability: (i32, i32),
    pub(crate) multiprocessors: u32,
    /// All blocks of a launch can be made resident at once.
    pub(crate) cooperative: bool,
    pub(crate) threads_per_multiprocessor: u32,
    pub(crate) shared_per_multiprocessor: u32,
    /// Dynamic and static shared memory of a block that asked for it.
    pub(crate) shared_opt_in: u32,
    /// Highest PTX version that is taken.
    pub(crate) ptx: (u32, u32),
}

pub(crate) struct Driver {
    pub(crate) device: Device,
    pub(crate) memory: Memory,
    pub(crate) options: Options,
    pub(crate) modules: HashMap<usize, (Arc<Module>, Vec<usize>)>,
    pub(crate) functions: HashMap<usize, Function>,
    pub(crate) streams: HashMap<usize, Stream>,
    pub(crate) events: HashMap<usize, Event>,
    pub(crate) captures: HashMap<usize, Capture>,
    pub(crate) graphs: HashMap<usize, Arc<Vec<Command>>>,
    pub(crate) graph_execs: HashMap<usize, Arc<Vec<Command>>>,
    pub(crate) links: HashMap<usize, crate::link::Link>,
    /// Pinned host memory by its address.
    pub(crate) host: HashMap<usize, Layout>,
    pub(crate) initialized: bool,
    /// The error that broke the context: every later call reports it, as on a device.
    pub(crate) broken: Option<Code>,
    pub(crate) last_fault: Option<Fault>,
    /// Kernels launched, replays included.
    pub(crate) launches: u64,
    next: usize,
}

/// Handles of streams that exist without being created: null, legacy, per thread.
pub(crate) const DEFAULT_STREAMS: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Driver {
    fn new() -> Self {
        let checks = match std::env::var("PTXSIM_CHECKS").as_deref() {
            Ok("none") => Checks::NONE,
            Ok("strict") => Checks::ALL,
            _ => Checks::default(),
        };
        let sm = number("PTXSIM_SM").unwrap_or(89) as i32;
        let shared_opt_in = match sm {
            90 | 100 | 103 => 227 << 10,
            80 | 87 => 163 << 10,
            _ => 99 << 10,
        };
        let multiprocessors = number("PTXSIM_MULTIPROCESSORS").unwrap_or(16) as u32;
        let options = Options {
            checks,
            seed: number("PTXSIM_SEED").unwrap_or(0),
            perturb: number("PTXSIM_PERTURB").unwrap_or(0) as u32,
            threads: number("PTXSIM_THREADS").map_or(Options::default().threads, |n| n as usize),
            multiprocessors,
            max_shared: shared_opt_in as usize,
            ..Options::default()
        };
        Driver {
            device: Device {
                capability: (sm / 10, sm % 10),
                multiprocessors,
                cooperative: number("PTXSIM_COOPERATIVE") != Some(0),
                threads_per_multiprocessor: if matches!(sm, 80 | 90 | 100 | 103) { 2048 } else { 1536 },
                shared_per_multiprocessor: shared_opt_in + 1024,
                shared_opt_in,
                ptx: number("PTXSIM_PTX").map_or((9, 9), |v| (v as u32 / 10, v as u32 % 10)),
            },
            memory: Memory::with_capacity(number("PTXSIM_MEMORY").unwrap_or(4 << 30)),
            options,
            modules: HashMap::new(),
            functions: HashMap::new(),
            streams: (0..=DEFAULT_STREAMS).map(|h| (h, Stream::default())).collect(),
            events: HashMap::new(),
            captures: HashMap::new(),
            graphs: HashMap::new(),
            graph_execs: HashMap::new(),
            links: HashMap::new(),
            host: HashMap::new(),
            initialized: false,
            broken: None,
            last_fault: None,
            launches: 0,
            next: 0x1000,
        }
    }

    /// A number that no handle has had.
    pub(crate) fn handle(&mut self) -> usize {
        self.next += 0x10;
        self.next
    }

    pub(crate) fn stream(&mut self, stream: Handle) -> Result<&mut Stream, Code> {
        self.streams.get_mut(&(stream as usize)).ok_or(INVALID_HANDLE)
    }

    /// Refuses where the context is broken.
    pub(crate) fn healthy(&self) -> Result<(), Code> {
        self.broken.map_or(Ok(()), Err)
    }
}

static DRIVER: Mutex<Option<Driver>> = Mutex::new(None);

/// Runs `f` on the driver; its error is the code that is returned.
pub(crate) fn with(f: impl FnOnce(&mut Driver) -> Result<(), Code>) -> Code {
    let mut guard: MutexGuard<'_, Option<Driver>> = DRIVER.lock().unwrap_or_else(|e| e.into_inner());
    match f(guard.get_or_insert_with(Driver::new)) {
        Ok(()) => OK,
        Err(code) => code,
    }
}

/// [`with`], once `cuInit` was called.
pub(crate) fn ready(f: impl FnOnce(&mut Driver) -> Result<(), Code>) -> Code {
    with(|d| if d.initialized { f(d) } else { Err(crate::code::NOT_INITIALIZED) })
}

/// A code as a result.
pub(crate) fn done(code: Code) -> Result<(), Code> {
    if code == OK { Ok(()) } else { Err(code) }
}
