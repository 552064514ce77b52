//! `aprgpu convert`: one format from another.

use crate::args::{ConvertArgs, FloatName};
use crate::failure::Failure;
use crate::progress;
use aprgpu::convert::{self, FileFormat, Options, Progress};
use aprgpu::model::Source;
use aprgpu::quant::TensorType;

pub(crate) fn convert(args: &ConvertArgs) -> Result<(), Failure> {
    let options = Options { compat: args.compat, name: args.name.clone(), threads: args.threads };
    let mut bar = progress::bar("converting");
    let mut progress = |progress: Progress| bar(progress.done, progress.total);
    let source = Source::open(&args.input)?;
    // A folder may have a point in its name, such as that of a version; these are files.
    let extension = args.output.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let is_file = matches!(extension, "safetensors" | "json" | "bin" | "pt" | "pth" | "ggml" | "q4" | "f16");
    let report = match (FileFormat::of(&args.output), is_file) {
        (Some(format), _) => convert::export(&source, &args.output, format, None, &options, &mut progress)?,
        (None, false) => {
            let dtype = args.dtype.map(|name| match name {
                FloatName::Bf16 => TensorType::BF16,
                FloatName::F16 => TensorType::F16,
                FloatName::F32 => TensorType::F32,
            });
            convert::export_hugging_face(&source, &args.output, dtype, &options, &mut progress)?
        }
        (None, true) => {
            let output = args.output.display();
            let what = format!("{output}: expected a name that ends in .gguf or .apr, or a folder's name");
            return Err(Failure::Usage(what));
        }
    };
    eprintln!("{}: {report}", args.output.display());
    Ok(())
}
