//! Whole models through PTX: what any device must do (tests/support/whole_model.rs), and the captured passes. Without a GPU this
//! runs in the simulator, with all its checks on.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::{Backend, Sampling};
use aprgpu::plan::{Plan, Row};
use support::cuda;
use support::on_gpu::OnGpu;
use support::whole_model::{self, CONTEXT, DEFAULT, F32_DEFAULT_CACHE, LIKE_LLAMA, VERIFY, tiny_coder};

#[test]
fn logits_of_tiny_coder_are_within_the_limits() {
    let Some(gpu) = cuda::shared() else { return };
    whole_model::logits_of_tiny_coder_are_within_the_limits(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn logits_are_those_of_the_cpu() {
    let Some(gpu) = cuda::shared() else { return };
    let all = [DEFAULT, LIKE_LLAMA, F32_DEFAULT_CACHE, VERIFY];
    whole_model::logits_are_those_of_the_cpu(&|file, numerics| OnGpu::new(&gpu, file, numerics), &all, true);
}

#[test]
fn logits_of_the_fixtures_are_within_the_limits() {
    let Some(gpu) = cuda::shared() else { return };
    whole_model::logits_of_the_fixtures_are_within_the_limits(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn greedy_tokens_of_the_fixtures_are_the_oracles() {
    let Some(gpu) = cuda::shared() else { return };
    whole_model::greedy_tokens_of_the_fixtures_are_the_oracles(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn tiny_coder_decodes_the_oracles_tokens() {
    let Some(gpu) = cuda::shared() else { return };
    whole_model::tiny_coder_decodes_the_oracles_tokens(&|file, numerics| OnGpu::new(&gpu, file, numerics));
}

#[test]
fn queued_passes_single_passes_and_steps_give_the_same_tokens() {
    let Some(gpu) = cuda::shared() else { return };
    whole_model::queued_passes_single_passes_and_steps_give_the_same_tokens(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn chunks_and_batches_give_the_same_bits() {
    let Some(gpu) = cuda::shared() else { return };
    whole_model::chunks_and_batches_give_the_same_bits(&|file, numerics| OnGpu::new(&gpu, file, numerics));
}

/// Rows of one sequence share what is read of its keys and values, if there are enough; in a run over rows of two, each row reads
/// for itself. A row has the same bits either way.
#[test]
fn rows_of_one_sequence_go_together() {
    let Some(gpu) = cuda::shared() else { return };
    let (file, prompts) = tiny_coder();
    let mut model = OnGpu::with_slots(&gpu, &file, DEFAULT, 2);
    let graph = model.backend.compile(&model.plan(64, 2, false)).unwrap();
    assert!(model.backend.set_profiling(true));
    let row = |slot: u32, position: u32| {
        let tokens = &prompts[slot as usize].tokens;
        let token = tokens[position as usize % tokens.len()];
        Row { token, slot, position, logits: position == 63 }
    };
    let mut run = |rows: Vec<Row>| {
        model.backend.run(graph, &rows).unwrap();
        let times = model.backend.kernel_times().unwrap();
        let runs_of = |name: &str| times.iter().any(|time| time.kernel.starts_with(name));
        let logits = rows.iter().any(|row| row.logits).then(|| model.backend.buffer(graph, Plan::LOGITS));
        (logits.map_or(Vec::new(), Result::unwrap), [runs_of("attention_tile"), runs_of("attention GROUP")])
    };
    let mut expected = Vec::new();
    for slot in [0, 1] {
        let (logits, kernels) = run((0..64).map(|position| row(slot, position)).collect());
        expected.extend(logits);
        // Two groups of heads by eight tiles are one block for each of the simulator's multiprocessors.
        assert!(!gpu.summary().simulated || kernels == [true, false], "{kernels:?}");
    }
    for first in [0, 32] {
        let rows = (first..first + 32).flat_map(|position| [row(0, position), row(1, position)]);
        let (logits, kernels) = run(rows.collect());
        assert_eq!(kernels, [false, true]);
        assert!(first == 0 || logits == expected);
    }
}

/// Chips from sm_90 on run other texts of the kernels, as dependent launches: whatever touches results of the launch before too
/// early is a fault there. Prompts by tiles and by rows, passes of one row and of several, sampled and not.
#[test]
fn dependent_launches_give_the_same_bits() {
    let name = "dependent_launches_give_the_same_bits";
    cuda::same_in_other_processes(name, &[vec![("PTXSIM_SM", "90")], vec![("PTXSIM_SM", "120")]], || {
        let gpu = cuda::shared().unwrap();
        let (file, prompts) = tiny_coder();
        let prompt = &prompts[1].tokens;
        let mut left = Vec::new();
        for numerics in [DEFAULT, LIKE_LLAMA, VERIFY] {
            let mut model = OnGpu::new(&gpu, &file, numerics);
            for chunk in [64, 8] {
                let logits = model.logits(prompt, chunk);
                left.extend(logits.into_iter().flat_map(f32::to_le_bytes));
            }
            let sampling = Sampling { temperature: 0.8, seed: 3, repeat_penalty: 1.2, ..Sampling::default() };
            model.backend.set_sampling(0, &sampling, prompt).unwrap();
            left.extend(model.generate(prompt, 8, 3).into_iter().flat_map(u32::to_le_bytes));
        }
        left
    });
}

#[test]
fn a_logit_that_is_not_finite_is_found_and_named() {
    let Some(gpu) = cuda::shared() else { return };
    whole_model::a_logit_that_is_not_finite_is_found_and_named(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn greedy_is_the_largest_logit() {
    let Some(gpu) = cuda::shared() else { return };
    whole_model::greedy_is_the_largest_logit(&|file, numerics| OnGpu::new(&gpu, file, numerics));
}

#[test]
fn a_token_is_one_graph_launch_and_the_plan_says_how_many_kernels() {
    let Some(gpu) = cuda::shared() else { return };
    let (file, prompts) = tiny_coder();
    for (numerics, most) in [(DEFAULT, 6), (VERIFY, 6), (LIKE_LLAMA, 8)] {
        let mut model = OnGpu::new(&gpu, &file, numerics);
        model.generate(&prompts[0].tokens[..3], 2, 1);
        let plan = model.plan(1, 1, true);
        let graph = model.backend.compile(&plan).unwrap();
        let (launches, per_layer) = plan.launches();
        assert!(per_layer <= most, "{numerics:?}: {per_layer} launches a layer");
        assert_eq!(model.backend.launches(graph), launches, "{numerics:?}");
        let row = Row { token: 1, slot: 0, position: 20, logits: true };
        model.backend.run(graph, &[row]).unwrap();
        model.backend.sampled(graph).unwrap();
        let before = model.backend.counters();
        model.backend.replay(graph, 4).unwrap();
        model.backend.sampled(graph).unwrap();
        let after = model.backend.counters();
        assert_eq!(after.submits - before.submits, 4, "a token, a graph launch");
        assert_eq!(after.mapped_bytes - before.mapped_bytes, 16, "a token is four bytes");
        assert_eq!(after.launches - before.launches, 4 * launches as u64);
        assert_eq!(model.backend.captures(graph), 1);
    }
}

/// Tokens of passes that are under way, taken one pass at a time while later ones run.
#[test]
fn passes_are_handed_out_one_by_one() {
    let Some(gpu) = cuda::shared() else { return };
    let (file, _) = tiny_coder();
    let mut model = OnGpu::new(&gpu, &file, DEFAULT);
    let graph = model.backend.compile(&model.plan(1, 1, true)).unwrap();
    let row = Row { token: 5, slot: 0, position: 2, logits: true };
    assert!(model.backend.runs_ahead());
    model.backend.run(graph, &[row]).unwrap();
    model.backend.replay(graph, 5).unwrap();
    let together = model.backend.sampled(graph).unwrap();
    model.backend.run(graph, &[row]).unwrap();
    model.backend.replay(graph, 2).unwrap();
    let mut apart = model.backend.sampled_first(graph).unwrap();
    assert_eq!(apart.len(), 1);
    model.backend.replay(graph, 3).unwrap();
    while apart.len() < 6 {
        apart.extend(model.backend.sampled_first(graph).unwrap());
    }
    assert_eq!(apart, together);
    assert!(model.backend.sampled_first(graph).unwrap().is_empty());
}

/// Captures are made once per bucket of positions, and a replay crosses from one to the next.
#[test]
fn a_replay_crosses_into_the_next_bucket() {
    let Some(gpu) = cuda::shared() else { return };
    let (file, _) = tiny_coder();
    let mut model = OnGpu::new(&gpu, &file, DEFAULT);
    let plan = model.plan(1, 1, true);
    let graph = model.backend.compile(&plan).unwrap();
    let start = Row { token: 5, slot: 0, position: 253, logits: true };
    model.backend.run(graph, &[start]).unwrap();
    model.backend.replay(graph, 5).unwrap();
    let replayed = model.backend.sampled(graph).unwrap().concat();
    assert_eq!(model.backend.captures(graph), 2, "256 positions, then 512");
    let mut stepped = Vec::new();
    let mut row = start;
    for _ in 0..6 {
        model.backend.run(graph, &[row]).unwrap();
        stepped.extend(model.backend.sampled(graph).unwrap().concat());
        row = Row { token: *stepped.last().unwrap(), position: row.position + 1, ..row };
    }
    assert_eq!(replayed, stepped);
}

#[test]
fn every_kernel_is_timed() {
    let Some(gpu) = cuda::shared() else { return };
    let (file, prompts) = tiny_coder();
    let mut model = OnGpu::new(&gpu, &file, DEFAULT);
    let plain = model.generate(&prompts[0].tokens[..4], 3, 1);
    assert!(model.backend.set_profiling(true));
    assert_eq!(model.generate(&prompts[0].tokens[..4], 3, 1), plain);
    let times = model.backend.kernel_times().unwrap();
    for op in ["embed", "qkv_rope", "attention", "attn_out", "gate_up", "down", "head", "sample"] {
        assert!(times.iter().any(|time| time.op == op && time.runs > 0), "{op} was not timed");
    }
    assert!(times.iter().filter(|time| time.op == "down").all(|time| time.weight_bytes > 0));
    model.backend.set_profiling(false);
}

/// A capture takes whatever is queued in its stream, so backends of one device must not share one: they would fail, or,
/// worse, replay each other's work.
#[test]
fn captures_of_one_backend_hold_nothing_of_another() {
    let Some(gpu) = cuda::shared() else { return };
    let (file, prompts) = tiny_coder();
    let prompt = &prompts[0].tokens[..2];
    let expected = OnGpu::new(&gpu, &file, DEFAULT).generate(prompt, 3, 1);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut model = OnGpu::new(&gpu, &file, DEFAULT);
                for _ in 0..5 {
                    assert_eq!(model.generate(prompt, 3, 1), expected);
                }
            });
        }
    });
}

/// What would pass the end of the context is refused before anything runs; memory does not grow with tokens.
#[test]
fn tokens_allocate_nothing_and_stop_at_the_context() {
    let Some(gpu) = cuda::shared() else { return };
    let (file, _) = tiny_coder();
    let mut model = OnGpu::new(&gpu, &file, DEFAULT);
    let graph = model.backend.compile(&model.plan(1, 1, true)).unwrap();
    let row = Row { token: 1, slot: 0, position: 3, logits: true };
    model.backend.run(graph, &[row]).unwrap();
    let bytes = model.backend.device_bytes();
    let full = std::env::var_os("APRGPU_FULL").is_some();
    let many = if full { 1000 } else { 70 };
    model.backend.replay(graph, many).unwrap();
    assert_eq!(model.backend.sampled(graph).unwrap().len(), many as usize + 1);
    assert_eq!(model.backend.device_bytes(), bytes);
    let launches = model.backend.counters().launches;
    let row = Row { token: 1, slot: 0, position: CONTEXT as u32 - 24, logits: true };
    model.backend.run(graph, &[row]).unwrap();
    assert!(model.backend.replay(graph, 24).is_err());
    assert_eq!(model.backend.counters().launches, launches + model.backend.launches(graph) as u64);
}

#[test]
fn orders_of_warps_give_the_same_bits() {
    let Some(gpu) = cuda::shared() else { return };
    cuda::same_under_seeds("orders_of_warps_give_the_same_bits", &[], || {
        let (file, prompts) = tiny_coder();
        let mut model = OnGpu::new(&gpu, &file, DEFAULT);
        let tokens: Vec<u32> = prompts[0].tokens.iter().copied().cycle().take(16).collect();
        let values: Vec<f32> = [16, 3].into_iter().flat_map(|chunk| model.logits(&tokens, chunk)).collect();
        assert!(values.len() > 1000);
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    });
}
