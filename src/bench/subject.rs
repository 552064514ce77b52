//! What is measured: a model from a file, or a preset with random weights.

use super::Error;
use super::environment::file_hash;
use super::preset::Preset;
use super::synth::SynthWeights;
use crate::engine::{self, Device, LoadReport, Settings};
use crate::model::{Model, RopeConfig};
use crate::plan::{Decoder, WeightSource};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model that devices can be made of, again and again.
#[derive(Clone)]
pub struct Subject {
    /// The preset's name, or the file's.
    pub name: String,
    /// The file, if there is one.
    pub path: Option<PathBuf>,
    /// CRC-32 of the file.
    pub file_hash: Option<String>,
    /// As llama-bench's `model_type`: family and size.
    pub model_type: String,
    /// Bytes of all weights.
    pub model_size: u64,
    /// Number of weights.
    pub parameters: u64,
    decoder: Decoder,
    source: Arc<dyn WeightSource + Send + Sync>,
    rope: RopeConfig,
    trained: usize,
}

impl Subject {
    /// A model file or folder.
    ///
    /// # Errors
    /// It does not open or describes no model.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let model = Arc::new(Model::open(path)?);
        let decoder = engine::decoder(&model)?;
        let source = engine::weight_source(&model, &decoder);
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into());
        let rope = model.config.rope.clone();
        let subject = Self {
            name,
            path: Some(path.to_owned()),
            file_hash: file_hash(path),
            model_type: String::new(),
            model_size: 0,
            parameters: 0,
            decoder,
            source,
            rope,
            trained: model.config.context_length,
        };
        let family = format!("{:?}", model.config.architecture).to_lowercase();
        let counted = subject.counted();
        let billions = counted.parameters as f64 / 1e9;
        Ok(Self { model_type: format!("{family} {billions:.2}B"), ..counted })
    }

    /// A preset.
    ///
    /// # Errors
    /// None for the presets of the table.
    pub fn preset(preset: &Preset) -> Result<Self, Error> {
        let decoder = preset.decoder()?;
        let source = Arc::new(SynthWeights::of(&decoder)?);
        let config = preset.config();
        let subject = Self {
            name: preset.name.to_owned(),
            path: None,
            file_hash: None,
            model_type: preset.model_type.to_owned(),
            model_size: 0,
            parameters: 0,
            decoder,
            source,
            rope: config.rope,
            trained: config.context_length,
        };
        Ok(subject.counted())
    }

    fn counted(self) -> Self {
        let weights = self.decoder.weights();
        let model_size = weights.iter().map(|weight| weight.bytes()).sum();
        let parameters = weights.iter().map(|weight| weight.rows as u64 * weight.cols as u64).sum();
        Self { model_size, parameters, ..self }
    }

    /// Sizes and types.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Positions that the model was trained for.
    pub fn trained_context(&self) -> usize {
        self.trained
    }

    /// A device with this model on it.
    ///
    /// # Errors
    /// The backend is not there, or the model does not fit.
    pub fn start(&self, settings: &Settings) -> Result<(Device, LoadReport), Error> {
        let rope = engine::rope_table(&self.rope, settings.context(self.trained))?;
        let source = Arc::clone(&self.source);
        let parts = (rope, self.trained);
        Ok(engine::start(self.decoder.clone(), source, parts, settings, &mut |_, _| {})?)
    }
}
