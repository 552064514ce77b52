//! GGUF files, versions 2 and 3, little-endian.
//!
//! The layout, in order (the GGUF specification in ggml's `docs/gguf.md`; the checks are those of llama.cpp's loader,
//! so that what is read here also loads there):
//!
//! ```text
//! "GGUF" | version u32 | tensor count u64 | metadata count u64
//! metadata: key (u64 length, bytes) | type u32 | value                        once per key
//! tensor:   name (u64 length, bytes) | dimension count u32 | dimensions u64, fastest first | type u32 | offset u64
//! zeros up to a multiple of `general.alignment` (32 if absent)
//! data: each tensor at its offset from here, padded to the alignment, in the order of the list, without gaps
//! ```

mod metadata;
mod read;
mod value;
mod write;

pub use metadata::Metadata;
pub use value::{Array, Strings, Value};
pub use write::GgufWriter;

use super::names::NameIndex;
use super::{Error, Map, Tensor};
use std::path::Path;

/// The first four bytes of a file.
const MAGIC: &[u8; 4] = b"GGUF";
/// The alignment of a file that does not say.
const DEFAULT_ALIGNMENT: usize = 32;
/// The metadata key that says it.
const ALIGNMENT_KEY: &str = "general.alignment";
/// llama.cpp keeps tensor names in 64 bytes with a zero at the end.
const MAX_TENSOR_NAME: usize = 63;
/// Tensors have at most so many dimensions.
const MAX_DIMENSIONS: usize = 4;

/// A GGUF file: its metadata and tensors, all checked. The tensors' bytes stay in the map.
#[derive(Clone, Debug)]
pub struct Gguf {
    map: Map,
    version: u32,
    alignment: usize,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    index: NameIndex,
    tail: usize,
}

impl Gguf {
    /// Maps and reads the file at `path`.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_map(Map::open(path)?)
    }

    /// Reads a file that is mapped already.
    pub fn from_map(map: Map) -> Result<Self, Error> {
        read::read(map)
    }

    /// The file that was opened.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The container's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// What tensor offsets are multiples of, in bytes.
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// Bytes behind the last tensor's own bytes (padding that most writers append, fewer than the alignment).
    pub fn tail(&self) -> usize {
        self.tail
    }

    /// All metadata, in the order of the file.
    pub fn metadata(&self) -> &[(String, Value)] {
        self.metadata.entries()
    }

    /// All metadata, with typed getters, to pass on without the file.
    pub fn typed_metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The value of a metadata key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// See [`Metadata::u32`].
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.metadata.u32(key)
    }

    /// See [`Metadata::usize`].
    pub fn usize(&self, key: &str) -> Result<Option<usize>, Error> {
        self.metadata.usize(key)
    }

    /// See [`Metadata::f32`].
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.metadata.f32(key)
    }

    /// See [`Metadata::bool`].
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.metadata.bool(key)
    }

    /// See [`Metadata::string`].
    pub fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        self.metadata.string(key)
    }

    /// See [`Metadata::strings`].
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, Error> {
        self.metadata.strings(key)
    }

    /// See [`Metadata::u32s`].
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, Error> {
        self.metadata.u32s(key)
    }

    /// See [`Metadata::i32s`].
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, Error> {
        self.metadata.i32s(key)
    }

    /// See [`Metadata::f32s`].
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        self.metadata.f32s(key)
    }

    /// Refuses a file that is one of several: it lacks the tensors of the others.
    ///
    /// # Errors
    /// [`Error::Key`] where `split.count` is more than 1.
    pub fn refuse_parts(&self) -> Result<(), Error> {
        match self.get("split.count").and_then(Value::integer) {
            Some(parts) if parts > 1 => Err(Error::Key {
                path: self.path().to_owned(),
                key: "split.count".to_owned(),
                what: format!(
                    "this is one of {parts} parts of a model; merge them first (llama-gguf-split --merge)"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// All tensors, in the order of the file. A vocabulary-only file has none.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.find(name, |i| &self.tensors[i].name).and_then(|i| self.tensors.get(i))
    }
}
