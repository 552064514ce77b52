//! From prompts to text: one generator drives any number of requests through the scheduler.

use super::{Error, Scheduler, SequenceId, StopStrings};
use crate::backend::Sampling;
use crate::model::{StreamDecoder, Tokenizer};
use std::collections::VecDeque;
use std::ops::ControlFlow;

/// A prompt and how to continue it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// At most this many new tokens.
    pub max_tokens: usize,
    /// How to choose them.
    pub sampling: Sampling,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Whether to go on past tokens that end a generation.
    pub ignore_end: bool,
    /// Whether the answer goes on with the prompt's text: then a leading space belongs to it. A chat's answer begins anew.
    pub continues_text: bool,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model said so.
    EndOfText,
    /// A stop string.
    StopString,
    /// `max_tokens`.
    Length,
    /// The context is full.
    ContextFull,
    /// The caller.
    Interrupted,
}

/// What a request became.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The new tokens; an end-of-text token is not among them.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// A request on its way.
struct Active {
    index: usize,
    sequence: SequenceId,
    request: Request,
    decoder: StreamDecoder,
    stops: StopStrings,
    generated: Generated,
}

/// Runs requests; text is handed out as it comes.
pub struct Generator<'a> {
    scheduler: &'a mut Scheduler,
    tokenizer: &'a Tokenizer,
}

impl<'a> Generator<'a> {
    /// A generator over a scheduler's free slots.
    pub fn new(scheduler: &'a mut Scheduler, tokenizer: &'a Tokenizer) -> Self {
        Self { scheduler, tokenizer }
    }

    /// Runs all `requests`, as many at a time as there are free slots. `on_text` gets each piece of text with the index
    /// of its request, and stops everything by breaking.
    pub fn run(
        &mut self,
        requests: Vec<Request>,
        on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Result<Vec<Generated>, Error> {
        let mut done: Vec<Option<Generated>> = requests.iter().map(|_| None).collect();
        let mut waiting: VecDeque<(usize, Request)> = requests.into_iter().enumerate().collect();
        let mut active: Vec<Active> = Vec::new();
        let result = self.drive(&mut waiting, &mut active, &mut done, on_text);
        for left in active {
            self.scheduler.close(left.sequence);
        }
        result?;
        let unstarted = || Generated { tokens: vec![], text: String::new(), finish: Finish::Interrupted };
        Ok(done.into_iter().map(|generated| generated.unwrap_or_else(unstarted)).collect())
    }

    /// Continues one sequence that the caller opened and will close: what of its text is in the cache stays there.
    pub fn continue_sequence(
        &mut self,
        sequence: SequenceId,
        request: Request,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, Error> {
        let mut active = self.start(0, sequence, request)?;
        loop {
            let finish = self.advance_one(&mut active, &mut |_, text| on_text(text))?;
            if let Some(finish) = finish {
                self.scheduler.stop(sequence);
                return Ok(Self::finished(active, finish, &mut |_, text| on_text(text)));
            }
        }
    }

    fn advance_one(
        &mut self,
        active: &mut Active,
        on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Result<Option<Finish>, Error> {
        if let Some(finish) = self.out_of_room(active) {
            return Ok(Some(finish));
        }
        for produced in self.scheduler.step()? {
            if produced.sequence == active.sequence
                && let Some(finish) = self.take(active, produced.token, on_text)
            {
                return Ok(Some(finish));
            }
        }
        // An interrupt must be heard while a long prompt enters, too.
        Ok(on_text(active.index, "").is_break().then_some(Finish::Interrupted))
    }

    fn drive(
        &mut self,
        waiting: &mut VecDeque<(usize, Request)>,
        active: &mut Vec<Active>,
        done: &mut [Option<Generated>],
        on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        while !(waiting.is_empty() && active.is_empty()) {
            while !waiting.is_empty()
                && let Some(sequence) = self.scheduler.open()
            {
                if let Some((index, request)) = waiting.pop_front() {
                    match self.start(index, sequence, request) {
                        Ok(started) => active.push(started),
                        Err(error) => {
                            self.scheduler.close(sequence);
                            return Err(error);
                        }
                    }
                }
            }
            let produced = self.scheduler.step()?;
            let mut still = Vec::new();
            let mut interrupted = on_text(active.first().map_or(0, |first| first.index), "").is_break();
            for mut one in active.drain(..) {
                let sequence = one.sequence;
                let tokens = produced.iter().filter(|produced| produced.sequence == sequence);
                let mut finish = (one.request.max_tokens == 0).then_some(Finish::Length);
                for produced in tokens {
                    finish = finish.or_else(|| self.take(&mut one, produced.token, on_text));
                }
                let finish = finish.or_else(|| self.out_of_room(&one));
                interrupted |= finish == Some(Finish::Interrupted);
                match finish.or(interrupted.then_some(Finish::Interrupted)) {
                    Some(finish) => {
                        self.scheduler.close(one.sequence);
                        let index = one.index;
                        done[index] = Some(Self::finished(one, finish, on_text));
                    }
                    None => still.push(one),
                }
            }
            *active = still;
            if interrupted {
                waiting.clear();
            }
        }
        Ok(())
    }

    fn start(&mut self, index: usize, sequence: SequenceId, request: Request) -> Result<Active, Error> {
        self.scheduler.start(sequence, &request.tokens, &request.sampling)?;
        self.scheduler.expect(sequence, request.max_tokens);
        let stops = StopStrings::new(&request.stop);
        let generated = Generated { tokens: Vec::new(), text: String::new(), finish: Finish::Length };
        let decoder = if request.continues_text { StreamDecoder::continuing() } else { StreamDecoder::new() };
        Ok(Active { index, sequence, request, decoder, stops, generated })
    }

    /// The reason to stop before another token is computed.
    fn out_of_room(&self, active: &Active) -> Option<Finish> {
        if active.generated.tokens.len() >= active.request.max_tokens {
            return Some(Finish::Length);
        }
        let full = !active.generated.tokens.is_empty() && !self.scheduler.has_room(active.sequence);
        full.then_some(Finish::ContextFull)
    }

    /// Takes one token in; the reason to stop after it, if there is one.
    fn take(
        &self,
        active: &mut Active,
        token: u32,
        on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Option<Finish> {
        if !active.request.ignore_end && self.tokenizer.is_end_of_generation(token) {
            return Some(Finish::EndOfText);
        }
        active.generated.tokens.push(token);
        let (text, stopped) = active.stops.push(&active.decoder.push(self.tokenizer, token));
        active.generated.text += &text;
        if !text.is_empty() && on_text(active.index, &text).is_break() {
            return Some(Finish::Interrupted);
        }
        stopped.then_some(Finish::StopString)
    }

    /// Hands out the text that was held back.
    fn finished(
        mut active: Active,
        finish: Finish,
        on_text: &mut dyn FnMut(usize, &str) -> ControlFlow<()>,
    ) -> Generated {
        if finish != Finish::StopString {
            let (mut rest, stopped) = active.stops.push(&active.decoder.finish());
            if !stopped {
                rest += &active.stops.finish();
            }
            active.generated.text += &rest;
            // Whether the caller wants to stop no longer matters.
            let _ = on_text(active.index, &rest);
        }
        Generated { finish, ..active.generated }
    }
}
