//! `aprbench decode` and `aprbench prefill`.

use crate::args::MeasureArgs;
use crate::failure::Failure;
use crate::subject::{read_bandwidth, settings, subject};
use aprgpu::bench::check::Oracle;
use aprgpu::bench::record::{Options, Record};
use aprgpu::bench::report::{Format, render};
use aprgpu::bench::targets;
use aprgpu::bench::workload::{Test, Workload};
use std::io::Write;

pub(crate) fn decode(args: &MeasureArgs) -> Result<(), Failure> {
    let n = if args.n.is_empty() { vec![128] } else { args.n.clone() };
    let tokens_per_submit = usize::from(args.tokens_per_submit);
    let tests = args.batch.iter().flat_map(|&batch| {
        n.iter().map(move |&n| Test::Decode { n: n as usize, batch: usize::from(batch), tokens_per_submit })
    });
    measure(args, &tests.collect::<Vec<_>>())
}

pub(crate) fn prefill(args: &MeasureArgs) -> Result<(), Failure> {
    let n = if args.n.is_empty() { vec![512] } else { args.n.clone() };
    measure(args, &n.iter().map(|&n| Test::Prefill { n: n as usize }).collect::<Vec<_>>())
}

fn measure(args: &MeasureArgs, tests: &[Test]) -> Result<(), Failure> {
    let unknown = || Failure::usage(format!("-o {}: expected table, json, jsonl, csv or md", args.output));
    let format = Format::from_name(&args.output).ok_or_else(unknown)?;
    let oracle = match args.check.as_str() {
        "twin" => Oracle::Twin,
        "cpu" => Oracle::Cpu,
        "none" => Oracle::None,
        other => return Err(Failure::usage(format!("--check {other}: expected twin, cpu or none"))),
    };
    let subject = subject(&args.subject)?;
    let mut records = Vec::new();
    for settings in settings(&args.run)? {
        let mut bandwidth = args.bandwidth;
        for &test in tests {
            for &depth in &args.depth {
                let workload = Workload { test, depth: depth as usize };
                let options = Options { reps: usize::from(args.reps), oracle, bandwidth };
                let mut record = Record::measure(&subject, &settings, &workload, &options)?;
                if bandwidth.is_none() {
                    // Only now is it known what `auto` chose.
                    let read = read_bandwidth(&settings.backend, settings.threads, &record.backends)?;
                    bandwidth = Some(read);
                    record = record.with_bandwidth(read);
                }
                if format == Format::Jsonl {
                    print(&render(std::slice::from_ref(&record), format)?)?;
                }
                records.push(record);
            }
        }
    }
    if format != Format::Jsonl {
        print(&render(&records, format)?)?;
    }
    if let Some(path) = &args.assert_target {
        let targets = targets::read(path)?;
        let mut failed = None;
        for result in records.iter().map(|record| targets::assert_target(&targets, record)) {
            match (result, &failed) {
                (Ok(line), _) => eprintln!("{line}"),
                (Err(error), None) => failed = Some(error),
                (Err(error), Some(_)) => eprintln!("{error}"),
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
    }
    Ok(())
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
}
