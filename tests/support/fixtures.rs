//! Where the larger fixtures lie.

use std::path::{Path, PathBuf};

/// The folder of models made by llama.cpp and transformers: `$APRGPU_FIXTURES`, or beside the checkout. Prints why a
/// test is skipped where there is none.
pub(crate) fn fixtures() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/fixtures");
    let folder = std::env::var_os("APRGPU_FIXTURES").map_or(beside, PathBuf::from);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: no fixtures folder at {}", folder.display());
    None
}
