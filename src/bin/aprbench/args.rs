//! The command line.

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

/// Measures how fast models run, and how far that is from what the memory could do.
///
/// stdout carries the result, stderr everything else. Exit codes: those of aprgpu; 13 also for a wrong result or a figure
/// below its target, 8 for an incomplete comparison.
#[derive(Parser, Debug)]
#[command(name = "aprbench", version, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Tokens one after the other
    Decode(MeasureArgs),
    /// A prompt at once
    Prefill(MeasureArgs),
    /// How fast this machine reads memory
    Bandwidth(BandwidthArgs),
    /// Write a model of a preset's shape with random weights
    Synth(SynthArgs),
    /// Each op by itself: shape, type of weights, rows, backend
    Kernels(KernelsArgs),
    /// How fast weights are quantized, per thread
    Encode(EncodeArgs),
    /// What bounds a token, and what other devices would give
    Roofline(RooflineArgs),
    /// Measure against another program on the same file, turn by turn
    Versus(VersusArgs),
    /// The same program against itself: the noise, before any claim
    Aa(AaArgs),
    /// Compare two files of records
    Cmp(CmpArgs),
    /// Everything that benches/record/ holds for this CPU, in one run
    Record(RecordArgs),
    /// The README's table from the records
    Table(TableArgs),
}

/// What is measured.
#[derive(Args, Clone, Debug)]
pub(crate) struct SubjectArgs {
    /// A .apr or .gguf file, or a Hugging Face folder
    #[arg(required_unless_present = "preset", conflicts_with = "preset")]
    pub(crate) model: Option<PathBuf>,
    /// Random weights of true shapes: qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-7b, llama-3.2-1b, llama-3.1-8b
    #[arg(long)]
    pub(crate) preset: Option<String>,
    /// Shrink the preset to two small layers: to test the tool itself
    #[arg(long, requires = "preset", hide = true)]
    pub(crate) reduced: bool,
}

/// Which GPU.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct AdapterArgs {
    /// The GPU for cuda or wgpu: a part of its name, or its index in `aprgpu devices`
    #[arg(long, value_name = "NAME|INDEX")]
    pub(crate) adapter: Option<String>,
    /// Let wgpu take a CPU that plays GPU
    #[arg(long)]
    pub(crate) allow_software: bool,
    /// How cuda decodes a token: a launch for each phase, or one persistent cooperative kernel [default: launches]
    #[cfg(feature = "cuda")]
    #[arg(long, value_name = "launches|persistent")]
    pub(crate) cuda_pass: Option<aprgpu::backend::cuda::Pass>,
}

/// On what and how.
#[derive(Args, Clone, Debug)]
pub(crate) struct RunArgs {
    /// Backends, one after the other
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    pub(crate) backend: Vec<String>,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// CPU threads, one run for each [default: one per physical core]
    #[arg(long, short = 't', value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Vec<u16>,
    /// Kinds of activations: q8, q8_k, f32
    #[arg(long, value_delimiter = ',', default_value = "q8")]
    pub(crate) activations: Vec<String>,
    /// Type of the KV cache: f16 or f32
    #[arg(long, default_value = "f16")]
    pub(crate) kv: String,
    /// Positions of the cache [default: what the test needs]
    #[arg(long, short = 'c', value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ctx: Option<u32>,
    /// Tokens of a prompt that run together
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub(crate) chunk: u32,
}

#[derive(Args, Debug)]
pub(crate) struct MeasureArgs {
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// Positions that the cache holds before
    #[arg(long, short = 'd', value_delimiter = ',', default_value = "0")]
    pub(crate) depth: Vec<u32>,
    /// Sequences side by side (decode)
    #[arg(long, short = 'b', value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(crate) batch: Vec<u16>,
    /// Tokens [default: 128 for decode, 512 for prefill]
    #[arg(long, short = 'n', value_delimiter = ',')]
    pub(crate) n: Vec<u32>,
    /// Tokens that are queued before the host looks at them (decode)
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) tokens_per_submit: u16,
    /// Repetitions after one that does not count
    #[arg(long, short = 'r', default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) reps: u16,
    /// What results are held against: twin, cpu, or none (repetitions only)
    #[arg(long, default_value = "twin")]
    pub(crate) check: String,
    /// Read bandwidth in GB/s, instead of measuring it
    #[arg(long, value_parser = positive)]
    pub(crate) bandwidth: Option<f64>,
    /// table, json, jsonl, csv or md
    #[arg(long, short = 'o', default_value = "table")]
    pub(crate) output: String,
    /// Print measured, target and ceiling, and fail below the target of this file
    #[arg(long, num_args = 0..=1, default_missing_value = "benches/targets.toml", value_name = "FILE")]
    pub(crate) assert_target: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct BandwidthArgs {
    /// The CPU, or a device through the largest matvec of its backend
    #[arg(long, default_value = "cpu")]
    pub(crate) backend: String,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// Numbers of CPU threads [default: 1 to the number of cores]
    #[arg(long, short = 't', value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Vec<u16>,
    /// Megabytes to read in a pass
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) size: u32,
    /// Passes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) passes: u16,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct SynthArgs {
    /// qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-7b, llama-3.2-1b or llama-3.1-8b
    pub(crate) preset: String,
    /// The file to write: .gguf or .apr
    pub(crate) output: PathBuf,
    /// Shrink the preset to two small layers
    #[arg(long, hide = true)]
    pub(crate) reduced: bool,
}

#[derive(Args, Debug)]
pub(crate) struct KernelsArgs {
    /// Backends
    #[arg(long, value_delimiter = ',', default_value = "auto")]
    pub(crate) backend: Vec<String>,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// Read bandwidth in GB/s, instead of measuring it
    #[arg(long, value_parser = positive)]
    pub(crate) bandwidth: Option<f64>,
    /// CPU threads [default: one per physical core]
    #[arg(long, short = 't', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Ops [default: all]
    #[arg(long, value_delimiter = ',')]
    pub(crate) op: Vec<String>,
    /// Types of weights [default: all that the shape allows]
    #[arg(long = "type", value_delimiter = ',')]
    pub(crate) types: Vec<String>,
    /// Shapes: 1.5B, 0.5B [default: both]
    #[arg(long, value_delimiter = ',')]
    pub(crate) shape: Vec<String>,
    /// Rows: 1 is decode
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) rows: Vec<u16>,
    /// Positions that attention sees
    #[arg(long, default_value_t = 512)]
    pub(crate) depth: u32,
    /// Seconds for each
    #[arg(long, default_value_t = 0.3, value_parser = non_negative)]
    pub(crate) seconds: f64,
    /// Small shapes and one repetition: to test the tool itself
    #[arg(long, hide = true)]
    pub(crate) reduced: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EncodeArgs {
    /// Types [default: all]
    #[arg(long = "type", value_delimiter = ',')]
    pub(crate) types: Vec<String>,
    /// Raw little-endian float32 in rows of 4096 [default: random weights]
    #[arg(long)]
    pub(crate) input: Option<PathBuf>,
    /// Rows of random weights
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=8192))]
    pub(crate) rows: u16,
    /// With an importance matrix
    #[arg(long)]
    pub(crate) importance: bool,
    /// Threads
    #[arg(long, short = 't')]
    pub(crate) threads: Option<std::num::NonZeroUsize>,
    /// How often each is encoded
    #[arg(long, short = 'r', default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub(crate) reps: u16,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RooflineArgs {
    #[command(flatten)]
    pub(crate) subject: SubjectArgs,
    /// Measure on this backend; none: only what the shapes tell
    #[arg(long)]
    pub(crate) backend: Option<String>,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// The device that bounds are told of where none is measured: a part of its name
    #[arg(long, default_value = "RTX 4090", conflicts_with = "backend")]
    pub(crate) device: String,
    /// CPU threads [default: one per physical core]
    #[arg(long, short = 't', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Positions that attention sees
    #[arg(long, short = 'd', default_value_t = 0)]
    pub(crate) depth: u32,
    /// Repetitions of each step
    #[arg(long, short = 'r', default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) reps: u16,
    /// Write a plot
    #[arg(long)]
    pub(crate) svg: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct VersusArgs {
    /// The file that both run
    pub(crate) model: PathBuf,
    /// llama-bench
    #[arg(long, value_name = "PATH")]
    pub(crate) llama_bench: Option<PathBuf>,
    /// Any command that takes llama-bench's -m -p -n -d -t -r -o json and prints its records: "python tools/llama_bench.py"
    #[arg(long, conflicts_with = "llama_bench")]
    pub(crate) command: Option<String>,
    /// Another build of aprbench
    #[arg(long, value_name = "APRBENCH", conflicts_with_all = ["llama_bench", "command"])]
    pub(crate) base: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) tests: TestArgs,
}

/// Which tests, and how often.
#[derive(Args, Clone, Debug)]
pub(crate) struct TestArgs {
    /// Backend of this program; llama-bench gets -ngl 0 for the CPU, -ngl 99 otherwise
    #[arg(long, default_value = "cpu")]
    pub(crate) backend: String,
    #[command(flatten)]
    pub(crate) adapter: AdapterArgs,
    /// What our results are held against once, before the pairs: twin, cpu or none
    #[arg(long, default_value = "twin")]
    pub(crate) check: String,
    /// CPU threads of both [default: one per physical core]
    #[arg(long, short = 't', value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) threads: Option<u16>,
    /// Tokens of the prompt; 0: no prefill test
    #[arg(long, short = 'p', default_value_t = 512)]
    pub(crate) prompt: u32,
    /// Tokens to generate; 0: no decode test
    #[arg(long, short = 'n', default_value_t = 128)]
    pub(crate) n: u32,
    /// Positions that the cache holds before
    #[arg(long, short = 'd', default_value_t = 0)]
    pub(crate) depth: u32,
    /// Repetitions within a run
    #[arg(long, short = 'r', default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) reps: u16,
    /// Pairs of runs
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) pairs: u16,
    /// Add the run to this file of JSON lines
    #[arg(long)]
    pub(crate) append: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct AaArgs {
    /// The file that both run
    pub(crate) model: PathBuf,
    #[command(flatten)]
    pub(crate) tests: TestArgs,
}

#[derive(Args, Debug)]
pub(crate) struct CmpArgs {
    /// Records before
    pub(crate) old: PathBuf,
    /// Records after
    pub(crate) new: PathBuf,
    /// Fail where something is slower by more than its spread, or incomplete
    #[arg(long)]
    pub(crate) fail: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RecordArgs {
    /// The folder to write into
    #[arg(long, default_value = "benches/record")]
    pub(crate) out: PathBuf,
    /// A command that takes llama-bench's options and prints its records
    #[arg(long)]
    pub(crate) command: Option<String>,
    /// Where the synthetic models are kept
    #[arg(long, default_value = "target/record")]
    pub(crate) models: PathBuf,
    /// Presets
    #[arg(long, value_delimiter = ',', default_value = "qwen2.5-0.5b,qwen2.5-1.5b")]
    pub(crate) presets: Vec<String>,
    /// Model files to measure beside them
    #[arg(long, value_delimiter = ',')]
    pub(crate) also: Vec<PathBuf>,
    /// Threads, one series for each [default: 1 and one per physical core]
    #[arg(short, long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Vec<u16>,
    /// Pairs of runs of each
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) pairs: u16,
    /// Tokens of the prompt
    #[arg(long, short = 'p', default_value_t = 256)]
    pub(crate) prompt: u32,
    /// Tokens to generate
    #[arg(long, short = 'n', default_value_t = 64)]
    pub(crate) n: u32,
    /// Shrink the presets: to test the tool itself
    #[arg(long, hide = true)]
    pub(crate) reduced: bool,
}

#[derive(Args, Debug)]
pub(crate) struct TableArgs {
    /// The folder of records
    #[arg(long, default_value = "benches/record")]
    pub(crate) records: PathBuf,
    /// Replace the table in this file, between its two marks; without it the table is printed
    #[arg(long)]
    pub(crate) write: Option<PathBuf>,
}

fn in_range(text: &str, ok: impl Fn(f64) -> bool, expected: &str) -> Result<f64, String> {
    let found: Option<f64> = text.parse().ok();
    found.filter(|v| v.is_finite() && ok(*v)).ok_or_else(|| format!("expected {expected}"))
}

fn positive(text: &str) -> Result<f64, String> {
    in_range(text, |v| v > 0.0, "a number above 0")
}

fn non_negative(text: &str) -> Result<f64, String> {
    in_range(text, |v| v >= 0.0, "a number of at least 0")
}
