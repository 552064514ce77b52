//! What goes wrong on a device is said, with the kernel and the adapter: memory that is not there, a device that is lost,
//! pipelines on disk that were damaged. Shaders that a driver refuses: `src/backend/wgpu/pipelines.rs`.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::wgpu::{AdapterChoice, Gpu, Options, WgpuBackend};
use aprgpu::backend::{Backend, Error};
use aprgpu::compare::ops::{Case, cases};
use aprgpu::plan::{Activations, KvType, Numerics, Plan, RopeTable, Row, Rows, WeightSource};
use std::fs;
use std::sync::Arc;
use support::gpu;

const NUMERICS: Numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };

fn software() -> AdapterChoice {
    AdapterChoice { allow_software: true, ..AdapterChoice::default() }
}

/// A backend for a model of one layer, and a plan of one row.
fn backend(
    gpu: &Arc<Gpu>,
    case: &Case,
    context: usize,
    options: Options,
) -> Result<(WgpuBackend, Plan), Error> {
    let (decoder, source) = case.decoder(1).unwrap();
    let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: true }, NUMERICS);
    let (kv_layout, rope) = (decoder.kv_layout(1, context, KvType::F16), RopeTable::new(&case.rope(), 64));
    let source: Arc<dyn WeightSource + Send + Sync> = source;
    let gpu = Arc::clone(gpu);
    let backend = WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, options, &mut |_, _| {})?;
    Ok((backend, plan))
}

fn row(position: u32) -> Row {
    Row { token: 1, slot: 0, position, logits: true }
}

#[test]
fn memory_that_is_not_there_is_named() {
    let Some(gpu) = gpu::open(&AdapterChoice { smallest_limits: true, ..software() }) else { return };
    let case = &cases()[0];
    // A layer's keys larger than any binding of the smallest device.
    match backend(&gpu, case, 1 << 21, Options::default()).err() {
        Some(Error::OutOfMemory { what, needed, available, advice }) => {
            assert!(what.contains("keys") && advice.contains("--ctx"), "{what}; {advice}");
            assert!(needed > available && available > 0, "{needed} of {available}");
        }
        other => panic!("{other:?}"),
    }
    // Not even 32 rows of a matrix.
    match backend(&gpu, case, 64, Options { max_binding: Some(4096) }).err() {
        Some(Error::OutOfMemory { what, available, .. }) => {
            assert!(what.contains("32 rows of"), "{what}");
            assert_eq!(available, 4096);
        }
        other => panic!("{other:?}"),
    }
    // The device itself is as good as before.
    let (mut backend, plan) = backend(&gpu, case, 64, Options::default()).unwrap();
    let graph = backend.compile(&plan).unwrap();
    backend.run(graph, &[row(0)]).unwrap();
    assert_eq!(backend.sampled(graph).unwrap().len(), 1);
}

#[test]
fn a_lost_device_is_an_error_at_every_call() {
    let Some(gpu) = gpu::open(&software()) else { return };
    let name = gpu.summary().name.clone();
    let case = &cases()[0];
    let (mut model, plan) = backend(&gpu, case, 64, Options::default()).unwrap();
    let graph = model.compile(&plan).unwrap();
    model.run(graph, &[row(0)]).unwrap();
    model.sampled(graph).unwrap();
    model.replay(graph, 3).unwrap();
    gpu.destroy();
    let failed = |what: &str, result: Result<(), Error>| match result {
        Err(Error::Device { kernel, adapter, reason }) => {
            assert_eq!(adapter, name, "{what}");
            assert!(!kernel.is_empty() && !reason.is_empty(), "{what}");
            println!("{what}: {kernel} on {adapter}: {reason}");
        }
        other => panic!("{what}: {other:?}"),
    };
    failed("tokens on their way", model.sampled(graph).map(|_| ()));
    failed("a replay", model.replay(graph, 1));
    failed("a run", model.run(graph, &[row(1)]));
    failed("a buffer", model.buffer(graph, Plan::LOGITS).map(|_| ()));
    failed("the cache", model.cached(0, 0, 0).map(|_| ()));
    failed("another plan", model.compile(&plan).map(|_| ()));
    failed("another model", backend(&gpu, case, 64, Options::default()).map(|_| ()));
}

#[test]
fn pipelines_on_disk_are_used_when_whole_and_replaced_when_not() {
    let folder = tempfile::tempdir().unwrap();
    let choice = AdapterChoice { pipeline_cache: Some(folder.path().join("new")), ..software() };
    let compile = || {
        let gpu = gpu::open(&choice)?;
        if !gpu.summary().features.contains(&"pipeline-cache") {
            println!("skipped: {} gives no pipelines out", gpu.summary().name);
            return None;
        }
        let before = gpu.take_notes();
        let (mut model, plan) = backend(&gpu, &cases()[0], 64, Options::default()).unwrap();
        let graph = model.compile(&plan).unwrap();
        model.run(graph, &[row(0)]).unwrap();
        let tokens = model.sampled(graph).unwrap();
        Some((before, gpu.take_notes(), tokens))
    };
    let Some((before, after, tokens)) = compile() else { return };
    assert!(before.is_empty() && after.is_empty(), "{before:?} {after:?}");
    let files = || fs::read_dir(folder.path().join("new")).unwrap().map(|e| e.unwrap().path());
    let file = files().next().unwrap();
    assert_eq!(files().count(), 1, "nothing is left beside the file");
    let whole = fs::read(&file).unwrap();
    assert_eq!(compile(), Some((vec![], vec![], tokens.clone())));
    for damaged in [vec![], whole[..whole.len() - 1].to_vec(), vec![7; whole.len()]] {
        fs::write(&file, damaged).unwrap();
        let (before, after, again) = compile().unwrap();
        assert!(before.len() == 1 && before[0].contains("ignored"), "{before:?}");
        assert!(after.is_empty(), "{after:?}");
        assert_eq!(again, tokens);
        assert_eq!(fs::read(&file).unwrap(), whole, "the file was replaced");
    }
    // A folder that cannot be made: nothing is kept, and that is said.
    fs::write(folder.path().join("file"), "").unwrap();
    let choice =
        AdapterChoice { pipeline_cache: Some(folder.path().join("file").join("in it")), ..software() };
    let gpu = gpu::open(&choice).unwrap();
    let (mut model, plan) = backend(&gpu, &cases()[0], 64, Options::default()).unwrap();
    model.compile(&plan).unwrap();
    let notes = gpu.take_notes().concat();
    assert!(notes.contains("file"), "{notes}");
}
