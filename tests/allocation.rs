//! A token costs no allocation: once a graph has run, running it on takes no memory from anybody, on any thread.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use aprgpu::backend::Sampling;
use aprgpu::engine::{self, BackendChoice, Settings};
use aprgpu::model::Model;
use aprgpu::plan::{Row, Rows};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::repository;

/// The system's allocator, which counts what it is asked for.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the rules of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from the system's allocator with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the pointer came from the system's allocator with this layout.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_token_costs_no_allocation() {
    let model = Arc::new(Model::open(&repository("tests/models/tiny-coder.apr")).unwrap());
    let settings = Settings { backend: BackendChoice::Cpu, threads: Some(2), ..Settings::default() };
    let (mut device, _) = engine::load(&model, &settings, &mut |_, _| {}).unwrap();
    let warm = Sampling {
        temperature: 0.7,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.01,
        repeat_penalty: 1.1,
        ..Sampling::default()
    };
    for sampling in [Sampling::default(), warm] {
        let graph = device.graph(Rows { rows: 1, logit_rows: 1, sample: true }).unwrap();
        let backend = device.backend_mut();
        backend.set_sampling(0, &sampling, &[1, 2, 3, 4]).unwrap();
        backend.run(graph, &[Row { token: 100, slot: 0, position: 0, logits: true }]).unwrap();
        // Lists of tokens grow by doubling: after 256 tokens there is room for the next 128.
        backend.replay(graph, 300).unwrap();
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        backend.replay(graph, 128).unwrap();
        let found = ALLOCATIONS.load(Ordering::Relaxed) - before;
        assert_eq!(found, 0, "allocations in 128 tokens at temperature {}", sampling.temperature);
        let tokens = backend.sampled(graph).unwrap();
        assert_eq!(tokens.len(), 429);
    }
}
