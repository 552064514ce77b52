//! From arguments to what the library measures.

use crate::args::{RunArgs, SubjectArgs};
use crate::failure::Failure;
use aprgpu::bench::bandwidth;
use aprgpu::bench::preset::Preset;
use aprgpu::bench::subject::Subject;
use aprgpu::compare::steps::activations_from_name;
use aprgpu::engine::{BackendChoice, Settings};
use aprgpu::plan::{KvType, Numerics};

pub(crate) fn preset(name: &str, reduced: bool) -> Result<Preset, Failure> {
    let unknown = || Failure::usage(format!("there is no preset {name}; there are {}", Preset::names()));
    let preset = Preset::find(name).ok_or_else(unknown)?;
    Ok(if reduced { preset.reduced() } else { preset })
}

pub(crate) fn subject(args: &SubjectArgs) -> Result<Subject, Failure> {
    Ok(match (&args.model, &args.preset) {
        (Some(path), _) => Subject::open(path)?,
        (None, Some(name)) => Subject::preset(&preset(name, args.reduced)?)?,
        (None, None) => return Err(Failure::usage("a model or --preset is needed")),
    })
}

/// Every combination of backend, threads and activations.
pub(crate) fn settings(args: &RunArgs) -> Result<Vec<Settings>, Failure> {
    let kv = match args.kv.as_str() {
        "f16" => KvType::F16,
        "f32" => KvType::F32,
        other => return Err(Failure::usage(format!("--kv {other}: expected f16 or f32"))),
    };
    let threads: Vec<Option<usize>> = match args.threads.is_empty() {
        true => vec![None],
        false => args.threads.iter().map(|&threads| Some(usize::from(threads))).collect(),
    };
    let mut all = Vec::new();
    for name in &args.backend {
        let backend = BackendChoice::from_name(name)?;
        for &threads in &threads {
            for name in &args.activations {
                let unknown = || Failure::usage(format!("--activations {name}: expected q8, q8_k or f32"));
                let activations = activations_from_name(name).ok_or_else(unknown)?;
                all.push(Settings {
                    backend: backend.clone(),
                    threads,
                    numerics: Numerics { activations, kv },
                    context: args.ctx.map(|context| context as usize),
                    slots: 1,
                    chunk: args.chunk as usize,
                });
            }
        }
    }
    Ok(all)
}

/// Read bandwidth of the memory that a CPU backend uses. Of other devices nothing is known here.
pub(crate) fn cpu_bandwidth(settings: &Settings) -> Result<Option<f64>, Failure> {
    if settings.backend == BackendChoice::Twin {
        return Ok(None);
    }
    let threads = settings.threads.unwrap_or_else(aprgpu::backend::cpu::physical_cores);
    Ok(Some(bandwidth::measure(threads, 512 << 20, 6)?.best))
}
