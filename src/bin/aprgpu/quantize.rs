//! `aprgpu quantize`: a model with smaller weights.

use crate::args::QuantizeArgs;
use crate::failure::Failure;
use crate::progress;
use aprgpu::convert::mix::MixOptions;
use aprgpu::convert::{self, FileFormat, Importance, Options, Planned, Progress, Recipe, Report};
use aprgpu::model::Source;
use comfy_table::{CellAlignment, Table, presets};
use std::io::Write;
use std::time::Instant;

pub(crate) fn quantize(args: &QuantizeArgs) -> Result<(), Failure> {
    let source = Source::open(&args.input)?;
    let importance = args.imatrix.as_deref().map(Importance::open).transpose()?;
    let mix = MixOptions {
        mix: args.to,
        pure: args.pure,
        overrides: args.tensor_type.clone(),
        has_imatrix: importance.is_some(),
    };
    let recipe = Recipe { mix, importance, allow_requantize: args.allow_requantize };
    let options = Options { compat: args.compat, name: args.name.clone(), threads: args.threads };
    if args.dry_run {
        let (planned, report) = convert::dry_run(&source, Some(&recipe), &options)?;
        let text = if args.json { json(&planned)? } else { table(&planned, &report) };
        writeln!(std::io::stdout().lock(), "{}", text.trim_end())?;
        return Ok(());
    }
    let output = args.output.as_deref().unwrap_or_else(|| std::path::Path::new(""));
    let Some(format) = FileFormat::of(output) else {
        let what = format!("{}: expected the name of a .gguf or .apr file to write", output.display());
        return Err(Failure::Usage(what));
    };
    progress::clean_up_on_interrupt()?;
    let start = Instant::now();
    let mut bar = progress::bar("quantizing");
    let mut progress = |progress: Progress| bar(progress.done, progress.total);
    let report = convert::export(&source, output, format, Some(&recipe), &options, &mut progress)?;
    for note in &report.notes {
        eprintln!("note: {note}");
    }
    let (before, after) = (report.bytes_read as f64 / 1e6, report.bytes_written as f64 / 1e6);
    eprintln!(
        "{}: {} tensors, {before:.1} MB to {after:.1} MB, {:.1} s{}",
        output.display(),
        report.tensors,
        start.elapsed().as_secs_f64(),
        progress::peak_memory()
    );
    Ok(())
}

fn totals(planned: &[Planned]) -> (u64, u64, f64) {
    let bytes: u64 = planned.iter().map(|tensor| tensor.bytes).sum();
    let parameters: u64 = planned.iter().map(Planned::parameters).sum();
    (bytes, parameters, bytes as f64 * 8.0 / parameters.max(1) as f64)
}

fn json(planned: &[Planned]) -> Result<String, Failure> {
    let (bytes, parameters, bits) = totals(planned);
    let value = serde_json::json!({
        "tensors": planned, "bytes": bytes, "parameters": parameters, "bits_per_weight": bits
    });
    Ok(serde_json::to_string_pretty(&value).map_err(std::io::Error::from)?)
}

fn table(planned: &[Planned], report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["tensor", "shape", "from", "to", "bytes", "bits per weight", ""]);
    for column in [4, 5] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    for tensor in planned {
        let note = tensor.instead_of.map(|wanted| format!("its block does not divide the row: not {wanted}"));
        table.add_row([
            tensor.name.clone(),
            format!("{:?}", tensor.shape),
            tensor.from.to_string(),
            tensor.to.to_string(),
            tensor.bytes.to_string(),
            format!("{:.3}", tensor.bits_per_weight()),
            note.unwrap_or_default(),
        ]);
    }
    let (bytes, parameters, bits) = totals(planned);
    let notes: String = report.notes.iter().map(|note| format!("\nnote: {note}")).collect();
    format!("{table}\n\n{parameters} weights, {bytes} bytes, {bits:.3} bits per weight{notes}")
}
