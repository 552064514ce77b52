//! `aprgpu compare`: where do two backends, or two files, part?

use crate::compare_args::CompareArgs;
use crate::failure::{Failure, read_text};
use aprgpu::bench::report::markdown;
use aprgpu::compare::dump::Dump;
use aprgpu::compare::steps::{BufferReport, Inputs, Options, compare_steps, first_over};
use aprgpu::compare::{files, text};
use aprgpu::engine::{self, BackendChoice, Device, Settings};
use aprgpu::model::Model;
use aprgpu::plan::{Activations, KvType, Numerics, OpKind};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Enough to fill a sentence or two of any model.
const PROMPT: &str = "The quick brown fox jumps over the lazy dog. def add(a, b): return a + b";

pub(crate) fn compare(args: &CompareArgs) -> Result<(), Failure> {
    let model = Arc::new(Model::open(&args.model)?);
    let tokens = match &args.tokens {
        Some(tokens) => tokens.clone(),
        None => model.tokenizer()?.encode(args.prompt.as_deref().unwrap_or(PROMPT), true, true),
    };
    if let Some(other) = &args.against {
        return against(args, &model, other, &tokens);
    }
    let text = match &args.text {
        Some(path) => model.tokenizer()?.encode(&read_text(path)?, true, false),
        None => tokens.clone(),
    };
    let positions = tokens.len().max(text.len().min(args.window as usize));
    let (mut reports, mut broken) = (Vec::new(), Vec::new());
    let mut out = std::io::stdout().lock();
    for activations in &args.activations {
        let numerics = numerics(args, activations)?;
        let mut truth = device(args, &model, BackendChoice::Twin, numerics, positions)?;
        for name in &args.backends {
            let mut found = device(args, &model, args.adapter.backend(name)?, numerics, positions)?;
            let steps = compare_and_dump(args, (&mut truth, &mut found), &tokens)?;
            let first = first_over(&steps).cloned();
            let whole = args.stop_after.is_none() && first.is_none();
            let window = args.window as usize;
            let agreement =
                whole.then(|| text::agreement(&mut truth, &mut found, &text, window)).transpose()?;
            let title = format!("{} against the twin, {activations} activations", found.describe().0);
            if !args.json {
                write!(out, "{title}, {} tokens\n\n{}\n", tokens.len(), table(&steps, args.all))?;
                if let Some(a) = &agreement {
                    let (rate, kl, max) = (100.0 * a.same_top_rate(), a.mean_kl, a.max_kl);
                    writeln!(
                        out,
                        "over {} tokens of text: same best token {rate:.1} %, KL {kl:.1e}, at most {max:.1e}\n",
                        a.positions
                    )?;
                }
            }
            if let Some(first) = &first {
                broken.push(format!("{title}: {}", place(first)));
            }
            if let Some(what) = agreement.as_ref().and_then(|a| a.broken(args.kl, args.top)) {
                broken.push(format!("{title}: {what}"));
            }
            reports.push(json!({
                "backend": found.describe().0, "device": found.describe().1, "activations": activations,
                "tokens": tokens.len(), "steps": steps, "first_over": first, "agreement": agreement,
            }));
        }
    }
    if args.json {
        writeln!(out, "{}", Value::Array(reports))?;
    }
    if broken.is_empty() { Ok(()) } else { Err(Failure::Parity(broken.join("\n"))) }
}

/// Step by step; what both wrote goes to --dump.
fn compare_and_dump(
    args: &CompareArgs,
    (truth, found): (&mut Device, &mut Device),
    tokens: &[u32],
) -> Result<Vec<BufferReport>, Failure> {
    let mut dumps = [Dump::default(), Dump::default()];
    let steps = compare_steps(truth, found, tokens, &options(args)?, &mut |written| {
        if args.dump.is_some() {
            for (dump, values) in dumps.iter_mut().zip([written.truth, written.values]) {
                dump.add(written, values);
            }
        }
        Ok(())
    })?;
    if let Some(folder) = &args.dump {
        for (dump, device) in dumps.iter().zip([truth, found]) {
            let name = format!("{}-{}", device.describe().0, device.numerics().activations.name());
            let folder = folder.join(name);
            let count = dump.write(&folder)?;
            eprintln!("{}: {count} buffers", folder.display());
        }
    }
    Ok(steps)
}

fn against(args: &CompareArgs, model: &Arc<Model>, other: &Path, tokens: &[u32]) -> Result<(), Failure> {
    let backend = args.adapter.backend(args.backends.first().map_or("auto", String::as_str))?;
    let numerics = numerics(args, args.activations.first().map_or("f32", String::as_str))?;
    let mut base = device(args, model, backend.clone(), numerics, tokens.len())?;
    let raw = other.extension().is_some_and(|extension| extension == "f32");
    let mut steps = None;
    let found = if raw {
        if args.steps {
            return Err(Failure::Usage("--steps: raw logits have no steps".to_owned()));
        }
        files::compare_logits(&mut base, other, tokens)?
    } else {
        let other = Arc::new(Model::open(other)?);
        let mut other = device(args, &other, backend, numerics, tokens.len())?;
        if args.steps {
            steps = Some(compare_steps(&mut base, &mut other, tokens, &options(args)?, &mut |_| Ok(()))?);
        }
        files::compare_models(&mut base, &mut other, tokens)?
    };
    let first = steps.as_deref().and_then(first_over);
    if let Some(path) = &args.svg {
        std::fs::write(path, found.svg()).map_err(|source| Failure::File { path: path.clone(), source })?;
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut report = json!(found);
        report["steps"] = json!(steps);
        report["first_over"] = json!(first);
        writeln!(out, "{report}")?;
    } else {
        if let Some(steps) = &steps {
            writeln!(out, "{}", table(steps, args.all))?;
        }
        let layers: Vec<Vec<String>> = found
            .layers
            .iter()
            .map(|l| {
                let flag = if l.flagged { "FLAGGED" } else { "" };
                let number = |x: f64| format!("{x:.5}");
                vec![l.layer.to_string(), number(l.base), number(l.other), number(l.ratio), flag.to_owned()]
            })
            .collect();
        if !layers.is_empty() {
            writeln!(out, "{}", markdown(&["layer", "std here", "std there", "ratio", ""], &layers))?;
        }
        let row = |p: &files::PositionLikeness| {
            let same = if p.same_top { "same" } else { "other" };
            vec![
                p.position.to_string(),
                format!("{:.6}", p.cosine),
                format!("{:.1e}", p.nmse),
                same.to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = found.positions.iter().map(row).collect();
        write!(out, "{}", markdown(&["position", "cosine", "NMSE", "best token"], &rows))?;
    }
    if let Some(first) = first {
        return Err(Failure::Parity(place(first)));
    }
    let (low, high) = files::RATIO_LIMITS;
    if let Some(l) = found.first_flagged() {
        return Err(Failure::Parity(format!(
            "layer {}: the gated feed-forward is {:.3} times as wide there, expected {low} to {high}",
            l.layer, l.ratio
        )));
    }
    match args.limit.and_then(|limit| Some((limit, found.first_over(limit)?))) {
        Some((limit, p)) => Err(Failure::Parity(format!(
            "position {}: the logits have an NMSE of {:.1e}, the limit is {limit:.0e}",
            p.position, p.nmse
        ))),
        None => Ok(()),
    }
}

fn numerics(args: &CompareArgs, activations: &str) -> Result<Numerics, Failure> {
    let unknown = || Failure::Usage(format!("--activations {activations}: expected f32, q8 or q8_k"));
    let activations = Activations::from_name(activations).ok_or_else(unknown)?;
    let unknown = || Failure::Usage(format!("--kv {}: expected f16 or f32", args.kv));
    let kv = KvType::from_name(&args.kv).ok_or_else(unknown)?;
    Ok(Numerics { activations, kv })
}

fn options(args: &CompareArgs) -> Result<Options, Failure> {
    let op = |name: &String| {
        let found = OpKind::ALL.into_iter().find(|op| op.name() == name);
        let known = OpKind::ALL.map(OpKind::name).join(", ");
        found.ok_or_else(|| Failure::Usage(format!("--stop-after {name}: there are {known}")))
    };
    let stop_after = args.stop_after.as_ref().map(op).transpose()?.map(|op| (op, args.layer));
    let inputs = if args.own_inputs { Inputs::Own } else { Inputs::Same };
    Ok(Options { inputs, stop_after, limit: args.limit })
}

fn device(
    args: &CompareArgs,
    model: &Arc<Model>,
    backend: BackendChoice,
    numerics: Numerics,
    tokens: usize,
) -> Result<Device, Failure> {
    let threads = args.threads.map(usize::from);
    let settings = Settings {
        backend,
        threads,
        numerics,
        context: Some(tokens.max(1)),
        chunk: 32,
        ..Settings::default()
    };
    Ok(engine::load(model, &settings, &mut |_, _| {})?.0)
}

fn place(report: &BufferReport) -> String {
    let layer = report.layer.map_or(String::new(), |layer| format!(" of layer {layer}"));
    let (step, op, buffer, position) = (report.step, report.op, report.buffer, report.position);
    let (nmse, limit) = (report.difference.nmse, report.limit);
    format!(
        "step {step}, {op}{layer}, buffer `{buffer}`, position {position}: NMSE {nmse:.1e}, the limit is {limit:.0e}"
    )
}

/// Every buffer, or the worst of each op and buffer, and whatever is over its limit.
fn table(steps: &[BufferReport], all: bool) -> String {
    let is_worst = |report: &BufferReport| {
        let same = steps.iter().filter(|other| (other.op, other.buffer) == (report.op, report.buffer));
        same.fold(f64::NEG_INFINITY, |max, other| max.max(other.difference.nmse)) <= report.difference.nmse
    };
    let mut seen = Vec::new();
    let mut rows = Vec::new();
    for r in steps {
        let first = !seen.contains(&(r.op, r.buffer));
        if all || r.is_over() || is_worst(r) && first {
            seen.push((r.op, r.buffer));
            let d = r.difference;
            rows.push(vec![
                r.step.to_string(),
                r.op.to_owned(),
                r.layer.map_or("-".to_owned(), |layer| layer.to_string()),
                r.buffer.to_owned(),
                format!("{:.1e}", d.nmse),
                format!("{:.1e}", d.max_error),
                d.ulp.to_string(),
                if r.is_over() { format!("OVER {:.0e}", r.limit) } else { format!("{:.0e}", r.limit) },
            ]);
        }
    }
    markdown(&["step", "op", "layer", "buffer", "NMSE", "max error", "ulp", "limit"], &rows)
}
