//! Reading a GGUF file. Every size is checked against the bytes left before anything is allocated for it.

use super::{
    ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, Gguf, MAGIC, MAX_DIMENSIONS, MAX_TENSOR_NAME, Metadata, Strings,
    Value,
};
use crate::format::cursor::Cursor;
use crate::format::names::NameIndex;
use crate::format::tensor::{element_count, stored_bytes};
use crate::format::{Error, Map, Tensor};
use crate::quant::TensorType;

/// The least that one metadata entry takes: a key of one byte, a type and a value of one byte.
const LEAST_ENTRY: usize = 8 + 1 + 4 + 1;
/// The least that one tensor's description takes: a name of one byte, no dimensions, type and offset.
const LEAST_TENSOR: usize = 8 + 1 + 4 + 4 + 8;

pub(super) fn read(map: Map) -> Result<Gguf, Error> {
    let mut cursor = Cursor::new(&map, 0, usize::MAX);
    let version = read_version(&mut cursor)?;
    let at = cursor.at();
    let tensor_count = cursor.u64("the tensor count")?;
    let entry_count = cursor.u64("the metadata count")?;
    let tensor_count = cursor.count(at, tensor_count, LEAST_TENSOR, "tensors")?;
    let entry_count = cursor.count(at + 8, entry_count, LEAST_ENTRY, "metadata keys")?;

    let mut entries = Vec::with_capacity(entry_count);
    for _ in 0..entry_count {
        entries.push(read_entry(&mut cursor)?);
    }
    let metadata = Metadata::new(map.path(), entries)?;
    let alignment = read_alignment(&metadata)?;

    let mut tensors = Vec::with_capacity(cursor.count(at, tensor_count as u64, LEAST_TENSOR, "tensors")?);
    let mut descriptions = Vec::with_capacity(tensor_count);
    for _ in 0..tensor_count {
        descriptions.push(cursor.at());
        tensors.push(read_tensor(&mut cursor, &map)?);
    }
    let index = NameIndex::new(tensors.len(), |i| &tensors[i].name).map_err(|twice| Error::Key {
        path: map.path().to_owned(),
        key: twice.clone(),
        what: "two tensors have this name; each name may appear once".to_owned(),
    })?;

    let tail = place_tensors(&cursor, &mut tensors, &descriptions, alignment)?;
    Ok(Gguf { version, alignment, metadata, tensors, index, tail, map })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, Error> {
    let magic = cursor.take(4, "the magic \"GGUF\"")?;
    if magic != MAGIC {
        let what = format!("expected a GGUF file, which starts with \"GGUF\", found {magic:02x?}");
        return Err(cursor.error(0, what));
    }
    let version = cursor.u32("the version")?;
    match version {
        2 | 3 => Ok(version),
        1 => Err(cursor.error(4, "expected GGUF version 2 or 3, found 1; convert the model anew")),
        _ if matches!(version.swap_bytes(), 1..=3) => Err(cursor.error(
            4,
            format!(
                "expected a little-endian file, found a big-endian one of version {}; convert the model anew \
                 for a little-endian machine",
                version.swap_bytes()
            ),
        )),
        _ => Err(cursor.error(4, format!("expected GGUF version 2 or 3, found {version}"))),
    }
}

fn read_string<'a>(cursor: &mut Cursor<'a>, what: &str) -> Result<&'a [u8], Error> {
    let length = cursor.u64(what)?;
    cursor.take(length, what)
}

/// A key or a tensor's name: not empty, and UTF-8.
fn read_name(cursor: &mut Cursor<'_>, what: &str) -> Result<String, Error> {
    let at = cursor.at();
    let bytes = read_string(cursor, what)?;
    match std::str::from_utf8(bytes) {
        Ok("") => Err(cursor.error(at, format!("expected {what}, found an empty string"))),
        Ok(name) => Ok(name.to_owned()),
        Err(_) => {
            Err(cursor.error(at, format!("expected {what} in UTF-8, found \"{}\"", bytes.escape_ascii())))
        }
    }
}

fn read_entry(cursor: &mut Cursor<'_>) -> Result<(String, Value), Error> {
    let key = read_name(cursor, "a metadata key")?;
    let at = cursor.at();
    let what = key.as_str();
    let value = match cursor.u32(what)? {
        0 => Value::U8(cursor.u8(what)?),
        1 => Value::I8(cursor.i8(what)?),
        2 => Value::U16(cursor.u16(what)?),
        3 => Value::I16(cursor.i16(what)?),
        4 => Value::U32(cursor.u32(what)?),
        5 => Value::I32(cursor.i32(what)?),
        6 => Value::F32(cursor.f32(what)?),
        7 => Value::Bool(read_bool(cursor, what)?),
        8 => Value::String(read_string(cursor, what)?.to_vec()),
        9 => Value::Array(Box::new(read_array(cursor, what)?)),
        10 => Value::U64(cursor.u64(what)?),
        11 => Value::I64(cursor.i64(what)?),
        12 => Value::F64(cursor.f64(what)?),
        other => {
            return Err(cursor.error(at, format!("{key}: expected a value type from 0 to 12, found {other}")));
        }
    };
    Ok((key, value))
}

fn read_bool(cursor: &mut Cursor<'_>, key: &str) -> Result<bool, Error> {
    let at = cursor.at();
    match cursor.u8(key)? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(cursor.error(at, format!("{key}: expected a bool of 0 or 1, found {other}"))),
    }
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array, Error> {
    let at = cursor.at();
    let element_type = cursor.u32(key)?;
    let count = cursor.u64(key)?;
    /// Reads all elements of a fixed size in one pass over their bytes.
    macro_rules! numbers {
        ($variant:ident, $type:ty) => {{
            const SIZE: usize = size_of::<$type>();
            let count = cursor.count(at + 4, count, SIZE, key)?;
            let bytes = cursor.take((count * SIZE) as u64, key)?;
            let (elements, _) = bytes.as_chunks::<SIZE>();
            Array::$variant(elements.iter().map(|&e| <$type>::from_le_bytes(e)).collect())
        }};
    }
    Ok(match element_type {
        0 => numbers!(U8, u8),
        1 => numbers!(I8, i8),
        2 => numbers!(U16, u16),
        3 => numbers!(I16, i16),
        4 => numbers!(U32, u32),
        5 => numbers!(I32, i32),
        6 => numbers!(F32, f32),
        7 => {
            let count = cursor.count(at + 4, count, 1, key)?;
            let mut values = Vec::with_capacity(count);
            for _ in 0..count {
                values.push(read_bool(cursor, key)?);
            }
            Array::Bool(values)
        }
        8 => Array::String(read_strings(cursor, at + 4, count, key)?),
        9 => return Err(cursor.error(at, format!("{key}: arrays of arrays are not supported"))),
        10 => numbers!(U64, u64),
        11 => numbers!(I64, i64),
        12 => numbers!(F64, f64),
        other => {
            return Err(
                cursor.error(at, format!("{key}: expected an element type from 0 to 12, found {other}"))
            );
        }
    })
}

fn read_strings(cursor: &mut Cursor<'_>, at: usize, count: u64, key: &str) -> Result<Strings, Error> {
    let count = cursor.count(at, count, 8, key)?;
    let mut strings = Strings::with_capacity(count, 0);
    for _ in 0..count {
        strings.push(read_string(cursor, key)?);
    }
    Ok(strings)
}

fn read_alignment(metadata: &Metadata) -> Result<usize, Error> {
    let error = |found: String| Error::Key {
        path: metadata.path().to_owned(),
        key: ALIGNMENT_KEY.to_owned(),
        what: format!("expected a power of two as u32, found {found}"),
    };
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::U32(alignment)) if alignment.is_power_of_two() => Ok(alignment as usize),
        Some(other) => Err(error(other.describe())),
    }
}

/// One tensor's description. `range` holds the file's offset as its start, and its size as length.
fn read_tensor(cursor: &mut Cursor<'_>, map: &Map) -> Result<Tensor, Error> {
    let at = cursor.at();
    let name = read_name(cursor, "a tensor's name")?;
    if name.len() > MAX_TENSOR_NAME {
        let what =
            format!("{name}: expected a name of at most {MAX_TENSOR_NAME} bytes, found {}", name.len());
        return Err(cursor.error(at, what));
    }
    let at = cursor.at();
    let dimensions = cursor.u32(&name)?;
    if dimensions as usize > MAX_DIMENSIONS {
        let what = format!("{name}: expected at most {MAX_DIMENSIONS} dimensions, found {dimensions}");
        return Err(cursor.error(at, what));
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        let at = cursor.at();
        let dim = cursor.u64(&name)?;
        // llama.cpp keeps dimensions as i64.
        let dim = i64::try_from(dim).ok().and_then(|dim| usize::try_from(dim).ok());
        shape.push(dim.ok_or_else(|| cursor.error(at, format!("{name}: a dimension of 2^63 or more")))?);
    }
    shape.reverse();
    if shape.contains(&0) {
        return Err(cursor.error(at, format!("{name}: expected dimensions of 1 and more, found {shape:?}")));
    }
    let too_large =
        |what: &str| cursor.error(at, format!("{name}: the {what} of shape {shape:?} overflows 63 bits"));
    element_count(&shape)
        .filter(|&n| i64::try_from(n).is_ok())
        .ok_or_else(|| too_large("number of elements"))?;

    let at = cursor.at();
    let code = cursor.u32(&name)?;
    let Some(tensor_type) = TensorType::from_ggml_code(code) else {
        return Err(
            cursor.error(at, format!("{name}: tensor type {code} is not one that GGUF files may hold"))
        );
    };
    let cols = shape.last().copied().unwrap_or(1);
    if !cols.is_multiple_of(tensor_type.block_len()) {
        let block = tensor_type.block_len();
        let what =
            format!("{name}: expected rows of a multiple of {block} values for {tensor_type}, found {cols}");
        return Err(cursor.error(at, what));
    }
    let too_large = |what: &str| cursor.error(at, format!("{name}: the {what} of shape {shape:?} overflows"));
    let bytes = stored_bytes(tensor_type, &shape).ok_or_else(|| too_large("size"))?;

    let at = cursor.at();
    let offset = cursor.u64(&name)?;
    let start = usize::try_from(offset).ok();
    let Some(range) = start.and_then(|start| Some(start..start.checked_add(bytes)?)) else {
        return Err(cursor.error(at, format!("{name}: offset {offset} plus {bytes} bytes overflows")));
    };
    Ok(Tensor { name, tensor_type, shape, map: map.clone(), range })
}

/// Checks that tensors follow each other without gaps inside the file, and moves their ranges to file offsets.
/// Returns how many bytes lie behind the last one.
fn place_tensors(
    cursor: &Cursor<'_>,
    tensors: &mut [Tensor],
    descriptions: &[usize],
    alignment: usize,
) -> Result<usize, Error> {
    let file = cursor.at() + cursor.left();
    let overflow =
        |at: usize, name: &str| cursor.error(at, format!("{name}: the running sum of sizes overflows"));
    let data =
        cursor.at().checked_next_multiple_of(alignment).ok_or_else(|| overflow(cursor.at(), "data"))?;
    let mut expected = 0_usize;
    let mut end = cursor.at();
    for (tensor, &at) in tensors.iter_mut().zip(descriptions) {
        let name = &tensor.name;
        let found = tensor.range.start;
        if found != expected {
            let what = format!(
                "{name}: expected offset {expected}, right behind the tensor before it, found {found}; tensors may \
                 neither overlap nor leave gaps"
            );
            return Err(cursor.error(at, what));
        }
        let placed =
            data.checked_add(found).and_then(|start| Some(start..start.checked_add(tensor.range.len())?));
        let range = placed.ok_or_else(|| overflow(at, name))?;
        if range.end > file {
            let what = format!(
                "{name}: its {} bytes end at {}, but the file ends at {file}; was a download cut off?",
                range.len(),
                range.end
            );
            return Err(cursor.error(at, what));
        }
        expected = tensor.range.end.checked_next_multiple_of(alignment).ok_or_else(|| overflow(at, name))?;
        end = range.end;
        tensor.range = range;
    }
    let tail = file - end;
    if tail >= alignment {
        let what = format!("expected the end of the file, found {tail} bytes behind the last tensor");
        return Err(cursor.error(end, what));
    }
    Ok(tail)
}
