//! A GGUF or APR file as a Hugging Face folder: weights in safetensors under Hugging Face's names and in its order of
//! rows, a config.json that says all that shapes the forward pass, the tokenizer and the chat template.

use super::plan::Plan;
use super::reencode::{Output, write_all};
use super::{Options, Progress, Report, folder_texts, names};
use crate::format::Error as FormatError;
use crate::format::TensorSpec;
use crate::format::huggingface::HuggingFace;
use crate::format::safetensors::SafetensorsWriter;
use crate::format::write::AtomicFolder;
use crate::model::{Error, Model, ModelConfig, RopePairing, Source};
use crate::quant::TensorType;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes `source` as the Hugging Face folder `target`, which appears whole or not at all. `dtype` is the type of
/// matrices, F32, F16 or BF16; `None` takes the source's own float type, and F16 where it is quantized. Vectors have it
/// too where it holds them exactly, and F32 otherwise.
///
/// # Errors
/// The source is not a model that is known, has something that `config.json` or `tokenizer.json` cannot say, or the
/// folder cannot be written.
pub fn export_hugging_face(
    source: &Source,
    target: &Path,
    dtype: Option<TensorType>,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    if let Source::HuggingFace(folder) = source {
        let what = "the source is a Hugging Face folder already".to_owned();
        return Err(
            FormatError::Key { path: folder.path().to_owned(), key: "output".to_owned(), what }.into()
        );
    }
    let mut report = Report::default();
    let (config, defaults) = source.config()?;
    for default in defaults {
        report.notes.push(format!("default taken: {} = {}: {}", default.key, default.value, default.why));
    }
    let spec = source.tokenizer_spec()?;
    report.notes.extend(spec.notes.iter().cloned());
    let folder = AtomicFolder::create(target)?;
    let plan = Plan::of(source, options, &mut report)?;
    let dtype = dtype.unwrap_or_else(|| own_type(&plan.outputs));
    let outputs = outputs(plan, &config, dtype)?;
    folder_texts::write(source, &config, &spec, dtype, folder.path(), target)?;
    let path = folder.path().join("model.safetensors");
    let io = |source: std::io::Error| FormatError::Io { path: path.clone(), source };
    let specs: Vec<TensorSpec> = outputs.iter().map(|output| output.spec.clone()).collect();
    let out = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(io)?);
    let mut writer = SafetensorsWriter::new(out, &path, &specs)?;
    write_all(&outputs, options.threads(), &mut report, progress, &mut |bytes| writer.write(bytes))?;
    writer.finish()?.flush().map_err(io)?;
    // What was written must be a model, with the same configuration and a tokenizer.
    let written = Model::from_source(Source::HuggingFace(HuggingFace::open(folder.path())?))?;
    written.tokenizer()?;
    folder.commit()?;
    Ok(report)
}

/// The float type of the source's matrices; F16 where they are quantized.
fn own_type(outputs: &[Output]) -> TensorType {
    let matrices = || outputs.iter().filter(|output| output.spec.shape.len() > 1);
    let first = matrices().map(|output| output.source.tensor_type).next();
    first
        .filter(|first| first.is_float() && matrices().all(|output| output.source.tensor_type == *first))
        .unwrap_or(TensorType::F16)
}

/// The tensors in the type that they are written in, wider types first, then by name.
fn outputs(plan: Plan, config: &ModelConfig, dtype: TensorType) -> Result<Vec<Output>, Error> {
    let mut outputs = Vec::with_capacity(plan.outputs.len());
    for output in named(plan, config)? {
        let vector = output.spec.shape.len() <= 1;
        let to = if vector && !output.is_exact_in(dtype)? { TensorType::F32 } else { dtype };
        outputs.push(output.encoded(to, None)?);
    }
    outputs.sort_by_key(|output| {
        (std::cmp::Reverse(output.spec.tensor_type.block_bytes()), output.spec.name.clone())
    });
    Ok(outputs)
}

/// The tensors under Hugging Face's names, with rows in its order.
pub(super) fn named(plan: Plan, config: &ModelConfig) -> Result<Vec<Output>, Error> {
    let permuted = config.architecture.row().rope_pairing == RopePairing::Norm;
    let mut outputs = Vec::with_capacity(plan.outputs.len());
    for mut output in plan.outputs {
        if output.spec.name == "rope_freqs.weight" {
            continue;
        }
        let gguf = output.spec.name.clone();
        let name = names::hugging_face_name(&gguf).ok_or_else(|| FormatError::Key {
            path: plan.path.clone(),
            key: gguf.clone(),
            what: "Hugging Face's models have no such tensor".to_owned(),
        })?;
        if permuted {
            match gguf.rsplit('.').nth(1) {
                Some("attn_q") => output = output.unpermuted(config.num_heads)?,
                Some("attn_k") => output = output.unpermuted(config.num_kv_heads)?,
                _ => {}
            }
        }
        outputs.push(output.named(&name));
    }
    Ok(outputs)
}
