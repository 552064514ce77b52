//! APR to GGUF: the same file again where the APR file was made of one, a file that llama.cpp loads in any case.

use super::plan::Plan;
use super::reencode::Output;
use super::{Options, Progress, Report, apr_keys, gguf_keys, names};
use crate::format::apr::{Apr, GgufOrigin};
use crate::format::gguf::{Gguf, Value};
use crate::format::write::AtomicFile;
use crate::format::{Error, Tensor, TensorSpec};
use std::io::Write;
use std::path::Path;

/// Converts the APR file `input` to the GGUF file `output`, which appears whole, read back and verified, or not at all.
pub fn apr_to_gguf(
    input: &Path,
    output: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    let apr = Apr::open(input)?;
    let file = AtomicFile::create(output, &[input])?;
    let (file, report) = write_gguf(&apr, file, output, options, progress)?;
    file.commit_if(|path| Gguf::open(path).map(|_| ()))?;
    Ok(report)
}

/// Writes an APR file as GGUF to any stream. `path` is what errors call that stream.
pub fn write_gguf<W: Write>(
    apr: &Apr,
    out: W,
    path: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<(W, Report), Error> {
    let mut report = Report::default();
    let mut plan = plan(apr, &mut report)?;
    plan.rename(options);
    let out = plan.write_gguf(out, path, options, &mut report, progress)?;
    Ok((out, report))
}

/// The GGUF file that an APR file becomes.
pub(super) fn plan(apr: &Apr, report: &mut Report) -> Result<Plan, Error> {
    match apr.gguf_origin()? {
        Some(origin) => as_it_was(apr, origin, report),
        None => from_keys(apr, report),
    }
}

fn error(apr: &Apr, key: &str, what: String) -> Error {
    Error::Key { path: apr.path().to_owned(), key: key.to_owned(), what }
}

/// The file that the APR file was made of. Tensors that another program has stored in another type since keep it.
fn as_it_was(apr: &Apr, origin: GgufOrigin, report: &mut Report) -> Result<Plan, Error> {
    let architecture = origin.metadata.string("general.architecture")?.unwrap_or_default();
    let mut outputs = Vec::with_capacity(origin.tensors.len());
    let mut sources: Vec<TensorSpec> = Vec::with_capacity(origin.tensors.len());
    let mut changed = false;
    for (name, tensor_type) in &origin.tensors {
        let apr_name = names::apr_name(architecture, name);
        let tensor = apr.tensor(&apr_name).ok_or_else(|| {
            error(
                apr,
                &apr_name,
                format!("the file was made of a GGUF file with a tensor {name}, which is missing here"),
            )
        })?;
        let output = if tensor.tensor_type == *tensor_type {
            Output::copy(tensor, name)
        } else {
            changed = true;
            Output::for_gguf(tensor, name)?
        };
        sources.push(TensorSpec { name: name.clone(), ..TensorSpec::of(tensor) });
        outputs.push(output);
    }
    let held = apr.tensors().iter().filter(|tensor| !tensor.is_empty()).count();
    if held > origin.tensors.len() {
        let names: Vec<&str> = outputs.iter().map(|output| output.source.name.as_str()).collect();
        let extra =
            apr.tensors().iter().find(|tensor| !tensor.is_empty() && !names.contains(&tensor.name.as_str()));
        let key = extra.map_or("tensors", |tensor| &tensor.name);
        return Err(error(
            apr,
            key,
            "the GGUF file which this file was made of has no such tensor".to_owned(),
        ));
    }
    check_unchanged(apr, &origin, &sources)?;

    let mut metadata = origin.metadata.entries().to_vec();
    if changed {
        report.notes.push(
            "some tensors have other types than in the GGUF file that this file was made of".to_owned(),
        );
        if let Some((_, value)) = metadata.iter_mut().find(|(key, _)| key == gguf_keys::FILE_TYPE_KEY)
            && let Some(file_type) = gguf_keys::file_type(outputs.iter().map(|output| &output.spec))
        {
            *value = Value::U32(file_type);
        }
    }
    let tail = (!changed).then_some(origin.tail);
    Ok(Plan { path: apr.path().to_owned(), version: origin.version, metadata, outputs, tail })
}

/// The APR keys must still say what the GGUF metadata says: a file whose keys were edited would otherwise lose the edit.
fn check_unchanged(apr: &Apr, origin: &GgufOrigin, sources: &[TensorSpec]) -> Result<(), Error> {
    let (expected, _) = apr_keys::from_metadata(&origin.metadata, sources)?;
    for (key, expected) in &expected {
        // Vocabularies are compared by reference already, and sizes follow from the tensors.
        if expected.is_array() || matches!(key.as_str(), "total_size" | "param_count") {
            continue;
        }
        match apr.get(key)? {
            Some(found) if !same(found, expected) => {
                let what = format!(
                    "the file says {found}, but the GGUF metadata in it says {expected}; remove the key \
                     \"aprgpu.gguf\" to write a new GGUF file from the APR keys"
                );
                return Err(error(apr, key, what));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether two JSON values are equal, numbers to the precision of 32-bit floats, which all of GGUF's are here.
fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    match (a, b) {
        (serde_json::Value::Object(a), serde_json::Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b || matches!((a.as_f64(), b.as_f64()), (Some(a), Some(b)) if a as f32 == b as f32),
    }
}

/// A file that llama.cpp loads, from the APR keys alone.
fn from_keys(apr: &Apr, report: &mut Report) -> Result<Plan, Error> {
    let config = gguf_keys::Config::read(apr, report)?;
    let mut tensors: Vec<&Tensor> = apr.tensors().iter().filter(|tensor| !tensor.is_empty()).collect();
    tensors.sort_by_key(|tensor| tensor.range.start);
    let mut outputs = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let name = names::gguf_name(&tensor.name);
        if name.ends_with(".rotary_emb.inv_freq") {
            report.notes.push(format!("{}: left out; it follows from rope_theta", tensor.name));
            continue;
        }
        if !names::is_gguf(&name) {
            let what =
                format!("llama.cpp knows no such tensor in models of architecture {}", config.architecture);
            return Err(error(apr, &tensor.name, what));
        }
        if name == "output.weight" && config.is_copy_of_embedding(apr, tensor) {
            report.notes.push(format!("{}: left out; it is a copy of the embedding", tensor.name));
            continue;
        }
        for mut output in split_qkv(Output::for_gguf(tensor, &name)?, &config)? {
            if let Some(heads) = config.heads_to_permute(&output.spec.name) {
                output = output.permuted(heads)?;
            }
            outputs.push(output);
        }
    }
    let metadata = gguf_keys::metadata(apr, &config, &outputs, report)?;
    Ok(Plan { path: apr.path().to_owned(), version: 3, metadata, outputs, tail: None })
}

/// Old files of the peer hold q, k and v of a layer as one tensor, their rows one below the other.
fn split_qkv(output: Output, config: &gguf_keys::Config) -> Result<Vec<Output>, Error> {
    let Some((layer, kind)) = output.spec.name.split_once(".attn_qkv.") else { return Ok(vec![output]) };
    let mut start = 0;
    let parts =
        [("q", config.q_rows()), ("k", config.kv_rows()), ("v", config.kv_rows())].map(|(part, rows)| {
            let range = start..start + rows;
            start = range.end;
            output.part(&format!("{layer}.attn_{part}.{kind}"), range)
        });
    parts.into_iter().collect()
}
