//! What this CPU is.

use super::simd::Isa;
use std::collections::BTreeSet;
use std::fmt;

/// A CPU as a device for models.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The maker's name for it, where the system tells.
    pub name: String,
    /// Threads that a model would get.
    pub threads: usize,
    /// Instruction sets that kernels exist for and this CPU has, slowest first; the last is used.
    pub paths: Vec<&'static str>,
    /// Memory that is free for new programs, where the system tells.
    pub memory_bytes: Option<u64>,
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.paths.last().unwrap_or(&"scalar");
        write!(f, "{}, {} threads, {path} (also {})", self.name, self.threads, {
            let others = self.paths.iter().rev().skip(1).copied().collect::<Vec<_>>();
            others.join(", ")
        })?;
        self.memory_bytes.map_or(Ok(()), |bytes| write!(f, ", {:.1} GB of memory free", bytes as f64 / 1e9))
    }
}

/// Looks at the CPU that this runs on.
pub fn probe() -> Probe {
    let field = |file: &str, key: &str| {
        let text = std::fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let kilobytes = |text: String| text.split_whitespace().next()?.parse::<u64>().ok();
    Probe {
        name: field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        threads: physical_cores(),
        paths: Isa::available().iter().map(|isa| isa.name()).collect(),
        memory_bytes: field("/proc/meminfo", "MemAvailable").and_then(kilobytes).map(|kb| kb * 1024),
    }
}

/// Cores that this process may use, counting those that share one as one: a second thread per core adds no bandwidth
/// and doubles the wait at every barrier.
pub fn physical_cores() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let siblings = |cpu: usize| {
        std::fs::read_to_string(format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"))
            .ok()
    };
    let cores: BTreeSet<String> = (0..4096).map_while(siblings).collect();
    if cores.is_empty() { logical } else { cores.len().min(logical) }
}
