//! Chooses what runs next: a tile of somebody's prompt, or one round of decoding for everybody.
//!
//! Prompts come first, one tile at a time in the order of arrival, so that a batch fills up before it decodes. What is
//! chosen never changes a result: a row's arithmetic depends on its own sequence alone.

use super::{Device, Error, MAX_BATCH};
use crate::backend::{Counters, Sampling};
use crate::plan::Row;
use std::time::{Duration, Instant};

/// A sequence that holds a slot of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SequenceId(u32);

/// A token that the scheduler produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Produced {
    /// Whose it is.
    pub sequence: SequenceId,
    /// The token.
    pub token: u32,
}

/// Tokens and time, prefill and decode apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Prompt tokens that ran.
    pub prefill_tokens: usize,
    /// Time they took, the first sampled token included.
    pub prefill_time: Duration,
    /// Tokens decoded after the first of each sequence.
    pub decode_tokens: usize,
    /// Time they took.
    pub decode_time: Duration,
    /// Rounds of decoding: fewer than tokens where sequences shared a batch.
    pub decode_rounds: usize,
    /// What the backend did for them; rounds that were queued and dropped count as well.
    pub decode_work: Counters,
}

#[derive(Debug, Default)]
struct Sequence {
    open: bool,
    running: bool,
    /// Prompt and generated tokens.
    tokens: Vec<u32>,
    /// How many of them are the prompt.
    prompt: usize,
    /// How many of them are in the cache.
    cached: usize,
    /// Tokens that are wanted in all, where the caller has said so.
    wanted: Option<usize>,
    sampling: Sampling,
}

/// Drives several sequences over one device.
pub struct Scheduler {
    device: Device,
    sequences: Vec<Sequence>,
    turn: usize,
    stats: Stats,
}

impl Scheduler {
    /// A scheduler with one place per slot of the device.
    pub fn new(device: Device) -> Self {
        let sequences = (0..device.slots()).map(|_| Sequence::default()).collect();
        Self { device, sequences, turn: 0, stats: Stats::default() }
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The device, for work outside any sequence; every sequence's cache is forgotten.
    pub fn device_mut(&mut self) -> &mut Device {
        for sequence in &mut self.sequences {
            sequence.cached = 0;
        }
        &mut self.device
    }

    /// Tokens and time so far.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// Takes a free slot, if there is one.
    pub fn open(&mut self) -> Option<SequenceId> {
        let slot = self.sequences.iter().position(|sequence| !sequence.open)?;
        self.sequences[slot] = Sequence { open: true, ..Sequence::default() };
        Some(SequenceId(slot as u32))
    }

    /// Gives a slot back.
    pub fn close(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(id.0 as usize) {
            *sequence = Sequence::default();
        }
    }

    /// Makes `tokens` the text of a sequence and starts it. What it shares with the text in the cache is not run again;
    /// returns how many tokens will be.
    pub fn start(&mut self, id: SequenceId, tokens: &[u32], sampling: &Sampling) -> Result<usize, Error> {
        self.device.check_tokens(tokens)?;
        self.device.set_sampling(id.0, sampling, tokens)?;
        let sequence = self.sequence(id)?;
        let cached = &sequence.tokens[..sequence.cached];
        let shared = cached.iter().zip(tokens).take_while(|(a, b)| a == b).count();
        // The last token always runs: its logits are what is asked for.
        sequence.cached = shared.min(tokens.len() - 1);
        sequence.tokens = tokens.to_vec();
        sequence.prompt = tokens.len();
        sequence.running = true;
        sequence.wanted = None;
        sequence.sampling = sampling.clone();
        Ok(tokens.len() - sequence.cached)
    }

    /// Says that no more than `new_tokens` will be wanted of a sequence that was just started, so that the device does not
    /// run further ahead.
    pub fn expect(&mut self, id: SequenceId, new_tokens: usize) {
        if let Some(sequence) = self.sequences.get_mut(id.0 as usize) {
            sequence.wanted = sequence.prompt.checked_add(new_tokens);
        }
    }

    /// Stops a sequence; its text stays in the cache.
    pub fn stop(&mut self, id: SequenceId) {
        if let Some(sequence) = self.sequences.get_mut(id.0 as usize) {
            sequence.running = false;
        }
    }

    /// Whether the sequence can take one more token.
    pub fn has_room(&self, id: SequenceId) -> bool {
        self.sequences
            .get(id.0 as usize)
            .is_some_and(|sequence| sequence.tokens.len() < self.device.context())
    }

    /// The text of a sequence so far.
    pub fn tokens(&self, id: SequenceId) -> &[u32] {
        self.sequences.get(id.0 as usize).map_or(&[], |sequence| &sequence.tokens)
    }

    /// Runs one tile or one round; the tokens that came out of it, none while a prompt is still entering. A sequence
    /// runs until [`Self::stop`]; one that fills its context stops by itself.
    pub fn step(&mut self) -> Result<Vec<Produced>, Error> {
        let context = self.device.context();
        for sequence in &mut self.sequences {
            sequence.running &= sequence.cached < context;
        }
        let entering = |sequence: &Sequence| sequence.running && sequence.cached < sequence.prompt;
        if let Some(slot) = self.sequences.iter().position(entering) {
            return self.prefill(slot);
        }
        self.decode()
    }

    fn prefill(&mut self, slot: usize) -> Result<Vec<Produced>, Error> {
        let clock = Instant::now();
        let sequence = &self.sequences[slot];
        let end = sequence.tokens.len().min(sequence.cached + self.device.chunk());
        let row = |position: usize| Row {
            token: sequence.tokens[position],
            slot: slot as u32,
            position: position as u32,
            logits: position + 1 == sequence.tokens.len(),
        };
        let rows: Vec<Row> = (sequence.cached..end).map(row).collect();
        let token = self.device.prefill(&rows)?;
        let sequence = &mut self.sequences[slot];
        sequence.cached = end;
        self.stats.prefill_tokens += rows.len();
        self.stats.prefill_time += clock.elapsed();
        let produced = token.map(|token| {
            sequence.tokens.push(token);
            Produced { sequence: SequenceId(slot as u32), token }
        });
        Ok(produced.into_iter().collect())
    }

    fn decode(&mut self) -> Result<Vec<Produced>, Error> {
        let clock = Instant::now();
        let count = self.sequences.len();
        // Everybody has a turn, also where there are more sequences than a batch holds.
        let order = (0..count).map(|i| (self.turn + i) % count.max(1));
        let mut slots: Vec<usize> =
            order.filter(|&slot| self.sequences[slot].running).take(MAX_BATCH).collect();
        self.turn = slots.last().map_or(self.turn, |last| last + 1);
        slots.sort_unstable();
        if slots.is_empty() {
            return Ok(Vec::new());
        }
        let row = |&slot: &usize| {
            let sequence = &self.sequences[slot];
            let position = sequence.cached;
            Row {
                token: sequence.tokens[position],
                slot: slot as u32,
                position: position as u32,
                logits: true,
            }
        };
        let rows: Vec<Row> = slots.iter().map(row).collect();
        for slot in self.device.turn_to(&rows)? {
            let Some(sequence) = self.sequences.get(slot as usize) else { continue };
            self.device.set_sampling(slot, &sequence.sampling, &sequence.tokens)?;
        }
        let before = self.device.counters();
        let tokens = self.device.decode(&rows, self.rounds(&slots))?;
        self.stats.decode_work = self.stats.decode_work.plus(self.device.counters().since(before));
        let mut produced = Vec::new();
        for (&slot, &token) in slots.iter().zip(&tokens) {
            let sequence = &mut self.sequences[slot];
            sequence.cached += 1;
            sequence.tokens.push(token);
            produced.push(Produced { sequence: SequenceId(slot as u32), token });
        }
        self.stats.decode_tokens += produced.len();
        self.stats.decode_rounds += 1;
        self.stats.decode_time += clock.elapsed();
        Ok(produced)
    }

    /// Rounds that these slots will want together: one where others wait for their turn.
    fn rounds(&self, slots: &[usize]) -> usize {
        if self.sequences.iter().filter(|sequence| sequence.running).count() > slots.len() {
            return 1;
        }
        let context = self.device.context();
        let of = |sequence: &Sequence| {
            sequence.wanted.unwrap_or(usize::MAX).min(context).saturating_sub(sequence.tokens.len())
        };
        slots.iter().map(|&slot| of(&self.sequences[slot])).min().unwrap_or(1).max(1)
    }

    fn sequence(&mut self, id: SequenceId) -> Result<&mut Sequence, Error> {
        let missing = || Error::Usage(format!("sequence {} is not open", id.0));
        self.sequences.get_mut(id.0 as usize).filter(|sequence| sequence.open).ok_or_else(missing)
    }
}
