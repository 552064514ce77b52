//! Prefill and decode, timed apart. A repetition that gives other tokens than the first is an error, not a sample.

use super::Error;
use super::clock::Clock;
use crate::backend::{Counters, Sampling};
use crate::compare::{self, Random};
use crate::engine::{Device, MAX_BATCH};
use crate::plan::{Row, Rows};

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// `n` tokens of a prompt at once, up to the first token that follows.
    Prefill {
        /// Tokens.
        n: usize,
    },
    /// `n` tokens one after the other, for `batch` sequences side by side.
    Decode {
        /// Tokens of each sequence.
        n: usize,
        /// Sequences.
        batch: usize,
        /// Tokens that are queued before the host looks at them.
        tokens_per_submit: usize,
    },
}

/// A test and where in the context it takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// What is run.
    pub test: Test,
    /// Positions that are in the cache before.
    pub depth: usize,
}

/// What was measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// Nanoseconds of each repetition.
    pub samples_ns: Vec<u64>,
    /// Nanoseconds of each submit of decode, over all repetitions, with the tokens of one sequence that it produced.
    pub submit_ns: Vec<(u64, usize)>,
    /// Nanoseconds from the start of the prompt to its first token: of the test itself, or of the depth before decode.
    pub first_token_ns: Option<u64>,
    /// What ran in one repetition.
    pub counters: Counters,
    /// CRC-32 of all tokens of a repetition, the same in each.
    pub checksum: u32,
}

impl Workload {
    /// Positions that the cache must hold.
    pub fn context(&self) -> usize {
        match self.test {
            Test::Prefill { n } | Test::Decode { n, .. } => self.depth + n + 1,
        }
    }

    /// Sequences side by side.
    pub fn batch(&self) -> usize {
        match self.test {
            Test::Prefill { .. } => 1,
            Test::Decode { batch, .. } => batch,
        }
    }

    /// Tokens of a repetition, all sequences together.
    pub fn tokens(&self) -> usize {
        match self.test {
            Test::Prefill { n } => n,
            Test::Decode { n, batch, .. } => n * batch,
        }
    }

    /// Runs a warm-up and `reps` repetitions.
    ///
    /// # Errors
    /// [`Error::WrongResult`] where repetitions differ, or replay and single steps; a workload that does not fit the device.
    pub fn run(&self, device: &mut Device, reps: usize) -> Result<Measured, Error> {
        let (context, slots) = (device.context(), device.slots());
        let (n, batch) = (self.tokens() / self.batch().max(1), self.batch());
        if n == 0 || batch == 0 || reps == 0 {
            return Err(compare::Error::Usage("--n, --batch and --reps must be at least 1".to_owned()).into());
        }
        if self.context() > context || batch > slots.min(MAX_BATCH) {
            return Err(compare::Error::Usage(format!(
                "{batch} sequences of {} positions do not fit {slots} of {context} (at most {MAX_BATCH} sequences)",
                self.context()
            ))
            .into());
        }
        for slot in 0..batch as u32 {
            device.backend_mut().set_sampling(slot, &Sampling::default(), &[])?;
        }
        let vocab = device.decoder().shape().vocab_size;
        let mut random = Random::new(2024);
        let mut tokens =
            |count: usize| -> Vec<u32> { (0..count).map(|_| random.below(vocab) as u32).collect() };
        let (before, prompt) = (tokens(self.depth), tokens(n.max(batch)));
        let mut first_token_ns = None;
        if self.depth > 0 {
            for slot in 0..batch as u32 {
                let mut clock = Clock::start();
                prefill(device, slot, 0, &before)?;
                first_token_ns = Some(clock.lap());
            }
        }
        let mut measured = Measured { first_token_ns, ..Measured::default() };
        let mut expected: Option<Vec<u32>> = None;
        for repetition in 0..=reps {
            let counters = device.counters();
            let mut clock = Clock::start();
            let mut submits = Vec::new();
            let produced = match self.test {
                Test::Prefill { .. } => vec![prefill(device, 0, self.depth, &prompt)?],
                Test::Decode { n, tokens_per_submit, .. } => {
                    let first = prompt.get(..batch).unwrap_or_default();
                    self.decode(device, first, (n, tokens_per_submit.max(1)), &mut submits)?
                }
            };
            let ns = clock.lap();
            if let Some(expected) = &expected
                && *expected != produced
            {
                let at = expected.iter().zip(&produced).take_while(|(a, b)| a == b).count();
                let what = format!("repetition {repetition} differs from the first at token {at}");
                return Err(Error::WrongResult(what));
            }
            // The first repetition is the warm-up.
            if repetition > 0 {
                measured.samples_ns.push(ns);
                measured.submit_ns.extend(submits);
                measured.counters = difference(device.counters(), counters);
                if let Test::Prefill { .. } = self.test {
                    let best = measured.first_token_ns.map_or(ns, |known| known.min(ns));
                    measured.first_token_ns = Some(best);
                }
            }
            measured.checksum = checksum(&produced);
            expected = Some(produced);
        }
        if let (Test::Decode { n, .. }, Some(replayed)) = (self.test, expected) {
            self.check_steps(device, prompt.get(..batch).unwrap_or_default(), n.min(8), &replayed)?;
        }
        Ok(measured)
    }

    /// Tokens of all sequences, step by step, the first by a run and the others by replay.
    fn decode(
        &self,
        device: &mut Device,
        first: &[u32],
        (n, per_submit): (usize, usize),
        submits: &mut Vec<(u64, usize)>,
    ) -> Result<Vec<u32>, Error> {
        let batch = first.len();
        let graph = device.graph(Rows { rows: batch, logit_rows: batch, sample: true })?;
        let backend = device.backend_mut();
        let rows = self.rows(first, 0);
        let mut produced = Vec::with_capacity(n * batch);
        let mut clock = Clock::start();
        backend.run(graph, &rows)?;
        produced.extend(backend.sampled(graph)?.concat());
        submits.push((clock.lap(), 1));
        let mut done = 1;
        while done < n {
            let times = per_submit.min(n - done);
            backend.replay(graph, times as u32)?;
            produced.extend(backend.sampled(graph)?.concat());
            submits.push((clock.lap(), times));
            done += times;
        }
        Ok(produced)
    }

    fn rows(&self, tokens: &[u32], step: usize) -> Vec<Row> {
        let position = (self.depth + step) as u32;
        let row = |(slot, &token): (usize, &u32)| Row { token, slot: slot as u32, position, logits: true };
        tokens.iter().enumerate().map(row).collect()
    }

    /// The same tokens again, each step started by the host.
    fn check_steps(
        &self,
        device: &mut Device,
        first: &[u32],
        steps: usize,
        replayed: &[u32],
    ) -> Result<(), Error> {
        let batch = first.len();
        let graph = device.graph(Rows { rows: batch, logit_rows: batch, sample: true })?;
        let mut tokens = first.to_vec();
        for step in 0..steps {
            let rows = self.rows(&tokens, step);
            let backend = device.backend_mut();
            backend.run(graph, &rows)?;
            tokens = backend.sampled(graph)?.concat();
            if replayed.get(step * batch..(step + 1) * batch) != Some(&tokens[..]) {
                let what = format!("replay and single steps differ at token {step}");
                return Err(Error::WrongResult(what));
            }
        }
        Ok(())
    }
}

/// Runs `tokens` from position `start` on in tiles; the token that follows.
fn prefill(device: &mut Device, slot: u32, start: usize, tokens: &[u32]) -> Result<u32, Error> {
    let chunk = device.chunk();
    let graph = device.graph(Rows { rows: chunk, logit_rows: 1, sample: true })?;
    let backend = device.backend_mut();
    let mut sampled = Vec::new();
    for (tile_start, tile) in (0..).step_by(chunk).zip(tokens.chunks(chunk)) {
        let row = |(i, &token): (usize, &u32)| Row {
            token,
            slot,
            position: (start + tile_start + i) as u32,
            logits: tile_start + i + 1 == tokens.len(),
        };
        let rows: Vec<Row> = tile.iter().enumerate().map(row).collect();
        backend.run(graph, &rows)?;
        sampled = backend.sampled(graph)?.concat();
    }
    let nothing = || Error::WrongResult("a prompt ended without a token".to_owned());
    sampled.first().copied().ok_or_else(nothing)
}

fn difference(after: Counters, before: Counters) -> Counters {
    Counters {
        launches: after.launches.saturating_sub(before.launches),
        submits: after.submits.saturating_sub(before.submits),
        rows: after.rows.saturating_sub(before.rows),
        mapped_bytes: after.mapped_bytes.saturating_sub(before.mapped_bytes),
        host_nanoseconds: after.host_nanoseconds.saturating_sub(before.host_nanoseconds),
    }
}

fn checksum(tokens: &[u32]) -> u32 {
    let bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    crc32fast::hash(&bytes)
}
