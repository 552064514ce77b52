//! A backend with a model on it and the graphs compiled so far.

use super::Error;
use super::ahead::Ahead;
use crate::backend::{Backend, Counters, GraphId, KernelTime, Sampling};
use crate::plan::{Decoder, Numerics, Plan, Row, Rows};
use std::collections::{BTreeSet, HashMap};

/// The largest decode batch that plans are made for; larger crowds take turns.
pub const MAX_BATCH: usize = 8;

/// Rows whose logits are kept at a time when every position's are asked for.
const LOGIT_ROWS: usize = 32;

/// A backend, the decoder that runs on it, and its graphs by number of rows.
pub struct Device {
    backend: Box<dyn Backend>,
    decoder: Decoder,
    numerics: Numerics,
    graphs: HashMap<Rows, GraphId>,
    context: usize,
    trained_context: usize,
    slots: usize,
    chunk: usize,
    /// The last round of decoding, and those queued behind it.
    ahead: Option<Ahead>,
    /// Slots whose text on the backend, which penalties look at, has tokens that were dropped.
    stale: BTreeSet<u32>,
}

impl Device {
    /// A device over a backend that holds the decoder's weights and a cache of `context` positions for each of `slots`
    /// sequences; prompts enter in tiles of `chunk` tokens. [`super::start`] makes both.
    pub fn new(
        backend: Box<dyn Backend>,
        decoder: Decoder,
        numerics: Numerics,
        (context, trained_context): (usize, usize),
        slots: usize,
        chunk: usize,
    ) -> Self {
        let graphs = HashMap::new();
        let (chunk, ahead, stale) = (chunk.max(1), None, BTreeSet::new());
        Self { backend, decoder, numerics, graphs, context, trained_context, slots, chunk, ahead, stale }
    }

    /// Positions per sequence.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Positions that the model was trained for.
    pub fn trained_context(&self) -> usize {
        self.trained_context
    }

    /// Sequences held at a time.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Tokens of a prompt that run together.
    pub fn chunk(&self) -> usize {
        self.chunk
    }

    /// Sizes and weights.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Activation and cache types.
    pub fn numerics(&self) -> Numerics {
        self.numerics
    }

    /// The backend's name and one line about the device.
    pub fn describe(&self) -> (&'static str, String) {
        (self.backend.name(), self.backend.describe())
    }

    /// Takes what a user should know since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        self.backend.take_notes()
    }

    /// What has run so far.
    pub fn counters(&self) -> Counters {
        self.backend.counters()
    }

    /// Times every kernel from now on; whether the backend can.
    pub fn set_profiling(&mut self, on: bool) -> bool {
        self.backend.set_profiling(on)
    }

    /// Takes the times of the kernels so far.
    pub fn kernel_times(&mut self) -> Result<Vec<KernelTime>, Error> {
        Ok(self.backend.kernel_times()?)
    }

    /// Refuses prompts that do not fit the context or hold unknown tokens.
    pub fn check_tokens(&self, tokens: &[u32]) -> Result<(), Error> {
        if tokens.is_empty() {
            return Err(Error::Usage("the prompt is empty: there is nothing to continue".to_owned()));
        }
        let vocab_size = self.decoder.shape().vocab_size;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(Error::Usage(format!("token {token} is not in the vocabulary of {vocab_size}")));
        }
        if tokens.len() > self.context {
            let (context, trained) = (self.context, self.trained_context);
            return Err(Error::ContextFull { tokens: tokens.len(), context, trained });
        }
        Ok(())
    }

    /// Logits at the last position of `tokens`, or at all of them: `[positions, vocab_size]`. Uses slot 0, whose cache
    /// is overwritten.
    pub fn logits(&mut self, tokens: &[u32], all: bool) -> Result<Vec<f32>, Error> {
        self.check_tokens(tokens)?;
        let mut logits = Vec::new();
        let chunk = if all { self.chunk.min(LOGIT_ROWS) } else { self.chunk };
        let graph =
            self.graph(Rows { rows: chunk, logit_rows: if all { chunk } else { 1 }, sample: false })?;
        for (index, tile) in tokens.chunks(chunk).enumerate() {
            let start = index * chunk;
            let row = |(i, &token): (usize, &u32)| Row {
                token,
                slot: 0,
                position: (start + i) as u32,
                logits: all || start + i + 1 == tokens.len(),
            };
            let rows: Vec<Row> = tile.iter().enumerate().map(row).collect();
            self.backend.run(graph, &rows)?;
            logits.extend(self.backend.buffer(graph, Plan::LOGITS)?);
        }
        Ok(logits)
    }

    /// Runs one tile of a prompt; the last row of `rows` samples where it asks for logits.
    pub(super) fn prefill(&mut self, rows: &[Row]) -> Result<Option<u32>, Error> {
        let graph = self.graph(Rows { rows: self.chunk, logit_rows: 1, sample: true })?;
        self.backend.run(graph, rows)?;
        Ok(self.backend.sampled(graph)?.concat().first().copied())
    }

    /// Runs one token of up to [`MAX_BATCH`] sequences, each sampling its next: one token per row. Where the rows
    /// continue the last round, the backend replays its graph and nothing is sent to it; up to `most` rounds will be
    /// wanted, so that many may be queued. Call [`Self::turn_to`] before.
    pub(super) fn decode(&mut self, rows: &[Row], most: usize) -> Result<Vec<u32>, Error> {
        let graph = self.decode_graph(rows.len())?;
        let continued = self.ahead.take().filter(|ahead| ahead.continues(graph, rows));
        let mut ahead = match continued {
            Some(ahead) => ahead,
            None => Ahead::start(&mut *self.backend, graph, rows)?,
        };
        let tokens = ahead.next(&mut *self.backend, most)?;
        self.ahead = Some(ahead);
        Ok(tokens)
    }

    /// Drops what is queued ahead where `rows` do not continue it. Returns those of their slots whose sampling must be set
    /// again.
    pub(super) fn turn_to(&mut self, rows: &[Row]) -> Result<Vec<u32>, Error> {
        let graph = self.decode_graph(rows.len())?;
        if self.ahead.as_ref().is_some_and(|ahead| !ahead.continues(graph, rows)) {
            self.drop_queued();
        }
        Ok(rows.iter().map(|row| row.slot).filter(|slot| self.stale.contains(slot)).collect())
    }

    fn decode_graph(&mut self, rows: usize) -> Result<GraphId, Error> {
        self.graph(Rows { rows, logit_rows: rows, sample: true })
    }

    fn drop_queued(&mut self) {
        if let Some(ahead) = self.ahead.take() {
            let slots: Vec<u32> = ahead.rows().iter().map(|row| row.slot).collect();
            if ahead.drop_queued(&mut *self.backend) {
                self.stale.extend(slots);
            }
        }
    }

    /// Sets how a slot is sampled.
    pub(super) fn set_sampling(
        &mut self,
        slot: u32,
        sampling: &Sampling,
        recent: &[u32],
    ) -> Result<(), Error> {
        // Tokens queued for this slot would be drawn in the old way.
        if self.ahead.as_ref().is_some_and(|ahead| ahead.rows().iter().any(|row| row.slot == slot)) {
            self.drop_queued();
        }
        self.stale.remove(&slot);
        Ok(self.backend.set_sampling(slot, sampling, recent)?)
    }

    /// The backend, to run plans of one's own choice: see [`Self::graph`].
    pub fn backend_mut(&mut self) -> &mut dyn Backend {
        self.drop_queued();
        &mut *self.backend
    }

    /// The graph for `rows`, compiled once.
    pub fn graph(&mut self, rows: Rows) -> Result<GraphId, Error> {
        if let Some(&graph) = self.graphs.get(&rows) {
            return Ok(graph);
        }
        let graph = self.backend.compile(&self.decoder.plan(rows, self.numerics))?;
        self.graphs.insert(rows, graph);
        Ok(graph)
    }
}
