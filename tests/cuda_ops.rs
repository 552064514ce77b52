//! Every op in PTX against its twin, alone, on whatever device the driver has: without a GPU in the simulator, with all
//! its checks on.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::cpu::twin;
use aprgpu::backend::cuda::{CudaBackend, Gpu};
use aprgpu::backend::{Backend, Sampling};
use aprgpu::compare::Random;
use aprgpu::compare::ops::{Case, cases};
use aprgpu::plan::{
    Activations, Decoder, KvType, Numerics, Op, OpKind, Plan, RopeTable, Row, Rows, WeightSource,
};
use aprgpu::quant::TensorType;
use std::sync::Arc;
use support::cuda;
use support::ops::check_every_op_of;

/// None: the order of every sum is the twin's, and PTX rounds each operation as it is written.
fn limit(_: OpKind, _: Activations) -> f64 {
    0.0
}

/// `wide` takes the widest cases too.
fn check(gpu: &Arc<Gpu>, batches: &[usize], wide: bool) {
    let make: Box<support::ops::Make<'_>> = Box::new(move |decoder: &Decoder, source, kv_layout, rope| {
        let numerics = Numerics { activations: Activations::Q8, kv: kv_layout.kv_type };
        let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, numerics);
        let source: Arc<dyn WeightSource + Send + Sync> = source;
        let backend = CudaBackend::new(gpu, &plan, &source, kv_layout, &rope, &mut |_, _| {});
        Ok(Box::new(backend?))
    });
    let cases: Vec<Case> = cases().into_iter().filter(|case| wide || case.hidden_size < 800).collect();
    check_every_op_of(&cases, &*make, batches, &limit);
}

#[test]
fn decode_agrees_with_the_twins() {
    let Some(gpu) = cuda::shared() else { return };
    check(&gpu, &[5], true);
}

/// All cases with `APRGPU_FULL=1`, else without the widest.
#[test]
fn prefill_agrees_with_the_twins() {
    let Some(gpu) = cuda::shared() else { return };
    check(&gpu, &[37], std::env::var_os("APRGPU_FULL").is_some());
}

/// A batch of three sequences samples random logits; each token is the twin's, whatever is asked of the sampler.
#[test]
fn sampling_chooses_the_twins_tokens() {
    let Some(gpu) = cuda::shared() else { return };
    let case = Case { vocab_size: 5003, ..cases().remove(0) };
    let (decoder, source) = case.decoder(3).unwrap();
    let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
    let kv_layout = decoder.kv_layout(3, 64, KvType::F16);
    let rope = RopeTable { pairs: 32, cos: vec![1.0; 64 * 32], sin: vec![0.0; 64 * 32] };
    let mut plan = decoder.plan(Rows { rows: 4, logit_rows: 3, sample: true }, numerics);
    plan.steps.retain(|step| matches!(step.op, Op::Embed { .. } | Op::Sample));
    let source: Arc<dyn WeightSource + Send + Sync> = source;
    let mut backend = CudaBackend::new(&gpu, &plan, &source, kv_layout, &rope, &mut |_, _| {}).unwrap();
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

/// Tables of every type, of rows that do not end with a panel.
#[test]
fn tables_of_every_type_are_looked_up_exactly() {
    let Some(gpu) = cuda::shared() else { return };
    for tensor_type in TensorType::ALL.iter().copied().filter(|t| t.is_weight_type()) {
        let mut case = cases().remove(0);
        case.types[6] = tensor_type;
        let (decoder, source) = case.decoder(3).unwrap();
        let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
        let kv_layout = decoder.kv_layout(1, 64, KvType::F16);
        let rope = RopeTable { pairs: 32, cos: vec![1.0; 64 * 32], sin: vec![0.0; 64 * 32] };
        let mut plan = decoder.plan(Rows { rows: 3, logit_rows: 3, sample: true }, numerics);
        plan.steps.truncate(1);
        let source: Arc<dyn WeightSource + Send + Sync> = source;
        let mut twin =
            twin::Twin::new(decoder.weights(), Arc::clone(&source), kv_layout.clone(), rope.clone()).unwrap();
        let mut backend = CudaBackend::new(&gpu, &plan, &source, kv_layout, &rope, &mut |_, _| {}).unwrap();
        let last = case.vocab_size as u32 - 1;
        let rows: Vec<Row> =
            [0, 77, last].map(|token| Row { token, slot: 0, position: 0, logits: false }).to_vec();
        let graphs = [twin.compile(&plan).unwrap(), backend.compile(&plan).unwrap()];
        twin.run(graphs[0], &rows).unwrap();
        backend.run(graphs[1], &rows).unwrap();
        let expected = twin.buffer(graphs[0], Plan::RESIDUAL).unwrap();
        assert_eq!(backend.buffer(graphs[1], Plan::RESIDUAL).unwrap(), expected, "{tensor_type}");
    }
}
