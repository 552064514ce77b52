//! A model on a backend, held to what every backend must keep: logits as the twin's, other logits for another prompt, the
//! same for the same, replay and batches as single steps, seeds that repeat.

use super::Error;
use super::metric::nmse;
use super::selftest::Check;
use crate::backend::Sampling;
use crate::engine::Device;
use crate::plan::{Activations, Row, Rows};

/// Positions that devices under test must hold.
pub const CONTEXT: usize = 96;
/// Sequences that they must hold.
pub const SLOTS: usize = 8;
/// Tokens that are written.
const TOKENS: usize = 12;
/// Tokens of the prompt that they continue.
const SHORT: usize = 9;

/// How many tokens the twin, which is scalar, runs in seconds where weights take `bytes`.
pub fn affordable_tokens(bytes: u64) -> usize {
    match bytes {
        0..200_000_000 => 16,
        200_000_000..2_000_000_000 => 2,
        _ => 1,
    }
}

/// Checks the model on `device` against the twin in `truth`: two prompts, of which the twin runs the first `truth_tokens`
/// of the first.
///
/// # Errors
/// A device that fails, prompts that do not fit. A result that is wrong is a [`Check`] that did not pass.
pub fn run(
    device: &mut Device,
    truth: &mut Device,
    [first, second]: &[Vec<u32>; 2],
    truth_tokens: usize,
) -> Result<Vec<Check>, Error> {
    if device.slots() < SLOTS || device.context() < SHORT + TOKENS + 1 {
        return Err(Error::Usage(format!(
            "the checks need {SLOTS} sequences of {} positions",
            SHORT + TOKENS
        )));
    }
    let activations = device.numerics().activations;
    let check = |name: &str, found: String, limit: &str, passed: bool| Check {
        name: format!("model: {name}"),
        activations: activations.name(),
        cases: 1,
        found,
        limit: limit.to_owned(),
        passed,
    };
    let mut checks = Vec::new();

    let beginning = first.get(..truth_tokens.min(first.len())).unwrap_or_default();
    let error = nmse(&device.logits(beginning, true)?, &truth.logits(beginning, true)?);
    let limit = if activations == Activations::F32 { 1e-6 } else { 1e-3 };
    checks.push(check("logits", format!("NMSE {error:.1e}"), &format!("{limit:.0e}"), error <= limit));

    let logits = device.logits(first, false)?;
    let other = nmse(&device.logits(second, false)?, &logits);
    checks.push(check("another prompt", format!("NMSE {other:.1e} apart"), "differs", other > 1e-3));
    let again = nmse(&device.logits(first, false)?, &logits);
    checks.push(check("the same prompt again", format!("NMSE {again:.1e}"), "0", again == 0.0));

    let (greedy, short) = (Sampling::default(), first.get(..SHORT.min(first.len())).unwrap_or_default());
    let equal = |a: &[Vec<u32>], b: &[Vec<u32>]| {
        let same = a == b && !a.is_empty();
        (if same { "equal tokens" } else { "other tokens" }.to_owned(), same)
    };
    let stepwise = generate(device, short, (1, false), &greedy)?;
    let (found, same) = equal(&generate(device, short, (1, true), &greedy)?, &stepwise);
    checks.push(check("replay, as step by step", found, "equal", same));
    let eight = generate(device, short, (SLOTS, true), &greedy)?;
    let (found, same) = equal(&eight, &vec![stepwise.concat(); SLOTS]);
    checks.push(check("batch of 8, as alone", found, "equal", same));

    // Hot enough that a model which is sure of itself chooses too.
    let seeded = Sampling { temperature: 1.5, seed: 42, ..Sampling::default() };
    let text = generate(device, short, (1, true), &seeded)?;
    let (found, same) = equal(&generate(device, short, (1, true), &seeded)?, &text);
    checks.push(check("the same seed again", found, "equal", same));
    let differs = generate(device, short, (1, true), &Sampling { seed: 43, ..seeded })? != text;
    let found = if differs { "other tokens" } else { "equal tokens" };
    checks.push(check("another seed", found.to_owned(), "differs", differs));
    Ok(checks)
}

/// What `prompt` continues with, one token at a time from the first, in `batch` sequences side by side (all the same); by
/// replay or step by step. By sequence.
fn generate(
    device: &mut Device,
    prompt: &[u32],
    (batch, replay): (usize, bool),
    sampling: &Sampling,
) -> Result<Vec<Vec<u32>>, Error> {
    let graph = device.graph(Rows { rows: batch, logit_rows: batch, sample: true })?;
    let backend = device.backend_mut();
    for slot in 0..batch as u32 {
        backend.set_sampling(slot, sampling, &[])?;
    }
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
        backend.run(graph, &rows(&vec![token; batch], position, last))?;
    }
    let mut produced: Vec<Vec<u32>> = backend.sampled(graph)?.pop().into_iter().collect();
    if replay {
        backend.replay(graph, TOKENS as u32)?;
        produced.extend(backend.sampled(graph)?);
    } else {
        for step in 0..TOKENS {
            let tokens = produced.last().cloned().unwrap_or_default();
            backend.run(graph, &rows(&tokens, prompt.len() + step, true))?;
            produced.extend(backend.sampled(graph)?);
        }
    }
    Ok((0..batch).map(|slot| produced.iter().filter_map(|step| step.get(slot).copied()).collect()).collect())
}
