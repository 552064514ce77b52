//! Metadata added to a model file or changed in it. Tensors keep their bytes and their order: none is decoded.
//!
//! The new file replaces the old one in one step, as all files here do. Where the new metadata take exactly the room of the
//! old, tensors stay where they are: the system copies the file, which on file systems that share blocks writes nothing,
//! and only the head is written anew.

use super::plan::Plan;
use super::validate::gguf_type;
use super::{Options, Report, apr_keys, hf_tokenizer};
use crate::format::apr::{Apr, AprWriter, GgufOrigin};
use crate::format::gguf::{Array, Gguf, GgufWriter, Metadata, Value};
use crate::format::write::AtomicFile;
use crate::format::{Error as FormatError, Tensor, TensorSpec};
use crate::model::{ChatTemplate, Error, Source};
use serde_json::{Map, Value as Json};
use std::path::{Path, PathBuf};

/// What to add or change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// A folder with `tokenizer.json` or `tokenizer.model`, or one of these files. Replaces the file's tokenizer.
    pub tokenizer: Option<PathBuf>,
    /// The text of a chat template.
    pub chat_template: Option<String>,
    /// The licence.
    pub license: Option<String>,
    /// The model's name.
    pub name: Option<String>,
    /// Keys and values as text: GGUF keys, or keys of an APR file that was not made of a GGUF file. A value takes the
    /// type of the one that is there, of the one that llama.cpp demands, or that of its own spelling.
    pub set: Vec<(String, String)>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: String,
    /// What it said, if it was there.
    pub before: Option<String>,
    /// What it says; `None` where it is gone.
    pub after: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamped {
    /// Every key that changed.
    pub changes: Vec<Change>,
    /// Whether tensors stayed where they were in the file.
    pub in_place: bool,
    /// What else a user should know.
    pub notes: Vec<String>,
}

/// Writes `source` with `stamp` as `output`, which may be the source itself.
///
/// # Errors
/// A value of the wrong kind, a tokenizer or template that cannot be used, a source that is a folder, or the output cannot
/// be written.
pub fn stamp(source: &Source, output: &Path, stamp: &Stamp) -> Result<Stamped, Error> {
    let mut stamped = Stamped::default();
    match source {
        Source::Gguf(gguf) => {
            let rows = gguf.tensor("token_embd.weight").map(Tensor::rows);
            let mut entries = gguf.metadata().to_vec();
            edit(&mut entries, gguf.path(), rows, stamp, &stamp.set, &mut stamped)?;
            compare(gguf.metadata(), &entries, &mut stamped.changes);
            write_gguf(gguf, &entries, output, &mut stamped)?;
        }
        Source::Apr(apr) => {
            let metadata = match apr.gguf_origin()? {
                Some(origin) => with_origin(apr, origin, stamp, &mut stamped)?,
                None => without_origin(apr, stamp, &mut stamped)?,
            };
            write_apr(apr, &metadata, output, &mut stamped)?;
        }
        Source::HuggingFace(folder) => {
            let what =
                "a folder is stamped by editing its files; convert it to .gguf or .apr to stamp one file";
            return Err(error(folder.path(), "model", what).into());
        }
    }
    Ok(stamped)
}

fn error(path: &Path, key: &str, what: impl Into<String>) -> FormatError {
    FormatError::Key { path: path.to_owned(), key: key.to_owned(), what: what.into() }
}

/// Applies everything to GGUF metadata.
fn edit(
    entries: &mut Vec<(String, Value)>,
    path: &Path,
    rows: Option<usize>,
    stamp: &Stamp,
    set: &[(String, String)],
    stamped: &mut Stamped,
) -> Result<(), Error> {
    if let Some(tokenizer) = &stamp.tokenizer {
        replace_tokenizer(entries, tokenizer, rows, stamped)?;
    }
    if let Some(template) = &stamp.chat_template {
        ChatTemplate::new(template, None, None)
            .map_err(|source| Error::ChatTemplate { path: path.to_owned(), source })?;
        put(entries, "tokenizer.chat_template", template.as_str().into());
    }
    for (key, value) in [("general.license", &stamp.license), ("general.name", &stamp.name)] {
        if let Some(value) = value {
            put(entries, key, value.as_str().into());
        }
    }
    for (key, text) in set {
        let before = entries.iter().find(|(known, _)| known == key).map(|(_, value)| value);
        let architecture = entries.iter().find(|(known, _)| known == "general.architecture");
        let architecture = architecture.and_then(|(_, value)| value.as_str()).unwrap_or_default();
        let kind =
            before.map_or_else(|| gguf_type(architecture, key).map(str::to_owned), |v| Some(type_of(v)));
        let value = parse(text, kind.as_deref()).map_err(|what| error(path, key, what))?;
        put(entries, key, value);
    }
    Ok(())
}

fn put(entries: &mut Vec<(String, Value)>, key: &str, value: Value) {
    match entries.iter_mut().find(|(known, _)| known == key) {
        Some((_, known)) => *known = value,
        None => entries.push((key.to_owned(), value)),
    }
}

/// The tokenizer's keys, where the old ones began; the old ones go.
fn replace_tokenizer(
    entries: &mut Vec<(String, Value)>,
    path: &Path,
    rows: Option<usize>,
    stamped: &mut Stamped,
) -> Result<(), Error> {
    let folder = match path.parent() {
        _ if path.is_dir() => path,
        Some(parent) if path.is_file() && !parent.as_os_str().is_empty() => parent,
        Some(_) if path.is_file() => Path::new("."),
        _ => return Err(FormatError::Missing { path: path.to_owned() }.into()),
    };
    let (mut report, mut new) = (Report::default(), Vec::new());
    hf_tokenizer::add(folder, rows, &mut report, &mut |key: &str, value: Value| {
        new.push((key.to_owned(), value));
    })?;
    stamped.notes.extend(report.notes);
    let is_old = |(key, _): &(String, Value)| {
        key.starts_with("tokenizer.ggml.") || new.iter().any(|(replaced, _)| replaced == key)
    };
    let at = entries.iter().position(is_old).unwrap_or(entries.len());
    entries.retain(|entry| !is_old(entry));
    entries.splice(at..at, new);
    Ok(())
}

fn type_of(value: &Value) -> String {
    match value {
        Value::Array(array) => format!("[{}]", array.element_type()),
        scalar => scalar.type_name().to_owned(),
    }
}

/// A value of this type, or of the type that its spelling asks for: `true`, `7`, `0.5`, `["a", "b"]`; anything else is a
/// string, and so is what stands in double quotes.
fn parse(text: &str, kind: Option<&str>) -> Result<Value, String> {
    let json: Option<Json> = serde_json::from_str(text).ok();
    let wrong = |kind: &str| format!("expected a value of type {kind}, found {text:?}");
    fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
        text.trim().parse().ok()
    }
    let float = |text: &str| number::<f32>(text).filter(|value| value.is_finite());
    if let Some(kind) = kind {
        let items = || json.as_ref().and_then(Json::as_array).ok_or_else(|| wrong(kind));
        let value = match kind {
            "u8" => number(text).map(Value::U8),
            "i8" => number(text).map(Value::I8),
            "u16" => number(text).map(Value::U16),
            "i16" => number(text).map(Value::I16),
            "u32" => number(text).map(Value::U32),
            "i32" => number(text).map(Value::I32),
            "u64" => number(text).map(Value::U64),
            "i64" => number(text).map(Value::I64),
            "f32" => float(text).map(Value::F32),
            "f64" => number(text).map(Value::F64),
            "bool" => number(text).map(Value::Bool),
            "[string]" => items()?
                .iter()
                .map(|item| item.as_str().map(str::as_bytes))
                .collect::<Option<_>>()
                .map(|strings| Array::String(strings).into()),
            "[i32]" => items()?
                .iter()
                .map(|item| item.as_i64().and_then(|item| item.try_into().ok()))
                .collect::<Option<_>>()
                .map(|integers| Array::I32(integers).into()),
            "[u32]" => items()?
                .iter()
                .map(|item| item.as_u64().and_then(|item| item.try_into().ok()))
                .collect::<Option<_>>()
                .map(|integers| Array::U32(integers).into()),
            "[f32]" => items()?
                .iter()
                .map(|item| item.as_f64().map(|item| item as f32))
                .collect::<Option<_>>()
                .map(|floats| Array::F32(floats).into()),
            "string" => Some(text.into()),
            _ => return Err(format!("values of type {kind} cannot be set")),
        };
        return value.ok_or_else(|| wrong(kind));
    }
    Ok(match json {
        Some(Json::Bool(value)) => Value::Bool(value),
        Some(Json::String(value)) => value.as_str().into(),
        Some(Json::Number(_)) => number(text)
            .map(Value::U32)
            .or_else(|| number(text).map(Value::I32))
            .or_else(|| number(text).map(Value::U64))
            .or_else(|| number(text).map(Value::I64))
            .or_else(|| float(text).map(Value::F32))
            .ok_or_else(|| wrong("number"))?,
        Some(Json::Array(items)) if !items.is_empty() => {
            let kinds = ["[string]", "[i32]", "[f32]"];
            let parsed = kinds.iter().find_map(|kind| parse(text, Some(kind)).ok());
            parsed.ok_or_else(|| "expected a list of strings or a list of numbers".to_owned())?
        }
        _ => text.into(),
    })
}

/// Every key that differs.
fn compare(before: &[(String, Value)], after: &[(String, Value)], changes: &mut Vec<Change>) {
    let find = |entries: &[(String, Value)], key: &str| {
        entries.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
    };
    for (key, value) in after {
        let old = find(before, key);
        // A NaN is no change to itself.
        if old.as_ref() != Some(value)
            && old.as_ref().map(super::diff::full) != Some(super::diff::full(value))
        {
            let before = old.as_ref().map(super::diff::show);
            changes.push(Change { key: key.clone(), before, after: Some(super::diff::show(value)) });
        }
    }
    for (key, value) in before.iter().filter(|(key, _)| find(after, key).is_none()) {
        changes.push(Change { key: key.clone(), before: Some(super::diff::show(value)), after: None });
    }
}

/// An APR file that carries the metadata of a GGUF file: those are edited, and APR's own keys follow from them.
fn with_origin(
    apr: &Apr,
    mut origin: GgufOrigin,
    stamp: &Stamp,
    stamped: &mut Stamped,
) -> Result<Map<String, Json>, Error> {
    let plan = Plan::of(&Source::Apr(apr.clone()), &Options::default(), &mut Report::default())?;
    let specs: Vec<TensorSpec> = plan.outputs.into_iter().map(|output| output.spec).collect();
    let (derived, _) = apr_keys::from_metadata(&origin.metadata, &specs)?;
    let before = origin.metadata.entries().to_vec();
    let rows =
        specs.iter().find(|spec| spec.name == "token_embd.weight").and_then(|s| s.shape.first().copied());
    let is_gguf = |key: &str| key.contains('.') || origin.metadata.get(key).is_some();
    let (gguf_keys, apr_only): (Vec<_>, Vec<_>) =
        stamp.set.iter().cloned().partition(|(key, _)| is_gguf(key));
    let mut entries = before.clone();
    edit(&mut entries, apr.path(), rows, stamp, &gguf_keys, stamped)?;
    compare(&before, &entries, &mut stamped.changes);
    let mut keys = apr.metadata().clone();
    for (key, text) in apr_only {
        if derived.get(&key).is_some_and(|value| !value.is_null()) {
            let what =
                "this key follows from the GGUF metadata in the file; set the GGUF key that it comes from";
            return Err(error(apr.path(), &key, what).into());
        }
        set_json(&mut keys, &key, &text, stamped);
    }
    origin.metadata = Metadata::new(apr.path(), entries)?;
    let (new, _) = apr_keys::from_metadata(&origin.metadata, &specs)?;
    for key in derived.keys().filter(|key| !new.contains_key(*key)) {
        keys.shift_remove(key);
    }
    for (key, value) in new {
        // The size is that of the tensors as they are stored here.
        if key != "total_size" {
            keys.insert(key, value);
        }
    }
    origin.store(&mut keys);
    Ok(keys)
}

/// An APR file of another program: its own keys are edited.
fn without_origin(apr: &Apr, stamp: &Stamp, stamped: &mut Stamped) -> Result<Map<String, Json>, Error> {
    let rows = ["model.embed_tokens.weight", "token_embd.weight"].iter().find_map(|name| apr.tensor(name));
    let architecture = apr.string("architecture")?.unwrap_or_default().to_owned();
    let mut entries = vec![("general.architecture".to_owned(), Value::from(architecture.as_str()))];
    edit(&mut entries, apr.path(), rows.map(Tensor::rows), stamp, &[], stamped)?;
    let given = Metadata::new(apr.path(), entries)?;
    let (new, _) = apr_keys::from_metadata(&given, &[])?;
    let mut keys = apr.metadata().clone();
    if stamp.tokenizer.is_some() {
        keys.retain(|key, _| !key.starts_with("tokenizer.") || key == "tokenizer.chat_template");
    }
    let wanted = |key: &str| match key {
        "name" => stamp.name.is_some(),
        "license" => stamp.license.is_some(),
        key => key == "chat_template" || key.starts_with("tokenizer."),
    };
    for (key, value) in new.into_iter().filter(|(key, _)| wanted(key)) {
        if key == "chat_template" {
            keys.shift_remove("tokenizer.chat_template");
        }
        let before = keys.get(&key).filter(|before| !before.is_null()).map(super::diff::show_json);
        let after = super::diff::show_json(&value);
        if before.as_ref() != Some(&after) {
            stamped.changes.push(Change { key: key.clone(), before, after: Some(after) });
        }
        keys.insert(key, value);
    }
    for (key, text) in &stamp.set {
        set_json(&mut keys, key, text, stamped);
    }
    Ok(keys)
}

fn set_json(keys: &mut Map<String, Json>, key: &str, text: &str, stamped: &mut Stamped) {
    let value = match keys.get(key) {
        Some(Json::String(_)) => text.into(),
        _ => serde_json::from_str(text).unwrap_or_else(|_| text.into()),
    };
    let before = keys.get(key).filter(|before| !before.is_null()).map(super::diff::show_json);
    stamped.changes.push(Change { key: key.to_owned(), before, after: Some(super::diff::show_json(&value)) });
    keys.insert(key.to_owned(), value);
}

fn write_gguf(
    gguf: &Gguf,
    entries: &[(String, Value)],
    output: &Path,
    stamped: &mut Stamped,
) -> Result<(), Error> {
    let specs: Vec<TensorSpec> = gguf.tensors().iter().map(TensorSpec::of).collect();
    let mut head = Vec::new();
    GgufWriter::new(&mut head, output, gguf.version(), entries, &specs)?;
    let mut file = AtomicFile::create(output, &[])?;
    stamped.in_place = gguf.tensors().first().is_some_and(|first| first.range.start == head.len());
    if stamped.in_place {
        file.fill_from(gguf.path())?;
        file.overwrite(0, &head)?;
    } else {
        let mut writer = GgufWriter::new(file, output, gguf.version(), entries, &specs)?;
        copy(gguf.tensors().iter(), &mut |bytes| writer.write(bytes))?;
        file = writer.finish(Some(gguf.tail()))?;
    }
    Ok(file.commit_if(|path| reopens(path, output))?)
}

fn write_apr(apr: &Apr, keys: &Map<String, Json>, output: &Path, stamped: &mut Stamped) -> Result<(), Error> {
    let mut tensors: Vec<&Tensor> = apr.tensors().iter().collect();
    tensors.sort_by_key(|tensor| tensor.range.start);
    let specs: Vec<TensorSpec> = tensors.iter().map(|tensor| TensorSpec::of(tensor)).collect();
    let flags = apr.flags() | AprWriter::<AtomicFile>::flags(keys, &specs);
    let mut head = Vec::new();
    AprWriter::new(&mut head, output, flags, keys, &specs)?;
    let mut file = AtomicFile::create(output, &[])?;
    if let Some(data) = same_places(&tensors, head.len()) {
        stamped.in_place = true;
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&head);
        checksum.update(data);
        file.fill_from(apr.path())?;
        file.overwrite(0, &head)?;
        file.overwrite((head.len() + data.len()) as u64, &checksum.finalize().to_le_bytes())?;
        return Ok(file.commit_if(|path| reopens(path, output))?);
    }
    let mut writer = AprWriter::new(file, output, flags, keys, &specs)?;
    copy(tensors.into_iter(), &mut |bytes| writer.write(bytes))?;
    Ok(writer.finish()?.commit_if(|path| reopens(path, output))?)
}

/// All bytes between the head and the checksum, where each tensor lies where a writer with a head of this size would put
/// it and a checksum is all that follows.
fn same_places<'a>(tensors: &[&'a Tensor], head: usize) -> Option<&'a [u8]> {
    let mut expected = head;
    for tensor in tensors {
        if !tensor.is_empty() && tensor.range.start != expected {
            return None;
        }
        expected = (expected + tensor.range.len()).next_multiple_of(64);
    }
    let bytes = tensors.first()?.map.bytes();
    (bytes.len() == expected + 4).then(|| bytes.get(head..expected))?
}

fn copy<'a>(
    tensors: impl Iterator<Item = &'a Tensor>,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    for tensor in tensors {
        tensor.bytes().chunks(4 << 20).try_for_each(&mut *sink)?;
        tensor.map.release(tensor.range.clone());
    }
    Ok(())
}

fn reopens(path: &Path, output: &Path) -> Result<(), FormatError> {
    Source::open(path).map(|_| ()).map_err(|cause| {
        error(output, "output", format!("what was written does not read back, and is thrown away: {cause}"))
    })
}
