//! What can be wrong with a model file.

use std::path::PathBuf;

/// A file that cannot be read or written. Each message names the file and the offset or key, what was expected,
/// what was found, and what to do where something can be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such file.
    #[error("{}: no such file", path.display())]
    Missing {
        /// The file that was asked for.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file at hand.
        path: PathBuf,
        /// The system's own error.
        source: std::io::Error,
    },
    /// The bytes are not what the format says.
    #[error("{}: at byte {offset}: {what}", path.display())]
    Bytes {
        /// The file at hand.
        path: PathBuf,
        /// Offset into the file.
        offset: u64,
        /// Expected, found, what to do.
        what: String,
    },
    /// The bytes are not those that a checksum was made of.
    #[error("{}: at byte {offset}: {what}", path.display())]
    Checksum {
        /// The file at hand.
        path: PathBuf,
        /// Where the checksum lies.
        offset: u64,
        /// Expected and found.
        what: String,
    },
    /// A metadata key or a tensor is missing, of the wrong kind, or contradicts another.
    #[error("{}: {key}: {what}", path.display())]
    Key {
        /// The file at hand.
        path: PathBuf,
        /// The metadata key or tensor name.
        key: String,
        /// Expected, found, what to do.
        what: String,
    },
}

impl Error {
    /// The exit code that a program should end with: 3 missing file, 4 bad format, 7 i/o.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Missing { .. } => 3,
            Self::Io { .. } => 7,
            Self::Bytes { .. } | Self::Checksum { .. } | Self::Key { .. } => 4,
        }
    }
}
