//! Every op of the fast CPU path against its twin, alone, on every instruction set that this CPU has.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use aprgpu::backend::cpu::{Cpu, Isa};
use aprgpu::plan::{Activations, OpKind};
use support::ops::check_every_op;

/// None: the order of every sum is written down in the twins, so the fast path gives their bits.
fn limit(op: OpKind, _: Activations) -> f64 {
    match op {
        OpKind::Embed | OpKind::QkvRope | OpKind::Attention | OpKind::AttnOut => 0.0,
        OpKind::GateUp | OpKind::Down | OpKind::Head => 0.0,
        // Chosen, not computed: `backend/cpu/twin/sample.rs` is the only implementation and has tests of its own.
        OpKind::Sample => 0.0,
    }
}

fn check(isa: Isa, threads: usize, batches: &[usize]) {
    let make: Box<support::ops::Make<'_>> = Box::new(move |decoder, source, kv_layout, rope| {
        let parts = (kv_layout, rope);
        Ok(Box::new(Cpu::new(decoder, source, parts, Some(threads), Some(isa), &mut |_, _| {})?))
    });
    check_every_op(&*make, batches, &limit);
}

#[test]
fn every_instruction_set_agrees_with_the_twins() {
    let available = Isa::available();
    for name in Isa::NAMES.iter().filter(|name| !available.iter().any(|isa| isa.name() == **name)) {
        println!("skipped: this CPU has no {name}");
    }
    for isa in available {
        check(isa, 2, &[1, 5]);
    }
}

#[test]
fn every_batch_and_tile_agrees_with_the_twins() {
    check(Isa::detect(), 3, &[2, 8, 23]);
}
