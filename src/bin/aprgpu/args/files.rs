//! Arguments of the commands that write, check and compare model files.

use super::DeviceArgs;
use aprgpu::convert::mix::Mix;
use aprgpu::quant::TensorType;
use clap::{Args, ValueEnum};
use std::num::NonZeroUsize;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(crate) struct QuantizeArgs {
    /// A Hugging Face folder, .gguf or .apr file, best in F16, BF16 or F32
    pub(crate) input: PathBuf,
    /// The file to write: .gguf or .apr [with --dry-run: may be left out]
    #[arg(required_unless_present = "dry_run")]
    pub(crate) output: Option<PathBuf>,
    /// The mix: q4_0, q4_k_s, q4_k_m, q4_1, q5_0, q5_k_s, q5_k_m, q5_1, q6_k, q8_0, f16, bf16, f32
    #[arg(long, value_parser = mix)]
    pub(crate) to: Mix,
    /// An importance matrix of llama-imatrix: GGUF, or an older .dat
    #[arg(long)]
    pub(crate) imatrix: Option<PathBuf>,
    /// Give all weights the mix's own type, as far as rows allow
    #[arg(long)]
    pub(crate) pure: bool,
    /// Give tensors whose GGUF name the pattern finds another type: PATTERN=TYPE; may be repeated, the first match counts
    #[arg(long, value_name = "PATTERN=TYPE", value_parser = tensor_type_rule)]
    pub(crate) tensor_type: Vec<(regex::Regex, TensorType)>,
    /// Print type, bytes and bits per weight of every tensor and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// With --dry-run, print JSON
    #[arg(long, requires = "dry_run")]
    pub(crate) json: bool,
    /// Quantize tensors that are quantized already, which loses twice
    #[arg(long)]
    pub(crate) allow_requantize: bool,
    /// Write only tensor types that the published `apr` reads
    #[arg(long)]
    pub(crate) compat: bool,
    /// Threads [default: one per core]
    #[arg(long, short = 't')]
    pub(crate) threads: Option<NonZeroUsize>,
    /// Give the model another name
    #[arg(long)]
    pub(crate) name: Option<String>,
}

/// The type of matrices in a Hugging Face folder.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FloatName {
    /// 16 bits, 8 of them for the exponent
    Bf16,
    /// 16 bits, 5 of them for the exponent
    F16,
    /// 32 bits
    F32,
}

#[derive(Args, Debug)]
pub(crate) struct ConvertArgs {
    /// A .gguf or .apr file, a Hugging Face folder, or a folder of lattice's .q4 files
    pub(crate) input: PathBuf,
    /// What to write: a .gguf or .apr file, or a folder, which becomes a Hugging Face folder
    pub(crate) output: PathBuf,
    /// Write only tensor types that the published `apr` reads; says what was re-encoded and what it cost
    #[arg(long)]
    pub(crate) compat: bool,
    /// Give the model another name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// The type of matrices in a Hugging Face folder [default: bf16 for BF16 sources, otherwise f16]
    #[arg(long, value_enum)]
    pub(crate) dtype: Option<FloatName>,
    /// Write a folder of lattice's .q4 files, scaled from the least to the largest value or symmetrically
    #[arg(long, value_enum, conflicts_with_all = ["dtype", "compat"])]
    pub(crate) lattice: Option<LatticeName>,
    /// Threads [default: one per core]
    #[arg(long, short = 't')]
    pub(crate) threads: Option<NonZeroUsize>,
}

/// How lattice's blocks are scaled.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LatticeName {
    /// From the least to the largest value: the usual one
    Asymmetric,
    /// From minus to plus the largest magnitude
    Symmetric,
}

fn mix(name: &str) -> Result<Mix, String> {
    Mix::from_name(name).ok_or_else(|| {
        let known: Vec<String> = Mix::ALL.iter().map(|mix| mix.name().to_ascii_lowercase()).collect();
        format!("expected one of {}", known.join(", "))
    })
}

fn tensor_type_rule(rule: &str) -> Result<(regex::Regex, TensorType), String> {
    let (pattern, name) = rule.rsplit_once('=').ok_or("expected PATTERN=TYPE, for example attn_v=q8_0")?;
    let pattern = regex::Regex::new(pattern).map_err(|error| error.to_string())?;
    let tensor_type = TensorType::from_name(name).filter(|t| t.is_weight_type()).ok_or_else(|| {
        let known: Vec<_> = TensorType::ALL
            .iter()
            .filter(|t| t.is_weight_type())
            .map(|t| t.name().to_ascii_lowercase())
            .collect();
        format!("{name:?} is no type that is written; expected one of {}", known.join(", "))
    })?;
    Ok((pattern, tensor_type))
}

#[derive(Args, Debug)]
pub(crate) struct ValidateArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    #[arg(required_unless_present = "rules")]
    pub(crate) model: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// List the rules and what each one checks
    #[arg(long)]
    pub(crate) rules: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PreflightArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    pub(crate) model: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct StampArgs {
    /// A .gguf or .apr file
    pub(crate) model: PathBuf,
    /// Where to write the result [default: the model itself is replaced]
    #[arg(long, short = 'o')]
    pub(crate) output: Option<PathBuf>,
    /// A folder or file with tokenizer.json or tokenizer.model
    #[arg(long)]
    pub(crate) tokenizer: Option<PathBuf>,
    /// A file with a Jinja chat template
    #[arg(long)]
    pub(crate) chat_template: Option<PathBuf>,
    /// The licence, as an SPDX expression
    #[arg(long)]
    pub(crate) license: Option<String>,
    /// The model's name
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Any GGUF metadata key: KEY=VALUE. The type is that of the value there, or of the value's spelling; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub(crate) set: Vec<(String, String)>,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

#[derive(Args, Debug)]
pub(crate) struct DiffArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    pub(crate) a: PathBuf,
    /// Another one
    pub(crate) b: PathBuf,
    /// Compare the tensors' values too: error, and ratio of standard deviations per layer
    #[arg(long)]
    pub(crate) values: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
