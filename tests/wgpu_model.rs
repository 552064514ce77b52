//! Whole models through WGSL: what any device must do (tests/support/whole_model.rs), and the captured plan. Without a GPU this
//! runs on lavapipe.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::Backend;
use aprgpu::backend::wgpu::{AdapterChoice, Gpu, Options, WgpuBackend};
use aprgpu::plan::{Numerics, Row};
use std::path::Path;
use std::sync::Arc;
use support::whole_model::{self, CONTEXT, DEFAULT, LIKE_LLAMA, OnDevice, VERIFY, tiny_coder};
use support::{gpu, nmse};

type OnGpu = OnDevice<WgpuBackend>;

impl OnGpu {
    fn new(gpu: &Arc<Gpu>, file: &Path, numerics: Numerics) -> Self {
        Self::with_options(gpu, file, numerics, Options::default())
    }

    fn with_options(gpu: &Arc<Gpu>, file: &Path, numerics: Numerics, options: Options) -> Self {
        Self::open(file, numerics, 1, |parts| {
            let (plan, source, rope) = (&parts.plan, &parts.source, &parts.rope);
            let gpu = Arc::clone(gpu);
            WgpuBackend::new(gpu, plan, source, parts.kv_layout, rope, options, &mut |_, _| {}).unwrap()
        })
    }
}

#[test]
fn logits_of_tiny_coder_are_within_the_limits() {
    let Some(gpu) = gpu::shared() else { return };
    whole_model::logits_of_tiny_coder_are_within_the_limits(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn quantized_logits_are_those_of_the_cpu() {
    let Some(gpu) = gpu::shared() else { return };
    let open = |file: &Path, numerics: Numerics| OnGpu::new(&gpu, file, numerics);
    // With float activations the four products of a `dot` may have any order.
    whole_model::logits_are_those_of_the_cpu(&open, &[DEFAULT, LIKE_LLAMA], gpu.summary().software);
}

#[test]
fn logits_of_the_fixtures_are_within_the_limits() {
    let Some(gpu) = gpu::shared() else { return };
    whole_model::logits_of_the_fixtures_are_within_the_limits(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn greedy_tokens_of_the_fixtures_are_the_oracles() {
    let Some(gpu) = gpu::shared() else { return };
    whole_model::greedy_tokens_of_the_fixtures_are_the_oracles(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn tiny_coder_decodes_the_oracles_tokens() {
    let Some(gpu) = gpu::shared() else { return };
    whole_model::tiny_coder_decodes_the_oracles_tokens(&|file, numerics| OnGpu::new(&gpu, file, numerics));
}

#[test]
fn queued_passes_single_passes_and_steps_give_the_same_tokens() {
    let Some(gpu) = gpu::shared() else { return };
    whole_model::queued_passes_single_passes_and_steps_give_the_same_tokens(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn chunks_and_batches_give_the_same_bits() {
    let Some(gpu) = gpu::shared() else { return };
    whole_model::chunks_and_batches_give_the_same_bits(&|file, numerics| OnGpu::new(&gpu, file, numerics));
}

#[test]
fn a_logit_that_is_not_finite_is_found_and_named() {
    let Some(gpu) = gpu::shared() else { return };
    whole_model::a_logit_that_is_not_finite_is_found_and_named(&|file, numerics| {
        OnGpu::new(&gpu, file, numerics)
    });
}

#[test]
fn greedy_is_the_largest_logit() {
    let Some(gpu) = gpu::shared() else { return };
    whole_model::greedy_is_the_largest_logit(&|file, numerics| OnGpu::new(&gpu, file, numerics));
}

#[test]
fn weights_beyond_the_binding_limit_are_cut() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    let expected = OnGpu::new(&gpu, &file, DEFAULT).logits(&prompts[0].tokens, 8);
    // Q, K and V apart, gate and up in pieces, head and table in many.
    let options = Options { max_binding: Some(100_000) };
    let mut cut = OnGpu::with_options(&gpu, &file, DEFAULT, options);
    assert_eq!(cut.logits(&prompts[0].tokens, 8), expected);
}

#[test]
fn a_token_is_one_submit_and_few_dispatches() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    for (numerics, per_layer) in [(DEFAULT, 6), (LIKE_LLAMA, 10)] {
        let mut model = OnGpu::new(&gpu, &file, numerics);
        model.generate(&prompts[0].tokens, 2, 1);
        let graph = model.backend.compile(&model.plan(1, 1, true)).unwrap();
        let layers = model.decoder.shape().num_layers;
        // Six per layer, the table, the head and the sampler; q8_k quantizes before each of its products.
        assert!(model.backend.dispatches(graph) <= per_layer * layers + 4);
        let row = Row { token: 1, slot: 0, position: 20, logits: true };
        model.backend.run(graph, &[row]).unwrap();
        model.backend.sampled(graph).unwrap();
        let before = model.backend.counters();
        model.backend.replay(graph, 10).unwrap();
        model.backend.sampled(graph).unwrap();
        let after = model.backend.counters();
        assert_eq!(after.submits - before.submits, 1, "ten tokens, one submit");
        assert_eq!(after.mapped_bytes - before.mapped_bytes, 40, "a token is four bytes");
        assert_eq!(after.launches - before.launches, 10 * model.backend.dispatches(graph) as u64);
    }
}

/// Devices with no more than WebGPU asks for, and with workgroups of 1024: other shapes of workgroups, the same model.
#[test]
fn small_and_large_devices_agree() {
    let (file, prompts) = tiny_coder();
    let choices = [
        AdapterChoice { allow_software: true, smallest_limits: true, ..AdapterChoice::default() },
        AdapterChoice { allow_software: true, invocations: Some(1024), ..AdapterChoice::default() },
    ];
    let mut quantized: Option<Vec<f32>> = None;
    for choice in choices {
        let Some(gpu) = gpu::open(&choice) else { return };
        let logits = OnGpu::new(&gpu, &file, DEFAULT).logits(&prompts[0].tokens, 8);
        let expected = quantized.get_or_insert_with(|| logits.clone());
        assert_eq!(*expected, logits, "{choice:?}: the order of a sum is the device's");
        let mut model = OnGpu::new(&gpu, &file, VERIFY);
        for chunk in [64, 8, 1] {
            let error = nmse(&model.logits(&prompts[0].tokens, chunk), &prompts[0].exact);
            assert!(error <= 1e-10, "{choice:?}, chunks of {chunk}: NMSE {error:e}");
        }
    }
}

/// 1,000 tokens with `APRGPU_FULL=1`, else as many as show it.
#[test]
fn a_thousand_tokens_allocate_nothing() {
    let Some(gpu) = gpu::open(&AdapterChoice { allow_software: true, ..AdapterChoice::default() }) else {
        return;
    };
    let (file, prompts) = tiny_coder();
    let mut model = OnGpu::new(&gpu, &file, DEFAULT);
    let tokens = model.generate(&prompts[0].tokens, 2, 1);
    assert_eq!(tokens.len(), 2);
    let graph = model.backend.compile(&model.plan(1, 1, true)).unwrap();
    let position = prompts[0].tokens.len() as u32;
    model.backend.run(graph, &[Row { token: tokens[0], slot: 0, position, logits: true }]).unwrap();
    model.backend.replay(graph, 20).unwrap();
    model.backend.sampled(graph).unwrap();
    assert!(gpu.live_objects().0 > 10);
    let (before, bytes) = (gpu.live_objects(), model.backend.device_bytes());
    let full = std::env::var_os("APRGPU_FULL").is_some();
    for _ in 0..if full { 10 } else { 1 } {
        model.backend.replay(graph, 98).unwrap();
        assert_eq!(model.backend.sampled(graph).unwrap().len(), 98);
    }
    assert_eq!((gpu.live_objects(), model.backend.device_bytes()), (before, bytes));
    // What would pass the end of the context is refused before anything runs.
    let launches = model.backend.counters().launches;
    let row = Row { token: 1, slot: 0, position: CONTEXT as u32 - 24, logits: true };
    model.backend.run(graph, &[row]).unwrap();
    assert!(model.backend.replay(graph, 24).is_err());
    assert_eq!(model.backend.counters().launches, launches + model.backend.dispatches(graph) as u64);
}
