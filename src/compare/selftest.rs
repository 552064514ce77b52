//! Everything that a new machine, driver or backend has to show, without any file: each op beside its twin, then a small
//! model, see [`super::model_checks`].

use super::metric::Difference;
use super::model_checks::{self, CONTEXT, SLOTS};
use super::ops::{self, Case, Make, cases, run_every_op};
use super::{Error, Random};
use crate::backend::cpu::twin::Twin;
use crate::engine::Device;
use crate::plan::{Activations, KvType, Numerics, OpKind, RopeTable, WeightSource};
use serde::Serialize;
use std::sync::Arc;

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Kind of activations; `any` where they do not matter.
    pub activations: &'static str,
    /// Cases run.
    pub cases: usize,
    /// What was found: the worst NMSE, or a sentence.
    pub found: String,
    /// What is allowed.
    pub limit: String,
    /// Whether it holds.
    pub passed: bool,
}

/// How much to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Every case.
    Full,
    /// The first case only, for tests.
    Reduced,
}

/// Runs everything on the backend that `make` sets up.
///
/// # Errors
/// A backend that cannot be set up or fails. A result that is wrong is a [`Check`] that did not pass.
pub fn selftest(make: &Make<'_>, extent: Extent) -> Result<Vec<Check>, Error> {
    let all = cases();
    let (cases, batches): (&[Case], &[usize]) = match extent {
        Extent::Full => (&all, &[1, 5, 8, 23]),
        Extent::Reduced => (all.get(..1).unwrap_or_default(), &[1, 5]),
    };
    let mut checks = op_checks(cases, make, batches)?;
    let Some(case) = cases.first() else { return Ok(checks) };
    let (decoder, source) = case.decoder_of(3, 7)?;
    let rope = RopeTable::new(&case.rope(), CONTEXT);
    let mut random = Random::new(5);
    let mut prompt = || -> Vec<u32> { (0..40).map(|_| random.below(case.vocab_size) as u32).collect() };
    let prompts = [prompt(), prompt()];
    for activations in Activations::ALL {
        let numerics = Numerics { activations, kv: KvType::F16 };
        let kv_layout = decoder.kv_layout(SLOTS, CONTEXT, numerics.kv);
        let weights: Arc<dyn WeightSource + Send + Sync> = source.clone();
        let twin = Twin::new(decoder.weights(), weights, kv_layout.clone(), rope.clone())?;
        let backend = make(&decoder, source.clone(), kv_layout, rope.clone())?;
        let device =
            |backend| Device::new(backend, decoder.clone(), numerics, (CONTEXT, CONTEXT), SLOTS, CONTEXT);
        checks.extend(model_checks::run(&mut device(backend), &mut device(Box::new(twin)), &prompts, 40)?);
    }
    Ok(checks)
}

fn op_checks(cases: &[Case], make: &Make<'_>, batches: &[usize]) -> Result<Vec<Check>, Error> {
    let outcomes = run_every_op(cases, make, batches)?;
    let mut checks = Vec::new();
    for op in OpKind::ALL {
        for activations in Activations::ALL {
            let of_op = outcomes.iter().filter(|o| o.op == op && o.activations == activations);
            let Some(worst) = of_op
                .clone()
                .reduce(|a, b| if a.difference.worse(b.difference) == a.difference { a } else { b })
            else {
                continue;
            };
            let limit = ops::limit(op, activations);
            let Difference { nmse, ulp, .. } = worst.difference;
            let passed = nmse <= limit;
            let place =
                if passed { String::new() } else { format!(" ({}, {} rows)", worst.case, worst.rows) };
            checks.push(Check {
                name: op.name().to_owned(),
                activations: activations.name(),
                cases: of_op.count(),
                found: format!("NMSE {nmse:.1e}, {ulp} ulp{place}"),
                limit: format!("{limit:.0e}"),
                passed,
            });
        }
    }
    Ok(checks)
}
