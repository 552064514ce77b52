//! From any source to a file: converted, or quantized in the same pass.

use super::plan::Plan;
use super::{Options, Progress, Recipe, Report};
use crate::format::Error as FormatError;
use crate::format::write::AtomicFile;
use crate::model::{Error, Model, Source};
use crate::quant::TensorType;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The formats that are written as one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// `.gguf`
    Gguf,
    /// `.apr`
    Apr,
}

impl FileFormat {
    /// The format that a file name asks for.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "gguf" => Some(Self::Gguf),
            "apr" => Some(Self::Apr),
            _ => None,
        }
    }
}

/// A tensor as it will be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Its GGUF name.
    pub name: String,
    /// Its shape, slowest dimension first.
    pub shape: Vec<usize>,
    /// Its type in the source.
    #[serde(serialize_with = "by_name")]
    pub from: TensorType,
    /// Its type in the output.
    #[serde(serialize_with = "by_name")]
    pub to: TensorType,
    /// What the mix asked for, where its block does not divide the row.
    #[serde(serialize_with = "by_name_if_any", skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<TensorType>,
    /// Bytes in the output.
    pub bytes: u64,
}

fn by_name<S: serde::Serializer>(tensor_type: &TensorType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(tensor_type.name())
}

fn by_name_if_any<S: serde::Serializer>(tensor_type: &Option<TensorType>, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(tensor_type.map_or("", TensorType::name))
}

impl Planned {
    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.shape.iter().map(|&dim| dim as u64).product()
    }

    /// Bits that one weight takes.
    pub fn bits_per_weight(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.parameters().max(1) as f64
    }
}

fn prepare(
    source: &Source,
    recipe: Option<&Recipe>,
    options: &Options,
    report: &mut Report,
) -> Result<(Plan, Vec<Planned>), Error> {
    let mut plan = Plan::of(source, options, report)?;
    let choices = match recipe {
        Some(recipe) => plan.quantize(recipe, report)?,
        None => Vec::new(),
    };
    let planned = plan.outputs.iter().enumerate().map(|(i, output)| Planned {
        name: output.spec.name.clone(),
        shape: output.spec.shape.clone(),
        from: output.source.tensor_type,
        to: output.spec.tensor_type,
        instead_of: choices.get(i).and_then(|choice| choice.instead_of),
        bytes: output.spec.bytes as u64,
    });
    let planned = planned.collect();
    Ok((plan, planned))
}

/// What [`export`] would write, tensor by tensor, without writing anything.
///
/// # Errors
/// Those of [`export`] that need no tensor's values.
pub fn dry_run(
    source: &Source,
    recipe: Option<&Recipe>,
    options: &Options,
) -> Result<(Vec<Planned>, Report), Error> {
    let mut report = Report::default();
    let (_, planned) = prepare(source, recipe, options, &mut report)?;
    Ok((planned, report))
}

/// Writes `source` as the file `output`, quantized by `recipe` if there is one. The file appears whole, read back and
/// verified, or not at all. Memory holds some pieces of one tensor, whatever the model's size.
///
/// # Errors
/// The source is not a model that is known, a value cannot be encoded, or the output cannot be written.
pub fn export(
    source: &Source,
    output: &Path,
    format: FileFormat,
    recipe: Option<&Recipe>,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    let mut report = Report::default();
    let inputs = files(source);
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    let file = AtomicFile::create(output, &inputs)?;
    let (plan, _) = prepare(source, recipe, options, &mut report)?;
    let is_model = !plan.outputs.is_empty();
    let file = match format {
        FileFormat::Gguf => plan.write_gguf(file, output, options, &mut report, progress)?,
        FileFormat::Apr => plan.write_apr(file, output, options, &mut report, progress)?,
    };
    file.commit_if(|path| match Source::open(path) {
        Ok(written) if is_model => {
            Model::from_source(written).map(|_| ()).or_else(|error| refused(output, error))
        }
        Ok(_) => Ok(()),
        Err(error) => refused(output, error),
    })?;
    Ok(report)
}

/// What was written does not read back as a model.
fn refused(output: &Path, error: Error) -> Result<(), FormatError> {
    let what = format!("what was written does not read back, and is thrown away: {error}");
    Err(FormatError::Key { path: output.to_owned(), key: "output".to_owned(), what })
}

/// Every file that a source is read from.
pub(super) fn files(source: &Source) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = source.tensors().iter().map(|t| t.map.path().to_owned()).collect();
    if source.path().is_file() {
        files.push(source.path().to_owned());
    } else {
        files.push(source.path().join("config.json"));
    }
    files.sort_unstable();
    files.dedup();
    files
}
