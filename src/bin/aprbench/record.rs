//! `aprbench record`: everything that benches/record/ holds for this CPU, in one run.

use crate::args::{AdapterArgs, RecordArgs, TestArgs};
use crate::failure::Failure;
use crate::subject::preset;
use crate::versus::{other_program, ours};
use aprgpu::backend::cpu;
use aprgpu::bench::check::Oracle;
use aprgpu::bench::environment::file_hash;
use aprgpu::bench::record::{Options, Record};
use aprgpu::bench::subject::Subject;
use aprgpu::bench::workload::{Test, Workload};
use aprgpu::bench::{bandwidth, report, synth, table, versus};
use aprgpu::compare;
use aprgpu::engine::{BackendChoice, Settings};
use std::path::Path;

pub(crate) fn record(args: &RecordArgs) -> Result<(), Failure> {
    let folder = args.out.join(table::folder_name(&cpu::probe().name));
    let (records, pairs) = (folder.join("aprbench.jsonl"), folder.join("versus.jsonl"));
    for path in [&folder, &args.models] {
        std::fs::create_dir_all(path).map_err(|source| compare::Error::Io { path: path.clone(), source })?;
    }
    // A new record replaces the old one: history is the repository's.
    for path in [&records, &pairs] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    let mut threads = args.threads.clone();
    if threads.is_empty() {
        threads = vec![1, u16::try_from(cpu::physical_cores()).unwrap_or(u16::MAX)];
        threads.dedup();
    }
    let mut files = Vec::new();
    for name in &args.presets {
        let model = args.models.join(format!("{name}.gguf"));
        let preset = preset(name, args.reduced)?;
        if !model.exists() || args.reduced {
            eprintln!("writing {}", model.display());
            synth::write(&preset, &model, &mut |_, _| {})?;
        }
        files.push((name.clone(), model, Some(preset.model_type.replace(" - Medium", ""))));
    }
    for model in &args.also {
        let name = model.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into());
        files.push((name, model.clone(), None));
    }
    let mut complete = true;
    for threads in threads {
        let size = if args.reduced { 1 << 20 } else { 512 << 20 };
        let ceiling = bandwidth::measure(usize::from(threads), size, 10)?.best;
        eprintln!("read bandwidth with {threads} threads: {ceiling:.1} GB/s");
        for (name, model, model_type) in &files {
            measure(args, (model, model_type.as_deref()), (threads, ceiling), &records)?;
            let Some(command) = &args.command else { continue };
            let tests = TestArgs {
                adapter: AdapterArgs::default(),
                backend: "cpu".to_owned(),
                // Our own figures of the same file, just above, were.
                check: "none".to_owned(),
                threads: Some(threads),
                prompt: args.prompt,
                n: args.n,
                depth: 0,
                reps: 1,
                pairs: args.pairs,
                append: None,
                json: false,
            };
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            let both = (ours(&std::env::current_exe()?, model, &tests), other_program(&words, model, &tests));
            let named = (name.as_str(), file_hash(model));
            let mut progress = |what: &str| eprintln!("{name}, {threads} threads, {what}");
            let result = versus::versus((&both.0, &both.1), named, usize::from(args.pairs), &mut progress);
            eprint!("{}", result.report());
            complete &= result.is_complete();
            result.without_paths().append(&pairs)?;
        }
    }
    eprintln!("{}", folder.display());
    match complete {
        true => Ok(()),
        false => Err(Failure::Incomplete("INCOMPLETE: not every pair could be measured".to_owned())),
    }
}

/// Our own figures of one file, checked against the twin.
fn measure(
    args: &RecordArgs,
    (model, model_type): (&Path, Option<&str>),
    (threads, ceiling): (u16, f64),
    records: &Path,
) -> Result<(), Failure> {
    let mut subject = Subject::open(model)?;
    if let Some(model_type) = model_type {
        subject.model_type = model_type.to_owned();
    }
    let threads = Some(usize::from(threads));
    let settings = Settings { backend: BackendChoice::Cpu, threads, ..Settings::default() };
    let options = Options { reps: usize::from(args.pairs), oracle: Oracle::Twin, bandwidth: Some(ceiling) };
    let n = args.n as usize;
    let mut lines = String::new();
    for test in
        [Test::Prefill { n: args.prompt as usize }, Test::Decode { n, batch: 1, tokens_per_submit: 1 }]
    {
        let record = Record::measure(&subject, &settings, &Workload { test, depth: 0 }, &options)?;
        let file = model.file_name().map_or_else(String::new, |name| name.to_string_lossy().into());
        let record = Record { model_filename: file, ..record };
        eprint!("{}", report::render(std::slice::from_ref(&record), report::Format::Table)?);
        lines.push_str(&report::render(&[record], report::Format::Jsonl)?);
    }
    let io = |source| compare::Error::Io { path: records.to_owned(), source };
    let known = std::fs::read_to_string(records).unwrap_or_default();
    Ok(std::fs::write(records, known + &lines).map_err(io)?)
}
