//! Why there is no measurement.

use crate::compare;

/// A measurement that could not be made, or that must not count.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Something failed that can fail in a comparison too: a model, a file, what was asked for.
    #[error("{0}")]
    Failed(compare::Error),
    /// The run computed something else than it should have: its speed means nothing.
    #[error("wrong result, so its speed does not count: {0}")]
    WrongResult(String),
    /// Something could not be measured, so nothing has passed.
    #[error("INCOMPLETE: {0}")]
    Incomplete(String),
    /// A measured figure is below its target.
    #[error("below target: {0}")]
    BelowTarget(String),
}

impl Error {
    /// The program's exit code, see `aprgpu --help`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(error) => error.exit_code(),
            Self::Incomplete(_) => 8,
            Self::WrongResult(_) | Self::BelowTarget(_) => 13,
        }
    }
}

impl<E: Into<compare::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}
