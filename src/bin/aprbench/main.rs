//! The `aprbench` command: parse, call the library, print.

mod args;
mod bandwidth;
mod cmp;
mod encode;
mod failure;
mod kernels;
mod measure;
mod record;
mod roofline;
mod subject;
mod synth;
mod table;
mod versus;

use args::{Cli, Command};
use clap::Parser;
use failure::Failure;
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Decode(args) => measure::decode(&args),
        Command::Prefill(args) => measure::prefill(&args),
        Command::Bandwidth(args) => bandwidth::bandwidth(&args),
        Command::Synth(args) => synth::synth(&args),
        Command::Kernels(args) => kernels::kernels(&args),
        Command::Encode(args) => encode::encode(&args),
        Command::Roofline(args) => roofline::roofline(&args),
        Command::Versus(args) => versus::versus(&args),
        Command::Aa(args) => versus::aa(&args),
        Command::Cmp(args) => cmp::cmp(&args),
        Command::Record(args) => record::record(&args),
        Command::Table(args) => table::table(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Stdout(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}
