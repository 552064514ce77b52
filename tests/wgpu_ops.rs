//! Every op in WGSL against its twin, alone, on whatever adapter this machine has: without a GPU on lavapipe, a software
//! adapter, which runs the same shaders through the same driver interface.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::Backend;
use aprgpu::backend::wgpu::{Gpu, Options, WgpuBackend};
use aprgpu::plan::{Activations, Decoder, OpKind, Rows};
use std::sync::Arc;
use support::gpu;
use support::ops::check_every_op;

/// The NMSE that an op may have from its twin: sums have another order, and where activations are quantized, a number
/// that lies between two integers may become the other one. Attention is held to more than the 1e-9 of its own
/// arithmetic: each side has filled its cache itself, and a key in float16 may be rounded either way.
fn limit(op: OpKind, activations: Activations) -> f64 {
    match op {
        OpKind::Embed | OpKind::Sample => 0.0,
        OpKind::Attention => 1e-7,
        _ if activations == Activations::F32 => 1e-9,
        _ => 1e-6,
    }
}

fn check(gpu: &Arc<Gpu>, options: Options, batches: &[usize]) {
    let make: Box<support::ops::Make<'_>> = Box::new(move |decoder: &Decoder, source, kv_layout, rope| {
        let numerics = aprgpu::plan::Numerics { activations: Activations::Q8, kv: kv_layout.kv_type };
        let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, numerics);
        let source: Arc<dyn aprgpu::plan::WeightSource + Send + Sync> = source;
        let backend =
            WgpuBackend::new(Arc::clone(gpu), &plan, &source, kv_layout, &rope, options, &mut |_, _| {});
        Box::new(backend.unwrap()) as Box<dyn Backend>
    });
    check_every_op(&*make, batches, &limit);
}

#[test]
fn decode_agrees_with_the_twins() {
    let Some(gpu) = gpu::shared() else { return };
    check(&gpu, Options::default(), &[1, 5]);
}

#[test]
fn prefill_agrees_with_the_twins() {
    let Some(gpu) = gpu::shared() else { return };
    check(&gpu, Options::default(), &[37]);
}
