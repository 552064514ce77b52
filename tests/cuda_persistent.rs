//! A pass as one cooperative kernel: the same bits as the list of launches, whatever is sampled, batched or crossed; its
//! barrier, broken on purpose, is caught; what NVIDIA's assembler makes of it; what the program says where it cannot run.
//! Without a GPU this runs in the simulator, with its checks on.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

#[path = "cuda_persistent/assembled.rs"]
mod assembled;
#[path = "cuda_persistent/barrier.rs"]
mod barrier;
#[path = "cuda_persistent/program.rs"]
mod program;

use aprgpu::backend::cuda::{Gpu, Pass};
use aprgpu::backend::{Backend, Sampling};
use aprgpu::plan::{Activations, KvType, Numerics, Plan, Row};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use support::on_gpu::OnGpu;
use support::{cuda, fixtures, repository};

const DEFAULT: Numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
const VERIFY: Numerics = Numerics { activations: Activations::F32, kv: KvType::F32 };
const LIKE_LLAMA: Numerics = Numerics { activations: Activations::Q8K, kv: KvType::F16 };

fn tiny_coder() -> PathBuf {
    repository("tests/models/tiny-coder.apr")
}

/// What a run leaves: the tokens of every pass, then the bits of the last logits.
#[derive(Debug, PartialEq)]
struct Left {
    tokens: Vec<Vec<u32>>,
    logits: Vec<u32>,
}

/// Starts `batch` sequences at positions from `position` on, which sample in different ways, and replays `times` passes.
/// Also the launches and the captures of the replays.
fn run(
    gpu: &Arc<Gpu>,
    file: &Path,
    (numerics, pass): (Numerics, Pass),
    batch: usize,
    (position, times): (u32, u32),
) -> (Left, u64, usize) {
    let mut model = OnGpu::with_slots(gpu, file, numerics, batch);
    model.backend.set_pass(pass).unwrap();
    for slot in 0..batch as u32 {
        let sampling = match slot % 3 {
            0 => Sampling::default(),
            1 => Sampling { temperature: 0.9, top_k: 30, seed: 5, sequence: slot, ..Sampling::default() },
            _ => Sampling { repeat_penalty: 1.2, repeat_window: 16, ..Sampling::default() },
        };
        model.backend.set_sampling(slot, &sampling, &[3, 4]).unwrap();
    }
    let graph = model.backend.compile(&model.plan(batch, batch, true)).unwrap();
    let row = |slot: u32| Row { token: 40 + 7 * slot, slot, position: position + 3 * slot, logits: true };
    let rows: Vec<Row> = (0..batch as u32).map(row).collect();
    model.backend.run(graph, &rows).unwrap();
    let before = model.backend.counters().launches;
    model.backend.replay(graph, times).unwrap();
    let tokens = model.backend.sampled(graph).unwrap();
    let logits = model.backend.buffer(graph, Plan::LOGITS).unwrap();
    let launches = model.backend.counters().launches - before;
    assert_eq!(launches, u64::from(times) * model.backend.launches(graph) as u64);
    let logits = logits.into_iter().map(f32::to_bits).collect();
    (Left { tokens, logits }, launches, model.backend.captures(graph))
}

/// The same run both ways; the persistent one has two launches a pass.
fn same_bits(gpu: &Arc<Gpu>, file: &Path, numerics: Numerics, batch: usize, times: u32) {
    let (expected, ..) = run(gpu, file, (numerics, Pass::Launches), batch, (2, times));
    let (found, launches, captures) = run(gpu, file, (numerics, Pass::Persistent), batch, (2, times));
    let what = format!("{} {numerics:?}, {batch} rows", file.display());
    assert_eq!(found.tokens, expected.tokens, "{what}");
    assert!(found.logits == expected.logits, "{what}: logits differ");
    assert_eq!((launches, captures), (2 * u64::from(times), 1), "{what}");
}

#[test]
fn tiny_coder_gives_the_bits_of_its_launches() {
    let Some(gpu) = cuda::shared() else { return };
    for numerics in [DEFAULT, VERIFY, LIKE_LLAMA] {
        same_bits(&gpu, &tiny_coder(), numerics, 1, 5);
    }
}

#[test]
fn batches_give_the_bits_of_their_launches() {
    let Some(gpu) = cuda::shared() else { return };
    for (numerics, batch) in [(DEFAULT, 2), (DEFAULT, 8), (VERIFY, 8), (LIKE_LLAMA, 2)] {
        same_bits(&gpu, &tiny_coder(), numerics, batch, 2);
    }
}

/// Heads with norms, and weights in NORM pairing; the other mixtures of types with `APRGPU_FULL=1`.
#[test]
fn the_fixtures_give_the_bits_of_their_launches() {
    let (Some(gpu), Some(fixtures)) = (cuda::shared(), fixtures()) else { return };
    let full = std::env::var_os("APRGPU_FULL").is_some();
    let some = ["qwen3/qwen3-Q4_K_M.gguf", "llama-gqa/llama-gqa-Q4_K_M.gguf"];
    let more = ["qwen3/qwen3-Q5_1.gguf"];
    for file in some.into_iter().chain(more.into_iter().filter(|_| full)) {
        for numerics in [DEFAULT, VERIFY, LIKE_LLAMA] {
            same_bits(&gpu, &fixtures.join(file), numerics, 1, 2);
        }
    }
}

/// The next bucket of positions has a table of phases of its own.
#[test]
fn a_pass_crosses_into_the_next_bucket() {
    let Some(gpu) = cuda::shared() else { return };
    let run = |pass| run(&gpu, &tiny_coder(), (DEFAULT, pass), 1, (253, 5));
    let (expected, ..) = run(Pass::Launches);
    let (found, _, captures) = run(Pass::Persistent);
    assert!(found == expected);
    assert_eq!(captures, 2, "256 positions, then 512");
}

/// Passes one by one, steps and prompts use the launches, and go together with persistent passes.
#[test]
fn only_captured_decoding_is_persistent() {
    let Some(gpu) = cuda::shared() else { return };
    let mut model = OnGpu::new(&gpu, &tiny_coder(), DEFAULT);
    model.backend.set_pass(Pass::Persistent).unwrap();
    let enter = model.plan(16, 1, true);
    let graph = model.backend.compile(&enter).unwrap();
    assert_eq!(model.backend.launches(graph), enter.launches().0, "a prompt");
    let logits = model.plan(1, 1, false);
    let graph = model.backend.compile(&logits).unwrap();
    assert_eq!(model.backend.launches(graph), logits.launches().0, "logits alone");

    let plan = model.plan(1, 1, true);
    let graph = model.backend.compile(&plan).unwrap();
    assert_eq!(model.backend.launches(graph), 2);
    let row = Row { token: 9, slot: 0, position: 4, logits: true };
    model.backend.run(graph, &[row]).unwrap();
    assert_eq!(model.backend.counters().launches, plan.launches().0 as u64);
    model.backend.replay(graph, 1).unwrap();
    let replayed = model.backend.sampled(graph).unwrap().concat();
    let second = Row { token: replayed[0], position: 5, ..row };
    model.backend.run(graph, &[second]).unwrap();
    assert_eq!(model.backend.sampled(graph).unwrap().concat(), replayed[1..]);
    assert!(model.backend.set_profiling(true));
    model.backend.replay(graph, 1).unwrap();
    model.backend.sampled(graph).unwrap();
    assert!(
        model.backend.kernel_times().unwrap().iter().any(|time| time.op == "down"),
        "each launch is timed"
    );
}

/// Other orders of blocks and warps, with the check on contraction, too.
#[test]
fn orders_of_warps_give_the_same_bits() {
    let Some(gpu) = cuda::shared() else { return };
    cuda::same_under_seeds("orders_of_warps_give_the_same_bits", &[("PTXSIM_CHECKS", "strict")], || {
        let left = run(&gpu, &tiny_coder(), (DEFAULT, Pass::Persistent), 2, (3, 2)).0;
        format!("{left:?}").into_bytes()
    });
}
