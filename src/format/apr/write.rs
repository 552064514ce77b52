//! Writing an APR file, front to back: header, metadata and index first, then each tensor's bytes as they come.

use super::header::{Header, SIZE, flags};
use super::{ALIGNMENT, EXT_DTYPES_KEY, aliases, dtype};
use crate::format::names::duplicate;
use crate::format::stream::TensorStream;
use crate::format::tensor::stored_bytes;
use crate::format::{Error, TensorSpec};
use serde_json::{Map, Value};
use std::io::Write;
use std::path::Path;

/// Writes an APR file to a stream. [`AprWriter::new`] writes everything but the tensors' bytes, which then come in the
/// order of the list, in pieces of any size. The file's checksum is always written.
#[derive(Debug)]
pub struct AprWriter<W: Write> {
    stream: TensorStream<W>,
}

impl<W: Write> AprWriter<W> {
    /// Writes header, metadata and index. `path` is the file that errors name. The tensors' data comes in the order of
    /// `tensors`; the index is sorted by name. Types without an interoperable code get a private one, declared in the
    /// metadata. A tensor may have no bytes whatever its shape. Metadata keys must be canonical.
    pub fn new(
        out: W,
        path: &Path,
        flags: u16,
        metadata: &Map<String, Value>,
        tensors: &[TensorSpec],
    ) -> Result<Self, Error> {
        let key_error =
            |key: &str, what: String| Error::Key { path: path.to_owned(), key: key.to_owned(), what };
        for key in metadata.keys() {
            if let Some(canonical) = aliases::canonical(key) {
                return Err(key_error(key, format!("this key is written as {canonical}")));
            }
        }
        let metadata = declare_types(metadata, tensors);
        let mut metadata =
            serde_json::to_vec(&metadata).map_err(|error| key_error("metadata", error.to_string()))?;
        let metadata_size = u32::try_from(metadata.len()).map_err(|_| {
            key_error("metadata", format!("expected less than 4 GiB, found {}", metadata.len()))
        })?;
        pad(&mut metadata);
        let mut index = encode_index(tensors, &key_error)?;
        pad(&mut index);

        let index_offset = (SIZE + metadata.len()) as u64;
        let header = Header {
            flags,
            tensor_count: u32::try_from(tensors.len())
                .map_err(|_| key_error("tensors", format!("too many: {}", tensors.len())))?,
            metadata_offset: SIZE as u64,
            metadata_size,
            index_offset,
            data_offset: index_offset + index.len() as u64,
        };
        let mut stream = TensorStream::new(out, path, tensors, ALIGNMENT);
        stream.header(&header.encode())?;
        stream.header(&metadata)?;
        stream.header(&index)?;
        Ok(Self { stream })
    }

    /// The flags that a file with these tensors should have.
    pub fn flags(metadata: &Map<String, Value>, tensors: &[TensorSpec]) -> u16 {
        let mut bits = flags::LAYOUT_ROW_MAJOR;
        if metadata.contains_key("tokenizer.vocabulary") {
            bits |= flags::HAS_VOCAB;
        }
        if tensors.iter().any(|tensor| !tensor.tensor_type.is_float()) {
            bits |= flags::QUANTIZED;
        }
        bits
    }

    /// The next bytes of the tensors' data. A piece may reach over the end of a tensor into the next one.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write(bytes)
    }

    /// Writes the checksum and returns the stream. Tensors whose bytes did not come are an error.
    pub fn finish(mut self) -> Result<W, Error> {
        self.stream.end_tensors(None)?;
        let checksum = self.stream.checksum();
        self.stream.header(&checksum.to_le_bytes())?;
        self.stream.finish(Some(0))
    }
}

/// Adds the declaration of private type codes, or takes away one that declares none of these tensors.
fn declare_types(metadata: &Map<String, Value>, tensors: &[TensorSpec]) -> Map<String, Value> {
    let mut private: Vec<_> = tensors
        .iter()
        .map(|tensor| tensor.tensor_type)
        .filter(|&tensor_type| !dtype::is_interoperable(tensor_type))
        .collect();
    private.sort_unstable();
    private.dedup();
    let mut metadata = metadata.clone();
    metadata.shift_remove(EXT_DTYPES_KEY);
    if !private.is_empty() {
        let declared = private.iter().filter_map(|&tensor_type| {
            Some((dtype::code(tensor_type)?.to_string(), Value::from(tensor_type.name())))
        });
        metadata.insert(EXT_DTYPES_KEY.to_owned(), Value::Object(declared.collect()));
    }
    metadata
}

fn encode_index(
    tensors: &[TensorSpec],
    key_error: &impl Fn(&str, String) -> Error,
) -> Result<Vec<u8>, Error> {
    if let Some(twice) = duplicate(tensors.iter().map(|tensor| tensor.name.as_str())) {
        return Err(key_error(twice, "two tensors have this name".to_owned()));
    }
    let mut entries: Vec<(&str, Vec<u8>)> = Vec::with_capacity(tensors.len());
    let mut offset = 0_u64;
    for TensorSpec { name, tensor_type, shape, bytes } in tensors {
        let error = |what: String| Err(key_error(name, what));
        let (Ok(length @ 1..=256), Ok(dimensions @ ..=8)) =
            (u16::try_from(name.len()), u8::try_from(shape.len()))
        else {
            return error("APR tensors have names of 1 to 256 bytes and at most 8 dimensions".to_owned());
        };
        if shape.contains(&0) {
            return error(format!("expected dimensions of 1 and more, found {shape:?}"));
        }
        let Some(code) = dtype::code(*tensor_type) else {
            return error(format!("APR has no code for {tensor_type}"));
        };
        let expected = stored_bytes(*tensor_type, shape);
        if *bytes != 0 && expected != Some(*bytes) {
            return error(format!("{tensor_type} of shape {shape:?} takes {expected:?} bytes, not {bytes}"));
        }
        let mut entry = Vec::with_capacity(name.len() + 8 * shape.len() + 20);
        entry.extend(length.to_le_bytes());
        entry.extend(name.as_bytes());
        entry.extend([code, dimensions]);
        entry.extend(shape.iter().flat_map(|&dim| (dim as u64).to_le_bytes()));
        entry.extend(offset.to_le_bytes());
        entry.extend((*bytes as u64).to_le_bytes());
        entries.push((name, entry));
        offset = (*bytes as u64)
            .checked_next_multiple_of(ALIGNMENT as u64)
            .and_then(|padded| padded.checked_add(offset))
            .ok_or_else(|| key_error(name, "the sum of the tensors' sizes overflows".to_owned()))?;
    }
    entries.sort_unstable_by_key(|&(name, _)| name);
    Ok(entries.into_iter().flat_map(|(_, entry)| entry).collect())
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}
