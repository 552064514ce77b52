//! Statements of a module, names not resolved yet.

use crate::error::SourceLine;
use std::sync::Arc;

/// An operand as written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Operand {
    /// Register, symbol, label or special register (`%tid.x`).
    Name(String),
    /// `!%p`
    Not(String),
    /// `%p|%q`
    Pair(String, String),
    Int(i128),
    F32(u32),
    F64(u64),
    Vector(Vec<Operand>),
    /// `[base+offset]`
    Address(Box<Operand>, i64),
    /// `symbol+offset` as a value.
    Offset(String, i64),
    /// `_`
    Sink,
}

/// One instruction: `@guard op.modifiers args;`
#[derive(Debug, Clone)]
pub(crate) struct Instruction {
    pub(crate) line: u32,
    pub(crate) guard: Option<(String, bool)>,
    pub(crate) op: String,
    pub(crate) modifiers: Vec<String>,
    pub(crate) args: Vec<Operand>,
}

/// One declared variable or range of registers.
#[derive(Debug, Clone)]
pub(crate) struct Declaration {
    pub(crate) line: u32,
    pub(crate) space: String,
    pub(crate) align: usize,
    pub(crate) ty: String,
    pub(crate) vector: usize,
    pub(crate) name: String,
    /// `%r<10>`
    pub(crate) range: Option<u32>,
    /// Number of elements; `Some(0)` for `[]`.
    pub(crate) elements: Option<usize>,
    pub(crate) init: Vec<Operand>,
}

#[derive(Debug, Clone)]
pub(crate) enum Statement {
    Instruction(Instruction),
    Label(u32, String),
    Declaration(Declaration),
    /// `.loc file line column`
    Location(u32, u32),
    Open,
    Close,
}

/// One kernel.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) line: u32,
    pub(crate) name: String,
    pub(crate) params: Vec<Declaration>,
    pub(crate) body: Vec<Statement>,
    pub(crate) directives: Vec<(u32, String, Vec<i128>)>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Source {
    pub(crate) version: (u32, u32),
    pub(crate) target: String,
    pub(crate) variables: Vec<Declaration>,
    pub(crate) entries: Vec<Entry>,
    /// `.file` numbers and names.
    pub(crate) files: Vec<(u32, Arc<str>)>,
    pub(crate) lines: LineMap,
}

/// Where `#line` directives say that lines come from, in order of the line they start at.
#[derive(Debug, Clone, Default)]
pub(crate) struct LineMap {
    pub(crate) marks: Vec<(u32, SourceLine)>,
}

impl LineMap {
    /// The source line of a line of the text, if a directive stands above it.
    pub(crate) fn find(&self, line: u32) -> Option<SourceLine> {
        let at = self.marks.partition_point(|(start, _)| *start <= line);
        let (start, mark) = self.marks.get(at.checked_sub(1)?)?;
        Some(SourceLine { file: mark.file.clone(), line: mark.line.saturating_add(line - start) })
    }
}
