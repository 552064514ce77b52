//! Every op in WGSL against its twin, alone, on whatever adapter this machine has: without a GPU on lavapipe, a software
//! adapter, which runs the same shaders through the same driver interface.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::cpu::twin;
use aprgpu::backend::wgpu::{AdapterChoice, Gpu, Options, WgpuBackend};
use aprgpu::backend::{Backend, Sampling};
use aprgpu::compare::Random;
use aprgpu::compare::ops::{Case, Outcome, cases, run_every_op};
use aprgpu::plan::{
    Activations, Decoder, KvType, Numerics, OpKind, Plan, RopeTable, Row, Rows, WeightSource,
};
use std::sync::Arc;
use support::gpu;
use support::ops::check_every_op_of;

/// The NMSE that an op may have from its twin. On a software adapter none, where activations are quantized: the order of
/// every sum is the twin's, and nothing is contracted. With float activations the four products of a `dot` may have any
/// order, and a GPU may contract a product and a sum, or divide with an error; a number that then lies between two integers
/// may become the other one.
fn limit(gpu: &Gpu, float_weights: bool, op: OpKind, activations: Activations) -> f64 {
    match op {
        OpKind::Embed | OpKind::Sample => 0.0,
        // Each side fills its cache through float activations.
        OpKind::Attention => 1e-9,
        _ if gpu.summary().software && !float_weights && activations != Activations::F32 => 0.0,
        _ if activations == Activations::F32 => 1e-9,
        _ => 1e-6,
    }
}

fn make(gpu: &Arc<Gpu>, options: Options) -> Box<support::ops::Make<'_>> {
    Box::new(move |decoder: &Decoder, source, kv_layout, rope| {
        let numerics = Numerics { activations: Activations::Q8, kv: kv_layout.kv_type };
        let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, numerics);
        let source: Arc<dyn WeightSource + Send + Sync> = source;
        let backend =
            WgpuBackend::new(Arc::clone(gpu), &plan, &source, kv_layout, &rope, options, &mut |_, _| {});
        Ok(Box::new(backend?))
    })
}

fn check(gpu: &Arc<Gpu>, options: Options, batches: &[usize]) {
    let cases = cases();
    let (quantized, float): (Vec<Case>, Vec<Case>) =
        cases.into_iter().partition(|case| case.types.iter().all(|t| !t.is_float()));
    assert!(quantized.len() > 3 && float.len() > 1);
    for (cases, float_weights) in [(quantized, false), (float, true)] {
        let limit = |op, activations| limit(gpu, float_weights, op, activations);
        check_every_op_of(&cases, &*make(gpu, options), batches, &limit);
    }
}

#[test]
fn decode_agrees_with_the_twins() {
    let Some(gpu) = gpu::shared() else { return };
    check(&gpu, Options::default(), &[5]);
}

#[test]
fn prefill_agrees_with_the_twins() {
    let Some(gpu) = gpu::shared() else { return };
    check(&gpu, Options::default(), &[37]);
}

/// Gate and up of two types, and every matrix in pieces.
#[test]
fn matrices_in_pieces_agree_with_the_twins() {
    let Some(gpu) = gpu::shared() else { return };
    let make = make(&gpu, Options { max_binding: Some(300_000) });
    for outcome in run_every_op(&cases()[2..3], &*make, &[2, 12]).unwrap() {
        let limit = limit(&gpu, false, outcome.op, outcome.activations);
        assert!(outcome.difference.nmse <= limit, "{outcome:?}");
    }
}

/// The variants that large subgroups get, on subgroups of whatever size there is.
#[test]
fn subgroup_variants_agree_with_the_twins() {
    let choice = AdapterChoice { allow_software: true, subgroups: Some(true), ..AdapterChoice::default() };
    let Some(gpu) = gpu::open(&choice) else { return };
    if !gpu.summary().features.contains(&"subgroups") {
        println!("skipped: {} has no subgroups", gpu.summary().name);
        return;
    }
    // Groups of seven heads, of one, and a window.
    let some: Vec<Case> = [1, 4, 5].iter().map(|&index| cases()[index].clone()).collect();
    let attention = |outcome: &Outcome| outcome.op == OpKind::Attention;
    let outcomes = run_every_op(&some, &*make(&gpu, Options::default()), &[3]).unwrap();
    assert_eq!(outcomes.iter().filter(|outcome| attention(outcome)).count(), 9);
    for outcome in outcomes.iter().filter(|outcome| attention(outcome)) {
        let limit = limit(&gpu, false, outcome.op, outcome.activations);
        assert!(outcome.difference.nmse <= limit, "{outcome:?}");
    }
}

/// A batch of three sequences samples random logits; each token is the twin's, whatever is asked of the sampler.
#[test]
fn sampling_chooses_the_twins_tokens() {
    let Some(gpu) = gpu::shared() else { return };
    let case = Case { vocab_size: 5003, ..cases().remove(0) };
    let (decoder, source) = case.decoder(3).unwrap();
    let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
    let kv_layout = decoder.kv_layout(3, 64, KvType::F16);
    let rope = RopeTable { pairs: 32, cos: vec![1.0; 64 * 32], sin: vec![0.0; 64 * 32] };
    let plan = decoder.plan(Rows { rows: 4, logit_rows: 3, sample: true }, numerics);
    let source: Arc<dyn WeightSource + Send + Sync> = source;
    let options = Options::default();
    let mut backend =
        WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, options, &mut |_, _| {}).unwrap();
    let graph = backend.compile(&plan).unwrap();
    let step = plan.steps.len() - 1;
    let vocab = case.vocab_size;
    let warm = Sampling { temperature: 0.9, seed: 5 << 33 | 17, ..Sampling::default() };
    let samplings = [
        Sampling::default(),
        Sampling { repeat_penalty: 1.7, repeat_window: 12, ..Sampling::default() },
        warm.clone(),
        Sampling { top_k: 1, ..warm.clone() },
        Sampling { top_k: 40, ..warm.clone() },
        Sampling { top_p: 0.6, ..warm.clone() },
        Sampling { min_p: 0.2, ..warm.clone() },
        Sampling { top_k: 20, top_p: 0.8, min_p: 0.05, repeat_penalty: 1.2, ..warm.clone() },
        Sampling { top_k: 100_000, top_p: 0.0, ..warm },
    ];
    let mut random = Random::new(9);
    let (mut checked, mut different) = (0, 0);
    for sampling in &samplings {
        for round in 0..6u32 {
            let logits: Vec<f32> = (0..3 * vocab)
                .map(|_| {
                    let value = random.value() * 4.0;
                    // Many equal logits at times, so that ties are cut and broken.
                    if round % 2 == 0 { value.round() } else { value }
                })
                .collect();
            let recent: Vec<Vec<u32>> = (0..3)
                .map(|slot| (0..30).map(|i| (slot * 7 + i * i * 13) % vocab as u32).collect())
                .collect();
            for (slot, recent) in recent.iter().enumerate() {
                let sampling = Sampling { sequence: slot as u32, ..sampling.clone() };
                backend.set_sampling(slot as u32, &sampling, recent).unwrap();
            }
            backend.set_buffer(graph, Plan::LOGITS, &logits).unwrap();
            // The second row does not ask.
            let row = |slot: u32, logits: bool| Row { token: 1, slot, position: round * 5 + slot, logits };
            let rows = [row(0, true), row(0, false), row(1, true), row(2, true)];
            backend.run_steps(graph, &rows, step..step + 1).unwrap();
            let found = backend.sampled(graph).unwrap().concat();
            for slot in 0..3 {
                let sampling = Sampling { sequence: slot as u32, ..sampling.clone() };
                let logits = &logits[slot * vocab..][..vocab];
                let expected = twin::sample(
                    logits,
                    &sampling,
                    &recent[slot],
                    rows[slot + usize::from(slot > 0)].position + 1,
                );
                checked += 1;
                if found[slot] != expected {
                    different += 1;
                    println!("{sampling:?}, round {round}: {} where the twin has {expected}", found[slot]);
                }
            }
        }
    }
    // A draw that falls on the border of two tokens may go either way: `exp` differs in its last bit.
    assert!(different <= 1, "{different} of {checked} tokens differ");
}
