//! `aprgpu stamp`: metadata added to a file or changed in it.

use crate::args::StampArgs;
use crate::failure::{Failure, read_text};
use crate::progress;
use aprgpu::convert::{Stamp, stamp as run};
use aprgpu::model::Source;

pub(crate) fn stamp(args: &StampArgs) -> Result<(), Failure> {
    let stamp = Stamp {
        tokenizer: args.tokenizer.clone(),
        chat_template: args.chat_template.as_deref().map(read_text).transpose()?,
        license: args.license.clone(),
        name: args.name.clone(),
        set: args.set.clone(),
    };
    if stamp == Stamp::default() {
        let what = "nothing to stamp: expected --tokenizer, --chat-template, --license, --name or --set";
        return Err(Failure::Usage(what.to_owned()));
    }
    progress::clean_up_on_interrupt()?;
    let source = Source::open(&args.model)?;
    let output = args.output.as_deref().unwrap_or(&args.model);
    let stamped = run(&source, output, &stamp)?;
    for note in &stamped.notes {
        eprintln!("note: {note}");
    }
    for change in &stamped.changes {
        let before = change.before.as_deref().unwrap_or("nothing");
        eprintln!("{}: {} (was: {before})", change.key, change.after.as_deref().unwrap_or("gone"));
    }
    let tensors =
        if stamped.in_place { "tensors stayed where they were" } else { "tensors were copied as they are" };
    eprintln!("{}: {} keys changed, {tensors}", output.display(), stamped.changes.len());
    Ok(())
}
