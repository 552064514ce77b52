//! `aprgpu selftest`: does this machine compute what it should?

use crate::compare_args::SelftestArgs;
use crate::failure::Failure;
use aprgpu::compare::selftest::{Extent, selftest as run};
use aprgpu::engine::{BackendChoice, set_up};
use serde_json::json;
use std::io::Write;

pub(crate) fn selftest(args: &SelftestArgs) -> Result<(), Failure> {
    let choice = BackendChoice::from_name(&args.backend)?;
    #[cfg(feature = "wgpu")]
    let choice = match choice {
        BackendChoice::Wgpu(mut wgpu) => {
            wgpu.allow_software = args.allow_software;
            wgpu.adapter = args.adapter.clone().or(wgpu.adapter);
            BackendChoice::Wgpu(wgpu)
        }
        other => other,
    };
    let threads = args.threads.map(usize::from);
    // What the device calls itself, from the first one set up.
    let device = std::cell::RefCell::new(String::new());
    let checks = run(
        &|decoder, source, kv_layout, rope| {
            let parts = (decoder, source as _, kv_layout, rope);
            let (backend, _) = set_up(&choice, parts, threads, &mut |_, _| {})?;
            let mut device = device.borrow_mut();
            if device.is_empty() {
                *device = format!("{}: {}", backend.name(), backend.describe());
            }
            Ok(backend)
        },
        if args.quick { Extent::Reduced } else { Extent::Full },
    )?;
    let (device, failed) = (device.into_inner(), checks.iter().filter(|check| !check.passed).count());
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", json!({ "device": device, "passed": failed == 0, "checks": checks }))?;
    } else {
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(["check", "activations", "cases", "found", "limit", ""]);
        for check in &checks {
            let passed = if check.passed { "ok" } else { "FAILED" };
            let cases = check.cases.to_string();
            table.add_row([&check.name, check.activations, &cases, &check.found, &check.limit, passed]);
        }
        writeln!(out, "{device}\n{table}")?;
        writeln!(out, "{} checks, {failed} failed", checks.len())?;
    }
    match failed {
        0 => Ok(()),
        _ => Err(Failure::Parity(format!("{failed} of {} checks failed on {device}", checks.len()))),
    }
}
