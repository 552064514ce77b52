//! What is to be written, before a byte of it is: the metadata and tensors of a GGUF file. Every source becomes this,
//! and every target is written from it; an APR file holds the same under other names.

use super::mix::{self, Choice, MixModel, MixTensor};
use super::reencode::{Output, write_all};
use super::{Options, Progress, Recipe, Report, apr_keys, apr_to_gguf, gguf_keys, hf_to_gguf, names};
use crate::format::apr::{AprWriter, GgufOrigin};
use crate::format::gguf::{Gguf, GgufWriter, Metadata, Value};
use crate::format::{Error as FormatError, TensorSpec};
use crate::model::{Error, Source};
use crate::quant::TensorType;
use std::io::Write;
use std::path::{Path, PathBuf};

/// A file to write, in the terms of GGUF.
#[derive(Debug)]
pub(super) struct Plan {
    /// The file that errors about metadata name.
    pub(super) path: PathBuf,
    pub(super) version: u32,
    pub(super) metadata: Vec<(String, Value)>,
    pub(super) outputs: Vec<Output>,
    /// Bytes behind the last tensor, where they are to be as in another file.
    pub(super) tail: Option<usize>,
}

impl Plan {
    /// The file that holds what `source` holds, with nothing changed that need not be.
    pub(super) fn of(source: &Source, options: &Options, report: &mut Report) -> Result<Self, Error> {
        let mut plan = match source {
            Source::Gguf(gguf) => Self::of_gguf(gguf)?,
            Source::Apr(apr) => apr_to_gguf::plan(apr, report)?,
            Source::HuggingFace(folder) => hf_to_gguf::plan(folder, report)?,
        };
        plan.rename(options);
        Ok(plan)
    }

    pub(super) fn of_gguf(gguf: &Gguf) -> Result<Self, FormatError> {
        gguf.refuse_parts()?;
        Ok(Self {
            path: gguf.path().to_owned(),
            version: gguf.version(),
            metadata: gguf.metadata().to_vec(),
            outputs: gguf.tensors().iter().map(|tensor| Output::copy(tensor, &tensor.name)).collect(),
            tail: Some(gguf.tail()),
        })
    }

    pub(super) fn rename(&mut self, options: &Options) {
        if let Some(name) = &options.name {
            match self.metadata.iter_mut().find(|(key, _)| key == "general.name") {
                Some((_, value)) => *value = name.as_str().into(),
                None => self.metadata.push(("general.name".to_owned(), name.as_str().into())),
            }
        }
    }

    fn number(&self, key: &str) -> Result<usize, Error> {
        let found = self.metadata.iter().find(|(known, _)| known == key).and_then(|(_, v)| v.integer());
        found.and_then(|number| usize::try_from(number).ok()).ok_or_else(|| {
            self.error(key, "the key is missing, and the choice of types depends on it").into()
        })
    }

    fn error(&self, key: &str, what: impl Into<String>) -> FormatError {
        FormatError::Key { path: self.path.clone(), key: key.to_owned(), what: what.into() }
    }

    /// Gives every tensor the type that the recipe asks for, in llama.cpp's order of tensors.
    pub(super) fn quantize(&mut self, recipe: &Recipe, report: &mut Report) -> Result<Vec<Choice>, Error> {
        let architecture = self.metadata.iter().find(|(key, _)| key == "general.architecture");
        let architecture = architecture.and_then(|(_, value)| value.as_str()).map(str::to_owned);
        let architecture = architecture.ok_or_else(|| {
            Error::from(self.error("general.architecture", "the key is missing: which model is this?"))
        })?;
        let key = |rest: &str| format!("{architecture}.{rest}");
        let num_heads = self.number(&key("attention.head_count"))?;
        let model = MixModel {
            architecture: &architecture,
            num_layers: self.number(&key("block_count"))?,
            num_heads,
            num_kv_heads: self.number(&key("attention.head_count_kv")).unwrap_or(num_heads),
        };
        self.outputs.sort_by(|a, b| mix::listing_order(&a.spec.name).cmp(&mix::listing_order(&b.spec.name)));
        let tensors: Vec<MixTensor<'_>> = self
            .outputs
            .iter()
            .map(|output| MixTensor {
                name: &output.spec.name,
                shape: &output.spec.shape,
                stored: output.spec.tensor_type,
            })
            .collect();
        let mut options = recipe.mix.clone();
        options.has_imatrix |= recipe.importance.is_some();
        let choices = mix::choose(&model, &tensors, &options);
        let mut without = 0;
        let outputs = std::mem::take(&mut self.outputs);
        for (output, choice) in outputs.into_iter().zip(&choices) {
            let (from, to) = (output.source.tensor_type, choice.tensor_type);
            if choice.kept || from == to && output.spec.tensor_type == to {
                self.outputs.push(output);
                continue;
            }
            if !from.is_float() && !recipe.allow_requantize && from != to {
                return Err(self.error(
                    &output.spec.name,
                    format!(
                        "it is {from} already; what {from} has lost, {to} does not bring back. Quantize the \
                         original model, or say --allow-requantize"
                    ),
                ).into());
            }
            let weights = match &recipe.importance {
                None => None,
                Some(importance) => importance.of(&output.spec.name, output.spec.shape.last().copied())?,
            };
            without += usize::from(recipe.importance.is_some() && weights.is_none() && !to.is_float());
            self.outputs.push(output.encoded(to, weights)?);
        }
        if without > 0 {
            report.notes.push(format!(
                "the importance matrix says nothing of {without} tensors; they are quantized without it"
            ));
        }
        self.set_at_end("general.quantization_version", Value::U32(2));
        self.set_at_end(gguf_keys::FILE_TYPE_KEY, Value::U32(recipe.mix.mix.file_type()));
        if let Some(importance) = &recipe.importance {
            for (key, value) in importance.metadata() {
                self.set_at_end(&key, value);
            }
        }
        self.tail = None;
        Ok(choices)
    }

    /// Sets a key, which moves to the end, as llama.cpp does it.
    fn set_at_end(&mut self, key: &str, value: Value) {
        self.metadata.retain(|(known, _)| known != key);
        self.metadata.push((key.to_owned(), value));
    }

    /// Writes the plan as GGUF.
    pub(super) fn write_gguf<W: Write>(
        &self,
        out: W,
        path: &Path,
        options: &Options,
        report: &mut Report,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<W, FormatError> {
        let specs: Vec<TensorSpec> = self.outputs.iter().map(|output| output.spec.clone()).collect();
        let mut writer = GgufWriter::new(out, path, self.version, &self.metadata, &specs)?;
        write_all(&self.outputs, options.threads(), report, progress, &mut |bytes| writer.write(bytes))?;
        writer.finish(self.tail)
    }

    /// Writes the plan as APR: tensors under APR's names, GGUF's metadata under APR's keys and, exactly, beside them.
    pub(super) fn write_apr<W: Write>(
        self,
        out: W,
        path: &Path,
        options: &Options,
        report: &mut Report,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<W, FormatError> {
        let metadata = Metadata::new(&self.path, self.metadata)?;
        let architecture = metadata.string("general.architecture")?.unwrap_or_default();
        let alignment = metadata.usize("general.alignment")?.filter(|&n| n > 0).unwrap_or(32);
        let gguf_specs: Vec<TensorSpec> = self.outputs.iter().map(|output| output.spec.clone()).collect();
        // What a writer appends that is not told otherwise: zeros up to the alignment.
        let last = gguf_specs.last().map_or(0, |spec| spec.bytes);
        let tail = self.tail.unwrap_or(last.next_multiple_of(alignment) - last);
        let mut outputs = Vec::with_capacity(self.outputs.len());
        for output in self.outputs {
            let name = names::apr_name(architecture, &output.spec.name);
            let output = output.named(&name);
            let compatible = !options.compat || is_compatible(output.spec.tensor_type);
            outputs.push(if compatible { output } else { output.into_float()? });
        }
        let specs: Vec<TensorSpec> = outputs.iter().map(|output| output.spec.clone()).collect();
        let (mut keys, notes) = apr_keys::from_metadata(&metadata, &gguf_specs)?;
        report.notes.extend(notes);
        let origin = GgufOrigin {
            version: self.version,
            tail,
            tensors: gguf_specs.into_iter().map(|spec| (spec.name, spec.tensor_type)).collect(),
            metadata,
        };
        origin.store(&mut keys);
        keys.insert("total_size".to_owned(), specs.iter().map(|spec| spec.bytes as u64).sum::<u64>().into());
        let flags = AprWriter::<W>::flags(&keys, &specs);
        let mut writer = AprWriter::new(out, path, flags, &keys, &specs)?;
        write_all(&outputs, options.threads(), report, progress, &mut |bytes| writer.write(bytes))?;
        writer.finish()
    }
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
