//! `aprbench bandwidth`.

use crate::args::BandwidthArgs;
use crate::failure::Failure;
use aprgpu::backend::cpu::physical_cores;
use aprgpu::bench::bandwidth::measure;
use std::io::Write;

pub(crate) fn bandwidth(args: &BandwidthArgs) -> Result<(), Failure> {
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
