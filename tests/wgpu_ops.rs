//! Every op in WGSL against its twin, alone, on whatever adapter this machine has: without a GPU on lavapipe, a software
//! adapter, which runs the same shaders through the same driver interface.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::wgpu::{AdapterChoice, Gpu, Options, WgpuBackend};
use aprgpu::compare::ops::{Case, Outcome, cases, run_every_op};
use aprgpu::plan::{Activations, Decoder, Numerics, OpKind, Rows, WeightSource};
use std::sync::Arc;
use support::ops::check_every_op_of;
use support::{gpu, sampling};

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
    let (quantized, float): (Vec<Case>, Vec<Case>) =
        cases().into_iter().partition(|case| case.types.iter().all(|t| !t.is_float()));
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

#[test]
fn sampling_chooses_the_twins_tokens() {
    let Some(gpu) = gpu::shared() else { return };
    sampling::sampling_chooses_the_twins_tokens(|plan, source, kv_layout, rope| {
        WgpuBackend::new(gpu, plan, source, kv_layout, rope, Options::default(), &mut |_, _| {}).unwrap()
    });
}
