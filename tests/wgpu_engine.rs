//! Rounds that are queued ahead of the host must not show: tokens, texts and what is left in the cache are those of a
//! device that is asked for one round after the other.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use aprgpu::backend::wgpu::{Gpu, Options, WgpuBackend};
use aprgpu::backend::{Backend, Counters, Error, GraphId, Sampling};
use aprgpu::engine::{self, Device, Finish, Generated, Generator, Request, Scheduler};
use aprgpu::model::{Model, Tokenizer};
use aprgpu::plan::{Activations, BufferId, KvType, Numerics, Plan, RopeTable, Row, Rows};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use support::{gpu, repository};

/// A backend that is never ahead of its caller.
struct Stepwise(WgpuBackend);

impl Backend for Stepwise {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
    fn compile(&mut self, plan: &Plan) -> Result<GraphId, Error> {
        self.0.compile(plan)
    }
    fn set_sampling(&mut self, slot: u32, sampling: &Sampling, recent: &[u32]) -> Result<(), Error> {
        self.0.set_sampling(slot, sampling, recent)
    }
    fn run_steps(&mut self, graph: GraphId, rows: &[Row], steps: Range<usize>) -> Result<(), Error> {
        self.0.run_steps(graph, rows, steps)
    }
    fn replay(&mut self, graph: GraphId, times: u32) -> Result<(), Error> {
        assert_eq!(times, 1);
        self.0.replay(graph, times)
    }
    fn sampled(&mut self, graph: GraphId) -> Result<Vec<Vec<u32>>, Error> {
        self.0.sampled(graph)
    }
    fn buffer(&mut self, graph: GraphId, buffer: BufferId) -> Result<Vec<f32>, Error> {
        self.0.buffer(graph, buffer)
    }
    fn set_buffer(&mut self, graph: GraphId, buffer: BufferId, values: &[f32]) -> Result<(), Error> {
        self.0.set_buffer(graph, buffer, values)
    }
    fn counters(&self) -> Counters {
        self.0.counters()
    }
}

const CONTEXT: usize = 128;

fn scheduler(gpu: &Arc<Gpu>, model: &Arc<Model>, slots: usize, ahead: bool) -> Scheduler {
    let decoder = engine::decoder(model).unwrap();
    let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
    let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, numerics);
    let source = engine::weight_source(model, &decoder);
    let (layout, rope) =
        (decoder.kv_layout(slots, CONTEXT, KvType::F16), RopeTable::new(&model.config.rope, CONTEXT));
    let (gpu, options) = (Arc::clone(gpu), Options::default());
    let backend = WgpuBackend::new(gpu, &plan, &source, layout, &rope, options, &mut |_, _| {}).unwrap();
    let backend: Box<dyn Backend> = if ahead { Box::new(backend) } else { Box::new(Stepwise(backend)) };
    Scheduler::new(Device::new(backend, decoder, numerics, (CONTEXT, CONTEXT), slots, 32))
}

fn request(tokenizer: &Tokenizer, prompt: &str, max_tokens: usize, sampling: &Sampling) -> Request {
    Request {
        tokens: tokenizer.encode(prompt, true, true),
        max_tokens,
        sampling: sampling.clone(),
        stop: vec![],
        ignore_end: true,
        continues_text: true,
    }
}

fn run(scheduler: &mut Scheduler, tokenizer: &Tokenizer, requests: Vec<Request>) -> Vec<Generated> {
    Generator::new(scheduler, tokenizer).run(requests, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn samplings() -> [Sampling; 3] {
    let warm = Sampling { temperature: 0.9, top_k: 30, seed: 7, ..Sampling::default() };
    let penalized = Sampling { repeat_penalty: 1.4, repeat_window: 30, ..warm.clone() };
    [Sampling::default(), warm, penalized]
}

fn texts(generated: &[Generated]) -> Vec<(Vec<u32>, String, Finish)> {
    generated.iter().map(|one| (one.tokens.clone(), one.text.clone(), one.finish)).collect()
}

/// A piece of a text from its middle: as a stop, it ends the text there or before.
fn middle(text: &str) -> String {
    text.chars().skip(text.chars().count() / 2).take(3).collect()
}

#[test]
fn queued_rounds_give_the_tokens_of_single_ones() {
    let Some(gpu) = gpu::shared() else { return };
    let model = Arc::new(Model::open(&repository("tests/models/tiny-coder.apr")).unwrap());
    let tokenizer = model.tokenizer().unwrap();
    for sampling in samplings() {
        let alone = request(&tokenizer, "def add(a, b):\n", 23, &sampling);
        let text = run(&mut scheduler(&gpu, &model, 1, false), &tokenizer, vec![alone]).remove(0).text;
        let mut results = Vec::new();
        for ahead in [false, true] {
            // Three requests in two places: one ends while the other goes on, another one enters, and the first one meets
            // a stop that nobody foresaw: what was queued for the one beside it is dropped, and drawn again.
            let mut requests: Vec<Request> =
                [("def add(a, b):\n", 23), ("import os\n", 9), ("for i in range(10):", 14)]
                    .into_iter()
                    .map(|(prompt, count)| request(&tokenizer, prompt, count, &sampling))
                    .collect();
            requests[0].stop = vec![middle(&text)];
            for (index, request) in requests.iter_mut().enumerate() {
                request.sampling.sequence = index as u32;
            }
            let generated = run(&mut scheduler(&gpu, &model, 2, ahead), &tokenizer, requests);
            assert_eq!(generated[0].finish, Finish::StopString);
            results.push(texts(&generated));
        }
        assert_eq!(results[0], results[1], "{sampling:?}");
    }
}

#[test]
fn rounds_past_a_stop_are_dropped() {
    let Some(gpu) = gpu::shared() else { return };
    let model = Arc::new(Model::open(&repository("tests/models/tiny-coder.apr")).unwrap());
    let tokenizer = model.tokenizer().unwrap();
    for sampling in [0, 2].map(|index| samplings()[index].clone()) {
        let first = request(&tokenizer, "class Parser(object):\n", 40, &sampling);
        let text =
            run(&mut scheduler(&gpu, &model, 1, false), &tokenizer, vec![first.clone()]).remove(0).text;
        let mut results = Vec::new();
        for ahead in [false, true] {
            let mut scheduler = scheduler(&gpu, &model, 1, ahead);
            let sequence = scheduler.open().unwrap();
            let mut generator = Generator::new(&mut scheduler, &tokenizer);
            let mut go = |request: Request| {
                let on_text = &mut |_: &str| ControlFlow::Continue(());
                generator.continue_sequence(sequence, request, on_text).unwrap()
            };
            let stopped = go(Request { stop: vec![middle(&text)], ..first.clone() });
            assert_eq!(stopped.finish, Finish::StopString);
            // The same again in another way, a turn that goes on from the stop, and the first prompt once more.
            let seed = Sampling { temperature: 0.9, seed: 8, ..sampling.clone() };
            let again = go(Request { max_tokens: 6, sampling: seed, ..first.clone() });
            let longer = [&first.tokens[..], &stopped.tokens, &first.tokens[1..]].concat();
            let turn = go(Request { tokens: longer, max_tokens: 10, ..first.clone() });
            let once_more = go(Request { max_tokens: 12, ..first.clone() });
            results.push(texts(&[stopped, again, turn, once_more]));
        }
        assert_eq!(results[0], results[1], "{sampling:?}");
    }
}

/// A request whose length is known runs no round too many, and takes fewer submits than tokens.
#[test]
fn as_many_rounds_run_as_are_wanted() {
    let Some(gpu) = gpu::shared() else { return };
    let model = Arc::new(Model::open(&repository("tests/models/tiny-coder.apr")).unwrap());
    let tokenizer = model.tokenizer().unwrap();
    let mut scheduler = scheduler(&gpu, &model, 1, true);
    for count in [1, 2, 30, 500] {
        let before = scheduler.device().counters();
        let request = request(&tokenizer, &format!("x = {count}\n"), count, &Sampling::default());
        let prompt = request.tokens.len();
        let generated = run(&mut scheduler, &tokenizer, vec![request]).remove(0);
        let after = scheduler.device().counters();
        // The last token is not run, nor what would come after the end of the context.
        let rows = (prompt + count - 1).min(CONTEXT - 1);
        assert_eq!((after.rows - before.rows) as usize, rows, "{count} tokens");
        assert!(generated.tokens.len() >= count.min(CONTEXT - 1 - prompt), "{count} tokens");
    }
}
