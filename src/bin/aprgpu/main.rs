//! The `aprgpu` command: parse, call the library, print.

mod args;
mod chat;
mod compare;
mod compare_args;
mod convert;
mod devices;
mod diff;
mod failure;
mod inspect;
mod kernels;
mod logits;
mod opened;
mod perplexity;
mod plan;
mod preflight;
mod progress;
mod quantize;
mod run;
mod selftest;
mod stamp;
mod template;
mod tokenize;
mod validate;

use args::{Cli, Command};
use clap::{CommandFactory, Parser};
use failure::Failure;
use std::io::Write;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Chat(args) => chat::chat(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Convert(args) => convert::convert(&args),
        Command::Tokenize(args) => tokenize::tokenize(&args),
        Command::Template(args) => template::template(&args),
        Command::Logits(args) => logits::logits(&args),
        Command::Devices(args) => devices::devices(&args),
        Command::Compare(args) => compare::compare(&args),
        Command::Perplexity(args) => perplexity::perplexity(&args),
        Command::Selftest(args) => selftest::selftest(&args),
        Command::Kernels(args) => kernels::kernels(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Completions { shell } => completions(shell),
        Command::Quantize(args) => quantize::quantize(&args),
        Command::Validate(args) => validate::validate(&args),
        Command::Preflight(args) => preflight::preflight(&args),
        Command::Stamp(args) => stamp::stamp(&args),
        Command::Diff(args) => diff::diff(&args),
    };
    match result {
        // A reader that has seen enough (`aprgpu ... | head`) is no failure.
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

/// Prints a completion script. The generator panics where it cannot write, so that it writes into memory.
fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "aprgpu", &mut script);
    let mut out = std::io::stdout().lock();
    out.write_all(&script)?;
    Ok(out.flush()?)
}
