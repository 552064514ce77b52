//! The data section that GGUF and APR share: tensors one after the other, each padded with zeros.

use super::{Error, TensorSpec};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Counts bytes against a list of tensors, pads behind each, and keeps the checksum of all that was written.
#[derive(Debug)]
pub(super) struct TensorStream<W: Write> {
    out: W,
    path: PathBuf,
    alignment: usize,
    /// Name and size of the tensors to come, the next one last.
    to_come: Vec<(String, usize)>,
    /// Bytes of the current tensor that have not come.
    left: usize,
    written: u64,
    crc: crc32fast::Hasher,
}

impl<W: Write> TensorStream<W> {
    pub(super) fn new(out: W, path: &Path, tensors: &[TensorSpec], alignment: usize) -> Self {
        let to_come = tensors.iter().rev().map(|tensor| (tensor.name.clone(), tensor.bytes)).collect();
        let crc = crc32fast::Hasher::new();
        Self { out, path: path.to_owned(), alignment, to_come, left: 0, written: 0, crc }
    }

    /// Bytes that are not part of any tensor.
    pub(super) fn header(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.put(bytes)
    }

    /// The next bytes of the tensors' data.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.next_tensor()?;
                if self.left == 0 {
                    let what = format!("{} bytes more than the tensors take", bytes.len());
                    return Err(self.error(what));
                }
            }
            let (now, later) = bytes.split_at(bytes.len().min(self.left));
            self.put(now)?;
            self.left -= now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Zeros up to the alignment.
    pub(super) fn pad(&mut self) -> Result<(), Error> {
        let over = (self.written % self.alignment as u64) as usize;
        if over > 0 {
            self.zeros(self.alignment - over)?;
        }
        Ok(())
    }

    /// Checksum (IEEE CRC-32) of everything written so far.
    pub(super) fn checksum(&self) -> u32 {
        self.crc.clone().finalize()
    }

    /// Ends the last tensor and pads, or writes exactly `tail` zeros.
    pub(super) fn end_tensors(&mut self, tail: Option<usize>) -> Result<(), Error> {
        while !self.to_come.is_empty() && self.left == 0 {
            self.next_tensor()?;
        }
        if self.left > 0 || !self.to_come.is_empty() {
            return Err(self.error(format!("{} bytes of a tensor did not come", self.left)));
        }
        match tail {
            Some(tail) => self.zeros(tail),
            None => self.pad(),
        }
    }

    pub(super) fn finish(mut self, tail: Option<usize>) -> Result<W, Error> {
        self.end_tensors(tail)?;
        Ok(self.out)
    }

    /// Goes on to the next tensor that has bytes, if there is one, padding behind the one before.
    fn next_tensor(&mut self) -> Result<(), Error> {
        while self.left == 0 {
            let Some((_, bytes)) = self.to_come.pop() else { return Ok(()) };
            self.pad()?;
            self.left = bytes;
        }
        Ok(())
    }

    fn zeros(&mut self, mut count: usize) -> Result<(), Error> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while count > 0 {
            let now = count.min(ZEROS.len());
            self.put(&ZEROS[..now])?;
            count -= now;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        self.crc.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn error(&self, what: String) -> Error {
        let key = self.to_come.last().map_or("tensors", |(name, _)| name).to_owned();
        Error::Key { path: self.path.clone(), key, what: format!("wrong amount of data: {what}") }
    }
}
