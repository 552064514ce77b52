//! A read-only memory map: the one place where a file's bytes enter the process.

use super::Error;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A whole file, mapped. Cloning is cheap; the map lives as long as its last clone.
#[derive(Clone, Debug)]
pub struct Map {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Map {
    /// Maps `path`, which must be a regular file that is not empty.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let io = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => Error::Missing { path: path.to_owned() },
            _ => Error::Io { path: path.to_owned(), source },
        };
        let file = std::fs::File::open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            let what = "expected a regular file".to_owned();
            return Err(Error::Bytes { path: path.to_owned(), offset: 0, what });
        }
        if metadata.len() == 0 {
            let what = "the file is empty; was a download cut off?".to_owned();
            return Err(Error::Bytes { path: path.to_owned(), offset: 0, what });
        }
        // SAFETY: the map is read-only and private to this process. Another process that truncates the file while it
        // is mapped would raise SIGBUS: the same contract as every engine that maps its model, stated in the README.
        let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Ok(Self { inner: Arc::new(Inner { path: path.to_owned(), bytes: Bytes::Mapped(bytes) }) })
    }

    /// Bytes that are in memory already, as if `path` held them: for tests and fuzzing. `path` is only for messages.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Self {
        Self { inner: Arc::new(Inner { path: path.to_owned(), bytes: Bytes::Owned(bytes) }) }
    }

    /// The path that was opened.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// All bytes of the file.
    pub fn bytes(&self) -> &[u8] {
        match &self.inner.bytes {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Tells the system that `range` was read for the last time, so that its pages no longer count as resident.
    /// A later read brings them back from the file.
    pub fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Bytes::Mapped(map) = &self.inner.bytes {
            const PAGE: usize = 4096;
            let start = range.start.min(map.len()).next_multiple_of(PAGE);
            let end = range.end.min(map.len()) / PAGE * PAGE;
            if start < end {
                // SAFETY: the map is file-backed, read-only and never written, so dropped pages read the same again.
                let _ = unsafe {
                    map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, start, end - start)
                };
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}
