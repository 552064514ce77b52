//! Any model as a folder of lattice's: matrices in LatticeQ4, all else in float16, a file per tensor and an index; the
//! rest is a Hugging Face folder, `config.json` above all, without which nobody can tell which model the tensors make.

use super::plan::Plan;
use super::reencode::Output;
use super::{Options, Progress, Reencoded, Report, folder_texts, to_hugging_face};
use crate::format::huggingface::HuggingFace;
use crate::format::write::AtomicFolder;
use crate::format::{Error as FormatError, TensorSpec, lattice};
use crate::model::{Error, Model, Source};
use crate::quant::{LatticeMode, TensorType, encode_lattice};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Values that are encoded at a time: whole blocks.
const PIECE: usize = 1 << 16;

/// Writes `source` as the folder `target`, which appears whole or not at all. Tensors that are LatticeQ4 already are copied,
/// whatever `mode` says.
///
/// # Errors
/// The source is not a model that is known, a value is not finite or too large, or the folder cannot be written.
pub fn export_lattice(
    source: &Source,
    target: &Path,
    mode: LatticeMode,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    let mut report = Report::default();
    let (config, defaults) = source.config()?;
    for default in defaults {
        report.notes.push(format!("default taken: {} = {}: {}", default.key, default.value, default.why));
    }
    let spec = source.tokenizer_spec()?;
    let folder = AtomicFolder::create(target)?;
    let plan = Plan::of(source, options, &mut report)?;
    let mut outputs = Vec::new();
    for output in to_hugging_face::named(plan, &config)? {
        let matrix = output.spec.shape.len() >= 2 && output.spec.name.ends_with("weight");
        let to = if matrix { TensorType::LatticeQ4 } else { TensorType::F16 };
        outputs.push(output.encoded(to, None)?);
    }
    outputs.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    let specs: Vec<TensorSpec> = outputs.iter().map(|output| output.spec.clone()).collect();

    folder_texts::write(source, &config, &spec, TensorType::F16, folder.path(), target)?;
    let index = folder_texts::pretty(&lattice::index(&specs), &target.join(lattice::INDEX))?;
    let index_path = folder.path().join(lattice::INDEX);
    std::fs::write(&index_path, index)
        .map_err(|source| FormatError::Io { path: target.join(lattice::INDEX), source })?;

    let total = specs.iter().map(|spec| spec.bytes as u64).sum();
    let mut done = 0;
    progress(Progress { done, total });
    for output in &outputs {
        let name = lattice::file_name(&output.spec);
        let io = |source: std::io::Error| FormatError::Io { path: target.join(&name), source };
        let file = File::create_new(folder.path().join(&name)).map_err(io)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        out.write_all(&lattice::header(&output.spec).unwrap_or_default()).map_err(io)?;
        let bytes = write_tensor(output, mode, options, &mut |bytes| out.write_all(bytes).map_err(io))?;
        out.flush().map_err(io)?;
        output.source.map.release(output.source.range.clone());
        done += bytes;
        progress(Progress { done, total });
        report.tensors += 1;
        report.bytes_read += output.bytes_read();
        report.bytes_written += bytes;
        if output.source.tensor_type != output.spec.tensor_type {
            report.reencoded.push(Reencoded {
                name: output.source.name.clone(),
                from: output.source.tensor_type,
                to: output.spec.tensor_type,
                bytes_read: output.bytes_read(),
                bytes_written: bytes,
                exact: false,
            });
        }
    }
    let written = Model::from_source(Source::HuggingFace(HuggingFace::open(folder.path())?))?;
    written.tokenizer()?;
    folder.commit()?;
    Ok(report)
}

/// Writes one tensor and returns its size. LatticeQ4's blocks run over the ends of rows, so that what one piece of rows
/// leaves over is encoded with the next.
fn write_tensor(
    output: &Output,
    mode: LatticeMode,
    options: &Options,
    sink: &mut dyn FnMut(&[u8]) -> Result<(), FormatError>,
) -> Result<u64, FormatError> {
    let to = output.spec.tensor_type;
    if to != TensorType::LatticeQ4 || output.source.tensor_type == to {
        output.write(options.threads(), sink)?;
        return Ok(output.spec.bytes as u64);
    }
    let floats = output.clone().encoded(TensorType::F32, None)?;
    let (mut waiting, mut start, mut written) = (Vec::<f32>::new(), 0, 0);
    let mut encode = |values: &[f32]| -> Result<(), FormatError> {
        let mut bytes = vec![0; values.len().div_ceil(to.block_len()) * to.block_bytes()];
        encode_lattice(values, mode, start, &mut bytes).map_err(|cause| FormatError::Key {
            path: output.source.map.path().to_owned(),
            key: output.source.name.clone(),
            what: cause.to_string(),
        })?;
        start += values.len();
        written += bytes.len() as u64;
        sink(&bytes)
    };
    floats.write(options.threads(), &mut |bytes| {
        waiting.extend(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)));
        let whole = waiting.len() / PIECE * PIECE;
        waiting.get(..whole).unwrap_or_default().chunks(PIECE).try_for_each(&mut encode)?;
        waiting.drain(..whole);
        Ok(())
    })?;
    if !waiting.is_empty() {
        encode(&waiting)?;
    }
    Ok(written)
}
