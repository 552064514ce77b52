//! Where compiled kernels are kept from one run to the next.

use std::path::PathBuf;

/// The folder where a user's compiled kernels are kept: `APRGPU_CACHE`, or `aprgpu` in the system's folder for caches.
/// None where `APRGPU_CACHE` is empty or there is no such folder.
pub(in crate::backend) fn user_cache_folder() -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os("APRGPU_CACHE") {
        return (!folder.is_empty()).then(|| folder.into());
    }
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || folder("HOME").map(|home| home.join(".cache"));
    let caches = folder("XDG_CACHE_HOME").or_else(|| folder("LOCALAPPDATA")).or_else(home);
    caches.map(|caches| caches.join("aprgpu"))
}
