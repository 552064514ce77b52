//! Whole models through WGSL: logits against numbers that this project did not compute, greedy tokens, and the captured
//! plan. Without a GPU this runs on lavapipe.
#![cfg(feature = "wgpu")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::wgpu::{AdapterChoice, Gpu, Options, WgpuBackend};
use aprgpu::backend::{Backend, Sampling};
use aprgpu::engine::{self, BackendChoice, Settings};
use aprgpu::model::Model;
use aprgpu::plan::{
    Activations, Decoder, KvType, Numerics, Plan, RopeTable, Row, Rows, WeightId, WeightSource,
};
use std::path::Path;
use std::sync::Arc;
use support::{argmax, fixtures, gpu, nmse, read_f32, read_json, repository, u32s};

const VERIFY: Numerics = Numerics { activations: Activations::F32, kv: KvType::F32 };
const F32_DEFAULT_CACHE: Numerics = Numerics { activations: Activations::F32, kv: KvType::F16 };
const DEFAULT: Numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
const LIKE_LLAMA: Numerics = Numerics { activations: Activations::Q8K, kv: KvType::F16 };

/// A model's weights by the ids of its decoder.
struct ModelWeights {
    model: Model,
    decoder: Decoder,
}

impl WeightSource for ModelWeights {
    fn row(&self, id: WeightId, row: usize) -> &[u8] {
        let (role, layer) = self.decoder.role(id).unwrap();
        self.model.weights.get(layer, role).unwrap().row(row)
    }

    fn release(&self, _: WeightId) {}
}

/// Positions of a sequence: the longest prompt of the fixtures has 1,128 tokens.
const CONTEXT: usize = 1200;

/// A model on the device.
struct OnGpu {
    backend: WgpuBackend,
    decoder: Decoder,
    numerics: Numerics,
}

impl OnGpu {
    fn new(gpu: &Arc<Gpu>, file: &Path, numerics: Numerics, options: Options) -> Self {
        Self::with_slots(gpu, file, numerics, options, 1)
    }

    fn with_slots(gpu: &Arc<Gpu>, file: &Path, numerics: Numerics, options: Options, slots: usize) -> Self {
        let model = Model::open(file).unwrap();
        let decoder = engine::decoder(&model).unwrap();
        let kv_layout = decoder.kv_layout(slots, CONTEXT, numerics.kv);
        let rope = RopeTable::new(&model.config.rope, CONTEXT);
        let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, numerics);
        let source: Arc<dyn WeightSource + Send + Sync> =
            Arc::new(ModelWeights { model, decoder: decoder.clone() });
        let gpu = Arc::clone(gpu);
        let backend =
            WgpuBackend::new(gpu, &plan, &source, kv_layout, &rope, options, &mut |_, _| {}).unwrap();
        Self { backend, decoder, numerics }
    }

    fn plan(&self, rows: usize, logit_rows: usize, sample: bool) -> Plan {
        self.decoder.plan(Rows { rows, logit_rows, sample }, self.numerics)
    }

    /// Logits at the last position of `tokens`, which enter `chunk` at a time.
    fn logits(&mut self, tokens: &[u32], chunk: usize) -> Vec<f32> {
        let graph = self.backend.compile(&self.plan(chunk, 1, false)).unwrap();
        for (index, tile) in tokens.chunks(chunk).enumerate() {
            let row = |(i, &token): (usize, &u32)| {
                let position = index * chunk + i;
                Row { token, slot: 0, position: position as u32, logits: position + 1 == tokens.len() }
            };
            let rows: Vec<Row> = tile.iter().enumerate().map(row).collect();
            self.backend.run(graph, &rows).unwrap();
        }
        self.backend.buffer(graph, Plan::LOGITS).unwrap()
    }
}

/// A prompt, the true logits at its end, llama.cpp's, and the greedy continuation with its margins.
struct Prompt {
    tokens: Vec<u32>,
    exact: Vec<f32>,
    llama: Vec<f32>,
    greedy: Vec<u32>,
    margins: Vec<f32>,
}

fn prompts(folder: &Path, model: &str, kind: &str) -> Vec<Prompt> {
    let entry = &read_json(&folder.join(format!("{model}.json")))["files"][kind];
    let tokens = entry["tokens"].as_array().unwrap();
    let exact = read_f32(&folder.join(format!("{model}-{kind}.exact.f32")));
    let llama = read_f32(&folder.join(format!("{model}-{kind}.llama.f32")));
    let vocab = exact.len() / tokens.len();
    let row = |values: &[f32], i: usize| values[i * vocab..][..vocab].to_vec();
    let margins = |i: usize| entry["greedy_margin"][i].as_array().unwrap().clone();
    let prompt = |(i, tokens): (usize, &serde_json::Value)| Prompt {
        tokens: u32s(tokens),
        exact: row(&exact, i),
        llama: row(&llama, i),
        greedy: u32s(&entry["greedy"][i]),
        margins: margins(i).iter().map(|v| v.as_f64().unwrap() as f32).collect(),
    };
    tokens.iter().enumerate().map(prompt).collect()
}

fn tiny_coder() -> (std::path::PathBuf, Vec<Prompt>) {
    let golden = repository("tests/golden/tiny-coder");
    (repository("tests/models/tiny-coder.apr"), prompts(&golden, "coder", "Q4_K_M"))
}

/// Errors of the first prompts (all where there is time) against the truth, and llama.cpp's.
fn errors(gpu: &Arc<Gpu>, file: &Path, prompts: &[Prompt], numerics: Numerics) -> Vec<(f64, f64)> {
    let mut model = OnGpu::new(gpu, file, numerics, Options::default());
    let error = |prompt: &Prompt| {
        let found = model.logits(&prompt.tokens, 64);
        (nmse(&found, &prompt.exact), nmse(&prompt.llama, &prompt.exact))
    };
    prompts.iter().map(error).collect()
}

fn check_logits(gpu: &Arc<Gpu>, label: &str, file: &Path, prompts: &[Prompt]) {
    for (numerics, limit) in [(VERIFY, 1e-10), (F32_DEFAULT_CACHE, 1e-6)] {
        for (i, (error, _)) in errors(gpu, file, prompts, numerics).into_iter().enumerate() {
            assert!(error <= limit, "{label} prompt {i}, {numerics:?}: NMSE {error:e}");
        }
    }
    let mean =
        |ratios: &[f64]| (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp();
    let ratios = errors(gpu, file, prompts, DEFAULT).into_iter().map(|(ours, llama)| ours / llama);
    let ratios: Vec<f64> = ratios.collect();
    let mean = mean(&ratios);
    println!("{label:22} q8: {mean:.3} of llama.cpp's error, rows {ratios:.2?}");
    assert!(mean <= 1.5, "{label}: {mean:.3} of llama.cpp's error");
    assert!(ratios.iter().all(|&ratio| ratio <= 5.0), "{label}: {ratios:?}");
}

#[test]
fn logits_of_tiny_coder_are_within_the_limits() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    check_logits(&gpu, "tiny-coder", &file, &prompts[..3]);
    let rows = errors(&gpu, &file, &prompts, LIKE_LLAMA);
    let mean = |part: &dyn Fn(&(f64, f64)) -> f64| rows.iter().map(|row| part(row).ln()).sum::<f64>().exp();
    let ratio = (mean(&|row| row.0) / mean(&|row| row.1)).powf(1.0 / rows.len() as f64);
    println!("tiny-coder             q8_k: {ratio:.3} of llama.cpp's error");
    // The limit of 1.3 is meant over many models; five rows of one scatter more.
    assert!((0.5..=2.0).contains(&ratio), "q8_k: {ratio:.3} of llama.cpp's error");
}

/// Bit for bit on a software adapter. A GPU may contract a product and a sum, or divide with an error: then the two are
/// equal until one activation lies so near the middle of two integers that it becomes the other one, and from there on as
/// far apart as each is from the truth.
#[test]
fn quantized_logits_are_those_of_the_cpu() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    for numerics in [DEFAULT, LIKE_LLAMA] {
        let settings = Settings { backend: BackendChoice::Cpu, numerics, ..Settings::default() };
        let model = Arc::new(Model::open(&file).unwrap());
        let (mut cpu, _) = engine::load(&model, &settings, &mut |_, _| {}).unwrap();
        let mut model = OnGpu::new(&gpu, &file, numerics, Options::default());
        for (i, prompt) in prompts[..4].iter().enumerate() {
            let expected = cpu.logits(&prompt.tokens, false).unwrap();
            let found = model.logits(&prompt.tokens, 64);
            let (apart, error) = (nmse(&found, &expected), nmse(&expected, &prompt.exact));
            println!("prompt {i}, {numerics:?}: {apart:e} apart, the CPU is {error:e} from the truth");
            let limit = if gpu.summary().software { 0.0 } else { 5.0 * error };
            assert!(apart <= limit, "prompt {i}, {numerics:?}: {apart:e} from the CPU");
        }
    }
}

/// One file of each kind of model by default, all files with `APRGPU_FULL=1`.
#[test]
fn logits_of_the_fixtures_are_within_the_limits() {
    let Some(gpu) = gpu::shared() else { return };
    let Some(fixtures) = fixtures() else { return };
    let full = std::env::var_os("APRGPU_FULL").is_some();
    for model in ["coder", "qwen2-896", "qwen2-yarn", "qwen3", "llama-gqa", "llama-spm"] {
        let folder = fixtures.join(model);
        let index = read_json(&folder.join(format!("{model}.json")));
        let kinds: Vec<&String> = index["files"].as_object().unwrap().keys().collect();
        // The last file: K types are in the model of this repository.
        let some = if full { &kinds[..] } else { &kinds[kinds.len() - 1..] };
        for kind in some {
            let prompts = prompts(&folder, model, kind);
            let few = if full { &prompts[..] } else { &prompts[..2] };
            let file = folder.join(format!("{model}-{kind}.gguf"));
            check_logits(&gpu, &format!("{model}-{kind}"), &file, few);
        }
    }
}

/// Runs a prompt and its continuation the way a generation does; the tokens sampled.
fn generate(model: &mut OnGpu, prompt: &[u32], count: usize, at_a_time: u32) -> Vec<u32> {
    let enter = model.backend.compile(&model.plan(64, 1, true)).unwrap();
    let decode = model.backend.compile(&model.plan(1, 1, true)).unwrap();
    let mut tokens = Vec::new();
    for (index, tile) in prompt.chunks(64).enumerate() {
        let row = |(i, &token): (usize, &u32)| {
            let position = index * 64 + i;
            Row { token, slot: 0, position: position as u32, logits: position + 1 == prompt.len() }
        };
        let rows: Vec<Row> = tile.iter().enumerate().map(row).collect();
        model.backend.run(enter, &rows).unwrap();
        tokens = model.backend.sampled(enter).unwrap().concat();
    }
    let row = Row { token: tokens[0], slot: 0, position: prompt.len() as u32, logits: true };
    model.backend.run(decode, &[row]).unwrap();
    while tokens.len() < count {
        tokens.extend(model.backend.sampled(decode).unwrap().concat());
        if tokens.len() < count {
            model.backend.replay(decode, at_a_time.min((count - tokens.len()) as u32)).unwrap();
        }
    }
    tokens
}

#[test]
fn tiny_coder_decodes_the_oracles_tokens() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    let mut model = OnGpu::new(&gpu, &file, DEFAULT, Options::default());
    for prompt in &prompts[..3] {
        model.backend.set_sampling(0, &Sampling::default(), &prompt.tokens).unwrap();
        let found = generate(&mut model, &prompt.tokens, prompt.greedy.len(), 8);
        // Up to the first step whose margin is so narrow that quantized activations may choose otherwise.
        let certain = prompt.margins.iter().position(|&margin| margin < 0.5).unwrap_or(found.len());
        assert_eq!(found[..certain], prompt.greedy[..certain]);
        println!("{certain} of {} tokens were certain, and agree", found.len());
    }
    assert!(model.backend.counters().launches > 0);
}

#[test]
fn queued_passes_single_passes_and_steps_give_the_same_tokens() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    let prompt = &prompts[1].tokens;
    let mut model = OnGpu::new(&gpu, &file, DEFAULT, Options::default());
    let samplings = [
        Sampling::default(),
        Sampling { repeat_penalty: 1.3, repeat_window: 20, ..Sampling::default() },
        Sampling { temperature: 0.8, seed: 11, ..Sampling::default() },
    ];
    for sampling in samplings {
        let mut runs = Vec::new();
        for at_a_time in [1, 7] {
            model.backend.set_sampling(0, &sampling, prompt).unwrap();
            runs.push(generate(&mut model, prompt, 20, at_a_time));
        }
        assert_eq!(runs[0], runs[1], "{sampling:?}");

        // Step by step: the host carries the token.
        model.backend.set_sampling(0, &sampling, prompt).unwrap();
        let mut tokens = generate(&mut model, prompt, 1, 1);
        model.backend.set_sampling(0, &sampling, &[&prompt[..], &tokens].concat()).unwrap();
        let plan = model.plan(1, 1, true);
        let graph = model.backend.compile(&plan).unwrap();
        while tokens.len() < 6 {
            let position = (prompt.len() + tokens.len() - 1) as u32;
            let row = Row { token: *tokens.last().unwrap(), slot: 0, position, logits: true };
            for step in 0..plan.steps.len() {
                model.backend.run_steps(graph, &[row], step..step + 1).unwrap();
            }
            tokens.extend(model.backend.sampled(graph).unwrap().concat());
        }
        assert_eq!(tokens, runs[0][..6], "{sampling:?}");
    }
}

#[test]
fn chunks_and_batches_give_the_same_bits() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    let prompt = &prompts[1].tokens[..prompts[1].tokens.len().min(41)];
    for numerics in [DEFAULT, VERIFY] {
        let mut model = OnGpu::new(&gpu, &file, numerics, Options::default());
        let expected = model.logits(prompt, 64);
        for chunk in [1, 5, 8, 40] {
            assert_eq!(model.logits(prompt, chunk), expected, "{numerics:?}, chunks of {chunk}");
        }
    }
}

#[test]
fn weights_beyond_the_binding_limit_are_cut() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    let expected = OnGpu::new(&gpu, &file, DEFAULT, Options::default()).logits(&prompts[0].tokens, 8);
    // Q, K and V apart, gate and up in pieces, head and table in many.
    let options = Options { max_binding: Some(100_000) };
    let mut cut = OnGpu::new(&gpu, &file, DEFAULT, options);
    assert_eq!(cut.logits(&prompts[0].tokens, 8), expected);
}

#[test]
fn a_token_is_one_submit_and_few_dispatches() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    for (numerics, per_layer) in [(DEFAULT, 6), (LIKE_LLAMA, 10)] {
        let mut model = OnGpu::new(&gpu, &file, numerics, Options::default());
        generate(&mut model, &prompts[0].tokens, 2, 1);
        let graph = model.backend.compile(&model.plan(1, 1, true)).unwrap();
        let layers = model.decoder.shape().num_layers;
        // Six per layer, the table, the head and the sampler; q8_k quantizes before each of its products.
        assert!(model.backend.dispatches(graph) <= per_layer * layers + 4);
        let row = Row { token: 1, slot: 0, position: 20, logits: true };
        model.backend.run(graph, &[row]).unwrap();
        model.backend.sampled(graph).unwrap();
        let before = model.backend.counters();
        model.backend.replay(graph, 10).unwrap();
        model.backend.sampled(graph).unwrap();
        let after = model.backend.counters();
        assert_eq!(after.submits - before.submits, 1, "ten tokens, one submit");
        assert_eq!(after.mapped_bytes - before.mapped_bytes, 40, "a token is four bytes");
        assert_eq!(after.launches - before.launches, 10 * model.backend.dispatches(graph) as u64);
    }
}

#[test]
fn a_logit_that_is_not_finite_is_found_and_named() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, _) = tiny_coder();
    let mut model = OnGpu::new(&gpu, &file, DEFAULT, Options::default());
    let plan = model.plan(1, 1, true);
    let graph = model.backend.compile(&plan).unwrap();
    let row = Row { token: 1, slot: 0, position: 0, logits: true };
    model.backend.run(graph, &[row]).unwrap();
    model.backend.sampled(graph).unwrap();
    let mut residual = vec![0.5; plan.shape.hidden_size];
    residual[3] = f32::NAN;
    model.backend.set_buffer(graph, Plan::RESIDUAL, &residual).unwrap();
    // From the last step but two: head, then sample.
    let head = plan.steps.len() - 2;
    model.backend.run_steps(graph, &[row], head..head + 2).unwrap();
    assert!(model.backend.sampled(graph).is_err());
}

#[test]
fn greedy_is_the_largest_logit() {
    let Some(gpu) = gpu::shared() else { return };
    let (file, prompts) = tiny_coder();
    let mut model = OnGpu::new(&gpu, &file, DEFAULT, Options::default());
    let logits = model.logits(&prompts[2].tokens, 64);
    assert_eq!(generate(&mut model, &prompts[2].tokens, 1, 1), [argmax(&logits)]);
}

/// Devices with no more than WebGPU asks for, and with workgroups of 1024: other shapes of workgroups, the same model.
#[test]
fn small_and_large_devices_agree() {
    let (file, prompts) = tiny_coder();
    let choices = [
        AdapterChoice { allow_software: true, smallest_limits: true, ..AdapterChoice::default() },
        AdapterChoice { allow_software: true, invocations: Some(1024), ..AdapterChoice::default() },
    ];
    let mut quantized: Option<Vec<f32>> = None;
    for choice in choices {
        let Some(gpu) = gpu::open(&choice) else { return };
        let logits = OnGpu::new(&gpu, &file, DEFAULT, Options::default()).logits(&prompts[0].tokens, 8);
        assert_eq!(
            *quantized.get_or_insert(logits.clone()),
            logits,
            "{choice:?}: the order of a sum is the device's"
        );
        let mut model = OnGpu::new(&gpu, &file, VERIFY, Options::default());
        for chunk in [64, 8, 1] {
            let error = nmse(&model.logits(&prompts[0].tokens, chunk), &prompts[0].exact);
            assert!(error <= 1e-10, "{choice:?}, chunks of {chunk}: NMSE {error:e}");
        }
    }
}

/// 1,000 tokens with `APRGPU_FULL=1`, else as many as show it.
#[test]
fn a_thousand_tokens_allocate_nothing() {
    let Some(gpu) = gpu::open(&AdapterChoice { allow_software: true, ..AdapterChoice::default() }) else {
        return;
    };
    let (file, prompts) = tiny_coder();
    let mut model = OnGpu::new(&gpu, &file, DEFAULT, Options::default());
    let tokens = generate(&mut model, &prompts[0].tokens, 2, 1);
    assert_eq!(tokens.len(), 2);
    let graph = model.backend.compile(&model.plan(1, 1, true)).unwrap();
    let position = prompts[0].tokens.len() as u32;
    model.backend.run(graph, &[Row { token: tokens[0], slot: 0, position, logits: true }]).unwrap();
    model.backend.replay(graph, 20).unwrap();
    model.backend.sampled(graph).unwrap();
    assert!(gpu.live_objects().0 > 10);
    let (before, bytes) = (gpu.live_objects(), model.backend.device_bytes());
    let full = std::env::var_os("APRGPU_FULL").is_some();
    for _ in 0..if full { 10 } else { 1 } {
        model.backend.replay(graph, 98).unwrap();
        assert_eq!(model.backend.sampled(graph).unwrap().len(), 98);
    }
    assert_eq!((gpu.live_objects(), model.backend.device_bytes()), (before, bytes));
    // What would pass the end of the context is refused before anything runs.
    let launches = model.backend.counters().launches;
    let row = Row { token: 1, slot: 0, position: CONTEXT as u32 - 24, logits: true };
    model.backend.run(graph, &[row]).unwrap();
    assert!(model.backend.replay(graph, 24).is_err());
    assert_eq!(model.backend.counters().launches, launches + model.backend.dispatches(graph) as u64);
}
