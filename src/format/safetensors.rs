//! Safetensors files: a JSON header, then the tensors' bytes without gaps.

use super::stream::TensorStream;
use super::tensor::stored_bytes;
use super::{Error, Map, Tensor, TensorSpec};
use crate::quant::TensorType;
use safetensors::tensor::{Dtype, Metadata, SafeTensors};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::json;
use std::collections::HashSet;
use std::fmt;
use std::io::Write;
use std::path::Path;

/// The tensors of one safetensors file, sorted by where they lie in it.
///
/// The crate `safetensors` reads the header and checks that the tensors cover the data exactly; here keys that appear
/// twice, types that models do not use, and extents are checked.
pub fn read(map: &Map) -> Result<Vec<Tensor>, Error> {
    let bytes = map.bytes();
    let error = |offset: usize, what: String| Error::Bytes {
        path: map.path().to_owned(),
        offset: offset as u64,
        what,
    };
    let (header_size, metadata): (usize, Metadata) = SafeTensors::read_metadata(bytes)
        .map_err(|cause| error(0, format!("expected a safetensors header, found: {cause}")))?;
    let header = header_size.checked_add(8).and_then(|data| Some((bytes.get(8..data)?, data)));
    let Some((header, data)) = header else {
        return Err(error(0, format!("a header of {header_size} bytes does not lie in the file")));
    };
    if let Err(cause) = serde_json::from_slice::<UniqueKeys>(header) {
        return Err(error(8, format!("expected a safetensors header, found: {cause}")));
    }

    let mut tensors = Vec::new();
    for (name, info) in metadata.tensors() {
        let key_error = |what: String| Error::Key { path: map.path().to_owned(), key: name.clone(), what };
        let Some(tensor_type) = tensor_type(info.dtype) else {
            return Err(key_error(format!("expected a type of F32, F16 or BF16, found {:?}", info.dtype)));
        };
        let (start, end) = info.data_offsets;
        let range = data.checked_add(start).zip(data.checked_add(end)).map(|(start, end)| start..end);
        let range = range.filter(|range| range.start <= range.end && range.end <= bytes.len());
        let Some(range) = range else {
            return Err(key_error(format!("its bytes {start} to {end} of the data do not lie in the file")));
        };
        let shape = info.shape.clone();
        if shape.contains(&0) {
            return Err(key_error(format!("expected dimensions of 1 and more, found {shape:?}")));
        }
        match stored_bytes(tensor_type, &shape) {
            Some(expected) if expected == range.len() => {}
            _ => {
                return Err(key_error(format!(
                    "found {} bytes for {tensor_type} of shape {shape:?}",
                    range.len()
                )));
            }
        }
        tensors.push(Tensor { name, tensor_type, shape, map: map.clone(), range });
    }
    tensors.sort_unstable_by(|a, b| (a.range.start, &a.name).cmp(&(b.range.start, &b.name)));
    for pair in tensors.windows(2) {
        if let [a, b] = pair
            && a.range.end > b.range.start
        {
            let what = format!("the tensors {} and {} overlap", a.name, b.name);
            return Err(error(b.range.start, what));
        }
    }
    Ok(tensors)
}

fn tensor_type(dtype: Dtype) -> Option<TensorType> {
    Some(match dtype {
        Dtype::F32 => TensorType::F32,
        Dtype::F16 => TensorType::F16,
        Dtype::BF16 => TensorType::BF16,
        // Buffers that some checkpoints carry beside their weights.
        Dtype::I8 => TensorType::I8,
        Dtype::I16 => TensorType::I16,
        Dtype::I32 => TensorType::I32,
        Dtype::I64 => TensorType::I64,
        Dtype::F64 => TensorType::F64,
        _ => return None,
    })
}

/// Writes a safetensors file to a stream: the header first, then the tensors' bytes in the order of the list.
#[derive(Debug)]
pub struct SafetensorsWriter<W: Write> {
    stream: TensorStream<W>,
}

impl<W: Write> SafetensorsWriter<W> {
    /// Writes the header. `path` is the file that errors name; tensors are F32, F16 or BF16, the wider types first, so
    /// that each starts at a multiple of its size.
    pub fn new(out: W, path: &Path, tensors: &[TensorSpec]) -> Result<Self, Error> {
        let error = |key: &str, what: String| Error::Key { path: path.to_owned(), key: key.to_owned(), what };
        let mut header = serde_json::Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        let mut offset = 0_usize;
        for tensor in tensors {
            if !tensor.tensor_type.is_float() {
                let what =
                    format!("safetensors files here hold F32, F16 and BF16, not {}", tensor.tensor_type);
                return Err(error(&tensor.name, what));
            }
            let end = offset
                .checked_add(tensor.bytes)
                .ok_or_else(|| error(&tensor.name, "the sum of the tensors' sizes overflows".to_owned()))?;
            let entry = json!({
                "dtype": tensor.tensor_type.name(), "shape": tensor.shape, "data_offsets": [offset, end]
            });
            if header.insert(tensor.name.clone(), entry).is_some() {
                return Err(error(&tensor.name, "two tensors have this name".to_owned()));
            }
            offset = end;
        }
        let mut header =
            serde_json::to_vec(&header).map_err(|cause| error("the header", cause.to_string()))?;
        header.resize(header.len().next_multiple_of(8), b' ');
        let mut stream = TensorStream::new(out, path, tensors, 1);
        stream.header(&(header.len() as u64).to_le_bytes())?;
        stream.header(&header)?;
        Ok(Self { stream })
    }

    /// The next bytes of the tensors' data.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write(bytes)
    }

    /// Returns the stream. Tensors whose bytes did not come are an error.
    pub fn finish(self) -> Result<W, Error> {
        self.stream.finish(Some(0))
    }
}

/// A JSON object whose keys are all different; nothing is kept of it.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = UniqueKeys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tensor names to tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<UniqueKeys, A::Error> {
                let mut seen = HashSet::new();
                while let Some(key) = entries.next_key::<String>()? {
                    entries.next_value::<IgnoredAny>()?;
                    if let Some(twice) = seen.replace(key) {
                        return Err(serde::de::Error::custom(format!("the tensor {twice:?} appears twice")));
                    }
                }
                Ok(UniqueKeys)
            }
        }
        deserializer.deserialize_map(Keys)
    }
}
