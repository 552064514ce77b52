//! The command line of the tools that compare.

use crate::args::{AdapterArgs, DeviceArgs, finite};
use clap::Args;
use std::path::PathBuf;

#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    pub(crate) model: PathBuf,
    /// Backends that are held against the twin
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    pub(crate) backends: Vec<String>,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// Kinds of activations, one comparison for each: f32, q8, q8_k
    #[arg(long, value_delimiter = ',', default_value = "f32,q8")]
    pub(crate) activations: Vec<String>,
    /// Type of the KV cache: f16 or f32
    #[arg(long, default_value = "f16")]
    pub(crate) kv: String,
    /// The text to run
    #[arg(long, conflicts_with = "tokens")]
    pub(crate) prompt: Option<String>,
    /// The text as ids: 1,2,3
    #[arg(long, value_delimiter = ',')]
    pub(crate) tokens: Option<Vec<u32>>,
    /// The text that best tokens and KL divergence are compared over, both sides fed the same [default: the prompt]
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    pub(crate) text: Option<PathBuf>,
    /// Tokens of that text per window
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) window: u32,
    /// The largest mean KL divergence over that text, in nats
    #[arg(long, default_value_t = 0.01, value_parser = finite)]
    pub(crate) kl: f64,
    /// The least share of equal best tokens over that text
    #[arg(long, default_value_t = 0.95, value_parser = finite)]
    pub(crate) top: f64,
    /// Compare with another model file, or with raw float32 logits (.f32), instead of with the twin
    #[arg(long, value_name = "FILE")]
    pub(crate) against: Option<PathBuf>,
    /// With --against a model: each step of both from the same inputs too, for files that should hold the same weights
    #[arg(long, requires = "against")]
    pub(crate) steps: bool,
    /// Write the comparison with another file as a plot
    #[arg(long, requires = "against")]
    pub(crate) svg: Option<PathBuf>,
    /// Let each backend go on with its own values, so that differences add up
    #[arg(long, conflicts_with = "against")]
    pub(crate) own_inputs: bool,
    /// The NMSE that any buffer may have [default: 1e-9; 1e-6 where a step quantizes activations]; with --against the
    /// logits at any position [default: none]
    #[arg(long, value_parser = finite)]
    pub(crate) limit: Option<f64>,
    /// Run no step after this one: embed, qkv_rope, attention, attn_out, gate_up, down, head
    #[arg(long, value_name = "STEP", conflicts_with = "against")]
    pub(crate) stop_after: Option<String>,
    /// Its layer
    #[arg(long, requires = "stop_after")]
    pub(crate) layer: Option<usize>,
    /// Write every buffer into DIR/BACKEND-ACTIVATIONS, the twin's beside: .npy, and dumps that `apr diff --values` reads
    #[arg(long, value_name = "DIR", conflicts_with = "against")]
    pub(crate) dump: Option<PathBuf>,
    /// CPU threads [default: one per physical core]
    #[arg(long, short = 't', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Show every buffer, not only the worst of each op
    #[arg(long)]
    pub(crate) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PerplexityArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    pub(crate) model: PathBuf,
    /// The text; `-` reads stdin
    pub(crate) file: PathBuf,
    /// Tokens per window; the second half of each is predicted
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(4..))]
    pub(crate) window: u32,
    /// Keep this run as a base for others
    #[arg(long, value_name = "FILE")]
    pub(crate) save_base: Option<PathBuf>,
    /// Compare with a base run: KL divergence and best tokens
    #[arg(long, value_name = "FILE")]
    pub(crate) base: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct SelftestArgs {
    /// Check this model file too: its logits, prompts, replay, batches and seeds
    pub(crate) model: Option<PathBuf>,
    /// What is checked
    #[arg(long, default_value = "auto")]
    pub(crate) backend: String,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// CPU threads [default: one per physical core]
    #[arg(long, short = 't', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// The first case of each op, and one kind of activations of a model file
    #[arg(long)]
    pub(crate) quick: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PlanArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    #[arg(required_unless_present = "preset", conflicts_with = "preset")]
    pub(crate) model: Option<PathBuf>,
    /// A published model's shape: qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-7b, llama-3.2-1b, llama-3.1-8b
    #[arg(long)]
    pub(crate) preset: Option<String>,
    /// Positions of the cache, all of them seen [default: 4096, or what the model was trained for]
    #[arg(long, short = 'c', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ctx: Option<u32>,
    /// Sequences side by side
    #[arg(long, short = 'b', default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(crate) batch: u16,
    /// Part of a device's name [default: all that are known]
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// List every step, not only every op
    #[arg(long)]
    pub(crate) steps: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct KernelsArgs {
    /// Only those whose name holds this text
    pub(crate) name: Option<String>,
    /// Write the sources, exactly as they go to the driver, into this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) emit: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
