//! Where and with what a figure was measured: without it the figure means nothing.

use crate::backend::cpu;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::Command;

/// The machine and the program.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Commit that the program was run from, with `-dirty` where the tree had changes; `unknown` outside of a checkout.
    pub build_commit: String,
    /// Version of the package.
    pub version: String,
    /// The CPU's name.
    pub cpu_info: String,
    /// Physical cores that may be used.
    pub cores: usize,
    /// Load averages over 1, 5 and 15 minutes when the run began: anything above 1 is somebody else's work.
    pub load_average: Vec<f64>,
    /// Kernel release.
    pub kernel: String,
}

impl Environment {
    /// Looks around.
    pub fn probe() -> Self {
        let cpu = cpu::probe();
        Self {
            build_commit: commit().unwrap_or_else(|| "unknown".to_owned()),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cpu_info: cpu.name,
            cores: cpu.threads,
            load_average: load_average(),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| std::env::consts::OS.to_owned(), |text| text.trim().to_owned()),
        }
    }
}

/// Load averages, where the system tells.
pub fn load_average() -> Vec<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).filter_map(|word| word.parse().ok()).collect()
}

/// The time in RFC 3339, UTC.
pub fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

/// The commit of the checkout that the program lies in.
fn commit() -> Option<String> {
    let program = std::env::current_exe().ok()?;
    let folder = program.parent()?;
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    let root = git(&["rev-parse", "--show-toplevel"])?;
    let changed =
        git(&["-C", &root, "status", "--porcelain", "--untracked-files=no", "--", "src", "Cargo.toml"])?;
    Some(if changed.is_empty() { commit } else { format!("{commit}-dirty") })
}

/// CRC-32 of a file, `crc32:xxxxxxxx`: tells files apart, proves nothing. `None` for folders and unreadable files.
pub fn file_hash(path: &Path) -> Option<String> {
    use std::io::Read;
    let mut file = std::fs::File::open(path).ok()?;
    let mut hasher = crc32fast::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).ok()?;
        if read == 0 {
            return Some(format!("crc32:{:08x}", hasher.finalize()));
        }
        hasher.update(buffer.get(..read)?);
    }
}
