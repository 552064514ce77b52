//! `aprgpu inspect`: what a file holds, what was assumed, and how it would run.

use crate::args::InspectArgs;
use crate::failure::Failure;
use aprgpu::model::{Inspection, Model};
use comfy_table::{CellAlignment, Table, presets};
use std::io::Write;

pub(crate) fn inspect(args: &InspectArgs) -> Result<(), Failure> {
    let model = Model::open(&args.model)?;
    let mut inspection = Inspection::new(&model, "q8");
    if !args.tensors {
        inspection.tensors.clear();
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let text = serde_json::to_string_pretty(&inspection).map_err(std::io::Error::from)?;
        writeln!(out, "{text}")?;
    } else {
        write!(out, "{}", text(&inspection)?)?;
    }
    Ok(())
}

fn table(columns: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(columns);
    for &column in numbers {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn text(inspection: &Inspection) -> Result<String, Failure> {
    let mut text = format!(
        "{}: {}, {:.1} MB\n{} weights, {:.2} bits per weight\n\n",
        inspection.file.display(),
        inspection.format,
        inspection.size as f64 / 1e6,
        inspection.parameters,
        inspection.bits_per_weight,
    );
    let mut fields = table(&["field", "value"], &[]);
    // By way of text, so that a float32 keeps its short spelling.
    let config = serde_json::to_string(&inspection.config).map_err(std::io::Error::from)?;
    let config: serde_json::Value = serde_json::from_str(&config).map_err(std::io::Error::from)?;
    for (name, value) in config.as_object().into_iter().flatten() {
        let shown = match value.to_string() {
            long if long.len() > 120 => format!("{}...", long.chars().take(110).collect::<String>()),
            short => short,
        };
        fields.add_row([name.clone(), shown]);
    }
    fields.add_row(["tokenizer".to_owned(), inspection.tokenizer.join(", ")]);
    fields.add_row(["chat template", if inspection.chat_template { "yes" } else { "no" }]);
    text += &format!("{fields}\n\n");

    let mut types = table(&["type", "tensors", "weights", "bytes"], &[1, 2, 3]);
    for one in &inspection.types {
        let [tensors, weights, bytes] =
            [one.tensors.to_string(), one.parameters.to_string(), one.bytes.to_string()];
        types.add_row([one.tensor_type, &tensors, &weights, &bytes]);
    }
    text += &format!("{types}\n");

    if !inspection.tensors.is_empty() {
        let mut tensors = table(&["tensor", "role", "shape", "type", "bytes", "kernel"], &[4]);
        for one in &inspection.tensors {
            let (shape, roles) = (format!("{:?}", one.shape), format!("{:?}", one.roles));
            tensors.add_row([
                &one.name,
                roles.trim_matches(['[', ']']),
                &shape,
                one.tensor_type,
                &one.bytes.to_string(),
                &one.kernel,
            ]);
        }
        text += &format!("\n{tensors}\n");
    }
    if inspection.defaults.is_empty() {
        text += "\nno default was taken: the file states every field\n";
    }
    for default in &inspection.defaults {
        text += &format!("\ndefault taken: {} = {}: {}", default.key, default.value, default.why);
    }
    for note in &inspection.notes {
        text += &format!("\nnote: {}: {} ({} bytes of memory)", note.tensor, note.what, note.bytes);
    }
    for warning in &inspection.warnings {
        text += &format!("\nwarning: {warning}");
    }
    Ok(text.trim_end().to_owned() + "\n")
}
