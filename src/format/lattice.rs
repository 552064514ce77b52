//! lattice's quantized folders: a file per tensor, an index of them, and the rest of a Hugging Face folder.
//!
//! ```text
//! NAME.q4:  "KHQ4" | version u32 = 2 | dimension count u32 | dimensions u64, slowest first | element count u64
//!           | blocks of 20 bytes, one per 32 elements of the whole tensor (`quant::BlockLatticeQ4`)
//! NAME.f16: "KHF1" | version u32 = 1 | dimension count u32 | dimensions u64, slowest first | element count u64
//!           | float16 per element
//! quantize_index.json: [{"name", "file", "quantized", "shape", "numel"}, ...], or an object with that list as "tensors"
//! ```
//!
//! All numbers little-endian (observed in files of the crate `lattice-weights` 0.15.0). A file ends where its last block
//! does: what is missing or behind it is an error. File names are tensor names in which everything but letters, digits and
//! `-` is `_`, so that only the index tells the names.

use super::cursor::Cursor;
use super::tensor::{element_count, stored_bytes};
use super::{Error, Map, Tensor, TensorSpec, json};
use crate::quant::TensorType;
use serde_json::{Value, json};
use std::path::{Component, Path};

/// The file that says which file holds which tensor.
pub const INDEX: &str = "quantize_index.json";
const Q4_MAGIC: &[u8; 4] = b"KHQ4";
const F16_MAGIC: &[u8; 4] = b"KHF1";
const Q4_VERSION: u32 = 2;
const F16_VERSION: u32 = 1;
const MAX_DIMENSIONS: u32 = 8;

/// Reads a `.q4` or `.f16` file, told apart by its first bytes, as the tensor `name`.
///
/// # Errors
/// The file is of another kind or version, its counts contradict each other, or it is shorter or longer than they say.
pub fn read(map: &Map, name: &str) -> Result<Tensor, Error> {
    let mut cursor = Cursor::new(map, 0, usize::MAX);
    let magic = cursor.take(4, "the magic \"KHQ4\" or \"KHF1\"")?;
    let (tensor_type, expected) = match magic {
        magic if magic == Q4_MAGIC => (TensorType::LatticeQ4, Q4_VERSION),
        magic if magic == F16_MAGIC => (TensorType::F16, F16_VERSION),
        _ => {
            let what = format!("expected a file that starts with \"KHQ4\" or \"KHF1\", found {magic:02x?}");
            return Err(cursor.error(0, what));
        }
    };
    let version = cursor.u32("the version")?;
    if version != expected {
        let hint = if tensor_type == TensorType::LatticeQ4 && version == 1 {
            "; version 1 has blocks of 18 bytes: quantize the original model again"
        } else {
            ""
        };
        return Err(cursor.error(4, format!("expected version {expected}, found {version}{hint}")));
    }
    let dimensions = cursor.u32("the number of dimensions")?;
    if dimensions > MAX_DIMENSIONS {
        let what = format!("expected at most {MAX_DIMENSIONS} dimensions, found {dimensions}");
        return Err(cursor.error(8, what));
    }
    let mut shape = Vec::with_capacity(dimensions as usize);
    for _ in 0..dimensions {
        let at = cursor.at();
        let dim = cursor.u64("a dimension")?;
        match usize::try_from(dim) {
            Ok(dim) if dim > 0 => shape.push(dim),
            _ => {
                let what =
                    format!("expected a dimension of 1 or more that this machine can hold, found {dim}");
                return Err(cursor.error(at, what));
            }
        }
    }
    let at = cursor.at();
    let count = cursor.u64("the number of elements")?;
    if element_count(&shape).map(|count| count as u64) != Some(count) {
        let what = format!("{count} elements are not those of shape {shape:?}");
        return Err(cursor.error(at, what));
    }
    let bytes = stored_bytes(tensor_type, &shape)
        .ok_or_else(|| cursor.error(at, format!("the size of shape {shape:?} overflows")))?;
    let start = cursor.at();
    if cursor.left() != bytes {
        let what = format!(
            "expected {bytes} bytes for {tensor_type} of shape {shape:?} and then the end of the file, found {}; was a \
             download cut off, or something appended?",
            cursor.left()
        );
        return Err(cursor.error(start, what));
    }
    let range = start..start + bytes;
    Ok(Tensor { name: name.to_owned(), tensor_type, shape, map: map.clone(), range })
}

/// What a file of this tensor starts with; `None` where the type is neither LatticeQ4 nor F16.
pub fn header(tensor: &TensorSpec) -> Option<Vec<u8>> {
    let (magic, version) = match tensor.tensor_type {
        TensorType::LatticeQ4 => (Q4_MAGIC, Q4_VERSION),
        TensorType::F16 => (F16_MAGIC, F16_VERSION),
        _ => return None,
    };
    let mut bytes = magic.to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend((tensor.shape.len() as u32).to_le_bytes());
    bytes.extend(tensor.shape.iter().flat_map(|&dim| (dim as u64).to_le_bytes()));
    bytes.extend((element_count(&tensor.shape)? as u64).to_le_bytes());
    Some(bytes)
}

/// The name of the file for this tensor.
pub fn file_name(tensor: &TensorSpec) -> String {
    let plain: String =
        tensor.name.chars().map(|c| if c.is_alphanumeric() || c == '-' { c } else { '_' }).collect();
    let extension = if tensor.tensor_type == TensorType::LatticeQ4 { "q4" } else { "f16" };
    format!("{plain}.{extension}")
}

/// The content of the index over these tensors.
pub fn index(tensors: &[TensorSpec]) -> Value {
    let entry = |tensor: &TensorSpec| {
        json!({
            "name": tensor.name,
            "file": file_name(tensor),
            "quantized": tensor.tensor_type == TensorType::LatticeQ4,
            "shape": tensor.shape,
            "numel": element_count(&tensor.shape),
        })
    };
    tensors.iter().map(entry).collect()
}

/// Whether a folder without safetensors is one of lattice's.
pub(super) fn is_folder(folder: &Path) -> bool {
    let is_q4 = |path: &Path| path.extension().is_some_and(|extension| extension == "q4");
    folder.join(INDEX).is_file()
        || std::fs::read_dir(folder).is_ok_and(|entries| entries.flatten().any(|entry| is_q4(&entry.path())))
}

/// All tensors of a folder, checked against its index.
pub(super) fn read_folder(folder: &Path) -> Result<Vec<Tensor>, Error> {
    let path = folder.join(INDEX);
    let error = |key: &str, what: String| Error::Key { path: path.clone(), key: key.to_owned(), what };
    if !path.is_file() {
        let what = "the file is missing, and nothing else tells which .q4 file holds which tensor".to_owned();
        return Err(error("index", what));
    }
    let content = json::parse(Map::open(&path)?.bytes())
        .map_err(|cause| error("index", format!("expected JSON, found: {cause}")))?;
    let entries = content.as_array().or_else(|| content.get("tensors").and_then(Value::as_array));
    let Some(entries) = entries else {
        return Err(error("tensors", "expected a list of tensors".to_owned()));
    };
    let mut tensors = Vec::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let (Some(name), Some(file)) = (text("name"), text("file")) else {
            return Err(error(&format!("entry {at}"), "expected a name and a file".to_owned()));
        };
        let mut components = Path::new(file).components();
        let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !plain || file.contains(['/', '\\']) {
            let what = format!("expected the name of a file in the same folder, found {file:?}");
            return Err(error(name, what));
        }
        let tensor = read(&Map::open(&folder.join(file))?, name)?;
        let listed: Option<Vec<u64>> = entry
            .get("shape")
            .and_then(Value::as_array)
            .map(|shape| shape.iter().map_while(Value::as_u64).collect());
        if listed
            .as_ref()
            .is_some_and(|listed| !listed.iter().copied().eq(tensor.shape.iter().map(|&d| d as u64)))
        {
            let what = format!("the index says {listed:?}, but {file} holds {:?}", tensor.shape);
            return Err(error(name, what));
        }
        tensors.push(tensor);
    }
    Ok(tensors)
}
