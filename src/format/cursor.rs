//! A bounds-checked little-endian reader over a file's bytes. Every error says where in the file it stands.

use super::{Error, Map};

/// A position in a file that only moves forward, and never past `end`.
pub(super) struct Cursor<'a> {
    map: &'a Map,
    bytes: &'a [u8],
    at: usize,
}

macro_rules! little_endian {
    ($($name:ident $type:ty;)*) => {
        $(pub(super) fn $name(&mut self, what: &str) -> Result<$type, Error> {
            let array = self.array(what)?;
            Ok(<$type>::from_le_bytes(array))
        })*
    };
}

impl<'a> Cursor<'a> {
    /// Reads from `at`; nothing at `end` or behind it can be read. `end` is cut to the file's length.
    pub(super) fn new(map: &'a Map, at: usize, end: usize) -> Self {
        let bytes = map.bytes();
        Self { map, bytes: bytes.get(..end).unwrap_or(bytes), at }
    }

    /// Offset of the next byte in the file.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// Bytes left.
    pub(super) fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    /// An error about what starts at `offset`.
    pub(super) fn error(&self, offset: usize, what: impl Into<String>) -> Error {
        Error::Bytes { path: self.map.path().to_owned(), offset: offset as u64, what: what.into() }
    }

    /// An error about the checksum at `offset`.
    pub(super) fn checksum_error(&self, offset: usize, what: String) -> Error {
        Error::Checksum { path: self.map.path().to_owned(), offset: offset as u64, what }
    }

    /// The next `count` bytes; `what` says in an error what they should have been.
    pub(super) fn take(&mut self, count: u64, what: &str) -> Result<&'a [u8], Error> {
        let taken = usize::try_from(count)
            .ok()
            .and_then(|count| self.at.checked_add(count))
            .and_then(|end| Some((self.bytes.get(self.at..end)?, end)));
        let Some((bytes, end)) = taken else {
            let what = format!(
                "expected {what} of {count} bytes, found {} bytes before the end; was a download cut off?",
                self.left()
            );
            return Err(self.error(self.at, what));
        };
        self.at = end;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N as u64, what)?);
        Ok(array)
    }

    little_endian! {
        u8 u8; i8 i8; u16 u16; i16 i16; u32 u32; i32 i32; u64 u64; i64 i64; f32 f32; f64 f64;
    }

    /// Checks a count from the file against the bytes left, where each item takes at least `least` bytes. So a count
    /// that passes bounds what its items may make the reader allocate.
    pub(super) fn count(&self, offset: usize, count: u64, least: usize, what: &str) -> Result<usize, Error> {
        let room = self.left() / least.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= room => Ok(count),
            _ => Err(self.error(
                offset,
                format!(
                    "found a count of {count} {what}, but the {} bytes left hold at most {room}; is the file damaged?",
                    self.left()
                ),
            )),
        }
    }
}
