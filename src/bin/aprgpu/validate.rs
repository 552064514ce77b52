//! `aprgpu validate`: does a file hold every rule?

use crate::args::ValidateArgs;
use crate::failure::Failure;
use aprgpu::convert::validate::{Outcome, RULES, Validation, validate as run};
use comfy_table::{Table, presets};
use serde_json::json;
use std::io::Write;

pub(crate) fn validate(args: &ValidateArgs) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let Some(model) = args.model.as_deref().filter(|_| !args.rules) else {
        if args.json {
            let rules: Vec<_> =
                RULES.iter().map(|rule| json!({ "rule": rule.id, "demands": rule.demands })).collect();
            writeln!(out, "{}", json!(rules))?;
        } else {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header(["rule", "demands"]);
            RULES.iter().for_each(|rule| _ = table.add_row([rule.id, rule.demands]));
            writeln!(out, "{}", table.trim_fmt())?;
        }
        return Ok(());
    };
    let validation = run(model)?;
    if args.json {
        let json = serde_json::to_value(&validation).map_err(std::io::Error::from)?;
        writeln!(out, "{}", with_verdict(json, validation.passed()))?;
    } else {
        writeln!(out, "{}", table(&validation))?;
    }
    verdict(&validation)
}

/// Exit code 5 where a rule failed.
pub(crate) fn verdict(validation: &Validation) -> Result<(), Failure> {
    if validation.passed() {
        return Ok(());
    }
    let file = validation.file.display();
    Err(Failure::Validation(format!("{file}: failed: {}", validation.failed().join(", "))))
}

pub(crate) fn with_verdict(mut json: serde_json::Value, passed: bool) -> serde_json::Value {
    json["passed"] = passed.into();
    json
}

pub(crate) fn table(validation: &Validation) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(["rule", "", "found"]);
    for (finding, rule) in validation.findings.iter().zip(RULES) {
        let (outcome, found) = match &finding.outcome {
            Outcome::Passed => ("ok", String::new()),
            Outcome::Failed(problems) => ("FAILED", problems.join("\n")),
            Outcome::NotApplicable => ("-", "not for this file".to_owned()),
            Outcome::NotReached => ("?", format!("could not be looked at: {}", rule.demands)),
        };
        table.add_row([finding.rule, outcome, &found]);
    }
    table.trim_fmt()
}
