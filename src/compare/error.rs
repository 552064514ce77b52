//! Why a comparison could not be made. That two results differ is a result, not an error.

use crate::{backend, engine, format, model, plan, quant};
use std::path::PathBuf;

/// A comparison that could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model does not load or run.
    #[error("{0}")]
    Engine(#[from] engine::Error),
    /// A file does not open.
    #[error("{0}")]
    Model(#[from] model::Error),
    /// Weights cannot be made.
    #[error("{0}")]
    Quant(#[from] quant::Error),
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// A file holds something else than was expected.
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
            Self::Model(error) => error.exit_code(),
            Self::File { .. } => 4,
            Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => 3,
            Self::Io { .. } => 7,
            Self::Quant(_) => 8,
        }
    }
}

impl From<format::Error> for Error {
    fn from(error: format::Error) -> Self {
        Self::Model(error.into())
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
