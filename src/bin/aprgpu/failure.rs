//! Every way in which a command can fail, with its exit code.

use aprgpu::model::chat_template;
use aprgpu::{bench, compare, engine, format, model};
use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Model(#[from] model::Error),
    #[error("{0}")]
    Format(#[from] format::Error),
    #[error("the chat template: {0}")]
    Template(#[from] chat_template::Error),
    #[error("{0}")]
    Engine(#[from] engine::Error),
    #[error("{0}")]
    Compare(#[from] compare::Error),
    #[error("{0}")]
    Bench(#[from] bench::Error),
    /// One of several prompts cannot run.
    #[error("{place}: {source}")]
    Prompt { place: String, source: engine::Error },
    /// Two results differ by more than a limit allows.
    #[error("{0}")]
    Parity(String),
    /// A file breaks a rule.
    #[error("{0}")]
    Validation(String),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("stdin or stdout: {0}")]
    Stdio(#[from] io::Error),
}

impl Failure {
    /// The codes that `aprgpu --help` lists.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Model(error) => error.exit_code(),
            Self::Format(error) => error.exit_code(),
            Self::Template(_) | Self::Validation(_) => 5,
            Self::Engine(error) | Self::Prompt { source: error, .. } => error.exit_code(),
            Self::Compare(error) => error.exit_code(),
            Self::Bench(error) => error.exit_code(),
            Self::Parity(_) => 13,
            Self::File { source, .. } if source.kind() == io::ErrorKind::NotFound => 3,
            Self::File { .. } | Self::Stdio(_) => 7,
        }
    }

    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Stdio(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Reads a file that the user named, `-` for stdin.
pub(crate) fn read_text(path: &std::path::Path) -> Result<String, Failure> {
    if path.as_os_str() == "-" {
        return Ok(io::read_to_string(io::stdin())?);
    }
    std::fs::read_to_string(path).map_err(|source| Failure::File { path: path.to_owned(), source })
}
