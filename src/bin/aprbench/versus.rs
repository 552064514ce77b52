//! `aprbench versus` and `aprbench aa`.

use crate::args::{AaArgs, TestArgs, VersusArgs};
use crate::failure::Failure;
use aprgpu::bench::environment::file_hash;
use aprgpu::bench::versus::{self, Contestant};
use std::io::Write;
use std::path::Path;

pub(crate) fn versus(args: &VersusArgs) -> Result<(), Failure> {
    let other = match (&args.llama_bench, &args.command, &args.base) {
        (Some(path), _, _) => {
            // Its best attention, and the same kind of device as ours.
            let layers = if matches!(args.tests.backend.as_str(), "cpu" | "twin") { "0" } else { "99" };
            let words = [path.to_string_lossy().as_ref(), "-fa", "1", "-ngl", layers].map(str::to_owned);
            other_program(&words, &args.model, &args.tests)
        }
        (_, Some(command), _) => {
            let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
            other_program(&words, &args.model, &args.tests)
        }
        (_, _, Some(path)) => ours(path, &args.model, &args.tests),
        _ => return Err(Failure::usage("--llama-bench, --command or --base is needed")),
    };
    let program = std::env::current_exe()?;
    run((ours(&program, &args.model, &args.tests), other), &args.model, &args.tests)
}

pub(crate) fn aa(args: &AaArgs) -> Result<(), Failure> {
    let program = std::env::current_exe()?;
    let ours = || ours(&program, &args.model, &args.tests);
    run((ours(), ours()), &args.model, &args.tests)
}

/// This program or another build of it, as a command.
pub(crate) fn ours(program: &Path, model: &Path, tests: &TestArgs) -> Contestant {
    let mut commands = Vec::new();
    for (command, n) in [("prefill", tests.prompt), ("decode", tests.n)] {
        if n > 0 {
            let mut words =
                vec![program.display().to_string(), command.to_owned(), model.display().to_string()];
            let options = [
                ("-n", n.to_string()),
                ("-d", tests.depth.to_string()),
                ("-r", tests.reps.to_string()),
                ("--backend", tests.backend.clone()),
                // Checked once before the pairs.
                ("--check", "none".to_owned()),
                ("--bandwidth", "1".to_owned()),
                ("-o", "json".to_owned()),
            ];
            words.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
            let adapter = tests.adapter.adapter.iter();
            words.extend(adapter.flat_map(|name| ["--adapter".to_owned(), name.clone()]));
            words.extend(tests.adapter.allow_software.then(|| "--allow-software".to_owned()));
            words.extend(tests.threads.iter().flat_map(|t| ["-t".to_owned(), t.to_string()]));
            commands.push(words);
        }
    }
    let check = match tests.check.as_str() {
        "none" => Vec::new(),
        // One token is enough: what is checked are the logits.
        check => commands.last().map_or_else(Vec::new, |command| {
            let mut words = command.clone();
            for (name, value) in [("-n", "1"), ("-d", "0"), ("-r", "1"), ("--check", check)] {
                if let Some(at) = words.iter().position(|word| word == name)
                    && let Some(word) = words.get_mut(at + 1)
                {
                    *word = value.to_owned();
                }
            }
            words
        }),
    };
    Contestant { name: program.display().to_string(), commands, check }
}

/// A program with llama-bench's options.
pub(crate) fn other_program(words: &[String], model: &Path, tests: &TestArgs) -> Contestant {
    let threads = tests.threads.map_or_else(aprgpu::backend::cpu::physical_cores, usize::from);
    let options = [
        ("-m", model.display().to_string()),
        ("-p", tests.prompt.to_string()),
        ("-n", tests.n.to_string()),
        ("-d", tests.depth.to_string()),
        ("-t", threads.to_string()),
        ("-r", tests.reps.to_string()),
        ("-o", "json".to_owned()),
    ];
    let mut command = words.to_vec();
    command.extend(options.into_iter().flat_map(|(name, value)| [name.to_owned(), value]));
    Contestant { name: words.join(" "), commands: vec![command], check: Vec::new() }
}

fn run((a, b): (Contestant, Contestant), model: &Path, tests: &TestArgs) -> Result<(), Failure> {
    let hash = file_hash(model);
    let name = model.display().to_string();
    let mut progress = |what: &str| eprintln!("{what}");
    let result = versus::versus((&a, &b), (&name, hash), usize::from(tests.pairs), &mut progress);
    let mut out = std::io::stdout().lock();
    if tests.json {
        writeln!(out, "{}", serde_json::json!(result))?;
    } else {
        write!(out, "{}", result.report())?;
    }
    if let Some(path) = &tests.append {
        result.append(path)?;
    }
    match result.is_complete() {
        true => Ok(()),
        false => Err(Failure::Incomplete("INCOMPLETE: not every pair could be measured".to_owned())),
    }
}
