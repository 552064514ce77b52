//! `aprgpu diff`: what two models have in common and what not. Differences are no failure.

use crate::args::DiffArgs;
use crate::failure::Failure;
use aprgpu::convert::diff::{Diff, Stored, diff as run};
use aprgpu::model::Source;
use comfy_table::{Table, presets};
use std::io::Write;

pub(crate) fn diff(args: &DiffArgs) -> Result<(), Failure> {
    let (a, b) = (Source::open(&args.a)?, Source::open(&args.b)?);
    let found = run(&a, &b, args.values)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let json = serde_json::to_value(&found).map_err(std::io::Error::from)?;
        writeln!(out, "{}", with_verdict(json, &found))?;
        return Ok(());
    }
    for part in [metadata(&found), tensors(&found), layers(&found)].into_iter().flatten() {
        writeln!(out, "{part}\n")?;
    }
    let all = if args.values { "metadata, tensors and values" } else { "metadata, tensors and types" };
    if found.is_empty() {
        writeln!(out, "the same {all}")?;
    }
    Ok(())
}

fn with_verdict(mut json: serde_json::Value, found: &Diff) -> serde_json::Value {
    json["same"] = found.is_empty().into();
    json
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

fn metadata(found: &Diff) -> Option<String> {
    let mut table = new_table(&["key", "a", "b"]);
    for difference in &found.metadata {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        table.add_row([difference.key.clone(), show(&difference.a), show(&difference.b)]);
    }
    (!found.metadata.is_empty()).then(|| table.trim_fmt())
}

fn tensors(found: &Diff) -> Option<String> {
    let with_values = found.tensors.iter().any(|tensor| tensor.values.is_some());
    let mut header = vec!["tensor", "a", "b"];
    if with_values {
        header.extend(["NMSE", "max error", "at", "std ratio"]);
    }
    let mut table = new_table(&header);
    for tensor in &found.tensors {
        let show = |stored: &Option<Stored>| {
            stored.as_ref().map_or_else(|| "-".to_owned(), |s| format!("{} {:?}", s.tensor_type, s.shape))
        };
        let mut row = vec![tensor.name.clone(), show(&tensor.a), show(&tensor.b)];
        if let Some(values) = &tensor.values {
            row.extend([
                format!("{:.2e}", values.nmse),
                format!("{:.3e}", values.max_error),
                format!("{}, {}", values.at.0, values.at.1),
                format!("{:.5}", values.std_ratio),
            ]);
        }
        table.add_row(row);
    }
    (!found.tensors.is_empty()).then(|| table.trim_fmt())
}

fn layers(found: &Diff) -> Option<String> {
    let mut table = new_table(&["layer", "worst NMSE", "std ratio", ""]);
    for layer in &found.layers {
        table.add_row([
            layer.layer.map_or_else(|| "none".to_owned(), |layer| layer.to_string()),
            format!("{:.2e}", layer.nmse),
            format!("{:.5}", layer.std_ratio),
            if layer.is_flagged() { "FLAGGED".to_owned() } else { String::new() },
        ]);
    }
    (!found.layers.is_empty()).then(|| table.trim_fmt())
}
