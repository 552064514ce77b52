//! Files that appear whole or not at all: written beside the target under a temporary name, then renamed.
//!
//! A process that is killed cannot clean up. It holds a lock on what it writes, which the system takes back; whoever writes
//! into the same folder next removes what nobody holds any more.

use super::Error;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tempfile::NamedTempFile;

/// What temporary names begin and end with.
const PREFIX: &str = ".aprgpu-";
const SUFFIX: &str = ".tmp";
/// Left-overs younger than this are let be: their owner may be about to lock them.
const LEAST_AGE: Duration = Duration::from_secs(60);

/// What this process is writing.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// Removes everything that this process has begun to write and not finished: for the moment before it ends early.
pub fn remove_unfinished() {
    for path in UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
        let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
    }
}

/// A temporary path in the list of what is unfinished, locked, for as long as this lives.
#[derive(Debug)]
struct Unfinished {
    path: PathBuf,
    /// Holds the lock, where there is one.
    _lock: Option<File>,
}

impl Unfinished {
    fn new(path: &Path) -> Self {
        // Elsewhere a lock would keep this process itself from writing.
        let lock = if cfg!(unix) {
            File::open(path).ok().filter(|file| file.try_lock_shared().is_ok())
        } else {
            None
        };
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).push(path.to_owned());
        Self { path: path.to_owned(), _lock: lock }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| *path != self.path);
    }
}

/// Removes what processes that were killed have left in a folder.
fn remove_leftovers(folder: &Path) {
    if !cfg!(unix) {
        return;
    }
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        if !is_ours {
            continue;
        }
        let path = entry.path();
        let age =
            entry.metadata().and_then(|metadata| metadata.modified()).ok().and_then(|at| at.elapsed().ok());
        let abandoned = || File::open(&path).is_ok_and(|file| file.try_lock().is_ok());
        if age.is_some_and(|age| age >= LEAST_AGE) && abandoned() {
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        }
    }
}

/// A file that is being written. [`AtomicFile::commit`] puts it in its place; dropped before that, it leaves nothing
/// behind and whatever was there stays.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    out: BufWriter<NamedTempFile>,
    _unfinished: Unfinished,
}

impl AtomicFile {
    /// Starts a file that will replace `target`. It may be none of `inputs`, under whatever name: those are still read
    /// while it is written. A symbolic link is followed, so that what it points to is replaced.
    pub fn create(target: &Path, inputs: &[&Path]) -> Result<Self, Error> {
        let refuse = |what: &str| Error::Key {
            path: target.to_owned(),
            key: "output".to_owned(),
            what: what.to_owned(),
        };
        let io = |source: std::io::Error| Error::Io { path: target.to_owned(), source };
        let existing = match std::fs::metadata(target) {
            Ok(metadata) if metadata.is_file() => Some(metadata),
            Ok(_) => {
                return Err(refuse("expected a regular file or nothing at this path; choose another name"));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(io(error)),
        };
        for input in inputs {
            if existing.is_some() && is_same_file(target, input).map_err(io)? {
                return Err(refuse("this is the input itself; choose another name"));
            }
        }
        let target = if existing.is_some() { target.canonicalize().map_err(io)? } else { target.to_owned() };
        let folder = match target.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX);
        remove_leftovers(folder);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any new file: the process's umask takes its part away.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let temporary = builder.tempfile_in(folder).map_err(io)?;
        if let Some(existing) = existing {
            temporary.as_file().set_permissions(existing.permissions()).map_err(io)?;
        }
        let unfinished = Unfinished::new(temporary.path());
        Ok(Self { target, out: BufWriter::with_capacity(1 << 20, temporary), _unfinished: unfinished })
    }

    /// Commits if `check` finds nothing wrong with the complete file, which it gets under its temporary name.
    pub fn commit_if(mut self, check: impl FnOnce(&Path) -> Result<(), Error>) -> Result<(), Error> {
        self.out.flush().map_err(|source| Error::Io { path: self.target.clone(), source })?;
        check(self.out.get_ref().path())?;
        self.commit()
    }

    /// Writes what is buffered, waits until it is on the disk, and renames the file to its target.
    pub fn commit(self) -> Result<(), Error> {
        let target = self.target;
        let io = |source: std::io::Error| Error::Io { path: target.clone(), source };
        let temporary = self.out.into_inner().map_err(|error| io(error.into_error()))?;
        temporary.as_file().sync_all().map_err(io)?;
        temporary.persist(&target).map_err(|error| io(error.error))?;
        // The rename itself is durable only once the folder is; where folders cannot be opened that must do.
        #[cfg(unix)]
        if let Some(folder) = target.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        Ok(())
    }

    /// Fills the file with the content of `source`. The system does the copying: where its file system can, both files
    /// share their blocks from then on, and nothing is written twice.
    pub fn fill_from(&mut self, source: &Path) -> Result<(), Error> {
        let io = |error: std::io::Error| Error::Io { path: source.to_owned(), source: error };
        let mut from = File::open(source).map_err(io)?;
        let io = |error: std::io::Error| Error::Io { path: self.target.clone(), source: error };
        self.out.flush().map_err(io)?;
        std::io::copy(&mut from, self.out.get_mut().as_file_mut()).map_err(io)?;
        Ok(())
    }

    /// Replaces what stands at `offset`, behind [`AtomicFile::fill_from`].
    pub fn overwrite(&mut self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let io = |error: std::io::Error| Error::Io { path: self.target.clone(), source: error };
        self.out.flush().map_err(io)?;
        let file = self.out.get_mut().as_file_mut();
        file.seek(SeekFrom::Start(offset)).and_then(|_| file.write_all(bytes)).map_err(io)
    }

    /// The file that will be written.
    pub fn target(&self) -> &Path {
        &self.target
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// A folder that is being filled. [`AtomicFolder::commit`] puts it in its place; dropped before that, it leaves nothing
/// behind.
#[derive(Debug)]
pub struct AtomicFolder {
    target: PathBuf,
    folder: tempfile::TempDir,
    _unfinished: Unfinished,
}

impl AtomicFolder {
    /// Starts a folder that will be `target`, where there is nothing yet, or an empty folder.
    pub fn create(target: &Path) -> Result<Self, Error> {
        let io = |source: std::io::Error| Error::Io { path: target.to_owned(), source };
        match std::fs::read_dir(target).map(|mut entries| entries.next().is_none()) {
            Ok(true) => {}
            Ok(false) => {
                let what = "expected nothing or an empty folder at this path; choose another name".to_owned();
                return Err(Error::Key { path: target.to_owned(), key: "output".to_owned(), what });
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX).suffix(SUFFIX);
        remove_leftovers(parent);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            builder.permissions(std::fs::Permissions::from_mode(0o777));
        }
        let folder = builder.tempdir_in(parent).map_err(io)?;
        let unfinished = Unfinished::new(folder.path());
        Ok(Self { target: target.to_owned(), folder, _unfinished: unfinished })
    }

    /// Where the files go until the folder is complete.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until all files are on the disk and renames the folder to its target.
    pub fn commit(self) -> Result<(), Error> {
        let io = |source: std::io::Error| Error::Io { path: self.target.clone(), source };
        for entry in std::fs::read_dir(self.folder.path()).map_err(io)? {
            File::open(entry.map_err(io)?.path()).and_then(|file| file.sync_all()).map_err(io)?;
        }
        std::fs::rename(self.folder.path(), &self.target).map_err(io)?;
        // The folder is no longer where the guard would delete it.
        let _ = self.folder.keep();
        Ok(())
    }
}

/// Whether two paths lead to one file, through links of either kind.
fn is_same_file(a: &Path, b: &Path) -> std::io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let (a, b) = (std::fs::metadata(a)?, std::fs::metadata(b)?);
        Ok(a.dev() == b.dev() && a.ino() == b.ino())
    }
    #[cfg(not(unix))]
    Ok(a.canonicalize()? == b.canonicalize()?)
}
