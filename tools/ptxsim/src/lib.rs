#![doc = include_str!("../README.md")]

mod error;
mod exec;
mod float;
mod ir;
mod launch;
mod lower;
mod memory;
mod options;
mod report;
mod text;

pub use error::{Fault, FaultKind, ParseError, SourceLine};
pub use ir::{Kernel, Param};
pub use launch::{Arg, launch};
pub use memory::{Memory, MemoryError};
pub use options::{Checks, Options};
pub use report::{LineProfile, Report};

/// A parsed module.
#[derive(Debug, Clone)]
pub struct Module {
    version: (u32, u32),
    target: String,
    kernels: Vec<Kernel>,
}

impl Module {
    /// Parses PTX text and prepares its kernels.
    ///
    /// # Errors
    /// The first mistake, or the first thing that is not simulated, with its line.
    pub fn parse(text: &str) -> Result<Module, ParseError> {
        let source = text::parse(text)?;
        let kernels = lower::lower(&source)?;
        Ok(Module { version: source.version, target: source.target, kernels })
    }

    /// `.version`, major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// `.target`, such as `sm_80`.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// All kernels, in the order of the text.
    pub fn kernels(&self) -> &[Kernel] {
        &self.kernels
    }

    /// The kernel of that name.
    pub fn kernel(&self, name: &str) -> Option<&Kernel> {
        self.kernels.iter().find(|k| k.name == name)
    }
}
