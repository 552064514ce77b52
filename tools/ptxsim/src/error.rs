//! What can go wrong: text that is not understood, and programs that do what a GPU program must not do.

use std::fmt;
use std::sync::Arc;

/// A line of the text that the PTX was made from, as named by `#line` or `.loc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLine {
    /// File name as it stands in the directive.
    pub file: Arc<str>,
    /// Line in that file, from 1.
    pub line: u32,
}

impl fmt::Display for SourceLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// PTX text that was refused: a mistake in it, or something that is not simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// Line of the text as given, from 1.
    pub line: u32,
    /// The line it was made from, where a `#line` says so.
    pub source: Option<SourceLine>,
    /// What was expected and what was found.
    pub message: String,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(s) => write!(f, "{s} (ptx line {}): {}", self.line, self.message),
            None => write!(f, "ptx line {}: {}", self.line, self.message),
        }
    }
}

impl std::error::Error for ParseError {}

/// Shorthand of the parser and the lowering.
pub(crate) type ParseResult<T> = Result<T, ParseError>;

/// An error at `line`; the caller adds the source line later.
pub(crate) fn parse_error<T>(line: u32, message: impl Into<String>) -> ParseResult<T> {
    Err(ParseError { line, source: None, message: message.into() })
}

/// Which rule a kernel broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// The launch itself is wrong: shape, parameters, shared memory.
    Launch,
    /// An address outside every allocation, or past the end of a space.
    OutOfBounds,
    /// An address inside an allocation that was freed.
    UseAfterFree,
    /// A write to constants, parameters or memory that was declared read only.
    ReadOnly,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// A register or predicate that was read before it was written.
    UninitializedRegister,
    /// A byte of memory that was read before it was written.
    UninitializedMemory,
    /// Two accesses of shared memory, one a write, with no barrier between.
    SharedRace,
    /// Two accesses of global memory in one launch, one a write, with nothing that orders them.
    GlobalRace,
    /// Memory that is read through `ld.global.nc` and written in the same launch.
    NonCoherent,
    /// Data of the launch before, touched before `griddepcontrol.wait` or read through `ld.global.nc`; or a launch that ends
    /// without having waited.
    DependentLaunch,
    /// Lanes of a warp stand at different barriers, or some have left.
    DivergentBarrier,
    /// Warps of a block disagree about a barrier, or some have left.
    MismatchedBarrier,
    /// Nothing can go on: each one waits for another.
    Deadlock,
    /// A member mask that names the wrong lanes, or a shuffle from a lane outside it.
    MemberMask,
    /// Data of a `cp.async` that was touched before its wait.
    AsyncCopy,
    /// An add, subtract or multiply without `.rn`, which an assembler may fuse.
    Contraction,
    /// `trap` was executed.
    Trap,
    /// More instructions than [`crate::Options::max_instructions`] allows.
    Limit,
}

/// A kernel did something that is wrong, or that no two chips need agree on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The rule that was broken.
    pub kind: FaultKind,
    /// Name of the kernel.
    pub kernel: String,
    /// Line of the PTX text, from 1; 0 where the launch itself was refused.
    pub line: u32,
    /// The line that the PTX was made from, where `#line` or `.loc` say so.
    pub source: Option<SourceLine>,
    /// Block index, x y z.
    pub block: [u32; 3],
    /// Warp within the block.
    pub warp: u32,
    /// The lanes at fault, one bit each.
    pub lanes: u32,
    /// What happened, with addresses and values.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kernel)?;
        if self.line != 0 {
            match &self.source {
                Some(s) => write!(f, ", {s} (ptx line {})", self.line)?,
                None => write!(f, ", line {}", self.line)?,
            }
            let [x, y, z] = self.block;
            write!(f, ", block ({x}, {y}, {z}), warp {}, lanes {:#010x}", self.warp, self.lanes)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Fault {}
