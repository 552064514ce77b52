//! `aprgpu tokenize`: text to ids and back, by the model's own tokenizer.

use crate::args::TokenizeArgs;
use crate::failure::{Failure, read_text};
use aprgpu::model::Source;
use serde_json::json;
use std::io::Write;

pub(crate) fn tokenize(args: &TokenizeArgs) -> Result<(), Failure> {
    let tokenizer = Source::open(&args.model)?.tokenizer()?;
    let mut out = std::io::stdout().lock();
    if let Some(ids) = &args.decode {
        let text = tokenizer.decode(ids);
        if args.json {
            writeln!(out, "{}", json!({ "tokens": ids, "text": text }))?;
        } else {
            writeln!(out, "{text}")?;
        }
        return Ok(());
    }
    let text = match &args.text {
        Some(text) => text.clone(),
        None => read_text("-".as_ref())?,
    };
    let ids = tokenizer.encode(&text, args.special, !args.literal);
    if args.json {
        let pieces: Vec<_> = ids.iter().map(|&id| tokenizer.decode(&[id])).collect();
        writeln!(out, "{}", json!({ "tokens": ids, "pieces": pieces, "text": text }))?;
    } else {
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        writeln!(out, "{}", ids.join(","))?;
    }
    Ok(())
}
