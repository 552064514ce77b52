//! `aprgpu perplexity`.

use crate::compare_args::PerplexityArgs;
use crate::failure::{Failure, read_text};
use crate::{opened, progress};
use aprgpu::compare::text;
use std::io::Write;

pub(crate) fn perplexity(args: &PerplexityArgs) -> Result<(), Failure> {
    let content = read_text(&args.file)?;
    let mut device = args.device.clone();
    device.ctx = Some(device.ctx.unwrap_or(0).max(args.window));
    let mut opened = opened::open(&args.model, &device, 1)?;
    let tokens = opened.tokenizer.encode(&content, true, false);
    let files = (args.save_base.as_deref(), args.base.as_deref());
    let mut bar = progress::bar("windows");
    let window = args.window as usize;
    let found = text::perplexity(opened.scheduler.device_mut(), &tokens, window, files, &mut bar)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!(found))?;
        return Ok(());
    }
    let (positions, window) = (found.positions, found.window);
    writeln!(
        out,
        "perplexity {:.4} ± {:.4} over {positions} tokens in windows of {window}",
        found.perplexity, found.error
    )?;
    if let Some(base) = found.base {
        writeln!(
            out,
            "KL divergence {:.6} ± {:.6} nats, at most {:.4}",
            base.mean_kl, base.kl_error, base.max_kl
        )?;
        writeln!(out, "same best token at {:.2} % of positions", 100.0 * base.same_top_rate())?;
    }
    Ok(())
}
