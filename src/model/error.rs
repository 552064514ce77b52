//! Why a file that can be read is not a model that can run.

use std::path::{Path, PathBuf};

/// A model that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file cannot be read as its format says.
    #[error(transparent)]
    Format(#[from] crate::format::Error),
    /// There is no usable tokenizer.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file at hand.
        path: PathBuf,
        /// What is wrong with it.
        source: super::tokenizer::Error,
    },
    /// There is no usable chat template.
    #[error("{}: {source}", path.display())]
    ChatTemplate {
        /// The file at hand.
        path: PathBuf,
        /// What is wrong with it.
        source: super::chat_template::Error,
    },
    /// The path is of no format that is read here.
    #[error("{}: {what}", path.display())]
    Unrecognized {
        /// The path that was asked for.
        path: PathBuf,
        /// What the first bytes look like, and which formats are read.
        what: String,
    },
    /// A key or tensor is missing, absurd, or contradicts another.
    #[error("{}: {subject}: {what}", path.display())]
    Invalid {
        /// The file at hand.
        path: PathBuf,
        /// The metadata key or tensor name.
        subject: String,
        /// Expected, found, what to do.
        what: String,
    },
    /// The file is sound, but asks for something that no code here computes.
    #[error("{}: {subject}: {what}", path.display())]
    Unsupported {
        /// The file at hand.
        path: PathBuf,
        /// The metadata key or tensor name.
        subject: String,
        /// What was asked for, and what there is.
        what: String,
    },
}

impl Error {
    /// An [`Error::Invalid`].
    pub(crate) fn invalid(path: &Path, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Invalid { path: path.to_owned(), subject: subject.into(), what: what.into() }
    }

    /// An [`Error::Unsupported`].
    pub(crate) fn unsupported(path: &Path, subject: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.to_owned(), subject: subject.into(), what: what.into() }
    }

    /// The exit code that a program should end with: 3 missing file, 4 bad format, 5 validation failed, 6 load failed,
    /// 7 i/o.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Format(error) => error.exit_code(),
            Self::Unrecognized { .. } => 4,
            Self::Invalid { .. } | Self::Tokenizer { .. } | Self::ChatTemplate { .. } => 5,
            Self::Unsupported { .. } => 6,
        }
    }
}
