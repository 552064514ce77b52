//! `aprgpu plan`: a token's steps, from the metadata alone.

use crate::compare_args::PlanArgs;
use crate::failure::Failure;
use aprgpu::bench::preset::Preset;
use aprgpu::bench::report::markdown;
use aprgpu::bench::roofline::{GAPS_US, HARDWARE, Hardware, Limits, Prediction, Totals, lines};
use aprgpu::engine::{self, Settings};
use aprgpu::model::Model;
use aprgpu::plan::{Decoder, Rows};
use serde_json::json;
use std::io::Write;

pub(crate) fn plan(args: &PlanArgs) -> Result<(), Failure> {
    let (name, decoder, trained) = model(args)?;
    let settings = Settings { context: args.ctx.map(|ctx| ctx as usize), ..Settings::default() };
    let (context, batch) = (settings.context(trained), usize::from(args.batch));
    let rows = Rows { rows: batch, logit_rows: batch, sample: true };
    let plan = decoder.plan(rows, settings.numerics);
    let cache = decoder.kv_layout(batch, context, settings.numerics.kv).bytes();
    let too_long = || Failure::Usage(format!("a cache of {batch} x {context} positions has no size"));
    let totals = Totals::of(&plan, context as u64, cache.ok_or_else(too_long)? as u64);
    let wanted: Vec<Hardware> = match &args.device {
        None => HARDWARE.to_vec(),
        Some(name) => {
            let known = HARDWARE.map(|hardware| hardware.name).join(", ");
            let unknown = || Failure::Usage(format!("--device {name}: there are {known}"));
            vec![Hardware::find(name).ok_or_else(unknown)?]
        }
    };
    let predictions: Vec<Prediction> = wanted.iter().map(|hardware| totals.predict(*hardware)).collect();
    let limits = Limits::of(wanted.first().copied().unwrap_or(HARDWARE[0]));
    let ops = lines(&plan, context as u64, &limits, None);
    let mut out = std::io::stdout().lock();
    if args.json {
        let report = json!({
            "model": name, "context": context, "batch": batch, "gpu_launches": plan.launches().0,
            "gpu_launches_per_layer": plan.launches().1, "totals": totals, "memory": totals.memory(),
            "limits": limits, "ops": ops, "gaps_us": GAPS_US, "predictions": predictions,
        });
        writeln!(out, "{report}")?;
        return Ok(());
    }
    let megabytes = |bytes: u64| format!("{:.3}", bytes as f64 / 1e6);
    let rows: Vec<Vec<String>> = match args.steps {
        false => ops
            .iter()
            .map(|op| {
                let (steps, bytes, flops) = (op.steps.to_string(), megabytes(op.bytes), megabytes(op.flops));
                vec![op.op.to_owned(), steps, bytes, flops, op.bound.to_owned()]
            })
            .collect(),
        true => plan
            .steps
            .iter()
            .map(|step| {
                let cost = step.cost;
                let bytes = cost.weight_bytes + cost.kv_bytes_per_position * context as u64;
                let flops = cost.flops + cost.flops_per_position * context as u64;
                let layer = step.layer.map_or("-".to_owned(), |layer| layer.to_string());
                let bound = limits.bound(bytes as f64, flops as f64).to_owned();
                vec![step.op.kind().name().to_owned(), layer, megabytes(bytes), megabytes(flops), bound]
            })
            .collect(),
    };
    let (launches, per_layer) = plan.launches();
    let bound = format!("bound on {}", limits.device);
    let second = if args.steps { "layer" } else { "steps" };
    write!(out, "{}", markdown(&["op", second, "MB", "MFLOP", &bound], &rows))?;
    writeln!(
        out,
        "\n{name}: {} ops in {launches} launches on a GPU, {per_layer} a layer; {} MB read per step of {batch} at \
         {context} positions\n\
         memory: weights {} + cache {} + buffers {} = {} MB\n",
        totals.launches,
        megabytes(totals.bytes),
        megabytes(totals.weights),
        megabytes(totals.cache),
        megabytes(totals.buffers),
        megabytes(totals.memory()),
    )?;
    let row = |p: &Prediction| {
        let fits = if p.fits { "yes" } else { "no" };
        let mut row = vec![p.hardware.name.to_owned(), fits.to_owned(), format!("{:.0}", p.ceiling)];
        row.extend(p.predicted.map(|predicted| format!("{predicted:.0}")));
        row
    };
    let gaps = GAPS_US.map(|gap| format!("t/s at {gap} us between kernels"));
    let header = ["device", "fits", "ceiling t/s", &gaps[0], &gaps[1], &gaps[2]];
    write!(out, "{}", markdown(&header, &predictions.iter().map(row).collect::<Vec<_>>()))?;
    Ok(())
}

/// Name, decoder and trained context.
fn model(args: &PlanArgs) -> Result<(String, Decoder, usize), Failure> {
    if let Some(path) = &args.model {
        let model = Model::open(path)?;
        return Ok((path.display().to_string(), engine::decoder(&model)?, model.config.context_length));
    }
    let name = args.preset.as_deref().unwrap_or_default();
    let unknown = || Failure::Usage(format!("there is no preset {name}; there are {}", Preset::names()));
    let preset = Preset::find(name).ok_or_else(unknown)?;
    let decoder = preset.decoder().map_err(engine::Error::from)?;
    Ok((name.to_owned(), decoder, preset.context_length))
}
