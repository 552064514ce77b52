//! The metadata of a GGUF file inside an APR file, exact and in order, under the key `aprgpu.gguf`.
//!
//! ```text
//! { "version": 3, "tail": 0,
//!   "tensors":  [["token_embd.weight", "Q6_K"], ...],                 in the order of the GGUF file
//!   "metadata": [["general.architecture", "string", "qwen2"], ...] }  key, type, value
//! ```
//!
//! Array types are written `[u32]`, `[string]`, ... JSON cannot hold every value, so: a float that is not finite is
//! `{"bits": n}`; a string that is not UTF-8 is `{"hex": "..."}`. Vocabularies are large and the file holds them under
//! APR's own keys already: `{"from": key}` stands for the value of that key, `{"from": key, "except": {"7": ...}}` for
//! the same but for some elements.

use super::GGUF_KEY;
use crate::format::Error;
use crate::format::gguf::{Array, Metadata, Strings, Value as Gguf};
use crate::quant::TensorType;
use serde_json::{Map, Value, json};
use std::path::Path;

/// GGUF keys whose values an APR file holds under a key of its own.
const SHARED: &[(&str, &str)] = &[
    ("tokenizer.ggml.tokens", "tokenizer.vocabulary"),
    ("tokenizer.ggml.merges", "tokenizer.merges"),
    ("tokenizer.ggml.scores", "tokenizer.scores"),
    ("tokenizer.ggml.token_type", "tokenizer.token_type"),
    ("tokenizer.chat_template", "chat_template"),
];

/// What an APR file keeps of the GGUF file that it was made of.
#[derive(Clone, Debug)]
pub struct GgufOrigin {
    /// The container's version.
    pub version: u32,
    /// Bytes behind the last tensor's own.
    pub tail: usize,
    /// Names and types of the tensors, in the order of the GGUF file.
    pub tensors: Vec<(String, TensorType)>,
    /// All metadata.
    pub metadata: Metadata,
}

impl GgufOrigin {
    /// Stores this under its key in an APR file's metadata, which should hold its own keys already: what they hold
    /// exactly is not stored twice.
    pub fn store(&self, apr: &mut Map<String, Value>) {
        let tensors: Vec<Value> =
            self.tensors.iter().map(|(name, tensor_type)| json!([name, tensor_type.name()])).collect();
        let metadata: Vec<Value> = self
            .metadata
            .entries()
            .iter()
            .map(|(key, value)| {
                let shared = SHARED.iter().find(|(gguf, _)| gguf == key).map(|(_, apr_key)| *apr_key);
                let reference = shared.and_then(|apr_key| refer(apr_key, apr.get(apr_key)?, value));
                let encoded = reference.unwrap_or_else(|| encode(value));
                json!([key, type_name(value), encoded])
            })
            .collect();
        let origin =
            json!({ "version": self.version, "tail": self.tail, "tensors": tensors, "metadata": metadata });
        apr.insert(GGUF_KEY.to_owned(), origin);
    }
}

pub(super) fn decode(path: &Path, apr: &Map<String, Value>) -> Result<Option<GgufOrigin>, Error> {
    let Some(origin) = apr.get(GGUF_KEY) else { return Ok(None) };
    let error = |what: String| Error::Key { path: path.to_owned(), key: GGUF_KEY.to_owned(), what };
    let number = |key: &str| {
        let value = origin.get(key).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok());
        value.ok_or_else(|| error(format!("expected a number under {key:?}")))
    };
    let list = |key: &str| {
        let value = origin.get(key).and_then(Value::as_array);
        value.ok_or_else(|| error(format!("expected an array under {key:?}")))
    };
    let mut tensors = Vec::new();
    for (at, pair) in list("tensors")?.iter().enumerate() {
        let tensor = match pair.as_array().map(Vec::as_slice) {
            Some([Value::String(name), Value::String(tensor_type)]) => {
                TensorType::from_name(tensor_type).map(|tensor_type| (name.clone(), tensor_type))
            }
            _ => None,
        };
        tensors.push(
            tensor
                .ok_or_else(|| error(format!("tensors[{at}]: expected a name and a type, found {pair}")))?,
        );
    }
    let mut entries = Vec::new();
    for (at, triple) in list("metadata")?.iter().enumerate() {
        let Some([Value::String(key), Value::String(kind), value]) = triple.as_array().map(Vec::as_slice)
        else {
            return Err(error(format!("metadata[{at}]: expected a key, a type and a value")));
        };
        let value = decode_value(kind, value, apr);
        let value = value.ok_or_else(|| error(format!("{key}: expected a value of type {kind}")))?;
        entries.push((key.clone(), value));
    }
    let metadata = Metadata::new(path, entries)?;
    Ok(Some(GgufOrigin { version: number("version")?, tail: number("tail")? as usize, tensors, metadata }))
}

fn type_name(value: &Gguf) -> String {
    match value {
        Gguf::Array(array) => format!("[{}]", array.element_type()),
        scalar => scalar.type_name().to_owned(),
    }
}

/// A reference to an APR key, if that key holds this value, or nearly.
fn refer(apr_key: &str, apr: &Value, value: &Gguf) -> Option<Value> {
    let exact = json!({ "from": apr_key });
    let (Gguf::Array(array), Value::Array(apr)) = (value, apr) else {
        return (encode(value) == *apr).then_some(exact);
    };
    if array.len() != apr.len() {
        return None;
    }
    let mut except = Map::new();
    for (at, (element, apr)) in elements(array).zip(apr).enumerate() {
        if element != *apr {
            except.insert(at.to_string(), element);
        }
    }
    if except.is_empty() {
        Some(exact)
    } else if except.len() <= array.len() / 4 {
        Some(json!({ "from": apr_key, "except": except }))
    } else {
        None
    }
}

fn encode(value: &Gguf) -> Value {
    match value {
        Gguf::U8(v) => (*v).into(),
        Gguf::I8(v) => (*v).into(),
        Gguf::U16(v) => (*v).into(),
        Gguf::I16(v) => (*v).into(),
        Gguf::U32(v) => (*v).into(),
        Gguf::I32(v) => (*v).into(),
        Gguf::U64(v) => (*v).into(),
        Gguf::I64(v) => (*v).into(),
        Gguf::F32(v) => encode_f32(*v),
        Gguf::F64(v) => encode_f64(*v),
        Gguf::Bool(v) => (*v).into(),
        Gguf::String(v) => encode_string(v),
        Gguf::Array(array) => Value::Array(elements(array).collect()),
    }
}

/// The elements of an array in JSON, one by one.
fn elements(array: &Array) -> Box<dyn Iterator<Item = Value> + '_> {
    match array {
        Array::U8(values) => Box::new(values.iter().map(|&v| v.into())),
        Array::I8(values) => Box::new(values.iter().map(|&v| v.into())),
        Array::U16(values) => Box::new(values.iter().map(|&v| v.into())),
        Array::I16(values) => Box::new(values.iter().map(|&v| v.into())),
        Array::U32(values) => Box::new(values.iter().map(|&v| v.into())),
        Array::I32(values) => Box::new(values.iter().map(|&v| v.into())),
        Array::U64(values) => Box::new(values.iter().map(|&v| v.into())),
        Array::I64(values) => Box::new(values.iter().map(|&v| v.into())),
        Array::F32(values) => Box::new(values.iter().map(|&v| encode_f32(v))),
        Array::F64(values) => Box::new(values.iter().map(|&v| encode_f64(v))),
        Array::Bool(values) => Box::new(values.iter().map(|&v| v.into())),
        Array::String(values) => Box::new(values.iter().map(encode_string)),
    }
}

/// A float in JSON that comes back as it was: the shortest decimal where that holds, its bits where JSON has no number.
pub(crate) fn encode_f32(value: f32) -> Value {
    let survives = |number: f64| {
        let read: Option<f64> = serde_json::from_str(&Value::from(number).to_string()).ok();
        read.is_some_and(|read| (read as f32).to_bits() == value.to_bits())
    };
    let short = value.to_string().parse().ok().filter(|&short: &f64| short.is_finite() && survives(short));
    match short.or_else(|| Some(f64::from(value)).filter(|&exact| exact.is_finite() && survives(exact))) {
        Some(number) => number.into(),
        None => json!({ "bits": value.to_bits() }),
    }
}

/// JSON numbers do not carry every 64-bit float through every parser; their bits do.
fn encode_f64(value: f64) -> Value {
    json!({ "bits": value.to_bits() })
}

fn encode_string(bytes: &[u8]) -> Value {
    match std::str::from_utf8(bytes) {
        Ok(string) => string.into(),
        Err(_) => {
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "hex": hex })
        }
    }
}

fn decode_value(kind: &str, value: &Value, apr: &Map<String, Value>) -> Option<Gguf> {
    let shared = match value.get("from") {
        Some(from) => Some(apr.get(from.as_str()?)?),
        None => None,
    };
    let Some(element) = kind.strip_prefix('[').and_then(|kind| kind.strip_suffix(']')) else {
        return decode_scalar(kind, shared.unwrap_or(value));
    };
    let values = shared.unwrap_or(value).as_array()?;
    let except = value.get("except").and_then(Value::as_object);
    let values = values
        .iter()
        .enumerate()
        .map(|(at, value)| except.and_then(|except| except.get(&at.to_string())).unwrap_or(value));
    /// Every element as one type.
    macro_rules! all {
        ($variant:ident, $decode:expr) => {
            Array::$variant(values.map($decode).collect::<Option<_>>()?)
        };
    }
    let array = match element {
        "u8" => all!(U8, decode_integer),
        "i8" => all!(I8, decode_integer),
        "u16" => all!(U16, decode_integer),
        "i16" => all!(I16, decode_integer),
        "u32" => all!(U32, decode_integer),
        "i32" => all!(I32, decode_integer),
        "u64" => all!(U64, decode_integer),
        "i64" => all!(I64, decode_integer),
        "f32" => all!(F32, decode_f32),
        "f64" => all!(F64, decode_f64),
        "bool" => all!(Bool, Value::as_bool),
        "string" => {
            let mut strings = Strings::default();
            for value in values {
                match value.as_str() {
                    Some(string) => strings.push(string.as_bytes()),
                    None => strings.push(&decode_string(value)?),
                }
            }
            Array::String(strings)
        }
        _ => return None,
    };
    Some(array.into())
}

fn decode_scalar(kind: &str, value: &Value) -> Option<Gguf> {
    Some(match kind {
        "u8" => Gguf::U8(decode_integer(value)?),
        "i8" => Gguf::I8(decode_integer(value)?),
        "u16" => Gguf::U16(decode_integer(value)?),
        "i16" => Gguf::I16(decode_integer(value)?),
        "u32" => Gguf::U32(decode_integer(value)?),
        "i32" => Gguf::I32(decode_integer(value)?),
        "u64" => Gguf::U64(decode_integer(value)?),
        "i64" => Gguf::I64(decode_integer(value)?),
        "f32" => Gguf::F32(decode_f32(value)?),
        "f64" => Gguf::F64(decode_f64(value)?),
        "bool" => Gguf::Bool(value.as_bool()?),
        "string" => Gguf::String(decode_string(value)?),
        _ => return None,
    })
}

fn decode_integer<T: TryFrom<i128>>(value: &Value) -> Option<T> {
    let integer = value.as_u64().map(i128::from).or_else(|| value.as_i64().map(i128::from))?;
    T::try_from(integer).ok()
}

fn decode_f32(value: &Value) -> Option<f32> {
    match value.get("bits") {
        Some(bits) => Some(f32::from_bits(decode_integer(bits)?)),
        None => value.as_f64().map(|v| v as f32),
    }
}

fn decode_f64(value: &Value) -> Option<f64> {
    Some(f64::from_bits(decode_integer(value.get("bits")?)?))
}

fn decode_string(value: &Value) -> Option<Vec<u8>> {
    match value.get("hex") {
        None => value.as_str().map(|string| string.as_bytes().to_vec()),
        Some(hex) => {
            let hex = hex.as_str()?.as_bytes();
            let digit = |byte: u8| char::from(byte).to_digit(16);
            let (pairs, odd) = hex.as_chunks::<2>();
            if !odd.is_empty() {
                return None;
            }
            pairs.iter().map(|&[high, low]| u8::try_from(digit(high)? * 16 + digit(low)?).ok()).collect()
        }
    }
}
