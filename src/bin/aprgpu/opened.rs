//! A model that is ready to run, and the lines about it on stderr.

use crate::args::DeviceArgs;
use crate::failure::Failure;
use crate::progress;
use aprgpu::engine::{self, Scheduler, Stats};
use aprgpu::model::{ChatTemplate, Model, Source, TemplateOrigin, Tokenizer};
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
    for warning in model.warnings.iter().chain(tokenizer.notes()) {
        eprintln!("note: {warning}");
    }
    let (device, report) = engine::load(&model, &args.settings(slots), &mut progress::bar("loading"))?;
    eprintln!("{report}");
    let backend = report.backend.clone();
    Ok(Opened { model, tokenizer, scheduler: Scheduler::new(device), backend })
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

/// The same as JSON.
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
