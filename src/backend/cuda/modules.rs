//! Compiled kernels: PTX goes to the driver's compiler once per device, driver and source, and its machine code is kept
//! on disk.
//!
//! An entry of the cache is named by a hash of everything that its content depends on, is written to a temporary file
//! and renamed, and carries a checksum. One that is damaged, or that the driver refuses, is built again, and the report
//! says so. `APRGPU_CACHE` names another folder; empty, it keeps nothing.

use super::device::DeviceSummary;
use super::driver::{Context, DriverError, Function, Limits, link};
use super::sources::{self, Target};
use crate::backend::Error;
use crate::backend::gpu::cache_folder::user_cache_folder;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A kernel, ready to launch.
#[derive(Debug)]
pub(super) struct Loaded {
    /// Its variant.
    pub(super) key: String,
    /// Which of the versions for different chips it is.
    pub(super) target: Target,
    pub(super) function: Function,
    /// The names of its buffers, in the order of its arguments; the parameters come last.
    pub(super) buffers: Vec<String>,
    /// What it takes of the device.
    pub(super) limits: Limits,
}

impl Loaded {
    /// Lets a launch ask for `dynamic` bytes of shared memory, where a block may have `most` together with those of the text.
    /// What takes a permission gets it for all that there is: the kernel may be another model's as well, which asks for more.
    pub(super) fn allow_shared(&self, dynamic: u32, most: u32) -> Result<(), DriverError> {
        let declared = self.limits.shared_bytes;
        if dynamic + declared > 48 << 10 {
            self.function.allow_shared(most.saturating_sub(declared))?;
        }
        Ok(())
    }
}

/// A variant and the chips it is for.
pub(super) type ModuleKey = (String, Target);

/// The kernels of a device.
pub(super) struct Modules {
    context: Arc<Context>,
    device: String,
    /// What machine code depends on besides its source.
    identity: String,
    cache: Option<PathBuf>,
    loaded: Mutex<HashMap<ModuleKey, Arc<Loaded>>>,
    notes: Mutex<Vec<String>>,
}

impl Modules {
    pub(super) fn new(context: Arc<Context>, device: &DeviceSummary) -> Self {
        let (major, minor) = device.driver;
        let identity = format!("{} sm_{} driver {major}.{minor}", device.name, device.capability);
        Self {
            context,
            device: device.name.clone(),
            identity,
            cache: user_cache_folder(),
            loaded: Mutex::default(),
            notes: Mutex::default(),
        }
    }

    pub(super) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, note: String) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// The kernels of all `keys`; those that are new are compiled side by side.
    pub(super) fn compile(&self, keys: &[ModuleKey]) -> Result<(), Error> {
        let mut missing: Vec<&ModuleKey> = Vec::new();
        {
            let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
            for key in keys {
                if !loaded.contains_key(key) && !missing.contains(&key) {
                    missing.push(key);
                }
            }
        }
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = missing.len().div_ceil(threads).max(1);
        let results: Vec<Result<(), Error>> = std::thread::scope(|scope| {
            let workers: Vec<_> = missing
                .chunks(share)
                .map(|keys| scope.spawn(move || keys.iter().try_for_each(|key| self.compile_one(key))))
                .collect();
            let failed = || Err(self.error("a kernel", "the compiler broke off".to_owned()));
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| failed())).collect()
        });
        results.into_iter().collect()
    }

    /// A kernel, compiled if it is not yet.
    pub(super) fn kernel(&self, key: &ModuleKey) -> Result<Arc<Loaded>, Error> {
        self.compile(std::slice::from_ref(key))?;
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.get(key).cloned().ok_or_else(|| self.error(&key.0, "was not compiled".to_owned()))
    }

    fn compile_one(&self, key: &ModuleKey) -> Result<(), Error> {
        let (variant, target) = key;
        let source = sources::source(variant, *target)?;
        let entry = sources::entry_name(variant, *target);
        let function = self.function(variant, &source, &entry)?;
        let buffers = arguments(&source)
            .ok_or_else(|| self.error(variant, "its parameters are not buffers and a `params`".to_owned()))?;
        let limits = function.limits().map_err(|error| self.error(variant, error.to_string()))?;
        let loaded = Loaded { key: variant.clone(), target: *target, function, buffers, limits };
        let mut all = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(key.clone()).or_insert(Arc::new(loaded));
        Ok(())
    }

    /// Loads a kernel from the cache, or compiles it.
    fn function(&self, variant: &str, source: &str, entry: &str) -> Result<Function, Error> {
        let key = format!("{}\n{source}", self.identity);
        let path =
            self.cache.as_ref().map(|folder| folder.join(format!("{:032x}.cubin", hash(key.as_bytes()))));
        let kept = path.as_ref().and_then(|path| std::fs::read(path).ok().map(|bytes| (path, bytes)));
        if let Some((path, bytes)) = kept {
            let loaded = match unwrap(&bytes) {
                Some(code) => Function::load(&self.context, code, entry).map_err(|error| error.to_string()),
                None => Err("its checksum is wrong".to_owned()),
            };
            match loaded {
                Ok(function) => return Ok(function),
                Err(why) => self.note(format!(
                    "the compiled kernel in {} could not be used ({why}): it was built again",
                    path.display()
                )),
            }
        }
        let code =
            link(&self.context, source, entry).map_err(|(error, log)| self.refused(variant, &error, &log))?;
        let function =
            Function::load(&self.context, &code, entry).map_err(|error| self.refused(variant, &error, ""))?;
        if let Some(path) = path
            && let Err(error) = keep(&path, &code)
        {
            let folder = path.parent().unwrap_or(&path).display();
            self.note(format!("compiled kernels cannot be kept in {folder}: {error}"));
        }
        Ok(function)
    }

    /// Compiles and loads a text that is not kept.
    pub(super) fn try_source(&self, source: &str, entry: &str) -> Result<(), Error> {
        let code =
            link(&self.context, source, entry).map_err(|(error, log)| self.refused(entry, &error, &log))?;
        let function = Function::load(&self.context, &code, entry);
        function.map(|_| ()).map_err(|error| self.refused(entry, &error, ""))
    }

    fn error(&self, kernel: &str, reason: String) -> Error {
        Error::Device { kernel: kernel.to_owned(), adapter: self.device.clone(), reason }
    }

    fn refused(&self, variant: &str, error: &DriverError, log: &str) -> Error {
        if error.is_wrong_target() {
            let reason = format!(
                "the driver cannot compile the kernels for {}: {error}; update the driver",
                self.device
            );
            return Error::Unavailable { backend: "cuda", reason };
        }
        let log = if log.is_empty() { String::new() } else { format!("; the compiler says:\n{log}") };
        self.error(variant, format!("does not compile: {error}{log}"))
    }
}

const MAGIC: &[u8] = b"aprgpu cuda 1\n";

/// Writes an entry of the cache.
fn keep(path: &Path, code: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(MAGIC)?;
    file.write_all(&crc32fast::hash(code).to_le_bytes())?;
    file.write_all(code)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// The machine code of an entry, if it is whole.
fn unwrap(bytes: &[u8]) -> Option<&[u8]> {
    let (sum, code) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
    (crc32fast::hash(code) == u32::from_le_bytes(*sum)).then_some(code)
}

/// FNV-1a in 128 bits (Fowler, Noll, Vo).
fn hash(bytes: &[u8]) -> u128 {
    const PRIME: u128 = (1 << 88) + 0x13b;
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    bytes.iter().fold(BASIS, |hash, &byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME))
}

/// The names of the buffers that a kernel declares: `.param .u64` each, then the parameters, of which the driver is
/// given 144 bytes. `None` where it declares anything else.
pub(super) fn arguments(source: &str) -> Option<Vec<String>> {
    let list = source.split_once(".entry")?.1.split_once('(')?.1.split_once(')')?.0;
    let mut names: Vec<&str> = Vec::new();
    let mut parameters = false;
    let without_comments: Vec<&str> =
        list.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
    let list = without_comments.join(" ");
    for argument in list.split(',') {
        let words: Vec<&str> = argument.split_whitespace().collect();
        match words[..] {
            [".param", ".u64", name] if !parameters => names.push(name),
            [".param", ".align", "4", ".b8", "params[144]"] if !parameters => parameters = true,
            _ => return None,
        }
    }
    parameters.then(|| names.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_the_published_one() {
        assert_eq!(hash(b""), 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
        assert_eq!(hash(b"a"), 0xd228_cb69_6f1a_8caf_7891_2b70_4e4a_8964);
    }

    #[test]
    fn entries_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("x.cubin");
        keep(&path, b"machine code").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(unwrap(&bytes), Some(&b"machine code"[..]));
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(unwrap(&bytes), None);
        assert_eq!(unwrap(&bytes[..10]), None);
    }

    #[test]
    fn arguments_are_read_from_the_text() {
        let source = ".visible .entry k(\n  .param .u64 weights, // panels\n  .param .u64 state,\n  \
                      .param .align 4 .b8 params[144]\n)\n{ ret; }";
        assert_eq!(arguments(source), Some(vec!["weights".to_owned(), "state".to_owned()]));
        assert_eq!(arguments(&source.replace("144", "140")), None);
        assert_eq!(arguments(&source.replace(".u64 state", ".u32 state")), None);
    }
}
