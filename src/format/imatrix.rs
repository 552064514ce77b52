//! Importance matrices as llama.cpp wrote them before mid 2025, by habit named `imatrix.dat`. Later ones are GGUF files.
//!
//! ```text
//! entry count i32
//! per entry:  name length i32 | name | call count i32 | value count i32 | values f32
//! then:       chunk count i32 | text's name length i32 | text's name       (missing in the oldest files)
//! ```
//!
//! All numbers little-endian. A value is the mean of the squared activations of a column, times the entry's call count;
//! an entry of no calls holds the mean itself. There is no magic: a file is told by all of it fitting together, up to its
//! last byte.

use super::cursor::Cursor;
use super::{Error, Map};

/// What a file says.
#[derive(Clone, Debug)]
pub struct Imatrix {
    /// One entry per weight, in the file's order.
    pub entries: Vec<ImatrixEntry>,
    /// How many chunks of text were run, and the name of the text. `None` in the oldest files.
    pub origin: Option<(u32, Vec<u8>)>,
}

/// What a file says of one weight.
#[derive(Clone, Debug)]
pub struct ImatrixEntry {
    /// The weight's GGUF name.
    pub name: String,
    /// The number by which all values are multiplied, if it is above 0.
    pub calls: u32,
    /// A value per column, of stacked experts one after the other. Any float.
    pub values: Vec<f32>,
}

/// Reads such a file.
///
/// # Errors
/// A count that is negative or larger than the file, an entry without values, a name that is not UTF-8, bytes missing or
/// left over.
pub fn read(map: &Map) -> Result<Imatrix, Error> {
    let mut cursor = Cursor::new(map, 0, usize::MAX);
    let count = count(&mut cursor, "entries", 16)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        entries.push(entry(&mut cursor)?);
    }
    let origin = match cursor.left() {
        0 => None,
        _ => Some(origin(&mut cursor)?),
    };
    if cursor.left() > 0 {
        let what = format!("expected the end of the file, found {} bytes more", cursor.left());
        return Err(cursor.error(cursor.at(), what));
    }
    Ok(Imatrix { entries, origin })
}

fn entry(cursor: &mut Cursor<'_>) -> Result<ImatrixEntry, Error> {
    let length = count(cursor, "bytes of a name", 1)?;
    let at = cursor.at();
    let name = cursor.take(length as u64, "a name")?;
    let Ok(name) = str::from_utf8(name) else {
        return Err(cursor.error(at, format!("expected a name in UTF-8, found {}", name.escape_ascii())));
    };
    let calls = unsigned(cursor, "calls")?;
    let count = count(cursor, "values", 4)?;
    let bytes = cursor.take(4 * count as u64, "values")?;
    let values = bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
    Ok(ImatrixEntry { name: name.to_owned(), calls, values })
}

fn origin(cursor: &mut Cursor<'_>) -> Result<(u32, Vec<u8>), Error> {
    let chunks = unsigned(cursor, "chunks")?;
    let length = unsigned(cursor, "bytes of the text's name")?;
    let name = cursor.take(length.into(), "the text's name")?;
    Ok((chunks, name.to_vec()))
}

/// A count that is not negative.
fn unsigned(cursor: &mut Cursor<'_>, what: &str) -> Result<u32, Error> {
    let at = cursor.at();
    let found = cursor.i32(&format!("the number of {what}"))?;
    u32::try_from(found).map_err(|_| cursor.error(at, format!("expected a number of {what}, found {found}")))
}

/// A count of at least one, of items that take at least `least` bytes each.
fn count(cursor: &mut Cursor<'_>, what: &str, least: usize) -> Result<usize, Error> {
    let at = cursor.at();
    match unsigned(cursor, what)? {
        0 => Err(cursor.error(at, format!("expected {what}, found a count of 0"))),
        count => cursor.count(at, count.into(), least, what),
    }
}
