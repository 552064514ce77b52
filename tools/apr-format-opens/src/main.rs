//! Does the published `apr-format` crate open what aprgpu writes, and find the same bytes in it?
//!
//! ```sh
//! target/release/aprgpu convert MODEL.gguf compatible.apr --compat
//! cargo run --release --manifest-path tools/apr-format-opens/Cargo.toml -- compatible.apr ...
//! ```
//!
//! Exits with 1 where a file does not open, its metadata are dropped, or a tensor has another type, shape or bytes.

use apr_format::v2::AprV2ReaderRef;
use aprgpu::format::apr::Apr;
use std::path::Path;
use std::process::ExitCode;

fn check(path: &Path) -> Result<String, String> {
    let data = std::fs::read(path).map_err(|error| error.to_string())?;
    let theirs = AprV2ReaderRef::from_bytes(&data).map_err(|error| format!("{error:?}"))?;
    let ours = Apr::open(path).map_err(|error| error.to_string())?;
    let metadata = theirs.metadata();
    if metadata.architecture.as_deref() != ours.string("architecture").unwrap_or_default() {
        return Err(format!("the architecture reads as {:?}", metadata.architecture));
    }
    if metadata.hidden_size != ours.usize("hidden_size").unwrap_or_default() {
        return Err(format!("hidden_size reads as {:?}", metadata.hidden_size));
    }
    if !theirs.verify_alignment() {
        return Err("a tensor is not aligned".to_owned());
    }
    if theirs.tensor_names().len() != ours.tensors().len() {
        return Err(format!("{} tensors, expected {}", theirs.tensor_names().len(), ours.tensors().len()));
    }
    for tensor in ours.tensors() {
        let entry = theirs.get_tensor(&tensor.name).ok_or_else(|| format!("no tensor {}", tensor.name))?;
        if entry.shape != tensor.shape {
            return Err(format!("{}: shape {:?}", tensor.name, entry.shape));
        }
        let type_name = format!("{:?}", entry.dtype);
        let expected = tensor.tensor_type.name().replace('_', "");
        if !type_name.replace('_', "").eq_ignore_ascii_case(&expected) {
            return Err(format!("{}: type {type_name}, expected {}", tensor.name, tensor.tensor_type));
        }
        if theirs.get_tensor_data(&tensor.name) != Some(tensor.bytes()) {
            return Err(format!("{}: other bytes", tensor.name));
        }
    }
    Ok(format!("{} tensors, the same", ours.tensors().len()))
}

fn main() -> ExitCode {
    let mut failed = false;
    for path in std::env::args().skip(1) {
        match check(Path::new(&path)) {
            Ok(what) => println!("{path}: {what}"),
            Err(what) => {
                println!("{path}: FAILED: {what}");
                failed = true;
            }
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
