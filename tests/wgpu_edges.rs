//! What lies at the edges: more rows than a dimension of workgroups, rows that a run leaves out, weights that cannot be
//! used, adapters that are not there.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::wgpu::{AdapterChoice, Gpu, Options, WgpuBackend};
use aprgpu::backend::{Backend, Error};
use aprgpu::compare::Random;
use aprgpu::compare::ops::cases;
use aprgpu::plan::{
    Activations, Buffer, BufferId, Cost, KvLayout, KvType, Numerics, Op, Pairing, Plan, RopeTable, Row, Rows,
    Shape, Step, Weight, WeightId, WeightSource,
};
use aprgpu::quant::{self, Cut, Q8Row, TensorType};
use std::sync::Arc;
use support::gpu;

/// Row `r` of every matrix is one of a few rows.
struct FewRows {
    norm: Vec<u8>,
    rows: Vec<Vec<u8>>,
}

impl WeightSource for FewRows {
    fn row(&self, id: WeightId, row: usize) -> &[u8] {
        if id.0 == 0 { &self.norm } else { &self.rows[row % self.rows.len()] }
    }

    fn release(&self, _: WeightId) {}
}

/// A head of so many rows of 32 columns in Q8_0, alone.
fn head(rows: usize, d: [u8; 2]) -> (Plan, Arc<dyn WeightSource + Send + Sync>, KvLayout, RopeTable) {
    let mut random = Random::new(5);
    let mut encoded = Vec::new();
    for _ in 0..61 {
        let mut bytes = vec![0; 34];
        quant::encode_row(TensorType::Q8_0, &random.values(32), None, &mut bytes).unwrap();
        encoded.push(bytes);
    }
    if d != [0, 0] {
        encoded[7][..2].copy_from_slice(&d);
    }
    let shape = Shape {
        hidden_size: 32,
        intermediate_size: 32,
        num_layers: 1,
        num_heads: 1,
        num_kv_heads: 1,
        head_dim: 32,
        vocab_size: rows,
        rms_norm_eps: 0.0,
        rope_dim: 32,
        rope_pairing: Pairing::Neox,
        sliding_window: None,
    };
    let weight =
        |name: &str, tensor_type, rows| Weight { name: name.to_owned(), tensor_type, rows, cols: 32 };
    let buffer = |name, width| Buffer { name, rows: 1, width };
    let op = Op::Head { norm: WeightId(0), output: WeightId(1) };
    let plan = Plan {
        rows: 1,
        logit_rows: 1,
        shape,
        numerics: Numerics { activations: Activations::Q8, kv: KvType::F16 },
        weights: vec![weight("norm", TensorType::F32, 1), weight("output", TensorType::Q8_0, rows)],
        buffers: vec![
            buffer("residual", 32),
            buffer("query", 32),
            buffer("attention", 32),
            buffer("gated", 32),
            buffer("logits", rows),
        ],
        steps: vec![
            Step { op: Op::Attention, layer: Some(0), reads: vec![], writes: vec![], cost: Cost::default() },
            Step {
                op,
                layer: None,
                reads: vec![Plan::RESIDUAL],
                writes: vec![Plan::LOGITS],
                cost: Cost::default(),
            },
        ],
    };
    let kv_layout = KvLayout {
        num_layers: 1,
        slots: 1,
        num_kv_heads: 1,
        context: 32,
        head_dim: 32,
        kv_type: KvType::F16,
    };
    let rope = RopeTable { pairs: 16, cos: vec![1.0; 512], sin: vec![0.0; 512] };
    let source = Arc::new(FewRows { norm: [1.0f32; 32].map(f32::to_le_bytes).concat(), rows: encoded });
    (plan, source, kv_layout, rope)
}

#[test]
fn more_rows_than_workgroups_in_a_dimension() {
    let Some(gpu) = gpu::shared() else { return };
    // 65,540 panels of 32 rows, the last not full.
    let rows = 65_539 * 32 + 5;
    let (plan, source, kv_layout, rope) = head(rows, [0, 0]);
    let options = Options::default();
    let mut backend =
        WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, options, &mut |_, _| {}).unwrap();
    let graph = backend.compile(&plan).unwrap();
    // Mean square 1, so the norm changes nothing.
    let x: Vec<f32> = (0..32).map(|i| if i % 2 == 0 { 1.0 } else { -1.0 }).collect();
    backend.set_buffer(graph, Plan::RESIDUAL, &x).unwrap();
    backend.set_buffer(graph, Plan::LOGITS, &vec![f32::NAN; rows]).unwrap();
    let row = Row { token: 0, slot: 0, position: 0, logits: true };
    backend.run_steps(graph, &[row], 1..2).unwrap();
    let logits = backend.buffer(graph, Plan::LOGITS).unwrap();
    let mut q8 = Q8Row::new();
    q8.quantize(&x).unwrap();
    for (r, &found) in logits.iter().enumerate() {
        let expected = quant::dot_q8(TensorType::Q8_0, source.row(WeightId(1), r), &q8, Cut::WHOLE);
        assert!(
            (found - expected).abs() <= 1e-5 * expected.abs().max(1e-3),
            "row {r}: {found}, not {expected}"
        );
    }
}

#[test]
fn a_scale_that_is_not_finite_is_refused_by_name() {
    let Some(gpu) = gpu::shared() else { return };
    let (plan, source, kv_layout, rope) = head(64, [0x00, 0x7e]);
    let options = Options::default();
    let found = WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, options, &mut |_, _| {});
    match found.err() {
        Some(Error::BadWeight { name, what }) => {
            assert_eq!(name, "output");
            assert!(what.starts_with("row 7"), "{what}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn rows_that_a_run_leaves_out_stay_untouched() {
    let Some(gpu) = gpu::shared() else { return };
    for (plan_rows, run_rows) in [(8, 3), (40, 33)] {
        let (decoder, source) = cases()[0].decoder(1).unwrap();
        let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
        let plan = decoder.plan(Rows { rows: plan_rows, logit_rows: plan_rows, sample: false }, numerics);
        let kv_layout = decoder.kv_layout(1, 64, KvType::F16);
        let rope = RopeTable { pairs: 32, cos: vec![1.0; 64 * 32], sin: vec![0.0; 64 * 32] };
        let source: Arc<dyn WeightSource + Send + Sync> = source;
        let (gpu, options) = (Arc::clone(&gpu), Options::default());
        let mut backend =
            WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, options, &mut |_, _| {}).unwrap();
        let graph = backend.compile(&plan).unwrap();
        const SENTINEL: f32 = 12345.0;
        let ids = (0..plan.buffers.len() as u32).map(BufferId);
        for (id, buffer) in ids.clone().zip(&plan.buffers) {
            backend.set_buffer(graph, id, &vec![SENTINEL; buffer.rows * buffer.width]).unwrap();
        }
        let row = |i: usize| Row { token: i as u32, slot: 0, position: i as u32, logits: true };
        let rows: Vec<Row> = (0..plan_rows).map(row).collect();
        backend.run(graph, &rows[..run_rows]).unwrap();
        // No step, all rows: only so that all rows can be read.
        backend.run_steps(graph, &rows, 0..0).unwrap();
        for (id, buffer) in ids.zip(&plan.buffers) {
            let values = backend.buffer(graph, id).unwrap();
            let (run, left) = values.split_at(run_rows * buffer.width);
            assert!(left.iter().all(|&value| value == SENTINEL), "{} past the run's rows", buffer.name);
            let written = run.iter().filter(|&&value| value != SENTINEL).count();
            assert_eq!(written, run.len(), "{}: values that nothing wrote", buffer.name);
        }
    }
}

#[test]
fn an_adapter_that_is_not_there_is_named() {
    let choice = AdapterChoice { adapter: Some("no such adapter".to_owned()), ..AdapterChoice::default() };
    match Gpu::open(&choice).err() {
        Some(Error::Unavailable { backend: "wgpu", reason }) => {
            assert!(reason.contains("no such adapter") || reason.contains("found none"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}
