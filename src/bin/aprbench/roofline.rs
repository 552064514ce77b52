//! `aprbench roofline`.

use crate::args::RooflineArgs;
use crate::failure::Failure;
use crate::subject::{cpu_bandwidth, subject};
use aprgpu::bench::report::markdown;
use aprgpu::bench::roofline::{GAPS_US, HARDWARE, Prediction, Totals, lines, profile, svg};
use aprgpu::engine::{BackendChoice, Settings};
use aprgpu::plan::Rows;
use std::io::Write;

pub(crate) fn roofline(args: &RooflineArgs) -> Result<(), Failure> {
    let subject = subject(&args.subject)?;
    let depth = args.depth as usize;
    let settings = Settings {
        backend: args.backend.as_deref().map_or(Ok(BackendChoice::Cpu), BackendChoice::from_name)?,
        threads: args.threads.map(usize::from),
        context: Some(depth + 1),
        ..Settings::default()
    };
    let rows = Rows { rows: 1, logit_rows: 1, sample: true };
    let plan = subject.decoder().plan(rows, settings.numerics);
    let (mut times, mut measured_on, mut ceiling) = (None, None, 1000.0);
    if args.backend.is_some() {
        let (mut device, _) = subject.start(&settings)?;
        times = Some(profile(&mut device, 1, depth, usize::from(args.reps))?);
        measured_on = Some(format!("{}: {}", device.describe().0, device.describe().1));
        ceiling = cpu_bandwidth(&settings)?.unwrap_or(ceiling);
    }
    let seen = depth as u64 + 1;
    let ops = lines(&plan, seen, times.as_deref());
    let cache = subject.decoder().kv_layout(1, depth + 1, settings.numerics.kv);
    let totals = Totals::of(&plan, seen, cache.bytes().unwrap_or(0) as u64);
    let predictions: Vec<Prediction> =
        HARDWARE.into_iter().map(|hardware| totals.predict(hardware)).collect();

    let mut out = std::io::stdout().lock();
    if args.json {
        let report = serde_json::json!({
            "model": subject.name, "depth": depth, "measured_on": measured_on, "read_gb_per_s": ceiling,
            "ops": ops, "totals": totals, "gaps_us": GAPS_US, "predictions": predictions,
        });
        writeln!(out, "{report}")?;
    } else {
        let name = &subject.name;
        writeln!(out, "{name}, one token at depth {depth}: {:.1} MB\n", totals.bytes as f64 / 1e6)?;
        write!(out, "{}", op_table(&ops, measured_on.is_some().then_some(ceiling)))?;
        if let Some(device) = &measured_on {
            writeln!(out, "\nmeasured on {device}, each step alone; read bandwidth {ceiling:.1} GB/s")?;
        }
        writeln!(out)?;
        write!(out, "{}", hardware_table(&predictions))?;
    }
    if let Some(path) = &args.svg {
        let title = format!("{}, one token at depth {depth}", subject.name);
        std::fs::write(path, svg(&title, &ops, ceiling))
            .map_err(|source| aprgpu::bench::Error::Io { path: path.clone(), source })?;
    }
    Ok(())
}

fn op_table(ops: &[aprgpu::bench::roofline::OpLine], ceiling: Option<f64>) -> String {
    let text = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.1}"));
    let row = |line: &aprgpu::bench::roofline::OpLine| {
        let share = line.gb_per_s.zip(ceiling).map(|(gb, ceiling)| 100.0 * gb / ceiling);
        vec![
            line.op.to_owned(),
            line.steps.to_string(),
            format!("{:.3}", line.bytes as f64 / 1e6),
            format!("{:.1}", line.flops as f64 / 1e6),
            format!("{:.2}", line.intensity),
            "memory".to_owned(),
            text(line.us),
            text(line.gb_per_s),
            text(share),
        ]
    };
    let header = ["op", "steps", "MB", "MFLOP", "FLOP/byte", "bound", "us", "GB/s", "% of read"];
    markdown(&header, &ops.iter().map(row).collect::<Vec<_>>())
}

fn hardware_table(predictions: &[Prediction]) -> String {
    let row = |p: &Prediction| {
        let mut row = vec![
            p.hardware.name.to_owned(),
            format!("{:.0}", p.hardware.gb_per_s),
            if p.fits { format!("{:.0}", p.ceiling) } else { "does not fit".to_owned() },
        ];
        row.extend(
            p.predicted.map(|predicted| format!("{predicted:.0} ({:.0} %)", 100.0 * predicted / p.ceiling)),
        );
        row
    };
    let gaps = GAPS_US.map(|gap| format!("t/s, {gap} us between kernels"));
    let header = ["device", "GB/s", "ceiling t/s", &gaps[0], &gaps[1], &gaps[2]];
    markdown(&header, &predictions.iter().map(row).collect::<Vec<_>>())
}
