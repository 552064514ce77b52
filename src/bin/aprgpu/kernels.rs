//! `aprgpu kernels`: every kernel and variant, and their sources as they go to the driver.

use crate::compare_args::KernelsArgs;
use crate::failure::Failure;
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// One text for a driver.
struct Kernel {
    /// `ptx` or `wgsl`.
    language: &'static str,
    /// Op and defines.
    variant: String,
    op: String,
    /// The oldest architecture, or the API's shader language.
    target: String,
    /// A file name.
    file: String,
    text: String,
    /// Threads per block at most, where the text says so.
    threads: Option<u32>,
    /// Shared memory of a block, bytes, without what a launch adds.
    shared_bytes: u32,
    buffers: usize,
}

pub(crate) fn kernels(args: &KernelsArgs) -> Result<(), Failure> {
    let mut all = ptx()?;
    all.extend(wgsl());
    if let Some(name) = &args.name {
        all.retain(|kernel| kernel.variant.contains(name.as_str()) || kernel.file.contains(name.as_str()));
    }
    if let Some(folder) = &args.emit {
        emit(folder, &all)?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let described: Vec<Value> = all.iter().map(describe).collect();
        writeln!(out, "{}", json!(described))?;
        return Ok(());
    }
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::NOTHING);
    table.set_header(["op", "variant", "target", "threads", "shared", "buffers"]);
    for kernel in &all {
        table.add_row([
            &kernel.op,
            &kernel.variant,
            &kernel.target,
            &kernel.threads.map_or("-".to_owned(), |threads| threads.to_string()),
            &kernel.shared_bytes.to_string(),
            &kernel.buffers.to_string(),
        ]);
    }
    writeln!(out, "{table}\n{} kernels", all.len())?;
    Ok(())
}

fn describe(kernel: &Kernel) -> Value {
    json!({
        "language": kernel.language, "op": kernel.op, "variant": kernel.variant, "target": kernel.target,
        "file": kernel.file, "max_threads": kernel.threads, "shared_bytes": kernel.shared_bytes,
        "buffers": kernel.buffers, "bytes": kernel.text.len(),
    })
}

fn emit(folder: &Path, kernels: &[Kernel]) -> Result<(), Failure> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Failure::File { path, source }
    };
    std::fs::create_dir_all(folder).map_err(failed(folder))?;
    for kernel in kernels {
        let path = folder.join(&kernel.file);
        std::fs::write(&path, &kernel.text).map_err(failed(&path))?;
    }
    eprintln!("{} files in {}", kernels.len(), folder.display());
    Ok(())
}

#[cfg(feature = "cuda")]
fn ptx() -> Result<Vec<Kernel>, Failure> {
    use aprgpu::backend::cuda::sources;
    let kernel = |op: &str, variant: &str, name: &str, key: &str, target: sources::Target| {
        let text = sources::source(key, target).map_err(|error| Failure::Usage(error.to_string()))?;
        Ok::<_, Failure>(Kernel {
            language: "ptx",
            variant: variant.to_owned(),
            op: op.to_owned(),
            target: target.name().to_owned(),
            file: format!("{name}.ptx"),
            threads: after(&text, ".maxntid ").and_then(number),
            shared_bytes: text.lines().filter_map(shared).sum(),
            buffers: text.matches(".param .u64").count(),
            text,
        })
    };
    let mut kernels = Vec::new();
    for variant in sources::variants() {
        for &target in &variant.targets {
            let name = sources::entry_name(&variant.key, target);
            kernels.push(kernel(&variant.op, &variant.key, &name, &variant.key, target)?);
        }
    }
    // A whole pass: its functions are those of a model's plan, here of a usual one.
    for (name, key) in sources::usual_decodes() {
        kernels.push(kernel("decode", &name, &name, &key, sources::Target::Sm80)?);
    }
    Ok(kernels)
}

#[cfg(not(feature = "cuda"))]
fn ptx() -> Result<Vec<Kernel>, Failure> {
    Ok(Vec::new())
}

#[cfg(feature = "cuda")]
fn after<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    text.split_once(word).map(|(_, rest)| rest)
}

/// The number that a text begins with.
#[cfg(feature = "cuda")]
fn number(text: &str) -> Option<u32> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// Bytes of a line that declares shared memory: `.shared .align 16 .b8 name[4096];`.
#[cfg(feature = "cuda")]
fn shared(line: &str) -> Option<u32> {
    let declaration = line.trim().strip_prefix(".shared ")?;
    let width = if declaration.contains(".b8 ") { 1 } else { 4 };
    Some(width * after(declaration, "[").and_then(number).unwrap_or(1))
}

#[cfg(feature = "wgpu")]
fn wgsl() -> Vec<Kernel> {
    let described = |shader: aprgpu::backend::wgpu::ShaderSummary| Kernel {
        language: "wgsl",
        op: shader.variant.split(' ').next().unwrap_or_default().to_owned(),
        variant: shader.variant.to_owned(),
        target: "wgsl".to_owned(),
        file: format!("{}.wgsl", shader.variant.replace([' ', '='], "-")),
        text: shader.text.to_owned(),
        threads: None,
        shared_bytes: shader.shared_bytes,
        buffers: shader.buffers,
    };
    aprgpu::backend::wgpu::list_shaders().into_iter().map(described).collect()
}

#[cfg(not(feature = "wgpu"))]
fn wgsl() -> Vec<Kernel> {
    Vec::new()
}
