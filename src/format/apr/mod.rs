//! APR files, version 2.
//!
//! The layout, in order, little-endian (observed in files of the published `apr-format` 0.72.3):
//!
//! ```text
//! header, 64 bytes (see `header`), with its own CRC-32
//! metadata: one JSON object, zeros up to a multiple of 64
//! index, one entry per tensor, names strictly increasing as bytes, zeros up to a multiple of 64:
//!     name length u16 | name | type u8 | dimension count u8 | dimensions u64, slowest first | offset u64 | size u64
//! data: each tensor at its offset from here, padded to 64, in any order
//! footer: CRC-32 of every byte before it; some writers leave it out
//! ```

mod aliases;
mod dtype;
mod gguf_metadata;
mod header;
mod read;
mod write;

pub use gguf_metadata::GgufOrigin;
pub use header::flags;
pub use write::AprWriter;

use super::gguf::Strings;
use super::{Error, Map, Tensor};
use serde_json::Value;
use std::path::Path;

/// Everything is padded to multiples of this.
const ALIGNMENT: usize = 64;
/// The metadata key that declares type codes which only aprgpu writes: an object from code to type name.
const EXT_DTYPES_KEY: &str = "aprgpu.ext_dtypes";
/// The metadata key that holds the metadata of the GGUF file which the file was made of.
const GGUF_KEY: &str = "aprgpu.gguf";

/// An APR file: its metadata and tensors, all checked. The tensors' bytes stay in the map.
#[derive(Clone, Debug)]
pub struct Apr {
    map: Map,
    flags: u16,
    metadata: serde_json::Map<String, Value>,
    tensors: Vec<Tensor>,
}

impl Apr {
    /// Maps and reads the file at `path`. Where there is a checksum, all bytes are read once to verify it.
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

    /// The header's flags, see [`flags`].
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// All metadata, in the order and spelling of the file.
    pub fn metadata(&self) -> &serde_json::Map<String, Value> {
        &self.metadata
    }

    /// The value of a metadata key by its canonical name, whichever of its known aliases the file uses
    /// (`num_hidden_layers` for `num_layers`, ...). A null counts as absent. Two spellings with different values are an
    /// error; [`Apr::from_map`] refuses such a file already.
    pub fn get(&self, canonical: &str) -> Result<Option<&Value>, Error> {
        aliases::get(self.path(), &self.metadata, canonical)
    }

    /// A number that is an integer from 0 to 2^32 - 1.
    pub fn u32(&self, canonical: &str) -> Result<Option<u32>, Error> {
        self.typed(canonical, "an unsigned 32-bit integer", |value| u32::try_from(integer(value)?).ok())
    }

    /// A number that is an integer and fits a `usize`.
    pub fn usize(&self, canonical: &str) -> Result<Option<usize>, Error> {
        self.typed(canonical, "an unsigned integer", |value| usize::try_from(integer(value)?).ok())
    }

    /// A number, rounded to 32 bits; one that overflows them is an error.
    pub fn f32(&self, canonical: &str) -> Result<Option<f32>, Error> {
        self.typed(canonical, "a 32-bit float", float)
    }

    /// A truth value.
    pub fn bool(&self, canonical: &str) -> Result<Option<bool>, Error> {
        self.typed(canonical, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn string(&self, canonical: &str) -> Result<Option<&str>, Error> {
        self.typed(canonical, "a string", Value::as_str)
    }

    /// An array of strings.
    pub fn strings(&self, canonical: &str) -> Result<Option<Strings>, Error> {
        self.typed(canonical, "an array of strings", |value| {
            value.as_array()?.iter().map(Value::as_str).collect::<Option<_>>()
        })
    }

    /// An array of integers that each fit `u32`.
    pub fn u32s(&self, canonical: &str) -> Result<Option<Vec<u32>>, Error> {
        self.typed(canonical, "an array of unsigned 32-bit integers", |value| {
            value.as_array()?.iter().map(|value| u32::try_from(integer(value)?).ok()).collect()
        })
    }

    /// An array of integers that each fit `i32`.
    pub fn i32s(&self, canonical: &str) -> Result<Option<Vec<i32>>, Error> {
        self.typed(canonical, "an array of 32-bit integers", |value| {
            value.as_array()?.iter().map(|value| i32::try_from(integer(value)?).ok()).collect()
        })
    }

    /// An array of numbers, rounded to 32 bits.
    pub fn f32s(&self, canonical: &str) -> Result<Option<Vec<f32>>, Error> {
        self.typed(canonical, "an array of 32-bit floats", |value| {
            value.as_array()?.iter().map(float).collect()
        })
    }

    /// All tensors, in the order of the index: names strictly increasing as bytes. A tensor may hold no bytes
    /// ([`Tensor::is_empty`]): a tied `lm_head.weight` is written so.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        let at = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name)).ok()?;
        self.tensors.get(at)
    }

    /// The metadata, exact and in order, of the GGUF file that this one was made of; `None` where it was not made of
    /// one. It is the better source for a configuration: JSON rounds, and has no key for RoPE scaling.
    pub fn gguf_origin(&self) -> Result<Option<GgufOrigin>, Error> {
        gguf_metadata::decode(self.path(), &self.metadata)
    }

    fn typed<'a, T>(
        &'a self,
        canonical: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(canonical)? else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(Error::Key {
                path: self.path().to_owned(),
                key: canonical.to_owned(),
                what: format!("expected {expected}, found {}", describe(value)),
            }),
        }
    }
}

/// A JSON number that is an integer, however it is spelled (`1e6` is one).
fn integer(value: &Value) -> Option<i128> {
    let number = value.as_number()?;
    let whole = |v: f64| (v.fract() == 0.0 && v.abs() < 9e15).then_some(v as i128);
    number
        .as_u64()
        .map(i128::from)
        .or_else(|| number.as_i64().map(i128::from))
        .or_else(|| number.as_f64().and_then(whole))
}

fn float(value: &Value) -> Option<f32> {
    value.as_f64().map(|v| v as f32).filter(|v| v.is_finite())
}

/// What an error message says was found.
fn describe(value: &Value) -> String {
    match value {
        Value::Array(values) => format!("an array of {} values", values.len()),
        Value::Object(_) => "an object".to_owned(),
        Value::String(string) if string.len() > 64 => format!("a string of {} bytes", string.len()),
        short => short.to_string(),
    }
}
