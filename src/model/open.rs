//! From a path to a model.

use super::config::{DefaultTaken, ModelConfig};
use super::error::Error;
use super::{Architecture, RopePairing, Weights};
use crate::format::apr::Apr;
use crate::format::gguf::Gguf;
use crate::format::huggingface::HuggingFace;
use crate::format::{Map, Tensor};
use std::path::{Path, PathBuf};

/// The file behind a model, open.
#[derive(Clone, Debug)]
pub enum Source {
    /// A GGUF file.
    Gguf(Gguf),
    /// An APR file.
    Apr(Apr),
    /// A Hugging Face folder, or lattice's, which differs only in the files of its weights.
    HuggingFace(HuggingFace),
}

impl Source {
    /// Opens a GGUF or APR file, told apart by its first bytes, or a Hugging Face folder (also by the path of its
    /// `config.json`, `model.safetensors` or `model.safetensors.index.json`). A file that holds only a vocabulary is
    /// fine here.
    ///
    /// # Errors
    /// There is no such file, it is of no format that is read, or it is damaged.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.is_dir() {
            return Ok(Self::HuggingFace(HuggingFace::open(path)?));
        }
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if matches!(name, "config.json" | "model.safetensors" | "model.safetensors.index.json") {
            // Says that the file itself is missing, if it is, rather than another one of its folder.
            Map::open(path)?;
            let folder = match path.parent() {
                Some(folder) if !folder.as_os_str().is_empty() => folder,
                _ => Path::new("."),
            };
            return Ok(Self::HuggingFace(HuggingFace::open(folder)?));
        }
        let map = Map::open(path)?;
        match map.bytes() {
            [b'G', b'G', b'U', b'F', ..] => Ok(Self::Gguf(Gguf::from_map(map)?)),
            [b'A', b'P', b'R', ..] => Ok(Self::Apr(Apr::from_map(map)?)),
            bytes => Err(Error::Unrecognized { path: path.to_owned(), what: describe(bytes) }),
        }
    }

    /// The path that was opened: a file, or a folder.
    pub fn path(&self) -> &Path {
        match self {
            Self::Gguf(gguf) => gguf.path(),
            Self::Apr(apr) => apr.path(),
            Self::HuggingFace(folder) => folder.path(),
        }
    }

    /// The name of the format.
    pub fn format(&self) -> &'static str {
        match self {
            Self::Gguf(_) => "GGUF",
            Self::Apr(_) => "APR",
            Self::HuggingFace(folder) if folder.is_lattice() => "lattice",
            Self::HuggingFace(_) => "Hugging Face",
        }
    }

    /// All tensors.
    pub fn tensors(&self) -> &[Tensor] {
        match self {
            Self::Gguf(gguf) => gguf.tensors(),
            Self::Apr(apr) => apr.tensors(),
            Self::HuggingFace(folder) => folder.tensors(),
        }
    }

    /// The configuration, with every default that was taken.
    ///
    /// # Errors
    /// Those of [`ModelConfig::from_gguf`], [`ModelConfig::from_apr`] and [`ModelConfig::from_hf`].
    pub fn config(&self) -> Result<(ModelConfig, Vec<DefaultTaken>), Error> {
        match self {
            Self::Gguf(gguf) => ModelConfig::from_gguf(gguf),
            Self::Apr(apr) => ModelConfig::from_apr(apr),
            Self::HuggingFace(folder) => ModelConfig::from_hf(folder),
        }
    }
}

/// A model that can run: configuration and weights, with the file they came from.
#[derive(Clone, Debug)]
pub struct Model {
    /// The path that was opened.
    pub path: PathBuf,
    /// The open file: tokenizer and chat template are built from it.
    pub source: Source,
    /// What shapes the forward pass.
    pub config: ModelConfig,
    /// Values that no key of the file states.
    pub defaults: Vec<DefaultTaken>,
    /// The weights.
    pub weights: Weights,
    /// What a user should know: tensors that are not used, keys that are likely wrong.
    pub warnings: Vec<String>,
}

impl Model {
    /// Opens the model at `path`, see [`Source::open`].
    ///
    /// # Errors
    /// The file cannot be read, does not describe a model, or describes one that is not computed here;
    /// [`Error::exit_code`] tells these apart.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::from_source(Source::open(path)?)
    }

    /// The model in a file that is open already.
    ///
    /// # Errors
    /// Those of [`Self::open`].
    pub fn from_source(source: Source) -> Result<Self, Error> {
        let (config, defaults) = source.config()?;
        // GGUF files have the rows in the architecture's order, APR files say in which; Hugging Face has one order only.
        let stored = match source {
            Source::HuggingFace(_) => RopePairing::Neox,
            Source::Gguf(_) | Source::Apr(_) => config.rope.pairing,
        };
        let path = source.path().to_owned();
        let weights = Weights::load(&path, &config, source.tensors(), stored)?;
        let mut warnings = weights.warnings().to_vec();
        warnings.extend(suspicion(&source, &config)?);
        Ok(Self { path, source, config, defaults, weights, warnings })
    }
}

/// `apr import` stamps NORM on llama models from Hugging Face without permuting their rows. The file cannot be told from a
/// right one, so that it is taken at its word.
fn suspicion(source: &Source, config: &ModelConfig) -> Result<Option<String>, Error> {
    let Source::Apr(apr) = source else { return Ok(None) };
    let hf_names = apr.tensor("model.embed_tokens.weight").is_some();
    let norm = config.architecture == Architecture::Llama && config.rope.pairing == RopePairing::Norm;
    let found = hf_names && norm && apr.gguf_origin()?.is_none();
    Ok(found.then(|| {
        "rope_type: 0 (NORM) with Hugging Face tensor names: if the output makes no sense, the file was imported \
         without permuting q and k and should say 2 (NEOX)"
            .to_owned()
    }))
}

/// What the first bytes of a file that is not read look like.
fn describe(bytes: &[u8]) -> String {
    let guess = match bytes {
        [b'P', b'K', 3, 4, ..] => "a zip archive, as PyTorch checkpoints are",
        [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', b'h', ..] => {
            "a Git LFS pointer: the file itself was not downloaded"
        }
        [b'<', ..] => "an HTML page: was an error page downloaded?",
        [b'F', b'U', b'G', b'G', ..] => "a big-endian GGUF file",
        [b'l', b'm', b'g', b'g', ..] | [b't', b'j', b'g', b'g', ..] => "a file older than GGUF",
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => {
            "a safetensors file: open its folder, which has the config.json"
        }
        [b'{', ..] => "JSON",
        _ => "",
    };
    let first: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let guess = if guess.is_empty() { String::new() } else { format!(" ({guess})") };
    format!(
        "expected a GGUF file, an APR file or a Hugging Face folder; the file starts with {}{guess}",
        first.join(" ")
    )
}
