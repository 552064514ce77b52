//! The sampler of a device against the twin's.

use aprgpu::backend::cpu::twin;
use aprgpu::backend::{Backend, Sampling};
use aprgpu::compare::Random;
use aprgpu::compare::ops::{Case, cases};
use aprgpu::plan::{Activations, KvLayout, KvType, Numerics, Op, Plan, RopeTable, Row, Rows, WeightSource};
use std::sync::Arc;

/// A batch of three sequences samples random logits; each token is the twin's, whatever is asked of the sampler. `make`
/// gives the backend for a plan, its weights, cache and angles.
pub(crate) fn sampling_chooses_the_twins_tokens<B: Backend>(
    make: impl FnOnce(&Plan, &Arc<dyn WeightSource + Send + Sync>, KvLayout, &RopeTable) -> B,
) {
    let case = Case { vocab_size: 5003, ..cases().remove(0) };
    let (decoder, source) = case.decoder(3).unwrap();
    let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
    let kv_layout = decoder.kv_layout(3, 64, KvType::F16);
    let rope = RopeTable { pairs: 32, cos: vec![1.0; 64 * 32], sin: vec![0.0; 64 * 32] };
    let mut plan = decoder.plan(Rows { rows: 4, logit_rows: 3, sample: true }, numerics);
    plan.steps.retain(|step| matches!(step.op, Op::Embed { .. } | Op::Sample));
    let source: Arc<dyn WeightSource + Send + Sync> = source;
    let mut backend = make(&plan, &source, kv_layout, &rope);
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
