//! The 64 bytes that an APR file starts with.

use super::ALIGNMENT;
use crate::format::cursor::Cursor;
use crate::format::{Error, Map};

/// Bits of the header's flags.
pub mod flags {
    /// The data is LZ4-compressed. Not supported.
    pub const LZ4: u16 = 0x1;
    /// The data is Zstandard-compressed. Not supported.
    pub const ZSTD: u16 = 0x2;
    /// The data is encrypted. Not supported.
    pub const ENCRYPTED: u16 = 0x4;
    /// The file is one of several. Not supported.
    pub const SHARDED: u16 = 0x10;
    /// Some tensors are quantized.
    pub const QUANTIZED: u16 = 0x20;
    /// The metadata holds a vocabulary.
    pub const HAS_VOCAB: u16 = 0x200;
    /// Matrices are row-major: what this reader expects, whether the bit is set or not.
    pub const LAYOUT_ROW_MAJOR: u16 = 0x400;
    /// Matrices are column-major. Not supported.
    pub const LAYOUT_COLUMN_MAJOR: u16 = 0x800;
}

/// Bytes of the header.
pub(super) const SIZE: usize = 64;
const MAGIC: &[u8; 4] = b"APR\0";
/// Where the header's checksum lies.
const CHECKSUM_AT: usize = 40;

/// The fields of the header.
///
/// ```text
/// "APR\0" | major u8 = 2 | minor u8 | flags u16 | tensor count u32 | metadata offset u64 | metadata size u32
/// | index offset u64 | data offset u64 | CRC-32 of the other 60 bytes u32 | 20 bytes of zeros
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) flags: u16,
    pub(super) tensor_count: u32,
    pub(super) metadata_offset: u64,
    pub(super) metadata_size: u32,
    pub(super) index_offset: u64,
    pub(super) data_offset: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; SIZE] {
        let mut bytes = Vec::with_capacity(SIZE);
        bytes.extend(MAGIC);
        bytes.extend([2, 0]);
        bytes.extend(self.flags.to_le_bytes());
        bytes.extend(self.tensor_count.to_le_bytes());
        bytes.extend(self.metadata_offset.to_le_bytes());
        bytes.extend(self.metadata_size.to_le_bytes());
        bytes.extend(self.index_offset.to_le_bytes());
        bytes.extend(self.data_offset.to_le_bytes());
        let mut header = [0; SIZE];
        header[..CHECKSUM_AT].copy_from_slice(&bytes);
        let checksum = checksum(&header);
        header[CHECKSUM_AT..CHECKSUM_AT + 4].copy_from_slice(&checksum.to_le_bytes());
        header
    }

    pub(super) fn read(map: &Map) -> Result<Self, Error> {
        let mut cursor = Cursor::new(map, 0, SIZE);
        let magic = cursor.take(4, "the magic \"APR\\0\"")?;
        match magic {
            [b'A', b'P', b'R', 0 | b'2'] => {}
            b"APRN" | b"APR1" => {
                let what = "expected APR version 2, found version 1, which holds no language models";
                return Err(cursor.error(0, what));
            }
            _ => {
                let what = format!("expected an APR file, which starts with \"APR\\0\", found {magic:02x?}");
                return Err(cursor.error(0, what));
            }
        }
        let (major, minor) = (cursor.u8("the version")?, cursor.u8("the version")?);
        if major != 2 {
            return Err(cursor.error(4, format!("expected APR version 2, found {major}.{minor}")));
        }
        let header = Self {
            flags: cursor.u16("flags")?,
            tensor_count: cursor.u32("the tensor count")?,
            metadata_offset: cursor.u64("the metadata's offset")?,
            metadata_size: cursor.u32("the metadata's size")?,
            index_offset: cursor.u64("the index's offset")?,
            data_offset: cursor.u64("the data's offset")?,
        };
        let stored = cursor.u32("the header's checksum")?;
        cursor.take(20, "the end of the header")?;
        let computed = map.bytes().first_chunk().map_or(0, checksum);
        if stored != computed {
            let what = format!(
                "expected the header's checksum {computed:#010x}, found {stored:#010x}; the header is damaged"
            );
            return Err(cursor.checksum_error(CHECKSUM_AT, what));
        }
        header.check(&cursor, map.bytes().len())?;
        Ok(header)
    }

    /// Sections come in order and lie inside the file; no flag asks for what is not supported.
    fn check(&self, cursor: &Cursor<'_>, file: usize) -> Result<(), Error> {
        const REFUSED: &[(u16, &str)] = &[
            (flags::LZ4 | flags::ZSTD, "compressed"),
            (flags::ENCRYPTED, "encrypted"),
            (flags::SHARDED, "sharded"),
            (flags::LAYOUT_COLUMN_MAJOR, "column-major"),
        ];
        if let Some((_, what)) = REFUSED.iter().find(|(bits, _)| self.flags & bits != 0) {
            let what = format!("{what} APR files are not supported (flags {:#06x})", self.flags);
            return Err(cursor.error(6, what));
        }
        let metadata_end = self.metadata_offset.checked_add(self.metadata_size.into());
        let in_order = self.metadata_offset >= SIZE as u64
            && metadata_end.is_some_and(|end| end <= self.index_offset)
            && self.index_offset <= self.data_offset
            && self.data_offset <= file as u64;
        if !in_order {
            let what = format!(
                "expected metadata, index and data in this order in the file's {file} bytes, found {} bytes of \
                 metadata at {}, the index at {}, data at {}; was a download cut off?",
                self.metadata_size, self.metadata_offset, self.index_offset, self.data_offset
            );
            return Err(cursor.error(12, what));
        }
        if !self.data_offset.is_multiple_of(ALIGNMENT as u64) {
            let what = format!("expected data at a multiple of {ALIGNMENT}, found {}", self.data_offset);
            return Err(cursor.error(32, what));
        }
        Ok(())
    }
}

/// IEEE CRC-32 of the header without the checksum itself.
fn checksum(header: &[u8; SIZE]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&header[..CHECKSUM_AT]);
    crc.update(&header[CHECKSUM_AT + 4..]);
    crc.finalize()
}
