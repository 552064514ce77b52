//! `aprgpu convert`: one format from another, weights untouched.

use crate::args::ConvertArgs;
use crate::failure::Failure;
use crate::progress;
use aprgpu::convert::{self, Options, Progress};
use aprgpu::model::Source;

pub(crate) fn convert(args: &ConvertArgs) -> Result<(), Failure> {
    let options = Options { compat: args.compat, name: args.name.clone() };
    let mut bar = progress::bar("converting");
    let mut progress = |progress: Progress| bar(progress.done, progress.total);
    let extension = args.output.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let report = match (Source::open(&args.input)?, extension) {
        (Source::Gguf(_), "apr") => convert::gguf_to_apr(&args.input, &args.output, &options, &mut progress)?,
        (Source::Apr(_), "gguf") => convert::apr_to_gguf(&args.input, &args.output, &options, &mut progress)?,
        (source, _) => {
            let (from, to) = (source.format(), args.output.display());
            return Err(Failure::Usage(format!(
                "from {from} to {to}: the ways are GGUF to .apr and APR to .gguf"
            )));
        }
    };
    eprintln!("{}: {report}", args.output.display());
    Ok(())
}
