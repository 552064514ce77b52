//! `aprgpu convert`: one format from another.

use crate::args::{ConvertArgs, FloatName, LatticeName};
use crate::failure::Failure;
use crate::progress;
use aprgpu::convert::{self, FileFormat, Options, Progress};
use aprgpu::model::Source;
use aprgpu::quant::{LatticeMode, TensorType};

pub(crate) fn convert(args: &ConvertArgs) -> Result<(), Failure> {
    let options = Options { compat: args.compat, name: args.name.clone(), threads: args.threads };
    let mut bar = progress::bar("converting");
    let mut progress = |progress: Progress| bar(progress.done, progress.total);
    progress::clean_up_on_interrupt()?;
    let source = Source::open(&args.input)?;
    // A folder may have a point in its name, such as that of a version; these are files.
    let extension = args.output.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    let is_file = matches!(extension, "safetensors" | "json" | "bin" | "pt" | "pth" | "ggml" | "q4" | "f16");
    if let Some(name) = args.lattice {
        if FileFormat::of(&args.output).is_some() || is_file {
            let output = args.output.display();
            return Err(Failure::Usage(format!("{output}: --lattice writes a folder, not a file")));
        }
        let mode = match name {
            LatticeName::Asymmetric => LatticeMode::Asymmetric,
            LatticeName::Symmetric => LatticeMode::Symmetric,
        };
        let report = convert::export_lattice(&source, &args.output, mode, &options, &mut progress)?;
        eprintln!(
            "{}: {report}\n{}",
            args.output.display(),
            progress::peak_memory().trim_start_matches(", ")
        );
        return Ok(());
    }
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
    eprintln!("{}: {report}\n{}", args.output.display(), progress::peak_memory().trim_start_matches(", "));
    Ok(())
}
