//! Chooses what runs next: a tile of somebody's prompt, or one round of decoding for everybody.
//!
//! Prompts come first, one tile at a time in the order of arrival, so that a batch fills up before it decodes. What is
//! chosen never changes a result: a row's arithmetic depends on its own sequence alone.

use super::{Device, Error, MAX_BATCH};
use crate::backend::Sampling;
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
        Ok(tokens.len() - sequence.cached)
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
        let tokens = self.device.decode(&rows)?;
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

    fn sequence(&mut self, id: SequenceId) -> Result<&mut Sequence, Error> {
        let missing = || Error::Usage(format!("sequence {} is not open", id.0));
        self.sequences.get_mut(id.0 as usize).filter(|sequence| sequence.open).ok_or_else(missing)
    }
}
