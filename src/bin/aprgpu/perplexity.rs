//! `aprgpu perplexity`.

use crate::compare_args::PerplexityArgs;
use crate::failure::{Failure, read_text};
use crate::{opened, progress};
use aprgpu::compare::perplexity::{Text, perplexity as measure};
use std::io::Write;

pub(crate) fn perplexity(args: &PerplexityArgs) -> Result<(), Failure> {
    let content = read_text(&args.file)?;
    let mut device = args.device.clone();
    device.ctx = Some(device.ctx.unwrap_or(0).max(args.window));
    let mut opened = opened::open(&args.model, &device, 1)?;
    let tokens = opened.tokenizer.encode(&content, true, false);
    let files = (args.save_base.as_deref(), args.base.as_deref());
    let mut bar = progress::bar("windows");
    let tokenizer = &opened.tokenizer;
    let bos = if tokenizer.adds_bos() { tokenizer.special().bos } else { None };
    let text = Text { tokens: &tokens, window: args.window as usize, bos };
    let found = measure(opened.scheduler.device_mut(), text, files, &mut bar)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!(found))?;
        return opened::report_work(&device, &mut opened.scheduler);
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
            "KL divergence {:.6} ± {:.6} nats, median {:.6}, 99 % below {:.4}, at most {:.4}",
            base.mean_kl, base.kl_error, base.median_kl, base.kl_99, base.max_kl
        )?;
        let (rate, error) = (100.0 * base.same_top_rate(), 100.0 * base.same_top_error());
        writeln!(out, "same best token at {rate:.2} ± {error:.2} % of positions")?;
    }
    opened::report_work(&device, &mut opened.scheduler)
}
