//! Importance matrices: how much each column of a weight matters, as `llama-imatrix` has measured it.
//!
//! The GGUF files of llama.cpp hold for each weight `NAME` two F32 tensors: `NAME.in_sum2`, the sums of the squared
//! activations of its columns, and `NAME.counts`, over how many tokens. Their quotient is the importance; a column that
//! was never seen counts 1. The files of before mid 2025 (`format/imatrix.rs`) hold quotients, times a number of calls.

use crate::format::gguf::{Gguf, Strings, Value};
use crate::format::imatrix::{self, ImatrixEntry};
use crate::format::{Error, Map, Tensor};
use crate::quant::{TensorType, decode_row};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// The importance of the columns of a model's weights.
#[derive(Clone, Debug)]
pub struct Importance {
    path: PathBuf,
    columns: BTreeMap<String, Arc<[f32]>>,
    datasets: Option<Strings>,
    chunks: Option<u32>,
}

impl Importance {
    /// Reads a file of `llama-imatrix`: GGUF, or the format of before mid 2025.
    ///
    /// # Errors
    /// It is no such file, a weight is in it twice, sums and counts do not go together, or a number is negative or not
    /// finite.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let map = Map::open(path)?;
        if map.bytes().starts_with(b"GGUF") {
            Self::from_gguf(&Gguf::from_map(map)?)
        } else {
            Self::from_dat(&map)
        }
    }

    fn from_dat(map: &Map) -> Result<Self, Error> {
        let error =
            |key: &str, what: String| Error::Key { path: map.path().to_owned(), key: key.to_owned(), what };
        let matrix = imatrix::read(map).map_err(|error| match error {
            Error::Bytes { path, offset, what } => {
                let what = format!("{what}; expected an importance matrix of llama-imatrix, GGUF or .dat");
                Error::Bytes { path, offset, what }
            }
            other => other,
        })?;
        let mut columns = BTreeMap::new();
        for ImatrixEntry { name, calls, mut values } in matrix.entries {
            if calls > 0 {
                values.iter_mut().for_each(|value| *value /= calls as f32);
            }
            let values = checked(values).map_err(|what| error(&name, what))?;
            if columns.insert(name.clone(), values).is_some() {
                return Err(error(&name, "is in the file twice".to_owned()));
            }
        }
        let (chunks, text) = matrix.origin.unzip();
        let datasets = text.filter(|text| !text.is_empty()).map(|text| [text].into_iter().collect());
        let chunks = chunks.filter(|&chunks| chunks > 0);
        Ok(Self { path: map.path().to_owned(), columns, datasets, chunks })
    }

    fn from_gguf(gguf: &Gguf) -> Result<Self, Error> {
        let path = gguf.path();
        let error = |key: &str, what: String| Error::Key { path: path.to_owned(), key: key.to_owned(), what };
        if gguf.string("general.type")? != Some("imatrix") {
            let found = gguf.string("general.type")?.unwrap_or("nothing");
            return Err(error("general.type", format!("expected \"imatrix\", found {found:?}")));
        }
        let mut columns = BTreeMap::new();
        for tensor in gguf.tensors() {
            let Some(name) = tensor.name.strip_suffix(SUMS) else { continue };
            let counts = gguf.tensor(&format!("{name}{COUNTS}")).ok_or_else(|| {
                error(&tensor.name, format!("{name}{COUNTS} is missing, which goes with it"))
            })?;
            let (sums, counts) = (values(tensor)?, values(counts)?);
            // One count for all columns of a matrix, or one per matrix where experts are stacked.
            let per_count = match sums.len().checked_div(counts.len()) {
                Some(each) if each * counts.len() == sums.len() => each,
                _ => {
                    let what = format!("{} sums do not go with {} counts", sums.len(), counts.len());
                    return Err(error(&tensor.name, what));
                }
            };
            let importance: Vec<f32> = sums
                .iter()
                .enumerate()
                .map(|(i, sum)| match counts.get(i / per_count.max(1)) {
                    Some(&count) if count > 0.0 => sum / count,
                    _ => 1.0,
                })
                .collect();
            let importance = checked(importance).map_err(|what| error(&tensor.name, what))?;
            columns.insert(name.to_owned(), importance);
        }
        if columns.is_empty() {
            return Err(error("tensors", format!("expected tensors named *{SUMS}, found none")));
        }
        let datasets = gguf.get("imatrix.datasets").and(gguf.strings("imatrix.datasets")?).cloned();
        Ok(Self { path: path.to_owned(), columns, datasets, chunks: gguf.u32("imatrix.chunk_count")? })
    }

    /// Number of weights that it knows.
    pub fn len(&self) -> usize {
        self.columns.len()
    }

    /// Whether it knows none.
    pub fn is_empty(&self) -> bool {
        self.columns.is_empty()
    }

    /// The importance of the columns of the weight with this GGUF name. An embedding's columns are rows of one-hot
    /// products, so that a matrix of another width is passed over there.
    pub(super) fn of(&self, name: &str, cols: Option<usize>) -> Result<Option<Arc<[f32]>>, Error> {
        let Some(found) = self.columns.get(name) else { return Ok(None) };
        if Some(found.len()) == cols {
            return Ok(Some(Arc::clone(found)));
        }
        if name == "token_embd.weight" {
            return Ok(None);
        }
        Err(Error::Key {
            path: self.path.clone(),
            key: name.to_owned(),
            what: format!(
                "{} columns, but the model's weight has {}; is it the matrix of another model?",
                found.len(),
                cols.unwrap_or(1)
            ),
        })
    }

    /// What llama.cpp writes into a file that was made with it.
    pub(super) fn metadata(&self) -> Vec<(String, Value)> {
        let file = self.path.file_name().unwrap_or_default().to_string_lossy();
        let mut entries = vec![("quantize.imatrix.file".to_owned(), file.as_ref().into())];
        if let Some(dataset) = self.datasets.as_ref().and_then(|datasets| datasets.get(0)) {
            entries.push(("quantize.imatrix.dataset".to_owned(), Value::String(dataset.to_vec())));
        }
        let count = u32::try_from(self.columns.len()).unwrap_or(u32::MAX);
        entries.push(("quantize.imatrix.entries_count".to_owned(), Value::U32(count)));
        if let Some(chunks) = self.chunks {
            entries.push(("quantize.imatrix.chunks_count".to_owned(), Value::U32(chunks)));
        }
        entries
    }
}

/// Numbers that are an importance, or why they are not.
fn checked(importance: Vec<f32>) -> Result<Arc<[f32]>, String> {
    match importance.iter().find(|value| !value.is_finite() || **value < 0.0) {
        Some(bad) => Err(format!("expected finite numbers of at least 0, found {bad}")),
        None => Ok(importance.into()),
    }
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, Error> {
    let error =
        |what: String| Error::Key { path: tensor.map.path().to_owned(), key: tensor.name.clone(), what };
    if tensor.tensor_type != TensorType::F32 {
        return Err(error(format!("expected F32, found {}", tensor.tensor_type)));
    }
    let mut values = vec![0.0; tensor.len()];
    decode_row(TensorType::F32, tensor.bytes(), &mut values).map_err(|cause| error(cause.to_string()))?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_file_holds_importance_times_calls() {
        let mut bytes = 2_i32.to_le_bytes().to_vec();
        for (name, calls, values) in [(b"a", 3_i32, [6.0_f32, 1.5]), (b"b", 0, [6.0, 1.5])] {
            bytes.extend(1_i32.to_le_bytes());
            bytes.extend(name);
            bytes.extend([calls, 2].map(i32::to_le_bytes).concat());
            bytes.extend(values.map(f32::to_le_bytes).concat());
        }
        let matrix = Importance::from_dat(&Map::from_bytes(Path::new("imatrix.dat"), bytes)).unwrap();
        assert_eq!(matrix.of("a", Some(2)).unwrap().unwrap()[..], [2.0, 0.5]);
        assert_eq!(matrix.of("b", Some(2)).unwrap().unwrap()[..], [6.0, 1.5]);
        let keys: Vec<String> = matrix.metadata().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["quantize.imatrix.file", "quantize.imatrix.entries_count"]);
    }
}
