//! `aprbench roofline`.

use crate::args::RooflineArgs;
use crate::failure::Failure;
use crate::subject::{backend, read_bandwidth, subject};
use aprgpu::bench::check::{Oracle, check};
use aprgpu::bench::report::markdown;
use aprgpu::bench::roofline::{
    GAPS_US, HARDWARE, Hardware, Limits, Prediction, Totals, lines, measured_limits, profile, svg,
};
use aprgpu::compare;
use aprgpu::engine::Settings;
use aprgpu::plan::Rows;
use std::io::Write;

pub(crate) fn roofline(args: &RooflineArgs) -> Result<(), Failure> {
    let subject = subject(&args.subject)?;
    let depth = args.depth as usize;
    let settings = Settings {
        backend: backend(args.backend.as_deref().unwrap_or("cpu"), &args.adapter)?,
        threads: args.threads.map(usize::from),
        // Also for the tile of a prompt that shows what the device can compute.
        context: Some((depth + 1).max(64)),
        ..Settings::default()
    };
    let rows = Rows { rows: 1, logit_rows: 1, sample: true };
    let plan = subject.decoder().plan(rows, settings.numerics);
    let seen = depth as u64 + 1;
    let (mut times, mut limits) = (None, None);
    if args.backend.is_some() {
        let (mut device, _) = subject.start(&settings)?;
        check(&subject, &mut device, &settings, Oracle::Twin)?;
        let measured = profile(&mut device, 1, depth, usize::from(args.reps))?;
        let gb_per_s = read_bandwidth(&settings.backend, settings.threads, device.describe().0)?;
        limits = Some(measured_limits(&mut device, gb_per_s, &measured)?);
        times = Some(measured);
    }
    let is_measured = limits.is_some();
    let limits = match limits {
        Some(limits) => limits,
        None => {
            let known = HARDWARE.map(|hardware| hardware.name).join(", ");
            let unknown = || Failure::usage(format!("--device {}: there are {known}", args.device));
            Limits::of(Hardware::find(&args.device).ok_or_else(unknown)?)
        }
    };
    let ops = lines(&plan, seen, &limits, times.as_deref());
    let cache = subject.decoder().kv_layout(1, depth + 1, settings.numerics.kv);
    let totals = Totals::of(&plan, seen, cache.bytes().unwrap_or(0) as u64);
    let predictions: Vec<Prediction> =
        HARDWARE.into_iter().map(|hardware| totals.predict(hardware)).collect();

    let mut out = std::io::stdout().lock();
    if args.json {
        let report = serde_json::json!({
            "model": subject.name, "depth": depth, "limits": limits, "measured": is_measured,
            "ops": ops, "totals": totals, "gaps_us": GAPS_US, "predictions": predictions,
        });
        writeln!(out, "{report}")?;
    } else {
        let name = &subject.name;
        writeln!(out, "{name}, one token at depth {depth}: {:.1} MB\n", totals.bytes as f64 / 1e6)?;
        write!(out, "{}", op_table(&ops, is_measured.then_some(limits.gb_per_s)))?;
        let how = if is_measured { "each step alone, measured on" } else { "bounds on" };
        writeln!(
            out,
            "\n{how} {}: reads {:.1} GB/s, computes {:.0} GFLOP/s, a launch takes {:.1} us\n",
            limits.device, limits.gb_per_s, limits.gflops, limits.launch_us
        )?;
        write!(out, "{}", hardware_table(&predictions))?;
    }
    if let Some(path) = &args.svg {
        let title = format!("{}, one token at depth {depth}", subject.name);
        std::fs::write(path, svg(&title, &ops, &limits))
            .map_err(|source| compare::Error::Io { path: path.clone(), source })?;
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
            line.bound.to_owned(),
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
