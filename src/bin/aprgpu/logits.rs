//! `aprgpu logits`: raw numbers for other programs.

use crate::args::LogitsArgs;
use crate::failure::Failure;
use crate::opened;
use aprgpu::format::write::AtomicFile;
use std::io::Write;

pub(crate) fn logits(args: &LogitsArgs) -> Result<(), Failure> {
    let mut opened = opened::open(&args.model, &args.device, 1)?;
    let tokens = match (&args.tokens, &args.prompt) {
        (Some(tokens), _) => tokens.clone(),
        (None, prompt) => {
            let text = prompt.as_deref().unwrap_or_default();
            opened.tokenizer.encode(text, true, true)
        }
    };
    let logits = opened.scheduler.device_mut().logits(&tokens, args.all)?;
    let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
    let mut file = AtomicFile::create(&args.out, &[])?;
    let io = |source| Failure::File { path: args.out.clone(), source };
    file.write_all(&bytes).map_err(io)?;
    file.commit()?;
    let vocab_size = opened.scheduler.device().decoder().shape().vocab_size;
    eprintln!("{}: [{}, {vocab_size}] float32", args.out.display(), logits.len() / vocab_size.max(1));
    opened::report_work(&args.device, &mut opened.scheduler)
}
