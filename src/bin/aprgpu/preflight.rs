//! `aprgpu preflight`: is a model ready to be published, and if not, why?

use crate::args::PreflightArgs;
use crate::failure::Failure;
use crate::validate::{table, verdict, with_verdict};
use aprgpu::compare::preflight::preflight as run;
use comfy_table::{Table, presets};
use std::io::Write;

pub(crate) fn preflight(args: &PreflightArgs) -> Result<(), Failure> {
    let found = run(&args.model, &args.device.settings(1))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let json = serde_json::to_value(&found).map_err(std::io::Error::from)?;
        writeln!(out, "{}", with_verdict(json, found.is_ready()))?;
    } else {
        writeln!(out, "{}\n", table(&found.validation))?;
        let mut trials = Table::new();
        trials.load_preset(presets::NOTHING).set_header(["trial", "", "found"]);
        for trial in &found.trials {
            trials.add_row([trial.trial, if trial.passed { "ok" } else { "FAILED" }, &trial.found]);
        }
        if !found.trials.is_empty() {
            writeln!(out, "{}\n", trials.trim_fmt())?;
        }
        let ready = if found.is_ready() { "ready to be published" } else { "not ready to be published" };
        writeln!(out, "{ready}")?;
    }
    verdict(&found.validation)?;
    if found.is_ready() {
        return Ok(());
    }
    let failed = found.trials.iter().filter(|trial| !trial.passed);
    let why: Vec<String> = failed.map(|trial| format!("{}: {}", trial.trial, trial.found)).collect();
    Err(Failure::Validation(format!("{}: {}", args.model.display(), why.join("; "))))
}
