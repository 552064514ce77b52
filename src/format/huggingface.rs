//! A Hugging Face folder: `config.json`, weights in one safetensors file or several (or in lattice's files), and the
//! tokenizer's files.

use super::names::NameIndex;
use super::{Error, Map, Tensor, json, lattice, safetensors};
use serde_json::Value;
use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

/// The file with all weights, where there is one.
const WEIGHTS: &str = "model.safetensors";
/// The file that says which file holds which weights, where there are several.
const INDEX: &str = "model.safetensors.index.json";

/// A Hugging Face folder, its weights mapped and checked.
#[derive(Clone, Debug)]
pub struct HuggingFace {
    folder: PathBuf,
    /// The content of `config.json`: a JSON object.
    pub config: Value,
    tensors: Vec<Tensor>,
    index: NameIndex,
    is_lattice: bool,
}

impl HuggingFace {
    /// Reads `config.json` and maps the weights in `folder`.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let config_path = folder.join("config.json");
        let config = read_json(&config_path)?;
        if !config.is_object() {
            let what = "expected a JSON object".to_owned();
            return Err(Error::Bytes { path: config_path, offset: 0, what });
        }
        let single = folder.join(WEIGHTS);
        let index = folder.join(INDEX);
        let is_lattice = !single.exists() && !index.exists() && lattice::is_folder(folder);
        let tensors = if is_lattice {
            lattice::read_folder(folder)?
        } else if single.exists() || !index.exists() {
            safetensors::read(&Map::open(&single)?)?
        } else {
            read_shards(folder, &index)?
        };
        let index = NameIndex::new(tensors.len(), |i| &tensors[i].name).map_err(|twice| Error::Key {
            path: folder.to_owned(),
            key: twice.clone(),
            what: "two of the folder's files hold a tensor with this name".to_owned(),
        })?;
        Ok(Self { folder: folder.to_owned(), config, tensors, index, is_lattice })
    }

    /// The folder that was opened.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Whether its weights are in lattice's files.
    pub fn is_lattice(&self) -> bool {
        self.is_lattice
    }

    /// All tensors, file by file, in the order of their bytes.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor with this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.find(name, |i| &self.tensors[i].name).and_then(|i| self.tensors.get(i))
    }

    /// The path of a file in the folder, such as `tokenizer.json`, `tokenizer.model`, `tokenizer_config.json`,
    /// `chat_template.jinja` or `generation_config.json`; `None` where it is not there or `name` leaves the folder.
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        let path = self.folder.join(plain_name(name)?);
        path.is_file().then_some(path)
    }

    /// A JSON file of the folder, such as `generation_config.json`; `None` where it is not there.
    pub fn json(&self, name: &str) -> Result<Option<Value>, Error> {
        self.file(name).map(|path| read_json(&path)).transpose()
    }
}

/// `name` if it is that of a file right in a folder.
fn plain_name(name: &str) -> Option<&str> {
    let mut components = Path::new(name).components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    // A backslash separates folders on Windows; the same index must mean the same everywhere.
    (plain && !name.contains(['/', '\\'])).then_some(name)
}

/// A JSON file in which no key appears twice.
pub fn read_json(path: &Path) -> Result<Value, Error> {
    let map = Map::open(path)?;
    json::parse(map.bytes()).map_err(|cause| Error::Bytes {
        path: path.to_owned(),
        offset: 0,
        what: format!("expected JSON, found: {cause}"),
    })
}

/// All tensors of a model in several files, checked against the index.
fn read_shards(folder: &Path, index: &Path) -> Result<Vec<Tensor>, Error> {
    let error = |key: &str, what: String| Error::Key { path: index.to_owned(), key: key.to_owned(), what };
    let content = read_json(index)?;
    let Some(weight_map) = content.get("weight_map").and_then(Value::as_object) else {
        return Err(error("weight_map", "expected an object from tensor names to file names".to_owned()));
    };
    let mut files: Vec<&str> = Vec::new();
    for (name, file) in weight_map {
        let Some(file) = file.as_str().and_then(plain_name) else {
            return Err(error(name, format!("expected the name of a file in the same folder, found {file}")));
        };
        files.push(file);
    }
    files.sort_unstable();
    files.dedup();
    let mut tensors = Vec::new();
    for file in files {
        let read = safetensors::read(&Map::open(&folder.join(file))?)?;
        for tensor in &read {
            match weight_map.get(&tensor.name).and_then(Value::as_str) {
                Some(listed) if listed == file => {}
                Some(listed) => {
                    return Err(error(
                        &tensor.name,
                        format!("the index says {listed}, but {file} holds this tensor"),
                    ));
                }
                None => {
                    return Err(error(
                        &tensor.name,
                        format!("{file} holds this tensor, but the index does not list it"),
                    ));
                }
            }
        }
        tensors.extend(read);
    }
    let held: HashSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    if let Some((name, file)) = weight_map.iter().find(|(name, _)| !held.contains(name.as_str())) {
        return Err(error(name, format!("the index says {file}, but that file does not hold this tensor")));
    }
    Ok(tensors)
}
