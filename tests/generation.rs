//! What the scheduler chooses must not show: chunks, batches, threads, replays and formats give the same tokens, and
//! where they compute the same thing, the same bits.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use aprgpu::backend::Sampling;
use aprgpu::engine::{self, BackendChoice, Finish, Generated, Generator, Request, Scheduler, Settings};
use aprgpu::model::{Model, Tokenizer};
use std::ops::ControlFlow;
use std::sync::Arc;
use support::{fixtures, repository};

fn tiny_coder() -> Arc<Model> {
    Arc::new(Model::open(&repository("tests/models/tiny-coder.apr")).unwrap())
}

fn settings() -> Settings {
    Settings { threads: Some(2), ..Settings::default() }
}

fn scheduler(model: &Arc<Model>, settings: &Settings) -> Scheduler {
    Scheduler::new(engine::load(model, settings, &mut |_, _| {}).unwrap().0)
}

fn request(tokenizer: &Tokenizer, prompt: &str, sampling: Sampling) -> Request {
    Request {
        tokens: tokenizer.encode(prompt, true, true),
        max_tokens: 24,
        sampling,
        stop: vec![],
        ignore_end: true,
        continues_text: true,
    }
}

fn run(scheduler: &mut Scheduler, tokenizer: &Tokenizer, requests: Vec<Request>) -> Vec<Generated> {
    let mut streamed = vec![String::new(); requests.len()];
    let mut on_text = |index: usize, text: &str| {
        streamed[index] += text;
        ControlFlow::Continue(())
    };
    let generated = Generator::new(scheduler, tokenizer).run(requests, &mut on_text).unwrap();
    for (one, streamed) in generated.iter().zip(streamed) {
        assert_eq!(one.text, streamed, "what was streamed is what was generated");
    }
    generated
}

const PROMPTS: [&str; 5] = [
    "def fibonacci(n):\n",
    "import os\nimport sys\n\n\nclass Parser(object):\n    def __init__(self",
    "# naïve café ☕ 漢字\nx = ",
    "for i in range(10):",
    "def add(a, b):\n    \"\"\"Add two numbers.\"\"\"\n    return a + b\n\n\ndef subtract(a, b):\n",
];

/// Greedy and warm: a draw belongs to its seed, sequence and position, so it does not depend on the batch either.
fn samplings() -> [Sampling; 2] {
    [
        Sampling::default(),
        Sampling { temperature: 0.9, top_k: 30, top_p: 0.9, seed: 7, ..Sampling::default() },
    ]
}

#[test]
fn chunks_threads_and_the_twin_give_the_same_tokens() {
    let model = tiny_coder();
    let tokenizer = model.tokenizer().unwrap();
    for sampling in samplings() {
        for prompt in PROMPTS {
            let tokens = |settings: &Settings| {
                let request = request(&tokenizer, prompt, sampling.clone());
                run(&mut scheduler(&model, settings), &tokenizer, vec![request])[0].tokens.clone()
            };
            let expected = tokens(&settings());
            for chunk in [1, 7, 64] {
                assert_eq!(tokens(&Settings { chunk, ..settings() }), expected, "chunks of {chunk}");
            }
            for threads in [1, 3] {
                let settings = Settings { threads: Some(threads), ..settings() };
                assert_eq!(tokens(&settings), expected, "{threads} threads");
            }
        }
    }
}

#[test]
fn a_batch_gives_each_sequence_what_it_gets_alone() {
    let model = tiny_coder();
    let tokenizer = model.tokenizer().unwrap();
    for sampling in samplings() {
        let requests = || -> Vec<Request> {
            let prompts = PROMPTS.iter().cycle().take(11).enumerate();
            let one = |(i, prompt): (usize, &&str)| {
                let mut request =
                    request(&tokenizer, prompt, Sampling { sequence: i as u32, ..sampling.clone() });
                request.max_tokens = 10 + i;
                request
            };
            prompts.map(one).collect()
        };
        let alone = run(&mut scheduler(&model, &settings()), &tokenizer, requests());
        for slots in [2, 8, 11] {
            let mut scheduler = scheduler(&model, &Settings { slots, ..settings() });
            let together = run(&mut scheduler, &tokenizer, requests());
            for (index, (one, other)) in alone.iter().zip(&together).enumerate() {
                assert_eq!(one.tokens, other.tokens, "sequence {index} of {slots} at a time");
            }
            assert!(
                scheduler.stats().decode_rounds < scheduler.stats().decode_tokens,
                "nothing ran together"
            );
        }
    }
}

#[test]
fn logits_do_not_depend_on_chunk_or_threads() {
    let model = tiny_coder();
    let tokens = model.tokenizer().unwrap().encode(PROMPTS[1], true, true);
    let bits = |settings: &Settings| -> Vec<u32> {
        let (mut device, _) = engine::load(&model, settings, &mut |_, _| {}).unwrap();
        device.logits(&tokens, true).unwrap().iter().map(|logit| logit.to_bits()).collect()
    };
    let expected = bits(&settings());
    for chunk in [1, 5, 16] {
        assert!(bits(&Settings { chunk, ..settings() }) == expected, "chunks of {chunk} change bits");
    }
    assert!(bits(&Settings { threads: Some(5), ..settings() }) == expected, "threads change bits");
}

#[test]
fn gguf_and_apr_of_a_model_give_the_same_bits() {
    let Some(fixtures) = fixtures() else { return };
    let folder = tempfile::tempdir().unwrap();
    let files = [
        "coder/coder-Q4_K_M",
        "coder/coder-Q5_0",
        "coder/coder-F16",
        "qwen2-896/qwen2-896-Q4_K_M",
        "qwen2-yarn/qwen2-yarn-Q4_K_M",
        "qwen3/qwen3-Q5_1",
        "llama-gqa/llama-gqa-Q4_K_M",
        "llama-spm/llama-spm-Q5_K_S",
    ];
    for name in files {
        let gguf = fixtures.join(format!("{name}.gguf"));
        let apr = folder.path().join("model.apr");
        aprgpu::convert::gguf_to_apr(&gguf, &apr, &Default::default(), &mut |_| {}).unwrap();
        let [from_gguf, from_apr] = [&gguf, &apr].map(|path| {
            let model = Arc::new(Model::open(path).unwrap());
            let tokens = model.tokenizer().unwrap().encode(PROMPTS[0], true, true);
            let (mut device, _) = engine::load(&model, &settings(), &mut |_, _| {}).unwrap();
            device.logits(&tokens, true).unwrap().iter().map(|logit| logit.to_bits()).collect::<Vec<_>>()
        });
        assert!(from_gguf == from_apr, "{name}: the formats part");
    }
}

#[test]
fn files_that_the_peer_wrote_give_the_right_logits() {
    let Some(fixtures) = fixtures() else { return };
    let folder = fixtures.join("apr-written");
    let index = support::read_json(&folder.join("index.json"));
    // The index names files by their stem; those of the repacked kinds have logits of their own.
    for (name, entry) in find_entries(&index) {
        let exact = support::read_f32(&folder.join(entry["logits"].as_str().unwrap()));
        let numerics = aprgpu::plan::Numerics {
            activations: aprgpu::plan::Activations::F32,
            kv: aprgpu::plan::KvType::F32,
        };
        let model = Arc::new(Model::open(&folder.join(format!("{name}.apr"))).unwrap());
        let (mut device, _) =
            engine::load(&model, &Settings { numerics, ..settings() }, &mut |_, _| {}).unwrap();
        let prompts = entry["tokens"].as_array().unwrap();
        let rows = exact.chunks_exact(exact.len() / prompts.len());
        for (prompt, exact) in prompts.iter().map(support::u32s).zip(rows) {
            let error = support::nmse(&device.logits(&prompt, false).unwrap(), exact);
            assert!(error <= 1e-10, "{name}: NMSE {error:e}");
        }
    }
}

fn find_entries(index: &serde_json::Value) -> Vec<(String, serde_json::Value)> {
    let files = if index.get("files").is_some() { &index["files"] } else { index };
    let entries = files.as_object().unwrap().iter().filter(|(_, entry)| entry["logits"].is_string());
    let entries: Vec<_> = entries.map(|(name, entry)| (name.clone(), entry.clone())).collect();
    assert_eq!(entries.len(), 3, "three files with logits");
    entries
}

#[test]
fn a_generation_ends_where_it_should() {
    let model = tiny_coder();
    let tokenizer = model.tokenizer().unwrap();
    let base = request(&tokenizer, PROMPTS[0], Sampling::default());
    let full = run(&mut scheduler(&model, &settings()), &tokenizer, vec![base.clone()]).remove(0);
    assert_eq!((full.finish, full.tokens.len()), (Finish::Length, 24));

    // A stop string from the middle of the text, whatever tokens it falls on.
    let characters: Vec<char> = full.text.chars().collect();
    let stop: String = characters[characters.len() / 2..characters.len() / 2 + 3].iter().collect();
    let request = Request { stop: vec![stop.clone()], ..base.clone() };
    let stopped = run(&mut scheduler(&model, &settings()), &tokenizer, vec![request]).remove(0);
    assert_eq!(stopped.finish, Finish::StopString);
    assert_eq!(stopped.text, full.text.split(&stop).next().unwrap());

    // A context that fills up.
    let small = Settings { context: Some(base.tokens.len() + 4), ..settings() };
    let filled = run(&mut scheduler(&model, &small), &tokenizer, vec![base.clone()]).remove(0);
    assert_eq!(filled.finish, Finish::ContextFull);
    assert_eq!(filled.tokens, full.tokens[..4], "every place of the context is used");
    let too_small = Settings { context: Some(4), ..settings() };
    let refused = Generator::new(&mut scheduler(&model, &too_small), &tokenizer)
        .run(vec![base.clone()], &mut |_, _| ControlFlow::Continue(()));
    assert!(refused.unwrap_err().to_string().contains("--ctx"));

    // No tokens asked for, none given.
    let none = Request { max_tokens: 0, ..base.clone() };
    assert!(run(&mut scheduler(&model, &settings()), &tokenizer, vec![none]).remove(0).tokens.is_empty());

    // An interrupt.
    let mut pieces = 0;
    let mut on_text = |_: usize, text: &str| {
        pieces += usize::from(!text.is_empty());
        if pieces < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    };
    let mut scheduler = scheduler(&model, &settings());
    let interrupted =
        Generator::new(&mut scheduler, &tokenizer).run(vec![base], &mut on_text).unwrap().remove(0);
    assert_eq!(interrupted.finish, Finish::Interrupted);
    assert!(interrupted.tokens.len() < 24);
}

#[test]
fn a_second_turn_computes_only_what_is_new() {
    let model = tiny_coder();
    let tokenizer = model.tokenizer().unwrap();
    let mut scheduler = scheduler(&model, &settings());
    let sequence = scheduler.open().unwrap();
    let first = request(&tokenizer, PROMPTS[1], Sampling::default());
    let mut go = |_: &str| ControlFlow::Continue(());
    let answer = Generator::new(&mut scheduler, &tokenizer)
        .continue_sequence(sequence, first.clone(), &mut go)
        .unwrap();
    let before = scheduler.stats();
    let second = Request { tokens: [&first.tokens[..], &answer.tokens, &[331, 281, 824]].concat(), ..first };
    let continued = Generator::new(&mut scheduler, &tokenizer)
        .continue_sequence(sequence, second.clone(), &mut go)
        .unwrap();
    let prefilled = scheduler.stats().prefill_tokens - before.prefill_tokens;
    assert!(prefilled <= 4, "{prefilled} tokens ran again");

    let mut fresh = self::scheduler(&model, &settings());
    let fresh = run(&mut fresh, &tokenizer, vec![second]).remove(0);
    assert_eq!(continued.tokens, fresh.tokens, "the cache that was kept gives what a new one gives");
}

#[test]
fn the_twin_gives_the_same_tokens() {
    let model = tiny_coder();
    let tokenizer = model.tokenizer().unwrap();
    let tokens = |backend| {
        let mut scheduler = scheduler(&model, &Settings { backend, ..settings() });
        run(&mut scheduler, &tokenizer, vec![request(&tokenizer, PROMPTS[0], Sampling::default())])[0]
            .tokens
            .clone()
    };
    assert_eq!(tokens(BackendChoice::Twin), tokens(BackendChoice::Cpu));
}
