//! What whole models must do on any device: logits against numbers that this project did not compute, greedy tokens, and
//! passes that continue each other. `tests/cuda_model.rs` and `tests/wgpu_model.rs` ask it of their backends.

use super::{argmax, fixtures, nmse, read_f32, read_json, repository, u32s};
use aprgpu::backend::{Backend, Sampling};
use aprgpu::engine::{self, BackendChoice, Settings};
use aprgpu::model::Model;
use aprgpu::plan::{
    Activations, Decoder, KvLayout, KvType, Numerics, Plan, RopeTable, Row, Rows, WeightId, WeightSource,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) const VERIFY: Numerics = Numerics { activations: Activations::F32, kv: KvType::F32 };
pub(crate) const F32_DEFAULT_CACHE: Numerics = Numerics { activations: Activations::F32, kv: KvType::F16 };
pub(crate) const DEFAULT: Numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
pub(crate) const LIKE_LLAMA: Numerics = Numerics { activations: Activations::Q8K, kv: KvType::F16 };

/// Positions of a sequence: the longest prompt of the fixtures has 1,128 tokens.
pub(crate) const CONTEXT: usize = 1200;

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

/// What a backend is made from.
pub(crate) struct Parts {
    pub(crate) plan: Plan,
    pub(crate) source: Arc<dyn WeightSource + Send + Sync>,
    pub(crate) kv_layout: KvLayout,
    pub(crate) rope: RopeTable,
}

/// A model on a device.
pub(crate) struct OnDevice<B> {
    pub(crate) backend: B,
    pub(crate) decoder: Decoder,
    numerics: Numerics,
}

impl<B: Backend> OnDevice<B> {
    /// The model of `file` with so many sequences of [`CONTEXT`] positions, on what `make` makes of its parts.
    pub(crate) fn open(file: &Path, numerics: Numerics, slots: usize, make: impl FnOnce(Parts) -> B) -> Self {
        let model = Model::open(file).unwrap();
        let decoder = engine::decoder(&model).unwrap();
        let kv_layout = decoder.kv_layout(slots, CONTEXT, numerics.kv);
        let rope = RopeTable::new(&model.config.rope, CONTEXT);
        let plan = decoder.plan(Rows { rows: 1, logit_rows: 1, sample: false }, numerics);
        let source = Arc::new(ModelWeights { model, decoder: decoder.clone() });
        Self { backend: make(Parts { plan, source, kv_layout, rope }), decoder, numerics }
    }

    pub(crate) fn plan(&self, rows: usize, logit_rows: usize, sample: bool) -> Plan {
        self.decoder.plan(Rows { rows, logit_rows, sample }, self.numerics)
    }

    /// Logits at the last position of `tokens`, which enter `chunk` at a time.
    pub(crate) fn logits(&mut self, tokens: &[u32], chunk: usize) -> Vec<f32> {
        let graph = self.backend.compile(&self.plan(chunk, 1, false)).unwrap();
        for (index, tile) in tokens.chunks(chunk).enumerate() {
            self.backend.run(graph, &rows(tile, index * chunk, tokens.len())).unwrap();
        }
        self.backend.buffer(graph, Plan::LOGITS).unwrap()
    }

    /// Runs a prompt and its continuation the way a generation does; the tokens sampled.
    pub(crate) fn generate(&mut self, prompt: &[u32], count: usize, at_a_time: u32) -> Vec<u32> {
        let enter = self.backend.compile(&self.plan(64, 1, true)).unwrap();
        let decode = self.backend.compile(&self.plan(1, 1, true)).unwrap();
        let mut tokens = Vec::new();
        for (index, tile) in prompt.chunks(64).enumerate() {
            self.backend.run(enter, &rows(tile, index * 64, prompt.len())).unwrap();
            tokens = self.backend.sampled(enter).unwrap().concat();
        }
        let row = Row { token: tokens[0], slot: 0, position: prompt.len() as u32, logits: true };
        self.backend.run(decode, &[row]).unwrap();
        while tokens.len() < count {
            tokens.extend(self.backend.sampled(decode).unwrap().concat());
            if tokens.len() < count {
                self.backend.replay(decode, at_a_time.min((count - tokens.len()) as u32)).unwrap();
            }
        }
        tokens
    }
}

/// A tile of a prompt of `len` tokens, from position `from` on; the last token asks for logits.
fn rows(tile: &[u32], from: usize, len: usize) -> Vec<Row> {
    let row = |(i, &token): (usize, &u32)| Row {
        token,
        slot: 0,
        position: (from + i) as u32,
        logits: from + i + 1 == len,
    };
    tile.iter().enumerate().map(row).collect()
}

/// A prompt, the true logits at its end, llama.cpp's, and the greedy continuation with its margins.
pub(crate) struct Prompt {
    pub(crate) tokens: Vec<u32>,
    pub(crate) exact: Vec<f32>,
    pub(crate) llama: Vec<f32>,
    pub(crate) greedy: Vec<u32>,
    pub(crate) margins: Vec<f32>,
}

pub(crate) fn prompts(folder: &Path, model: &str, kind: &str) -> Vec<Prompt> {
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

/// The model of this repository and its prompts.
pub(crate) fn tiny_coder() -> (PathBuf, Vec<Prompt>) {
    let golden = repository("tests/golden/tiny-coder");
    (repository("tests/models/tiny-coder.apr"), prompts(&golden, "coder", "Q4_K_M"))
}

/// Puts a file's model on a device.
pub(crate) type Open<'a, B> = &'a dyn Fn(&Path, Numerics) -> OnDevice<B>;

/// Errors of the prompts against the truth, and llama.cpp's.
fn errors<B: Backend>(
    open: Open<'_, B>,
    file: &Path,
    prompts: &[Prompt],
    numerics: Numerics,
) -> Vec<(f64, f64)> {
    let mut model = open(file, numerics);
    let error = |prompt: &Prompt| {
        let found = model.logits(&prompt.tokens, 64);
        (nmse(&found, &prompt.exact), nmse(&prompt.llama, &prompt.exact))
    };
    prompts.iter().map(error).collect()
}

/// The limits of each form of activations.
fn check_logits<B: Backend>(open: Open<'_, B>, label: &str, file: &Path, prompts: &[Prompt]) {
    for (numerics, limit) in [(VERIFY, 1e-10), (F32_DEFAULT_CACHE, 1e-6)] {
        for (i, (error, _)) in errors(open, file, prompts, numerics).into_iter().enumerate() {
            assert!(error <= limit, "{label} prompt {i}, {numerics:?}: NMSE {error:e}");
        }
    }
    let rows = errors(open, file, prompts, DEFAULT).into_iter().map(|(ours, llama)| ours / llama);
    let rows: Vec<f64> = rows.collect();
    let mean = (rows.iter().map(|ratio| ratio.ln()).sum::<f64>() / rows.len() as f64).exp();
    println!("{label:22} q8: {mean:.3} of llama.cpp's error, rows {rows:.2?}");
    assert!(mean <= 1.5, "{label}: {mean:.3} of llama.cpp's error");
    assert!(rows.iter().all(|&ratio| ratio <= 5.0), "{label}: {rows:?}");
}

pub(crate) fn logits_of_tiny_coder_are_within_the_limits<B: Backend>(open: Open<'_, B>) {
    let (file, prompts) = tiny_coder();
    check_logits(open, "tiny-coder", &file, &prompts[..3]);
    let rows = errors(open, &file, &prompts, LIKE_LLAMA);
    let mean = |part: &dyn Fn(&(f64, f64)) -> f64| rows.iter().map(|row| part(row).ln()).sum::<f64>().exp();
    let ratio = (mean(&|row| row.0) / mean(&|row| row.1)).powf(1.0 / rows.len() as f64);
    println!("tiny-coder             q8_k: {ratio:.3} of llama.cpp's error");
    // The limit of 1.3 is meant over many models; five rows of one scatter more.
    assert!((0.5..=2.0).contains(&ratio), "q8_k: {ratio:.3} of llama.cpp's error");
}

/// Bit for bit where the device rounds as it is written (`exact`), for each of `all`: the order of every sum is a part of
/// the specification. A driver that contracts a product and a sum, or divides with an error, gives the same until one
/// activation lies so near the middle of two integers that it becomes the other one; from there on the two are as far apart
/// as each is from the truth.
pub(crate) fn logits_are_those_of_the_cpu<B: Backend>(open: Open<'_, B>, all: &[Numerics], exact: bool) {
    let (file, prompts) = tiny_coder();
    for &numerics in all {
        let settings = Settings { backend: BackendChoice::Cpu, numerics, ..Settings::default() };
        let model = Arc::new(Model::open(&file).unwrap());
        let (mut cpu, _) = engine::load(&model, &settings, &mut |_, _| {}).unwrap();
        let mut model = open(&file, numerics);
        for (i, prompt) in prompts[..4].iter().enumerate() {
            let expected = cpu.logits(&prompt.tokens, false).unwrap();
            let found = model.logits(&prompt.tokens, 64);
            let (apart, error) = (nmse(&found, &expected), nmse(&expected, &prompt.exact));
            println!("prompt {i}, {numerics:?}: {apart:e} apart, the CPU is {error:e} from the truth");
            let limit = if exact { 0.0 } else { 5.0 * error };
            assert!(apart <= limit, "prompt {i}, {numerics:?}: {apart:e} from the CPU");
        }
    }
}

/// A file of the fixtures with its prompts.
struct FixtureFile {
    name: String,
    path: PathBuf,
    prompts: Vec<Prompt>,
}

/// The last file of each kind of model and two prompts of it by default, all files and prompts with `APRGPU_FULL=1`; only
/// those of one model or one file with `APRGPU_MODEL=qwen3` or `APRGPU_MODEL=coder-F16`.
fn fixture_files() -> Option<Vec<FixtureFile>> {
    let fixtures = fixtures()?;
    let full = std::env::var_os("APRGPU_FULL").is_some();
    let one = std::env::var("APRGPU_MODEL").ok();
    let mut files = Vec::new();
    for model in ["coder", "qwen2-896", "qwen2-yarn", "qwen3", "llama-gqa", "llama-spm"] {
        let folder = fixtures.join(model);
        let index = read_json(&folder.join(format!("{model}.json")));
        let kinds: Vec<&String> = index["files"].as_object().unwrap().keys().collect();
        // The last file: K types are in the model of this repository.
        let some = if full || one.is_some() { &kinds[..] } else { &kinds[kinds.len() - 1..] };
        for kind in some {
            let name = format!("{model}-{kind}");
            if one.as_ref().is_none_or(|one| *one == model || *one == name) {
                let mut prompts = prompts(&folder, model, kind);
                prompts.truncate(if full { prompts.len() } else { 2 });
                files.push(FixtureFile { path: folder.join(format!("{name}.gguf")), name, prompts });
            }
        }
    }
    assert!(!files.is_empty(), "APRGPU_MODEL={one:?} names no file of {}", fixtures.display());
    Some(files)
}

pub(crate) fn logits_of_the_fixtures_are_within_the_limits<B: Backend>(open: Open<'_, B>) {
    for file in fixture_files().into_iter().flatten() {
        check_logits(open, &file.name, &file.path, &file.prompts);
    }
}

/// Up to the first step whose margin is so narrow that the error of the activations may choose otherwise: logits of f32
/// activations are within 1e-5 of the truth's spread.
pub(crate) fn greedy_tokens_of_the_fixtures_are_the_oracles<B: Backend>(open: Open<'_, B>) {
    let full = std::env::var_os("APRGPU_FULL").is_some();
    for file in fixture_files().into_iter().flatten() {
        for (numerics, narrow) in [(VERIFY, 1e-3), (DEFAULT, 0.5)] {
            let mut model = open(&file.path, numerics);
            let mut counts = Vec::new();
            for prompt in &file.prompts {
                let sure = prompt.margins.iter().position(|&margin| margin < narrow);
                let certain = sure.unwrap_or(prompt.greedy.len()).min(if full { usize::MAX } else { 4 });
                model.backend.set_sampling(0, &Sampling::default(), &prompt.tokens).unwrap();
                let found = model.generate(&prompt.tokens, certain.max(1), 8);
                assert_eq!(found[..certain], prompt.greedy[..certain], "{}, {numerics:?}", file.name);
                counts.push(certain);
            }
            println!("{:22} {numerics:?}: {counts:?} tokens were certain, and agree", file.name);
        }
    }
}

pub(crate) fn tiny_coder_decodes_the_oracles_tokens<B: Backend>(open: Open<'_, B>) {
    let (file, prompts) = tiny_coder();
    let mut model = open(&file, DEFAULT);
    for prompt in &prompts[..3] {
        model.backend.set_sampling(0, &Sampling::default(), &prompt.tokens).unwrap();
        let found = model.generate(&prompt.tokens, prompt.greedy.len(), 8);
        // Up to the first step whose margin is so narrow that quantized activations may choose otherwise.
        let certain = prompt.margins.iter().position(|&margin| margin < 0.5).unwrap_or(found.len());
        assert_eq!(found[..certain], prompt.greedy[..certain]);
        println!("{certain} of {} tokens were certain, and agree", found.len());
    }
    assert!(model.backend.counters().launches > 0);
}

pub(crate) fn queued_passes_single_passes_and_steps_give_the_same_tokens<B: Backend>(open: Open<'_, B>) {
    let (file, prompts) = tiny_coder();
    let prompt = &prompts[1].tokens;
    let mut model = open(&file, DEFAULT);
    let samplings = [
        Sampling::default(),
        Sampling { repeat_penalty: 1.3, repeat_window: 20, ..Sampling::default() },
        Sampling { temperature: 0.8, seed: 11, ..Sampling::default() },
    ];
    for sampling in samplings {
        let mut runs = Vec::new();
        for at_a_time in [1, 7] {
            model.backend.set_sampling(0, &sampling, prompt).unwrap();
            runs.push(model.generate(prompt, 20, at_a_time));
        }
        assert_eq!(runs[0], runs[1], "{sampling:?}");

        // Step by step: the host carries the token.
        model.backend.set_sampling(0, &sampling, prompt).unwrap();
        let mut tokens = model.generate(prompt, 1, 1);
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

pub(crate) fn chunks_and_batches_give_the_same_bits<B: Backend>(open: Open<'_, B>) {
    let (file, prompts) = tiny_coder();
    let prompt = &prompts[1].tokens[..prompts[1].tokens.len().min(41)];
    for numerics in [DEFAULT, VERIFY] {
        let mut model = open(&file, numerics);
        let expected = model.logits(prompt, 64);
        for chunk in [1, 5, 8, 40] {
            assert_eq!(model.logits(prompt, chunk), expected, "{numerics:?}, chunks of {chunk}");
        }
    }
}

pub(crate) fn a_logit_that_is_not_finite_is_found_and_named<B: Backend>(open: Open<'_, B>) {
    let (file, _) = tiny_coder();
    let mut model = open(&file, DEFAULT);
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

pub(crate) fn greedy_is_the_largest_logit<B: Backend>(open: Open<'_, B>) {
    let (file, prompts) = tiny_coder();
    let mut model = open(&file, DEFAULT);
    let logits = model.logits(&prompts[2].tokens, 64);
    assert_eq!(model.generate(&prompts[2].tokens, 1, 1), [argmax(&logits)]);
}
