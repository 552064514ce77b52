//! What a launch checks and how it is scheduled.

/// Checks that cost time and can be switched off. Bounds, alignment, barriers and member masks are always checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// Registers, predicates and bytes of memory that are read before they are written.
    pub initialized: bool,
    /// Races on shared memory.
    pub shared_races: bool,
    /// Races on global memory, writes to what `ld.global.nc` reads, and data touched before `griddepcontrol.wait`.
    pub global_races: bool,
    /// Floating-point adds, subtracts and multiplies without `.rn`, which an assembler may fuse.
    pub contraction: bool,
}

impl Checks {
    /// Every check.
    pub const ALL: Checks =
        Checks { initialized: true, shared_races: true, global_races: true, contraction: true };
    /// Only what is always checked.
    pub const NONE: Checks =
        Checks { initialized: false, shared_races: false, global_races: false, contraction: false };
}

impl Default for Checks {
    /// Every check but the one on contraction, which compilers' output does not pass.
    fn default() -> Self {
        Checks { contraction: false, ..Checks::ALL }
    }
}

/// How a launch runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The checks that are made.
    pub checks: Checks,
    /// 0: blocks and warps in order, each as far as it can go. Anything else: the order of blocks and warps, and
    /// the number of instructions that each runs at a time, are drawn from this seed.
    pub seed: u64,
    /// Not 0: results of approximate instructions vary within their documented error, drawn from this seed.
    pub perturb: u32,
    /// Counts executions, sectors and bank conflicts of each line.
    pub profile: bool,
    /// Host threads that blocks are spread over. With one, a launch is deterministic.
    pub threads: usize,
    /// All blocks are resident, so that they may wait for each other.
    pub cooperative: bool,
    /// Launched with programmatic stream serialization: may start before the launch before it has ended.
    pub dependent: bool,
    /// Warp instructions that one block may execute.
    pub max_instructions: u64,
    /// Streaming multiprocessors, for `%nsmid`.
    pub multiprocessors: u32,
    /// Shared memory that a block may have, static and dynamic, bytes.
    pub max_shared: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            checks: Checks::default(),
            seed: 0,
            perturb: 0,
            profile: false,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            cooperative: false,
            dependent: false,
            max_instructions: 1 << 31,
            multiprocessors: 16,
            max_shared: 227 << 10,
        }
    }
}

impl Options {
    /// No optional check: as fast as it goes.
    pub fn fast() -> Self {
        Options { checks: Checks::NONE, ..Options::default() }
    }

    /// Every check, contraction included, one thread.
    pub fn strict() -> Self {
        Options { checks: Checks::ALL, threads: 1, ..Options::default() }
    }
}
