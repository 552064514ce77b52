//! Everything that a new machine, driver or backend has to show, without any file: each op beside its twin, then a small
//! model: its logits, its replay, batches, prompts and seeds.

use super::metric::{Difference, nmse};
use super::ops::{self, Case, Make, cases, run_every_op};
use super::{Error, Random};
use crate::backend::cpu::twin::Twin;
use crate::backend::{Backend, GraphId, Sampling};
use crate::plan::{Activations, Decoder, KvType, Numerics, OpKind, Plan, RopeTable, Row, Rows, WeightSource};
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

/// Positions of the cache of the small model.
const CONTEXT: usize = 96;
/// Sequences of the small model.
const SLOTS: usize = 8;
/// Tokens that it writes.
const TOKENS: usize = 12;
const ALL: [Activations; 3] = [Activations::F32, Activations::Q8, Activations::Q8K];

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
    for activations in ALL {
        let numerics = Numerics { activations, kv: KvType::F16 };
        let kv_layout = decoder.kv_layout(SLOTS, CONTEXT, numerics.kv);
        let weights: Arc<dyn WeightSource + Send + Sync> = source.clone();
        let twin = Twin::new(decoder.weights(), weights, kv_layout.clone(), rope.clone())?;
        let backend = make(&decoder, source.clone(), kv_layout, rope.clone())?;
        let truth = Small { backend: Box::new(twin), decoder: &decoder, numerics };
        let mut model = ModelChecks { model: Small { backend, decoder: &decoder, numerics }, truth };
        checks.extend(model.run()?);
    }
    Ok(checks)
}

fn op_checks(cases: &[Case], make: &Make<'_>, batches: &[usize]) -> Result<Vec<Check>, Error> {
    let outcomes = run_every_op(cases, make, batches)?;
    let mut checks = Vec::new();
    for op in OpKind::ALL {
        for activations in ALL {
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

/// A small model on a backend.
struct Small<'a> {
    backend: Box<dyn Backend>,
    decoder: &'a Decoder,
    numerics: Numerics,
}

impl Small<'_> {
    fn compile(&mut self, rows: Rows) -> Result<GraphId, Error> {
        Ok(self.backend.compile(&self.decoder.plan(rows, self.numerics))?)
    }

    /// Logits after each of `tokens`.
    fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>, Error> {
        let count = tokens.len();
        let graph = self.compile(Rows { rows: count, logit_rows: count, sample: false })?;
        let row = |(i, &token): (usize, &u32)| Row { token, slot: 0, position: i as u32, logits: true };
        let rows: Vec<Row> = tokens.iter().enumerate().map(row).collect();
        self.backend.run(graph, &rows)?;
        Ok(self.backend.buffer(graph, Plan::LOGITS)?)
    }

    /// What `prompt` continues with in `slot`, one token at a time from the first, `batch` sequences side by side (all the
    /// same); by replay or step by step.
    fn generate(
        &mut self,
        prompt: &[u32],
        (batch, replay): (usize, bool),
        sampling: &Sampling,
    ) -> Result<Vec<Vec<u32>>, Error> {
        for slot in 0..batch as u32 {
            self.backend.set_sampling(slot, sampling, &[])?;
        }
        let graph = self.compile(Rows { rows: batch, logit_rows: batch, sample: true })?;
        let rows = |tokens: &[u32], position: usize, logits: bool| -> Vec<Row> {
            let row = |(slot, &token): (usize, &u32)| Row {
                token,
                slot: slot as u32,
                position: position as u32,
                logits,
            };
            tokens.iter().enumerate().map(row).collect()
        };
        for (position, &token) in prompt.iter().enumerate() {
            let last = position + 1 == prompt.len();
            self.backend.run(graph, &rows(&vec![token; batch], position, last))?;
        }
        let mut produced = self.backend.sampled(graph)?.pop().into_iter().collect::<Vec<_>>();
        if replay {
            self.backend.replay(graph, TOKENS as u32)?;
            produced.extend(self.backend.sampled(graph)?);
        } else {
            for step in 0..TOKENS {
                let tokens = produced.last().cloned().unwrap_or_default();
                self.backend.run(graph, &rows(&tokens, prompt.len() + step, true))?;
                produced.extend(self.backend.sampled(graph)?);
            }
        }
        // By sequence, not by step.
        Ok((0..batch)
            .map(|slot| produced.iter().filter_map(|step| step.get(slot).copied()).collect())
            .collect())
    }
}

struct ModelChecks<'a> {
    model: Small<'a>,
    truth: Small<'a>,
}

impl ModelChecks<'_> {
    fn check(&self, name: &str, found: impl Into<String>, limit: &str, passed: bool) -> Check {
        let activations = self.model.numerics.activations.name();
        Check {
            name: name.to_owned(),
            activations,
            cases: 1,
            found: found.into(),
            limit: limit.to_owned(),
            passed,
        }
    }

    fn run(&mut self) -> Result<Vec<Check>, Error> {
        let vocab = self.model.decoder.shape().vocab_size;
        let mut random = Random::new(5);
        let mut prompt =
            |count: usize| -> Vec<u32> { (0..count).map(|_| random.below(vocab) as u32).collect() };
        let (first, second) = (prompt(40), prompt(40));
        let mut checks = Vec::new();

        let logits = self.model.logits(&first)?;
        let error = nmse(&logits, &self.truth.logits(&first)?);
        let limit = if self.model.numerics.activations == Activations::F32 { 1e-6 } else { 1e-3 };
        let found = format!("NMSE {error:.1e}");
        checks.push(self.check("model: logits", found, &format!("{limit:.0e}"), error <= limit));

        let other = nmse(&self.model.logits(&second)?, &logits);
        let found = format!("NMSE {other:.1e} apart");
        checks.push(self.check("model: another prompt", found, "differs", other > 1e-3));
        let again = nmse(&self.model.logits(&first)?, &logits);
        checks.push(self.check(
            "model: the same prompt again",
            format!("NMSE {again:.1e}"),
            "0",
            again == 0.0,
        ));

        let (greedy, short) = (Sampling::default(), first.get(..9).unwrap_or_default());
        let stepwise = self.model.generate(short, (1, false), &greedy)?;
        let equal = |a: &[Vec<u32>], b: &[Vec<u32>]| {
            let same = a == b && !a.is_empty();
            (if same { "equal tokens" } else { "other tokens" }.to_owned(), same)
        };
        let (found, same) = equal(&self.model.generate(short, (1, true), &greedy)?, &stepwise);
        checks.push(self.check("model: replay, as step by step", found, "equal", same));

        let eight = self.model.generate(short, (SLOTS, true), &greedy)?;
        let (found, same) = equal(&eight, &vec![stepwise.concat(); SLOTS]);
        checks.push(self.check("model: batch of 8, as alone", found, "equal", same));

        let seeded = Sampling { temperature: 0.9, top_p: 0.95, seed: 42, ..Sampling::default() };
        let text = self.model.generate(short, (1, true), &seeded)?;
        let (found, same) = equal(&self.model.generate(short, (1, true), &seeded)?, &text);
        checks.push(self.check("model: the same seed again", found, "equal", same));
        let reseeded = Sampling { seed: 43, ..seeded };
        let differs = self.model.generate(short, (1, true), &reseeded)? != text;
        let found = if differs { "other tokens" } else { "equal tokens" };
        checks.push(self.check("model: another seed", found, "differs", differs));
        Ok(checks)
    }
}
