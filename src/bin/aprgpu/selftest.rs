//! `aprgpu selftest`: does this machine compute what it should?

use crate::compare_args::SelftestArgs;
use crate::failure::Failure;
use aprgpu::compare::model_checks::{self, CONTEXT, SLOTS};
use aprgpu::compare::selftest::{Check, Extent, selftest as run};
use aprgpu::engine::{self, BackendChoice, Settings, set_up};
use aprgpu::model::Model;
use aprgpu::plan::{Activations, Numerics};
use serde_json::json;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// What a model file is asked to continue.
const PROMPTS: [&str; 2] = [
    "def add(a, b):\n    return a + b\n\n\ndef multiply(a, b):",
    "Once upon a time, in a village by the sea,",
];

pub(crate) fn selftest(args: &SelftestArgs) -> Result<(), Failure> {
    let choice = args.adapter.backend(&args.backend)?;
    let threads = args.threads.map(usize::from);
    // What the device calls itself, from the first one set up.
    let device = std::cell::RefCell::new(String::new());
    let mut checks = run(
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
    if let Some(path) = &args.model {
        checks.extend(model(path, &choice, threads, args.quick)?);
    }
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

/// The checks of a model file; the scalar twin sees fewer tokens of a large one.
fn model(
    path: &Path,
    choice: &BackendChoice,
    threads: Option<usize>,
    quick: bool,
) -> Result<Vec<Check>, Failure> {
    let model = Arc::new(Model::open(path)?);
    let tokenizer = model.tokenizer()?;
    let prompts = PROMPTS.map(|text| tokenizer.encode(text, true, false));
    let mut checks = Vec::new();
    for activations in Activations::ALL {
        if quick && activations != Activations::Q8 {
            continue;
        }
        let defaults = Settings::default();
        let numerics = Numerics { activations, ..defaults.numerics };
        let settings = Settings { threads, numerics, context: Some(CONTEXT), slots: SLOTS, ..defaults };
        let load = |backend: BackendChoice, slots: usize| {
            engine::load(&model, &Settings { backend, slots, ..settings.clone() }, &mut |_, _| {})
        };
        let (mut device, _) = load(choice.clone(), SLOTS)?;
        let (mut twin, _) = load(BackendChoice::Twin, 1)?;
        let bytes: u64 = device.decoder().weights().iter().map(|weight| weight.bytes()).sum();
        let tokens = model_checks::affordable_tokens(bytes);
        checks.extend(model_checks::run(&mut device, &mut twin, &prompts, tokens)?);
    }
    Ok(checks)
}
