//! Every way in which a command can fail, with its exit code: those of `aprgpu`, 13 also for a wrong result or a figure
//! below its target, 8 for what could not be measured.

use aprgpu::{bench, compare, engine};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Bench(#[from] bench::Error),
    #[error("{0}")]
    Incomplete(String),
    #[error("stdout: {0}")]
    Stdout(#[from] std::io::Error),
}

impl From<compare::Error> for Failure {
    fn from(error: compare::Error) -> Self {
        Self::Bench(error.into())
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        Self::Bench(error.into())
    }
}

impl Failure {
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        compare::Error::Usage(what.into()).into()
    }

    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Bench(error) => error.exit_code(),
            Self::Incomplete(_) => 8,
            Self::Stdout(_) => 7,
        }
    }
}
