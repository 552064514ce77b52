//! `aprbench bandwidth`.

use crate::args::BandwidthArgs;
use crate::failure::Failure;
use crate::subject;
use aprgpu::backend::cpu::physical_cores;
use aprgpu::bench::bandwidth::{measure, measure_device};
use std::io::Write;

pub(crate) fn bandwidth(args: &BandwidthArgs) -> Result<(), Failure> {
    if args.backend != "cpu" {
        return device(args);
    }
    let threads: Vec<usize> = match args.threads.is_empty() {
        true => (1..=physical_cores()).collect(),
        false => args.threads.iter().map(|&threads| usize::from(threads)).collect(),
    };
    let mut out = std::io::stdout().lock();
    let mut all = Vec::new();
    for threads in threads {
        let found = measure(threads, (args.size as usize) << 20, usize::from(args.passes))?;
        if !args.json {
            let (best, median) = (found.best, found.median);
            writeln!(out, "{threads:3} threads: best {best:.1} GB/s, median {median:.1} GB/s")?;
        }
        all.push(found);
    }
    if args.json {
        writeln!(out, "{}", serde_json::json!(all))?;
    }
    Ok(())
}

/// A device that is not the CPU.
fn device(args: &BandwidthArgs) -> Result<(), Failure> {
    let choice = subject::backend(&args.backend, &args.adapter)?;
    let threads = args.threads.first().map(|&threads| usize::from(threads));
    let found = measure_device(&choice, threads, (args.size as usize) << 20, usize::from(args.passes))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!(found))?;
        return Ok(());
    }
    writeln!(
        out,
        "{}: {}\nmatvecs read {:.1} MB in one launch:",
        found.backend,
        found.device,
        found.bytes as f64 / 1e6
    )?;
    for (name, best) in &found.by_type {
        writeln!(out, "  {name:5} best {best:.1} GB/s")?;
    }
    Ok(())
}
