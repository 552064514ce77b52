//! From arguments to what the library measures.

use crate::args::{AdapterArgs, RunArgs, SubjectArgs};
use crate::failure::Failure;
use aprgpu::backend::cpu::physical_cores;
use aprgpu::bench::bandwidth;
use aprgpu::bench::preset::Preset;
use aprgpu::bench::subject::Subject;
use aprgpu::engine::{BackendChoice, Settings};
use aprgpu::plan::{Activations, KvType, Numerics};

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

/// The backend of this name, on the adapter that was asked for.
pub(crate) fn backend(name: &str, adapter: &AdapterArgs) -> Result<BackendChoice, Failure> {
    let choice =
        BackendChoice::from_name(name)?.on_device(adapter.adapter.as_deref(), adapter.allow_software);
    #[cfg(feature = "cuda")]
    let choice = choice.with_cuda_pass(adapter.cuda_pass);
    Ok(choice)
}

/// Every combination of backend, threads and activations.
pub(crate) fn settings(args: &RunArgs) -> Result<Vec<Settings>, Failure> {
    let unknown = || Failure::usage(format!("--kv {}: expected f16 or f32", args.kv));
    let kv = KvType::from_name(&args.kv).ok_or_else(unknown)?;
    let threads: Vec<Option<usize>> = match args.threads.is_empty() {
        true => vec![None],
        false => args.threads.iter().map(|&threads| Some(usize::from(threads))).collect(),
    };
    let mut all = Vec::new();
    for name in &args.backend {
        let backend = backend(name, &args.adapter)?;
        for &threads in &threads {
            for name in &args.activations {
                let unknown = || Failure::usage(format!("--activations {name}: expected q8, q8_k or f32"));
                let activations = Activations::from_name(name).ok_or_else(unknown)?;
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

/// What the device of a backend reads, in GB/s: the measured ceiling of `aprbench bandwidth`.
pub(crate) fn read_bandwidth(
    choice: &BackendChoice,
    threads: Option<usize>,
    backend: &str,
) -> Result<f64, Failure> {
    Ok(match backend {
        "cpu" => bandwidth::measure(threads.unwrap_or_else(physical_cores), 512 << 20, 6)?.best,
        // One thread of plain code.
        "twin" => bandwidth::measure(1, 512 << 20, 6)?.best,
        _ => bandwidth::measure_device(choice, threads, 256 << 20, 5)?.best,
    })
}
