//! Rounds of decoding that are queued on a device before anybody asked for them.
//!
//! A GPU that waits for the host between two tokens stands idle for a round trip. So while the host looks at one
//! token, the next ones are on their way: two submits, each of as many rounds as take about [`PIECE`], the second queued
//! before the first is waited for. Whoever stops at a token leaves rounds behind that nobody wants: they are dropped,
//! and what they wrote to the cache lies past the sequence's end, where the next tokens overwrite it before they look.

use super::Error;
use crate::backend::{Backend, GraphId};
use crate::plan::Row;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a submit of several rounds should take: long against the host's part of it, short for a reader.
const PIECE: Duration = Duration::from_millis(15);
/// Rounds in a submit, at most.
const MOST: u32 = 32;
/// Submits on their way.
const SUBMITS: usize = 2;

/// What is queued, and where the sequences stand after the last round handed out.
#[derive(Debug)]
pub(super) struct Ahead {
    graph: GraphId,
    /// The rows that would continue the last round.
    next: Vec<Row>,
    /// Rounds whose tokens are here and not handed out.
    landed: VecDeque<Vec<u32>>,
    /// Rounds of each submit on its way.
    flying: VecDeque<u32>,
    /// Rounds that a submit should have.
    size: u32,
    /// When the last submit was through.
    since: Instant,
}

impl Ahead {
    /// A first round, not ahead of anything.
    pub(super) fn start(backend: &mut dyn Backend, graph: GraphId, rows: &[Row]) -> Result<Self, Error> {
        backend.run(graph, rows)?;
        let flying = VecDeque::from([1]);
        let (next, landed, since) = (rows.to_vec(), VecDeque::new(), Instant::now());
        Ok(Self { graph, next, landed, flying, size: 1, since })
    }

    /// Whether `rows` are what the last round handed out goes on with.
    pub(super) fn continues(&self, graph: GraphId, rows: &[Row]) -> bool {
        self.graph == graph && self.next == rows
    }

    /// The rows of the last round.
    pub(super) fn rows(&self) -> &[Row] {
        &self.next
    }

    /// The next round's tokens, one per row. Up to `most` rounds will be asked for, this one included.
    pub(super) fn next(&mut self, backend: &mut dyn Backend, most: usize) -> Result<Vec<u32>, Error> {
        if backend.runs_ahead() {
            while self.flying.len() < SUBMITS && self.room(most) > 0 {
                self.queue(backend, self.size.min(self.room(most)))?;
            }
        } else if self.is_empty() {
            self.queue(backend, 1)?;
        }
        while self.landed.is_empty() && !self.flying.is_empty() {
            self.land(backend)?;
        }
        let tokens = self.landed.pop_front().unwrap_or_default();
        for (row, &token) in self.next.iter_mut().zip(&tokens) {
            (row.token, row.position) = (token, row.position + 1);
        }
        Ok(tokens)
    }

    /// Drops the rounds that were not handed out; whether there were any.
    pub(super) fn drop_queued(self, backend: &mut dyn Backend) -> bool {
        // What became of rounds that nobody wants is no error; a lost device will say so again.
        if !self.flying.is_empty() {
            let _ = backend.sampled(self.graph);
        }
        !self.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.landed.is_empty() && self.flying.is_empty()
    }

    /// Rounds that may still be queued where `most` will be asked for.
    fn room(&self, most: usize) -> u32 {
        let queued = self.landed.len() + self.flying.iter().sum::<u32>() as usize;
        most.saturating_sub(queued).min(MOST as usize) as u32
    }

    fn queue(&mut self, backend: &mut dyn Backend, rounds: u32) -> Result<(), Error> {
        backend.replay(self.graph, rounds)?;
        self.flying.push_back(rounds);
        Ok(())
    }

    fn land(&mut self, backend: &mut dyn Backend) -> Result<(), Error> {
        let rounds = backend.sampled_first(self.graph)?;
        let mut left = rounds.len() as u32;
        while left > 0
            && let Some(first) = self.flying.front_mut()
        {
            let of_first = left.min(*first);
            (*first, left) = (*first - of_first, left - of_first);
            if *first == 0 {
                self.flying.pop_front();
            }
        }
        if rounds.is_empty() {
            self.flying.clear();
        }
        let each = self.since.elapsed().as_nanos() / rounds.len().max(1) as u128;
        let fit = (PIECE.as_nanos() / each.max(1)).min(u128::from(MOST)) as u32;
        self.size = fit.clamp(1, (2 * self.size).min(MOST));
        self.since = Instant::now();
        self.landed.extend(rounds);
        Ok(())
    }
}
