//! Why there is no measurement.

use crate::{backend, compare, engine, format, model, plan, quant};
use std::path::PathBuf;

/// A measurement that could not be made, or that must not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model does not load or run.
    #[error("{0}")]
    Engine(#[from] engine::Error),
    /// The check against the twin failed to run.
    #[error("{0}")]
    Compare(#[from] compare::Error),
    /// A file does not open.
    #[error("{0}")]
    Model(#[from] model::Error),
    /// A file cannot be written.
    #[error("{0}")]
    Format(#[from] format::Error),
    /// Weights cannot be made.
    #[error("{0}")]
    Quant(#[from] quant::Error),
    /// The run computed something else than it should have: its speed means nothing.
    #[error("wrong result, so its speed does not count: {0}")]
    WrongResult(String),
    /// Something could not be measured, so nothing has passed.
    #[error("INCOMPLETE: {0}")]
    Incomplete(String),
    /// A measured figure is below its target.
    #[error("below target: {0}")]
    BelowTarget(String),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file of records or targets does not say what it should.
    #[error("{}: {what}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Expected, found, what to do.
        what: String,
    },
    /// What was asked for makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// The program's exit code, see `aprgpu --help`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Engine(error) => error.exit_code(),
            Self::Compare(error) => error.exit_code(),
            Self::Model(error) => error.exit_code(),
            Self::Format(error) => error.exit_code(),
            Self::File { .. } => 4,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 3,
            Self::Io { .. } => 7,
            Self::WrongResult(_) | Self::BelowTarget(_) => 13,
            Self::Quant(_) | Self::Incomplete(_) => 8,
        }
    }
}

impl From<backend::Error> for Error {
    fn from(error: backend::Error) -> Self {
        Self::Engine(error.into())
    }
}

impl From<plan::PlanError> for Error {
    fn from(error: plan::PlanError) -> Self {
        Self::Engine(error.into())
    }
}
