//! Reading an APR file.

use super::dtype::Declared;
use super::header::{Header, SIZE};
use super::{ALIGNMENT, Apr, aliases};
use crate::format::cursor::Cursor;
use crate::format::tensor::{element_count, stored_bytes};
use crate::format::{Error, Map, Tensor, json};
use crate::quant::TensorType;
use serde_json::Value;

/// The least that one index entry takes: a name of one byte and no dimensions.
const LEAST_ENTRY: usize = 2 + 1 + 1 + 1 + 8 + 8;
/// Names have at most so many bytes.
const MAX_NAME: usize = 256;
/// Tensors have at most so many dimensions.
const MAX_DIMENSIONS: u8 = 8;

pub(super) fn read(map: Map) -> Result<Apr, Error> {
    let header = Header::read(&map)?;
    let metadata = read_metadata(&map, &header)?;
    aliases::check(map.path(), &metadata)?;
    let declared = Declared::read(map.path(), &metadata)?;

    let mut cursor = Cursor::new(&map, index(header.index_offset), index(header.data_offset));
    let count = cursor.count(8, header.tensor_count.into(), LEAST_ENTRY, "tensors")?;
    let mut tensors: Vec<Tensor> = Vec::with_capacity(count);
    for _ in 0..count {
        let at = cursor.at();
        let tensor = read_entry(&mut cursor, &map, &header, &declared)?;
        if let Some(before) = tensors.last()
            && before.name >= tensor.name
        {
            let what = format!(
                "expected names in strictly increasing order, found {:?} behind {:?}",
                tensor.name, before.name
            );
            return Err(cursor.error(at, what));
        }
        tensors.push(tensor);
    }
    check_overlap(&cursor, &tensors)?;
    check_end(&map, &header, &tensors)?;
    Ok(Apr { flags: header.flags, metadata, tensors, map })
}

/// A header's offset as an index; the header's own check has bounded it by the file's length.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

fn read_metadata(map: &Map, header: &Header) -> Result<serde_json::Map<String, Value>, Error> {
    let mut cursor = Cursor::new(map, index(header.metadata_offset), usize::MAX);
    let at = cursor.at();
    let text = cursor.take(header.metadata_size.into(), "metadata")?;
    match json::parse(text) {
        Ok(Value::Object(metadata)) => Ok(metadata),
        Ok(_) => Err(cursor.error(at, "expected metadata that is a JSON object")),
        Err(error) => Err(cursor.error(at, format!("expected metadata in JSON, found: {error}"))),
    }
}

fn read_entry(
    cursor: &mut Cursor<'_>,
    map: &Map,
    header: &Header,
    declared: &Declared,
) -> Result<Tensor, Error> {
    let at = cursor.at();
    let length = cursor.u16("a tensor's name")?;
    let name = cursor.take(length.into(), "a tensor's name")?;
    let name = match std::str::from_utf8(name) {
        Ok(name) if !name.is_empty() && name.len() <= MAX_NAME => name.to_owned(),
        _ => {
            let what = format!("expected a name of 1 to {MAX_NAME} bytes in UTF-8, found {length} bytes");
            return Err(cursor.error(at, what));
        }
    };
    let at = cursor.at();
    let code = cursor.u8(&name)?;
    let tensor_type =
        declared.tensor_type(code).map_err(|what| cursor.error(at, format!("{name}: {what}")))?;
    let dimensions = cursor.u8(&name)?;
    if dimensions > MAX_DIMENSIONS {
        let what = format!("{name}: expected at most {MAX_DIMENSIONS} dimensions, found {dimensions}");
        return Err(cursor.error(at + 1, what));
    }
    let mut shape = Vec::with_capacity(dimensions.into());
    for _ in 0..dimensions {
        let at = cursor.at();
        let dim = cursor.u64(&name)?;
        let dim = usize::try_from(dim).ok();
        shape.push(
            dim.ok_or_else(|| {
                cursor.error(at, format!("{name}: a dimension that this machine cannot hold"))
            })?,
        );
    }
    let at = cursor.at();
    let (offset, size) = (cursor.u64(&name)?, cursor.u64(&name)?);
    let range = place(header, map.bytes().len(), offset, size);
    let Some(range) = range else {
        let what = format!(
            "{name}: {size} bytes at offset {offset} of the data, which starts at {}, do not lie in the file's {} \
             bytes; was a download cut off?",
            header.data_offset,
            map.bytes().len()
        );
        return Err(cursor.error(at, what));
    };
    if shape.contains(&0) {
        return Err(cursor.error(at, format!("{name}: expected dimensions of 1 and more, found {shape:?}")));
    }
    if element_count(&shape).is_none() {
        return Err(cursor.error(at, format!("{name}: the number of elements of shape {shape:?} overflows")));
    }
    let Some(expected) = stored_bytes(tensor_type, &shape) else {
        return Err(cursor.error(at, format!("{name}: the size of shape {shape:?} overflows")));
    };
    let may_pad = tensor_type.ignores_rows()
        || matches!(tensor_type, TensorType::Q4_K | TensorType::Q6_K | TensorType::AprQ8);
    let cols = shape.last().copied().unwrap_or(1);
    if !may_pad && !cols.is_multiple_of(tensor_type.block_len()) {
        let block = tensor_type.block_len();
        let what =
            format!("{name}: expected rows of a multiple of {block} values for {tensor_type}, found {cols}");
        return Err(cursor.error(at, what));
    }
    if !range.is_empty() && range.len() != expected {
        let what =
            format!("{name}: expected {expected} bytes for {tensor_type} of shape {shape:?}, found {size}");
        return Err(cursor.error(at + 8, what));
    }
    Ok(Tensor { name, tensor_type, shape, map: map.clone(), range })
}

/// The tensor's range in the file, if it lies inside.
fn place(header: &Header, file: usize, offset: u64, size: u64) -> Option<std::ops::Range<usize>> {
    let start = usize::try_from(header.data_offset.checked_add(offset)?).ok()?;
    let end = start.checked_add(usize::try_from(size).ok()?)?;
    (end <= file).then_some(start..end)
}

fn check_overlap(cursor: &Cursor<'_>, tensors: &[Tensor]) -> Result<(), Error> {
    let mut placed: Vec<&Tensor> = tensors.iter().filter(|tensor| !tensor.is_empty()).collect();
    placed.sort_unstable_by_key(|tensor| tensor.range.start);
    for pair in placed.windows(2) {
        if let [a, b] = pair
            && a.range.end > b.range.start
        {
            return Err(cursor.error(b.range.start, format!("the tensors {} and {} overlap", a.name, b.name)));
        }
    }
    Ok(())
}

/// The checksum of the first `end` bytes. Their pages are given back: a file may be larger than the memory.
fn checksum(map: &Map, end: usize) -> u32 {
    const PIECE: usize = 16 << 20;
    let mut checksum = crc32fast::Hasher::new();
    for start in (0..end).step_by(PIECE) {
        let range = start..(start + PIECE).min(end);
        checksum.update(map.bytes().get(range.clone()).unwrap_or_default());
        map.release(range);
    }
    checksum.finalize()
}

/// What is behind the last tensor: padding and a checksum, each of which may be missing, and nothing else.
fn check_end(map: &Map, header: &Header, tensors: &[Tensor]) -> Result<(), Error> {
    let bytes = map.bytes();
    let end =
        tensors.iter().filter(|tensor| !tensor.is_empty()).map(|tensor| tensor.range.end).max().unwrap_or(0);
    let end = end.max(index(header.data_offset)).max(SIZE);
    let padded = end.next_multiple_of(ALIGNMENT);
    let cursor = Cursor::new(map, end, usize::MAX);
    let rest = bytes.get(end..).unwrap_or_default();
    let all_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
    // Padding without a checksum; the file may also end with the last tensor.
    if (rest.is_empty() || bytes.len() == padded) && all_zero(rest) {
        return Ok(());
    }
    let (Some((padding, footer)), true) =
        (rest.split_last_chunk::<4>(), bytes.len() == padded + 4 || rest.len() == 4)
    else {
        let what = format!(
            "expected the file to end at {padded}, with a checksum at {}, found {} bytes; was a download cut off?",
            padded + 4,
            bytes.len()
        );
        return Err(cursor.error(end, what));
    };
    if !all_zero(padding) {
        return Err(cursor.error(end, "expected zeros behind the last tensor"));
    }
    let stored = u32::from_le_bytes(*footer);
    let computed = checksum(map, bytes.len() - 4);
    if stored != computed {
        let what = format!(
            "expected the file's checksum {computed:#010x}, found {stored:#010x}; the file is damaged"
        );
        return Err(cursor.checksum_error(bytes.len() - 4, what));
    }
    Ok(())
}
