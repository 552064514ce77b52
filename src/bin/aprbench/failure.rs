//! Every way in which a command can fail, with its exit code: those of `aprgpu`, and 13 for a wrong result or a figure
//! below its target.

use aprgpu::{backend, bench, engine};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Bench(#[from] bench::Error),
    #[error("{0}")]
    Incomplete(String),
    #[error("stdout: {0}")]
    Stdout(#[from] std::io::Error),
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        Self::Bench(error.into())
    }
}

impl Failure {
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        bench::Error::Usage(what.into()).into()
    }

    pub(crate) fn exit_code(&self) -> u8 {
        use bench::Error as E;
        match self {
            Self::Bench(E::Usage(_) | E::Engine(engine::Error::Usage(_))) => 2,
            Self::Bench(E::Model(error)) => error.exit_code(),
            Self::Bench(E::Format(error)) => error.exit_code(),
            Self::Bench(E::File { .. }) => 4,
            Self::Bench(E::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => 3,
            Self::Bench(E::Io { .. }) | Self::Stdout(_) => 7,
            Self::Bench(E::WrongResult(_) | E::BelowTarget(_)) => 13,
            Self::Bench(E::Engine(engine::Error::Backend(backend::Error::Unavailable { .. }))) => 14,
            Self::Bench(E::Engine(engine::Error::Backend(backend::Error::OutOfMemory { .. }))) => 6,
            Self::Incomplete(_) | Self::Bench(_) => 8,
        }
    }
}
