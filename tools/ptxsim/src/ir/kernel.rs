//! A kernel: its code, and what a launch needs to know of it.

use super::{Op, Pred};
use crate::error::SourceLine;
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    pub(crate) guard: Option<Pred>,
    pub(crate) line: u32,
    /// An assembler may fuse it with a neighbour.
    pub(crate) contractible: bool,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name in the text.
    pub name: String,
    /// Offset in the parameter block, bytes.
    pub offset: usize,
    /// Size, bytes.
    pub size: usize,
    /// Alignment, bytes.
    pub align: usize,
}

/// One kernel, ready to launch.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Inst>,
    pub(crate) narrow_names: Vec<String>,
    pub(crate) wide_names: Vec<String>,
    pub(crate) pred_names: Vec<String>,
    pub(crate) params: Vec<Param>,
    pub(crate) param_size: usize,
    pub(crate) shared: usize,
    pub(crate) local: usize,
    pub(crate) max_threads: Option<u32>,
    pub(crate) required_block: Option<[u32; 3]>,
    pub(crate) constants: Arc<[u8]>,
    /// `#line` or `.loc` of each line that has one, sorted.
    pub(crate) sources: Vec<(u32, SourceLine)>,
}

impl Kernel {
    /// Name of the entry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its parameters, in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Size of the parameter block, bytes.
    pub fn param_size(&self) -> usize {
        self.param_size
    }

    /// Shared memory declared in the text, bytes; what a launch asks for comes on top.
    pub fn static_shared(&self) -> usize {
        self.shared
    }

    /// Local memory of a thread, bytes.
    pub fn local_bytes(&self) -> usize {
        self.local
    }

    /// Registers that the text uses, in units of 32 bits. An assembler will need fewer.
    pub fn registers(&self) -> usize {
        self.narrow_names.len() + 2 * self.wide_names.len()
    }

    /// Threads per block that `.maxntid` or `.reqntid` allow.
    pub fn max_threads(&self) -> Option<u32> {
        self.max_threads
    }

    /// Lines of floating-point adds, subtracts and multiplies without a rounding modifier: an assembler may
    /// fuse them, so that their last bit is not defined.
    pub fn contraction_hazards(&self) -> Vec<u32> {
        let mut lines: Vec<u32> = self.code.iter().filter(|i| i.contractible).map(|i| i.line).collect();
        lines.dedup();
        lines
    }

    /// The line that a line of the PTX was made from.
    pub(crate) fn source(&self, line: u32) -> Option<SourceLine> {
        let at = self.sources.binary_search_by_key(&line, |s| s.0).ok()?;
        self.sources.get(at).map(|s| s.1.clone())
    }
}
