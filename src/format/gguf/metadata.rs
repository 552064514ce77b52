//! The ordered metadata of a GGUF file, and getters that check types.

use super::{Array, Strings, Value};
use crate::format::Error;
use crate::format::names::NameIndex;
use std::path::{Path, PathBuf};

/// Keys and values in the order of the file. Keys are unique.
///
/// The typed getters return `Ok(None)` for a key that is not there and an [`Error::Key`] that names the key, the type
/// expected and the one found for a value of another kind. Integers of another width are accepted where the value fits.
#[derive(Clone, Debug)]
pub struct Metadata {
    path: PathBuf,
    entries: Vec<(String, Value)>,
    index: NameIndex,
}

impl Metadata {
    /// Metadata made of `entries`; `path` is the file that errors name. A key that appears twice is an error.
    pub fn new(path: &Path, entries: Vec<(String, Value)>) -> Result<Self, Error> {
        let index = NameIndex::new(entries.len(), |i| &entries[i].0).map_err(|twice| Error::Key {
            path: path.to_owned(),
            key: twice.clone(),
            what: "the key appears twice; each metadata key may appear once".to_owned(),
        })?;
        Ok(Self { path: path.to_owned(), entries, index })
    }

    /// The file that errors name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys and values, in the order of the file.
    pub fn entries(&self) -> &[(String, Value)] {
        &self.entries
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let at = self.index.find(key, |i| &self.entries[i].0)?;
        Some(&self.entries[at].1)
    }

    /// An integer that fits 32 bits.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.typed(key, "an unsigned 32-bit integer", |value| u32::try_from(value.integer()?).ok())
    }

    /// An integer that fits a `usize`.
    pub fn usize(&self, key: &str) -> Result<Option<usize>, Error> {
        self.typed(key, "an unsigned integer", |value| usize::try_from(value.integer()?).ok())
    }

    /// A 32-bit float, or a 64-bit float that is one exactly.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.typed(key, "a 32-bit float", |value| match *value {
            Value::F32(v) => Some(v),
            Value::F64(v) => exact_f32(v),
            _ => None,
        })
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "a bool", |value| match *value {
            Value::Bool(v) => Some(v),
            _ => None,
        })
    }

    /// A UTF-8 string.
    pub fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        self.typed(key, "a UTF-8 string", Value::as_str)
    }

    /// An array of strings, which need not be UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<&Strings>, Error> {
        self.typed_array(key, "an array of strings", |array| match array {
            Array::String(strings) => Some(strings),
            _ => None,
        })
    }

    /// An array of integers that each fit `u32`.
    pub fn u32s(&self, key: &str) -> Result<Option<Vec<u32>>, Error> {
        self.typed_array(key, "an array of unsigned 32-bit integers", Array::integers)
    }

    /// An array of integers that each fit `i32`.
    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>, Error> {
        self.typed_array(key, "an array of 32-bit integers", Array::integers)
    }

    /// An array of 32-bit floats, or of 64-bit floats that are 32-bit ones exactly.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, Error> {
        self.typed_array(key, "an array of 32-bit floats", |array| match array {
            Array::F32(values) => Some(values.clone()),
            Array::F64(values) => values.iter().map(|&v| exact_f32(v)).collect(),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => Err(Error::Key {
                path: self.path.clone(),
                key: key.to_owned(),
                what: format!("expected {expected}, found {}", value.describe()),
            }),
        }
    }

    fn typed_array<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl FnOnce(&'a Array) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        self.typed(key, expected, |value| match value {
            Value::Array(array) => convert(array),
            _ => None,
        })
    }
}

fn exact_f32(value: f64) -> Option<f32> {
    let narrow = value as f32;
    (f64::from(narrow).to_bits() == value.to_bits()).then_some(narrow)
}
