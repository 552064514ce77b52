//! GGUF to APR.

use super::reencode::{Output, write_all};
use super::{Options, Progress, Report, apr_keys, names};
use crate::format::apr::{Apr, AprWriter, GgufOrigin};
use crate::format::gguf::{Gguf, Metadata, Value as GgufValue};
use crate::format::write::AtomicFile;
use crate::format::{Error, TensorSpec};
use crate::quant::TensorType;
use std::io::Write;
use std::path::Path;

/// Converts the GGUF file `input` to the APR file `output`, which appears whole, read back and verified, or not at all.
pub fn gguf_to_apr(
    input: &Path,
    output: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    let gguf = Gguf::open(input)?;
    let file = AtomicFile::create(output, &[input])?;
    let (file, report) = write_apr(&gguf, file, output, options, progress)?;
    file.commit_if(|path| Apr::open(path).map(|_| ()))?;
    Ok(report)
}

/// Writes a GGUF file as APR to any stream. `path` is what errors call that stream.
pub fn write_apr<W: Write>(
    gguf: &Gguf,
    out: W,
    path: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<(W, Report), Error> {
    let parts = gguf.get("split.count").and_then(GgufValue::integer).unwrap_or(1);
    if parts > 1 {
        return Err(Error::Key {
            path: gguf.path().to_owned(),
            key: "split.count".to_owned(),
            what: format!(
                "this is one of {parts} parts of a model; merge them first (llama-gguf-split --merge)"
            ),
        });
    }
    let architecture = gguf.string("general.architecture")?.unwrap_or_default();
    let mut outputs = Vec::with_capacity(gguf.tensors().len());
    for tensor in gguf.tensors() {
        let name = names::apr_name(architecture, &tensor.name);
        outputs.push(if options.compat && !is_compatible(tensor.tensor_type) {
            Output::decode(tensor, &name, false)?
        } else {
            Output::copy(tensor, &name)
        });
    }
    let specs: Vec<TensorSpec> = outputs.iter().map(|output| output.spec.clone()).collect();

    let (mut metadata, notes) = apr_keys::from_gguf(gguf)?;
    let mut report = Report { notes, ..Report::default() };
    let mut entries = gguf.metadata().to_vec();
    if let Some(name) = &options.name {
        metadata.insert("name".to_owned(), name.as_str().into());
        match entries.iter_mut().find(|(key, _)| key == "general.name") {
            Some((_, value)) => *value = name.as_str().into(),
            None => entries.push(("general.name".to_owned(), name.as_str().into())),
        }
    }
    let origin = GgufOrigin {
        version: gguf.version(),
        tail: gguf.tail(),
        tensors: gguf.tensors().iter().map(|tensor| (tensor.name.clone(), tensor.tensor_type)).collect(),
        metadata: Metadata::new(gguf.path(), entries)?,
    };
    origin.store(&mut metadata);
    metadata.insert("total_size".to_owned(), specs.iter().map(|spec| spec.bytes as u64).sum::<u64>().into());

    let flags = AprWriter::<W>::flags(&metadata, &specs);
    let mut writer = AprWriter::new(out, path, flags, &metadata, &specs)?;
    write_all(&outputs, &mut report, progress, &mut |bytes| writer.write(bytes))?;
    Ok((writer.finish()?, report))
}

/// Whether the published `apr` reads this type.
fn is_compatible(tensor_type: TensorType) -> bool {
    matches!(
        tensor_type,
        TensorType::F32
            | TensorType::F16
            | TensorType::BF16
            | TensorType::Q4_K
            | TensorType::Q6_K
            | TensorType::AprQ4
    )
}
