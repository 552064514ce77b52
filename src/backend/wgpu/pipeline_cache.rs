//! Compiled pipelines kept on disk, one file per kind of adapter, where the adapter can give them out.
//!
//! A file is the line [`MAGIC`], the length and CRC-32 of the driver's bytes, and the bytes. What is cut short or changed
//! is not shown to the driver: pipelines are compiled anew, the user is told, and the file is replaced. A file is written
//! beside its place and moved there, so that a reader never sees half of one.

use super::trusted;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

const MAGIC: &[u8] = b"aprgpu pipelines 1\n";
const HEADER: usize = MAGIC.len() + 8 + 4;
/// The largest file that is read.
const LARGEST: u64 = 256 << 20;

/// The pipelines of one device.
pub(super) struct PipelineCache {
    /// What pipelines are made with.
    pub(super) cache: Option<wgpu::PipelineCache>,
    file: Option<PathBuf>,
    /// CRC-32 of the bytes in the file.
    stored: Mutex<Option<u32>>,
    notes: Mutex<Vec<String>>,
}

impl PipelineCache {
    /// The cache of `adapter` in `folder`; none where the device has no such feature or `folder` is `None`.
    pub(super) fn open(device: &wgpu::Device, adapter: &wgpu::AdapterInfo, folder: Option<&Path>) -> Self {
        let name = wgpu::util::pipeline_cache_key(adapter);
        let possible = device.features().contains(wgpu::Features::PIPELINE_CACHE);
        let file = folder.zip(name).filter(|_| possible).map(|(folder, name)| folder.join(name));
        let mut notes = Vec::new();
        let data = file.as_deref().and_then(|file| match read(file) {
            Ok(data) => data,
            Err(why) => {
                notes.push(format!(
                    "{}: {why}; it is ignored and pipelines are compiled anew",
                    file.display()
                ));
                None
            }
        });
        let cache = file.as_ref().map(|_| trusted::pipeline_cache(device, data.as_deref()));
        let stored = Mutex::new(data.as_deref().map(crc32fast::hash));
        Self { cache, file, stored, notes: Mutex::new(notes) }
    }

    /// Writes what the driver has compiled, where that is new. Failing costs time and no result: it becomes a note.
    pub(super) fn store(&self) {
        let (Some(cache), Some(file)) = (&self.cache, &self.file) else { return };
        let Some(data) = cache.get_data() else { return };
        let mut stored = self.stored.lock().unwrap_or_else(PoisonError::into_inner);
        let checksum = crc32fast::hash(&data);
        if *stored == Some(checksum) {
            return;
        }
        match write(file, &data, checksum) {
            Ok(()) => *stored = Some(checksum),
            Err(error) => {
                let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
                notes.push(format!("{}: compiled pipelines cannot be kept: {error}", file.display()));
            }
        }
    }

    /// Takes what the user should know.
    pub(super) fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The driver's bytes in a file; `None` where there is no file.
fn read(file: &Path) -> Result<Option<Vec<u8>>, String> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if metadata.len() > LARGEST => {
            return Err(format!("{} bytes are too many", metadata.len()));
        }
        Ok(_) => {}
    }
    let bytes = fs::read(file).map_err(|error| error.to_string())?;
    parse(&bytes).map(|data| Some(data.to_vec()))
}

fn parse(bytes: &[u8]) -> Result<&[u8], String> {
    let damaged = |what: &str| format!("a pipeline cache with {what}");
    let Some((header, data)) = bytes.split_at_checked(HEADER) else { return Err(damaged("no whole header")) };
    let rest = header.strip_prefix(MAGIC).ok_or_else(|| damaged("another first line"))?;
    let (length, checksum) = rest.split_at(8);
    if length != (data.len() as u64).to_le_bytes() {
        return Err(damaged("another length"));
    }
    if checksum != crc32fast::hash(data).to_le_bytes() {
        return Err(damaged("another checksum"));
    }
    Ok(data)
}

fn write(file: &Path, data: &[u8], checksum: u32) -> io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut beside = tempfile::NamedTempFile::new_in(folder)?;
    beside.write_all(MAGIC)?;
    beside.write_all(&(data.len() as u64).to_le_bytes())?;
    beside.write_all(&checksum.to_le_bytes())?;
    beside.write_all(data)?;
    beside.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_files_are_told_apart_from_whole_ones() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("not there yet").join("cache");
        assert_eq!(read(&file), Ok(None));
        let data: Vec<u8> = (0..100).collect();
        write(&file, &data, crc32fast::hash(&data)).unwrap();
        assert_eq!(read(&file), Ok(Some(data)));
        let whole = fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            assert!(parse(&changed).is_err(), "byte {at}");
            assert!(parse(&whole[..at]).is_err(), "{at} bytes");
        }
        assert!(parse(&[&whole[..], &[0]].concat()).is_err());
    }
}
