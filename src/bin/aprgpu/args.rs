//! The command line.

mod files;

pub(crate) use files::*;

use crate::compare_args::{CompareArgs, KernelsArgs, PerplexityArgs, PlanArgs, SelftestArgs};
use aprgpu::backend::Sampling;
#[cfg(feature = "cuda")]
use aprgpu::backend::cuda::{DeviceChoice, Pass};
#[cfg(feature = "wgpu")]
use aprgpu::backend::wgpu::AdapterChoice;
use aprgpu::engine::{self, BackendChoice, Settings};
use aprgpu::plan::{Activations, KvType, Numerics};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::str::FromStr;

/// Runs quantized language models from one .apr, .gguf or Hugging Face folder.
///
/// stdout carries the result, stderr everything else. Exit codes: 2 usage, 3 missing file, 4 bad format, 5 validation
/// failed, 6 load failed, 7 i/o, 8 inference, 13 parity failed, 14 backend unavailable.
#[derive(Parser, Debug)]
#[command(name = "aprgpu", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Continue a prompt
    Run(RunArgs),
    /// Talk to a model
    Chat(ChatArgs),
    /// Show what a model file holds and how it would run
    Inspect(InspectArgs),
    /// Write a model in another format: GGUF, APR or a Hugging Face folder
    Convert(ConvertArgs),
    /// Make a model smaller, with the tensor types that llama.cpp would choose
    Quantize(QuantizeArgs),
    /// Check a model file by rules, each with a name: will it load, here and in llama.cpp?
    Validate(ValidateArgs),
    /// Check a model file and run it: is it ready to be published?
    Preflight(PreflightArgs),
    /// Add a tokenizer, chat template, licence or any key to a file
    Stamp(StampArgs),
    /// Compare two models: metadata, tensors, types, values
    Diff(DiffArgs),
    /// Turn text into token ids, or ids into text
    Tokenize(TokenizeArgs),
    /// Print a chat as the model's template renders it
    Template(TemplateArgs),
    /// Write the logits of a prompt as raw little-endian float32
    Logits(LogitsArgs),
    /// List the devices that models can run on
    Devices(DevicesArgs),
    /// Run a model step by step on several backends, or two files, and find where they part
    Compare(CompareArgs),
    /// How well a model predicts a text, and how far it is from a base run
    Perplexity(PerplexityArgs),
    /// Check every kernel of a backend on this machine: the command for a new device or driver
    Selftest(SelftestArgs),
    /// List the kernels of the GPU backends, or write their sources
    Kernels(KernelsArgs),
    /// Show the steps of a token: launches, bytes, memory, and what a device would give
    Plan(PlanArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum BackendName {
    /// The fastest there is, and stderr says which
    Auto,
    /// The fast CPU path
    Cpu,
    /// The scalar specification that every other backend is held to: slow
    Twin,
    /// An NVIDIA GPU through its driver; see --adapter
    #[cfg(feature = "cuda")]
    Cuda,
    /// A GPU through Vulkan, Metal or DX12; see --adapter
    #[cfg(feature = "wgpu")]
    Wgpu,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ActivationsName {
    /// int8, one scale per 32 values
    Q8,
    /// ggml's Q8_K and Q8_0, for comparison with llama.cpp
    #[value(name = "q8_k")]
    Q8K,
    /// float32, for verification
    F32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum KvName {
    /// Half precision
    F16,
    /// Single precision, for verification
    F32,
}

/// Which GPU.
#[derive(Args, Clone, Debug)]
pub(crate) struct AdapterArgs {
    /// The GPU for cuda or wgpu: a part of its name, or its index in `aprgpu devices`
    #[arg(long, alias = "device", value_name = "NAME|INDEX")]
    pub(crate) adapter: Option<String>,
    /// Let wgpu take a CPU that plays GPU
    #[arg(long)]
    pub(crate) allow_software: bool,
    /// How cuda decodes a token: a launch for each phase, or one persistent cooperative kernel [default: launches]
    #[cfg(feature = "cuda")]
    #[arg(long, value_name = "launches|persistent")]
    pub(crate) cuda_pass: Option<Pass>,
}

impl AdapterArgs {
    /// The backend of this name, on the GPU that was asked for.
    pub(crate) fn backend(&self, name: &str) -> Result<BackendChoice, engine::Error> {
        Ok(self.on(BackendChoice::from_name(name)?))
    }

    /// A backend on the GPU that was asked for.
    fn on(&self, backend: BackendChoice) -> BackendChoice {
        let backend = backend.on_device(self.adapter.as_deref(), self.allow_software);
        #[cfg(feature = "cuda")]
        let backend = backend.with_cuda_pass(self.cuda_pass);
        backend
    }
}

/// Where and how a model runs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Where and how it runs")]
pub(crate) struct DeviceArgs {
    /// What computes
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) backend: BackendName,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// Print what the backend did per pass: dispatches, submits, bytes mapped, CPU time
    #[arg(long)]
    pub(crate) stats: bool,
    /// Time every kernel by the device's clock and print a table: slower
    #[arg(long)]
    pub(crate) profile: bool,
    /// CPU threads [default: one per physical core]
    #[arg(long, short = 't', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// How activations meet quantized weights
    #[arg(long, value_enum, default_value = "q8")]
    pub(crate) activations: ActivationsName,
    /// Type of the KV cache
    #[arg(long, value_enum, default_value = "f16")]
    pub(crate) kv: KvName,
    /// Positions per sequence [default: the model's, at most 4096]
    #[arg(long, short = 'c', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ctx: Option<u32>,
    /// Tokens of a prompt that run together
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) chunk: u32,
}

impl DeviceArgs {
    pub(crate) fn settings(&self, slots: usize) -> Settings {
        let backend = match self.backend {
            BackendName::Auto => BackendChoice::Auto,
            BackendName::Cpu => BackendChoice::Cpu,
            BackendName::Twin => BackendChoice::Twin,
            #[cfg(feature = "cuda")]
            BackendName::Cuda => BackendChoice::Cuda(DeviceChoice::default()),
            #[cfg(feature = "wgpu")]
            BackendName::Wgpu => BackendChoice::Wgpu(AdapterChoice::of_user(None, false)),
        };
        Settings {
            backend: self.adapter.on(backend),
            threads: self.threads.map(usize::from),
            numerics: Numerics {
                activations: match self.activations {
                    ActivationsName::Q8 => Activations::Q8,
                    ActivationsName::Q8K => Activations::Q8K,
                    ActivationsName::F32 => Activations::F32,
                },
                kv: match self.kv {
                    KvName::F16 => KvType::F16,
                    KvName::F32 => KvType::F32,
                },
            },
            context: self.ctx.map(|context| context as usize),
            slots,
            chunk: self.chunk as usize,
        }
    }
}

/// How the next token is chosen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "How the next token is chosen")]
pub(crate) struct SamplingArgs {
    /// 0 always takes the most likely token
    #[arg(long, default_value_t = 0.7, value_parser = non_negative)]
    pub(crate) temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all
    #[arg(long, default_value_t = 40)]
    pub(crate) top_k: usize,
    /// Keep the most likely tokens up to this probability; 1 keeps all
    #[arg(long, default_value_t = 0.95, value_parser = probability)]
    pub(crate) top_p: f32,
    /// Keep tokens at least this likely relative to the most likely; 0 keeps all
    #[arg(long, default_value_t = 0.0, value_parser = probability)]
    pub(crate) min_p: f32,
    /// Make recent tokens less likely; 1 changes nothing
    #[arg(long, default_value_t = 1.0, value_parser = positive)]
    pub(crate) repeat_penalty: f32,
    /// How many recent tokens that looks at
    #[arg(long, default_value_t = 64)]
    pub(crate) repeat_last_n: usize,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
}

impl SamplingArgs {
    pub(crate) fn sampling(&self, sequence: u32) -> Sampling {
        Sampling {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repeat_penalty: self.repeat_penalty,
            repeat_window: self.repeat_last_n,
            seed: self.seed,
            sequence,
        }
    }
}

fn in_range<T: FromStr + Copy>(text: &str, ok: impl Fn(T) -> bool, expected: &str) -> Result<T, String> {
    let value: T = text.parse().map_err(|_| format!("expected {expected}"))?;
    if ok(value) { Ok(value) } else { Err(format!("expected {expected}")) }
}

fn non_negative(text: &str) -> Result<f32, String> {
    in_range(text, |v: f32| v >= 0.0 && v.is_finite(), "a number of at least 0")
}

fn positive(text: &str) -> Result<f32, String> {
    in_range(text, |v: f32| v > 0.0 && v.is_finite(), "a number above 0")
}

fn probability(text: &str) -> Result<f32, String> {
    in_range(text, |v| (0.0..=1.0).contains(&v), "a number between 0 and 1")
}

/// Nothing is above a NaN: as a limit it would let everything pass.
pub(crate) fn finite(text: &str) -> Result<f64, String> {
    in_range(text, |v: f64| v.is_finite(), "a number")
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    pub(crate) model: PathBuf,
    /// The prompt; without it, and without -f or --prompts, stdin is read
    pub(crate) prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(long, short = 'f', conflicts_with = "prompt")]
    pub(crate) file: Option<PathBuf>,
    /// Read many prompts, one JSON object per line: {"prompt": "...", "n": 64, "seed": 1}. A line with a seed gives the text
    /// that it gives alone; lines without one differ by where they stand
    #[arg(long, conflicts_with_all = ["prompt", "file"])]
    pub(crate) prompts: Option<PathBuf>,
    /// How many of them run at a time
    #[arg(long, default_value_t = 1, requires = "prompts", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) parallel: u16,
    /// The most tokens to write
    #[arg(long, short = 'n', default_value_t = 128)]
    pub(crate) n: usize,
    /// Put the prompt through the model's chat template
    #[arg(long)]
    pub(crate) chat: bool,
    /// The system message, with --chat
    #[arg(long, requires = "chat")]
    pub(crate) system: Option<String>,
    /// Stop at this text, which is not printed; may be repeated
    #[arg(long)]
    pub(crate) stop: Vec<String>,
    /// Go on past tokens that end a text
    #[arg(long)]
    pub(crate) ignore_end: bool,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ChatArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    pub(crate) model: PathBuf,
    /// The system message
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// The most tokens of an answer
    #[arg(long, short = 'n', default_value_t = 512)]
    pub(crate) n: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    pub(crate) model: PathBuf,
    /// List every tensor
    #[arg(long)]
    pub(crate) tensors: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TokenizeArgs {
    /// A .apr or .gguf file (one with only a vocabulary will do), or a Hugging Face folder
    pub(crate) model: PathBuf,
    /// The text; without it, and without --decode, stdin is read
    pub(crate) text: Option<String>,
    /// Turn ids back into text: 1,2,3
    #[arg(long, value_delimiter = ',', conflicts_with = "text")]
    pub(crate) decode: Option<Vec<u32>>,
    /// Add the tokens that the model expects at the start and end
    #[arg(long)]
    pub(crate) special: bool,
    /// Take the text literally: `<|im_start|>` becomes characters, not a token
    #[arg(long)]
    pub(crate) literal: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TemplateArgs {
    /// A model with a chat template
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub(crate) model: Option<PathBuf>,
    /// A template in a file of its own
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
    /// The chat: a JSON list of {"role": ..., "content": ...}; `-` reads stdin
    #[arg(long)]
    pub(crate) messages: PathBuf,
    /// Do not open the assistant's turn
    #[arg(long)]
    pub(crate) no_generation_prompt: bool,
    /// More variables for the template, as a JSON object
    #[arg(long)]
    pub(crate) variables: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct LogitsArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    pub(crate) model: PathBuf,
    /// The prompt as text
    #[arg(long, required_unless_present = "tokens", conflicts_with = "tokens")]
    pub(crate) prompt: Option<String>,
    /// The prompt as ids: 1,2,3
    #[arg(long, value_delimiter = ',')]
    pub(crate) tokens: Option<Vec<u32>>,
    /// The file to write: [positions, vocabulary] little-endian float32
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Every position, not only the last
    #[arg(long)]
    pub(crate) all: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArgs,
}

#[derive(Args, Debug)]
pub(crate) struct DevicesArgs {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
