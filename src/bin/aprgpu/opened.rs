//! A model that is ready to run, and the lines about it on stderr.

use crate::args::DeviceArgs;
use crate::failure::Failure;
use crate::progress;
use aprgpu::engine::{self, Scheduler, Stats};
use aprgpu::model::{ChatTemplate, DefaultTaken, Model, Source, TemplateOrigin, Tokenizer};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct Opened {
    pub(crate) model: Arc<Model>,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) scheduler: Scheduler,
    pub(crate) backend: String,
}

/// Opens a model and sets it up for `slots` sequences; what was chosen and assumed goes to stderr.
pub(crate) fn open(path: &Path, args: &DeviceArgs, slots: usize) -> Result<Opened, Failure> {
    let model = Arc::new(Model::open(path)?);
    let tokenizer = model.tokenizer()?;
    for note in model.warnings.iter().chain(tokenizer.notes()).chain(&taken_for_granted(&model)) {
        eprintln!("note: {note}");
    }
    let (mut device, report) = engine::load(&model, &args.settings(slots), &mut progress::bar("loading"))?;
    eprintln!("{report}");
    let backend = report.backend.clone();
    if args.profile && !device.set_profiling(true) {
        return Err(Failure::Usage(format!("--profile: {backend} has no timestamps between kernels")));
    }
    Ok(Opened { model, tokenizer, scheduler: Scheduler::new(device), backend })
}

/// What the file does not state, and which tensors run in another type than it has.
fn taken_for_granted(model: &Model) -> Vec<String> {
    let mut notes = Vec::new();
    let of = |default: &DefaultTaken| format!("{} = {} ({})", default.key, default.value, default.why);
    let defaults: Vec<String> = model.defaults.iter().map(of).collect();
    if !defaults.is_empty() {
        notes.push(format!("defaults taken: {}", defaults.join(", ")));
    }
    let mut converted: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for note in model.weights.notes() {
        let (tensors, bytes) = converted.entry(&note.what).or_default();
        (*tensors, *bytes) = (*tensors + 1, *bytes + note.bytes);
    }
    for (what, (tensors, bytes)) in converted {
        notes.push(format!("{tensors} tensors {what}; they take {:.1} MB", bytes as f64 / 1e6));
    }
    notes
}

/// The model's chat template; says so where a general one stands in.
pub(crate) fn chat_template(source: &Source, tokenizer: &Tokenizer) -> Result<ChatTemplate, Failure> {
    let template = source.chat_template(tokenizer)?;
    if template.origin() == TemplateOrigin::ChatMl {
        eprintln!(
            "note: the model has no chat template; its vocabulary has ChatML's tokens, so ChatML is used"
        );
    }
    Ok(template)
}

/// The line after a run: prefill and decode apart.
pub(crate) fn timing(stats: &Stats) -> String {
    let part = |name: &str, tokens: usize, seconds: f64| {
        let rate = if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 };
        format!("{name}: {tokens} tokens in {seconds:.3} s, {rate:.1} tokens/s")
    };
    let prefill = part("prefill", stats.prefill_tokens, stats.prefill_time.as_secs_f64());
    let decode = part("decode", stats.decode_tokens, stats.decode_time.as_secs_f64());
    format!("{prefill} | {decode}")
}

/// What --stats and --profile print after a run.
pub(crate) fn report_work(args: &DeviceArgs, scheduler: &mut Scheduler) -> Result<(), Failure> {
    let stats = scheduler.stats();
    let device = scheduler.device_mut();
    for note in device.take_notes() {
        eprintln!("note: {note}");
    }
    if args.stats {
        let c = device.counters();
        let per = |total: u64, of: u64| total as f64 / of.max(1) as f64;
        eprintln!(
            "{} rows in {} submits | per submit: {:.1} dispatches, {:.1} bytes mapped, {:.1} us of CPU to record",
            c.rows,
            c.submits,
            per(c.launches, c.submits),
            per(c.mapped_bytes, c.submits),
            per(c.host_nanoseconds, c.submits) / 1e3
        );
        let d = stats.decode_work;
        if d.rows > 0 {
            eprintln!(
                "decode, per token: {:.2} submits, {:.1} dispatches, {:.1} bytes mapped, {:.1} us of CPU to record",
                per(d.submits, d.rows),
                per(d.launches, d.rows),
                per(d.mapped_bytes, d.rows),
                per(d.host_nanoseconds, d.rows) / 1e3
            );
        }
    }
    if args.profile {
        let times = device.kernel_times()?;
        let all: f64 = times.iter().map(|time| time.nanoseconds).sum();
        let mut table = comfy_table::Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        table.set_header(["kernel", "runs", "us per run", "share", "MB per run", "GB/s"]);
        for time in &times {
            let runs = time.runs.max(1) as f64;
            table.add_row([
                time.kernel.clone(),
                time.runs.to_string(),
                format!("{:.1}", time.nanoseconds / runs / 1e3),
                format!("{:.1} %", 100.0 * time.nanoseconds / all.max(1.0)),
                format!("{:.3}", time.weight_bytes as f64 / runs / 1e6),
                format!("{:.2}", time.weight_bytes as f64 / time.nanoseconds.max(1.0)),
            ]);
        }
        eprintln!("{table}");
    }
    Ok(())
}

/// [`timing`] as JSON.
pub(crate) fn timing_json(stats: &Stats) -> serde_json::Value {
    let rate = |tokens: usize, seconds: f64| (seconds > 0.0).then(|| tokens as f64 / seconds);
    let (prefill, decode) = (stats.prefill_time.as_secs_f64(), stats.decode_time.as_secs_f64());
    serde_json::json!({
        "prefill_tokens": stats.prefill_tokens,
        "prefill_seconds": prefill,
        "prefill_tokens_per_second": rate(stats.prefill_tokens, prefill),
        "decode_tokens": stats.decode_tokens,
        "decode_seconds": decode,
        "decode_tokens_per_second": rate(stats.decode_tokens, decode),
        "decode_rounds": stats.decode_rounds,
    })
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Makes Ctrl-C end a generation at the next token instead of killing the process; a second one kills it.
pub(crate) fn catch_interrupts() -> Result<(), Failure> {
    let handler = || {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::Usage(format!("cannot catch Ctrl-C: {error}")))
}

pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Forgets an interrupt that has been heard.
pub(crate) fn clear_interrupt() -> bool {
    INTERRUPTED.swap(false, Ordering::Relaxed)
}
