//! Writing a GGUF file, front to back: the header first, then each tensor's bytes as they come.

use super::{ALIGNMENT_KEY, Array, DEFAULT_ALIGNMENT, MAGIC, MAX_DIMENSIONS, MAX_TENSOR_NAME, Value};
use crate::format::names::duplicate;
use crate::format::stream::TensorStream;
use crate::format::tensor::stored_bytes;
use crate::format::{Error, TensorSpec};
use std::io::Write;
use std::path::Path;

/// Writes a GGUF file to a stream. [`GgufWriter::new`] checks everything that llama.cpp's loader would refuse and writes
/// the header; then come the tensors' bytes, in the order of the list, in pieces of any size.
#[derive(Debug)]
pub struct GgufWriter<W: Write> {
    stream: TensorStream<W>,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header. `path` is the file that errors name, `version` is 2 or 3, the alignment is what
    /// `general.alignment` in `metadata` says.
    pub fn new(
        out: W,
        path: &Path,
        version: u32,
        metadata: &[(String, Value)],
        tensors: &[TensorSpec],
    ) -> Result<Self, Error> {
        let key_error =
            |key: &str, what: String| Error::Key { path: path.to_owned(), key: key.to_owned(), what };
        if !matches!(version, 2 | 3) {
            return Err(key_error("version", format!("expected 2 or 3, found {version}")));
        }
        let alignment = check_metadata(metadata, &key_error)?;
        check_tensors(tensors, &key_error)?;

        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(version.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_string(&mut header, key.as_bytes());
            put_value(&mut header, value);
        }
        let mut offset = 0_u64;
        for tensor in tensors {
            put_string(&mut header, tensor.name.as_bytes());
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dim in tensor.shape.iter().rev() {
                header.extend((dim as u64).to_le_bytes());
            }
            header.extend(tensor.tensor_type.ggml_code().unwrap_or_default().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = (tensor.bytes as u64)
                .checked_next_multiple_of(alignment as u64)
                .and_then(|padded| padded.checked_add(offset))
                .ok_or_else(|| {
                    key_error(&tensor.name, "the sum of the tensors' sizes overflows".to_owned())
                })?;
        }
        let mut stream = TensorStream::new(out, path, tensors, alignment);
        stream.header(&header)?;
        if !tensors.is_empty() {
            stream.pad()?;
        }
        Ok(Self { stream })
    }

    /// The next bytes of the tensors' data. A piece may reach over the end of a tensor into the next one.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write(bytes)
    }

    /// Pads the file to the alignment, or with exactly `tail` zeros where the original had another end, and returns the
    /// stream. Tensors whose bytes did not come are an error.
    pub fn finish(self, tail: Option<usize>) -> Result<W, Error> {
        self.stream.finish(tail)
    }
}

fn check_metadata(
    metadata: &[(String, Value)],
    key_error: &impl Fn(&str, String) -> Error,
) -> Result<usize, Error> {
    if let Some(twice) = duplicate(metadata.iter().map(|(key, _)| key.as_str())) {
        return Err(key_error(twice, "the key appears twice".to_owned()));
    }
    if metadata.iter().any(|(key, _)| key.is_empty()) {
        return Err(key_error("", "a metadata key is empty".to_owned()));
    }
    match metadata.iter().find(|(key, _)| key == ALIGNMENT_KEY) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&(_, Value::U32(alignment))) if alignment.is_power_of_two() => Ok(alignment as usize),
        Some((key, other)) => {
            Err(key_error(key, format!("expected a power of two as u32, found {}", other.describe())))
        }
    }
}

fn check_tensors(tensors: &[TensorSpec], key_error: &impl Fn(&str, String) -> Error) -> Result<(), Error> {
    if let Some(twice) = duplicate(tensors.iter().map(|tensor| tensor.name.as_str())) {
        return Err(key_error(twice, "two tensors have this name".to_owned()));
    }
    for TensorSpec { name, tensor_type, shape, bytes } in tensors {
        let error = |what: String| Err(key_error(name, what));
        if name.is_empty() || name.len() > MAX_TENSOR_NAME {
            return error(format!(
                "GGUF names have 1 to {MAX_TENSOR_NAME} bytes, this one has {}",
                name.len()
            ));
        }
        if shape.len() > MAX_DIMENSIONS {
            return error(format!(
                "GGUF tensors have at most {MAX_DIMENSIONS} dimensions, this one has {shape:?}"
            ));
        }
        if shape.contains(&0) {
            return error(format!("expected dimensions of 1 and more, found {shape:?}"));
        }
        if tensor_type.ggml_code().is_none() {
            return error(format!("GGUF has no type {tensor_type}"));
        }
        let cols = shape.last().copied().unwrap_or(1);
        if !cols.is_multiple_of(tensor_type.block_len()) {
            let block = tensor_type.block_len();
            return error(format!(
                "rows of {cols} values are not a multiple of {block}, as {tensor_type} needs"
            ));
        }
        match stored_bytes(*tensor_type, shape) {
            Some(expected) if expected == *bytes => {}
            expected => {
                return error(format!(
                    "{tensor_type} of shape {shape:?} takes {expected:?} bytes, not {bytes}"
                ));
            }
        }
    }
    Ok(())
}

fn put_string(out: &mut Vec<u8>, string: &[u8]) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend(string);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    /// The type's code, then the value's bytes.
    macro_rules! put {
        ($code:literal, $bytes:expr) => {{
            out.extend(u32::to_le_bytes($code));
            out.extend($bytes);
        }};
    }
    match value {
        Value::U8(v) => put!(0, v.to_le_bytes()),
        Value::I8(v) => put!(1, v.to_le_bytes()),
        Value::U16(v) => put!(2, v.to_le_bytes()),
        Value::I16(v) => put!(3, v.to_le_bytes()),
        Value::U32(v) => put!(4, v.to_le_bytes()),
        Value::I32(v) => put!(5, v.to_le_bytes()),
        Value::F32(v) => put!(6, v.to_le_bytes()),
        Value::Bool(v) => put!(7, [u8::from(*v)]),
        Value::String(v) => {
            out.extend(8_u32.to_le_bytes());
            put_string(out, v);
        }
        Value::Array(v) => {
            out.extend(9_u32.to_le_bytes());
            put_array(out, v);
        }
        Value::U64(v) => put!(10, v.to_le_bytes()),
        Value::I64(v) => put!(11, v.to_le_bytes()),
        Value::F64(v) => put!(12, v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    /// The elements' code, their count, then their bytes.
    macro_rules! put {
        ($code:literal, $values:expr, $bytes:expr) => {{
            out.extend(u32::to_le_bytes($code));
            out.extend(($values.len() as u64).to_le_bytes());
            out.extend($values.iter().flat_map($bytes));
        }};
    }
    match array {
        Array::U8(values) => put!(0, values, |v| v.to_le_bytes()),
        Array::I8(values) => put!(1, values, |v| v.to_le_bytes()),
        Array::U16(values) => put!(2, values, |v| v.to_le_bytes()),
        Array::I16(values) => put!(3, values, |v| v.to_le_bytes()),
        Array::U32(values) => put!(4, values, |v| v.to_le_bytes()),
        Array::I32(values) => put!(5, values, |v| v.to_le_bytes()),
        Array::F32(values) => put!(6, values, |v| v.to_le_bytes()),
        Array::Bool(values) => put!(7, values, |v| [u8::from(*v)]),
        Array::String(values) => {
            out.extend(8_u32.to_le_bytes());
            out.extend((values.len() as u64).to_le_bytes());
            for string in values.iter() {
                put_string(out, string);
            }
        }
        Array::U64(values) => put!(10, values, |v| v.to_le_bytes()),
        Array::I64(values) => put!(11, values, |v| v.to_le_bytes()),
        Array::F64(values) => put!(12, values, |v| v.to_le_bytes()),
    }
}
