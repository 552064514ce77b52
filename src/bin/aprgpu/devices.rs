//! `aprgpu devices`: what models can run on here.

use crate::args::DevicesArgs;
use crate::failure::Failure;
use aprgpu::backend::cpu;
use serde_json::json;
use std::io::Write;

pub(crate) fn devices(args: &DevicesArgs) -> Result<(), Failure> {
    let cpu = cpu::probe();
    let mut out = std::io::stdout().lock();
    if args.json {
        let paths: Vec<_> = cpu.paths.iter().map(ToString::to_string).collect();
        let device = json!({
            "backend": "cpu", "name": cpu.name, "threads": cpu.threads, "paths": paths, "memory_bytes": cpu.memory_bytes,
        });
        writeln!(out, "{}", json!([device]))?;
    } else {
        writeln!(out, "cpu   {cpu}")?;
        writeln!(out, "twin  the scalar specification, one thread: for comparison")?;
    }
    Ok(())
}
