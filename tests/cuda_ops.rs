//! Every op in PTX against its twin, alone, on whatever device the driver has: without a GPU in the simulator, with all
//! its checks on.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::Backend;
use aprgpu::backend::cpu::twin;
use aprgpu::backend::cuda::{CudaBackend, Gpu};
use aprgpu::compare::ops::{Case, cases};
use aprgpu::plan::{
    Activations, Decoder, KvType, Numerics, OpKind, Plan, RopeTable, Row, Rows, WeightSource,
};
use aprgpu::quant::TensorType;
use std::sync::Arc;
use support::ops::check_every_op_of;
use support::{cuda, sampling};

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

#[test]
fn sampling_chooses_the_twins_tokens() {
    let Some(gpu) = cuda::shared() else { return };
    sampling::sampling_chooses_the_twins_tokens(|plan, source, kv_layout, rope| {
        CudaBackend::new(&gpu, plan, source, kv_layout, rope, &mut |_, _| {}).unwrap()
    });
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

/// Heads of 128 and of 64 dimensions go through one kernel, with more shared memory for the former: that a model of the latter was
/// compiled later changes nothing for it. And more rows than a grid has blocks are refused before anything is made.
#[test]
fn models_share_kernels_and_refuse_too_many_rows() {
    let Some(gpu) = cuda::shared() else { return };
    let mut all = Vec::new();
    for dimensions in [128, 64] {
        let case = Case { heads: (4, 4, dimensions), bias: false, ..cases().remove(0) };
        let (decoder, source) = case.decoder(5).unwrap();
        let source: Arc<dyn WeightSource + Send + Sync> = source;
        let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
        let rows = |rows: usize| decoder.plan(Rows { rows, logit_rows: 1, sample: false }, numerics);
        let (plan, kv_layout) = (rows(64), decoder.kv_layout(1, 64, KvType::F16));
        let rope = RopeTable::new(&case.rope(), 64);
        let mut backend = CudaBackend::new(&gpu, &plan, &source, kv_layout, &rope, &mut |_, _| {}).unwrap();
        let graph = backend.compile(&plan).unwrap();
        let refused = backend.compile(&rows(65_536)).unwrap_err().to_string();
        assert!(refused.contains("65536 rows") && refused.contains("--chunk"), "{refused}");
        all.push((backend, graph, plan));
    }
    let row = |position: u32| Row { token: 0, slot: 0, position, logits: position == 63 };
    let rows: Vec<Row> = (0..64).map(row).collect();
    for (backend, graph, plan) in &mut all {
        let attention = plan.steps.iter().position(|step| step.op.kind() == OpKind::Attention).unwrap();
        backend.run_steps(*graph, &rows, attention..attention + 1).unwrap();
        backend.buffer(*graph, Plan::ATTENTION).unwrap();
    }
}

/// A pass as a whole, whose ops find the records that others have written, gives the bits of its steps one by one, each of which
/// quantizes its input itself: whoever writes records writes the same. And the plan says how many launches that takes.
#[test]
fn producers_write_the_records_of_quantize() {
    use TensorType::{Q4_K, Q5_K, Q6_K};
    let Some(gpu) = cuda::shared() else { return };
    let mut all = cases();
    all.push(Case {
        name: "head norms in K types",
        qk_norm: true,
        types: [Q4_K, Q4_K, Q6_K, Q4_K, Q4_K, Q4_K, Q6_K, Q5_K],
        ..cases().remove(0)
    });
    for case in all.iter().filter(|case| case.hidden_size < 800) {
        let (decoder, source) = case.decoder_of(2, 11).unwrap();
        let source: Arc<dyn WeightSource + Send + Sync> = source;
        let rope = RopeTable::new(&case.rope(), 64);
        for activations in [Activations::Q8, Activations::Q8K] {
            let numerics = Numerics { activations, kv: KvType::F16 };
            for count in [3, 37] {
                let plan = decoder.plan(Rows { rows: count, logit_rows: 1, sample: true }, numerics);
                let logits = |at_once: bool| {
                    let kv_layout = decoder.kv_layout(1, 64, KvType::F16);
                    let backend = CudaBackend::new(&gpu, &plan, &source, kv_layout, &rope, &mut |_, _| {});
                    let mut backend = backend.unwrap();
                    let graph = backend.compile(&plan).unwrap();
                    let row = |i: usize| Row {
                        token: i as u32 % 30,
                        slot: 0,
                        position: i as u32,
                        logits: i + 1 == count,
                    };
                    let rows: Vec<Row> = (0..count).map(row).collect();
                    let steps = if at_once { plan.steps.len() } else { 1 };
                    for first in (0..plan.steps.len()).step_by(steps) {
                        backend.run_steps(graph, &rows, first..first + steps).unwrap();
                    }
                    let logits = backend.buffer(graph, Plan::LOGITS).unwrap();
                    (logits, backend.launches(graph))
                };
                let (whole, launches) = logits(true);
                let place = format!("{}, {activations:?}, {count} rows", case.name);
                assert!(whole.iter().any(|v| *v != 0.0), "{place}");
                assert_eq!(whole, logits(false).0, "{place}");
                let (planned, per_layer) = plan.launches();
                assert!(per_layer <= 9, "{place}: {per_layer} launches a layer");
                // Elsewhere a launch has matrices of types that no kernel takes together, and they have one each.
                if case.types.iter().all(|tensor_type| matches!(tensor_type, Q4_K | Q5_K | Q6_K)) {
                    assert_eq!(launches, planned, "{place}");
                }
            }
        }
    }
}
