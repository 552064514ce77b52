//! The benchmarks in a reduced form, so that they cannot rot, and the refusal of wrong results.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use aprgpu::backend::cpu::twin::Twin;
use aprgpu::backend::{Backend, Counters, Error as BackendError, GraphId, Sampling};
use aprgpu::bench::check::{Oracle, check};
use aprgpu::bench::kernels::{self, Bench};
use aprgpu::bench::preset::{PRESETS, Preset};
use aprgpu::bench::record::{Options, Record};
use aprgpu::bench::subject::Subject;
use aprgpu::bench::synth::{SynthWeights, write};
use aprgpu::bench::workload::{Test, Workload};
use aprgpu::bench::{Error, roofline, table, targets};
use aprgpu::engine::{BackendChoice, Device, Settings};
use aprgpu::model::Model;
use aprgpu::plan::{BufferId, Plan, RopeTable, Row};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

fn settings() -> Settings {
    Settings { backend: BackendChoice::Cpu, threads: Some(2), chunk: 8, ..Settings::default() }
}

#[test]
fn every_preset_runs_reduced_and_is_checked_against_the_twin() {
    let options = Options { reps: 1, oracle: Oracle::Twin, bandwidth: Some(10.0) };
    for preset in PRESETS {
        let subject = Subject::preset(&preset.reduced()).unwrap();
        let decode = Test::Decode { n: 4, batch: 1, tokens_per_submit: 1 };
        let record =
            Record::measure(&subject, &settings(), &Workload { test: decode, depth: 9 }, &options).unwrap();
        assert!(record.checked.starts_with("twin, 8 tokens"), "{}", record.checked);
        assert_eq!(record.test(), "tg4 @ d9");
        let steps = 5.0 * 2.0 + 3.0;
        assert_eq!((record.launches_per_token, record.submits_per_token), (steps, 1.0));
        assert!(record.avg_ts > 0.0 && record.samples_ts.len() == 1 && record.ttft_ms.is_some());
        // 10 GB/s was stated.
        assert!((record.bandwidth_percent.unwrap() - 10.0 * record.gb_per_s).abs() < 1e-9);
    }
}

#[test]
fn batches_and_prefill_run_reduced() {
    let options = Options { reps: 2, oracle: Oracle::None, bandwidth: None };
    let subject = Subject::preset(&PRESETS[3].reduced()).unwrap();
    let run =
        |test, depth| Record::measure(&subject, &settings(), &Workload { test, depth }, &options).unwrap();
    let batch = run(Test::Decode { n: 5, batch: 3, tokens_per_submit: 2 }, 0);
    assert_eq!((batch.test(), batch.n_sequences), ("tg5 x3".to_owned(), 3));
    let prefill = run(Test::Prefill { n: 20 }, 0);
    assert_eq!((prefill.test(), prefill.samples_ns.len()), ("pp20".to_owned(), 2));
    // Three tiles of eight.
    assert_eq!(prefill.submits_per_token, 3.0 / 20.0);
    assert_eq!(prefill.checksum, run(Test::Prefill { n: 20 }, 0).checksum);
}

/// A backend that gets one token wrong, late.
struct Flaky {
    backend: Twin,
    passes: usize,
    wrong_pass: usize,
}

impl Backend for Flaky {
    fn name(&self) -> &'static str {
        "flaky"
    }
    fn describe(&self) -> String {
        String::new()
    }
    fn compile(&mut self, plan: &Plan) -> Result<GraphId, BackendError> {
        self.backend.compile(plan)
    }
    fn set_sampling(&mut self, slot: u32, sampling: &Sampling, recent: &[u32]) -> Result<(), BackendError> {
        self.backend.set_sampling(slot, sampling, recent)
    }
    fn run_steps(&mut self, graph: GraphId, rows: &[Row], steps: Range<usize>) -> Result<(), BackendError> {
        self.backend.run_steps(graph, rows, steps)
    }
    fn replay(&mut self, graph: GraphId, times: u32) -> Result<(), BackendError> {
        self.backend.replay(graph, times)
    }
    fn sampled(&mut self, graph: GraphId) -> Result<Vec<Vec<u32>>, BackendError> {
        let mut tokens = self.backend.sampled(graph)?;
        self.passes += 1;
        if self.passes == self.wrong_pass {
            tokens[0][0] ^= 1;
        }
        Ok(tokens)
    }
    fn buffer(&mut self, graph: GraphId, buffer: BufferId) -> Result<Vec<f32>, BackendError> {
        self.backend.buffer(graph, buffer)
    }
    fn set_buffer(&mut self, graph: GraphId, id: BufferId, values: &[f32]) -> Result<(), BackendError> {
        self.backend.set_buffer(graph, id, values)
    }
    fn counters(&self) -> Counters {
        self.backend.counters()
    }
}

#[test]
fn wrong_tokens_are_an_error_and_no_sample() {
    let preset = PRESETS[0].reduced();
    let decoder = preset.decoder().unwrap();
    let source = Arc::new(SynthWeights::of(&decoder).unwrap());
    let numerics = settings().numerics;
    let run = |wrong_pass: usize| {
        let rope = RopeTable::new(&preset.config().rope, 16);
        let kv = decoder.kv_layout(1, 16, numerics.kv);
        let backend = Twin::new(decoder.weights(), source.clone(), kv, rope).unwrap();
        let flaky = Box::new(Flaky { backend, passes: 0, wrong_pass });
        let mut device = Device::new(flaky, decoder.clone(), numerics, (16, 16), 1, 8);
        let test = Test::Decode { n: 4, batch: 1, tokens_per_submit: 1 };
        Workload { test, depth: 0 }.run(&mut device, 2)
    };
    assert!(run(usize::MAX).is_ok());
    // In the second repetition; then in the check of single steps that follows the third.
    for (wrong_pass, expected) in [(6, "repetition 1"), (14, "single steps")] {
        match run(wrong_pass) {
            Err(Error::WrongResult(what)) => assert!(what.contains(expected), "{what}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_device_that_turns_the_wrong_way_is_not_measured() {
    let preset = PRESETS[1].reduced();
    let right = Subject::preset(&preset).unwrap();
    let wrong = Subject::preset(&Preset { rope_theta: 1e4, ..preset }).unwrap();
    let settings = Settings { context: Some(16), ..settings() };
    for oracle in [Oracle::Twin, Oracle::Cpu] {
        let backend = if oracle == Oracle::Cpu { BackendChoice::Twin } else { BackendChoice::Cpu };
        let settings = Settings { backend, ..settings.clone() };
        let check =
            |subject: &Subject| check(&right, &mut subject.start(&settings).unwrap().0, &settings, oracle);
        assert!(check(&right).is_ok());
        match check(&wrong) {
            Err(Error::WrongResult(what)) => {
                assert!(what.contains("`aprgpu compare` finds the step"), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn synthetic_files_hold_what_the_preset_says() {
    let folder = tempfile::tempdir().unwrap();
    for preset in [PRESETS[0].reduced(), PRESETS[3].reduced(), Preset { tied: false, ..PRESETS[4].reduced() }]
    {
        for extension in ["gguf", "apr"] {
            let path = folder.path().join(format!("model.{extension}"));
            write(&preset, &path, &mut |_, _| {}).unwrap();
            let model = Model::open(&path).unwrap();
            assert_eq!((model.config, model.defaults), (preset.config(), vec![]), "{}", preset.name);
            // The vocabulary is valid, and the file is the preset to the bit.
            let model = Model::open(&path).unwrap();
            let tokenizer = model.tokenizer().unwrap();
            assert_eq!(tokenizer.decode(&tokenizer.encode("the end", false, true)), "the end");
            let file = Subject::open(&path).unwrap();
            let memory = Subject::preset(&preset).unwrap();
            assert_eq!((file.model_size, file.parameters), (memory.model_size, memory.parameters));
            let logits = |subject: &Subject| {
                let mut device = subject.start(&settings()).unwrap().0;
                device.logits(&[1, 2, 3], false).unwrap()
            };
            assert_eq!(logits(&file), logits(&memory));
        }
    }
}

#[test]
fn every_op_of_every_type_runs_reduced() {
    for shape in kernels::shapes() {
        let shape = kernels::Shape { preset: shape.preset.reduced(), ..shape };
        for tensor_type in kernels::types(&shape) {
            let options = kernels::Options { rows: 2, depth: 3, at_least: 0, runs: (0, 1, 0.0) };
            let mut bench = Bench::new(shape, tensor_type, (BackendChoice::Cpu, Some(2)), options).unwrap();
            let ops = bench.ops();
            assert_eq!(ops.len(), 7);
            for op in ops {
                let result = bench.measure(op).unwrap();
                assert!(result.us > 0.0 && result.bytes > 0, "{result:?}");
            }
        }
    }
}

#[test]
fn steps_are_profiled_and_drawn() {
    let subject = Subject::preset(&PRESETS[1].reduced()).unwrap();
    let (mut device, _) = subject.start(&settings()).unwrap();
    let times = roofline::profile(&mut device, 1, 5, 1).unwrap();
    let plan = subject
        .decoder()
        .plan(aprgpu::plan::Rows { rows: 1, logit_rows: 1, sample: true }, settings().numerics);
    assert_eq!(times.len(), plan.steps.len());
    let limits = roofline::measured_limits(&mut device, 10.0, &times).unwrap();
    assert!(limits.gflops > 1.0 && limits.launch_us > 0.0, "{limits:?}");
    let lines = roofline::lines(&plan, 6, &limits, Some(&times));
    assert_eq!((lines.len(), lines[1].op, lines[1].steps), (8, "qkv_rope", 2));
    assert!(roofline::svg("title", &lines, &limits).matches("<circle").count() >= 5);
}

#[test]
fn the_targets_are_readable() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/targets.toml");
    let targets = targets::read(&path).unwrap();
    assert!(targets.iter().all(|t| ["decode", "prefill"].contains(&t.test.as_str())));
    assert!(targets.iter().all(|t| t.tokens_per_s.is_some() || t.bandwidth_percent.is_some()));
    // Every device and preset, by the prediction for the best programs that are published.
    let rows = aprgpu::plan::Rows { rows: 1, logit_rows: 1, sample: true };
    for preset in PRESETS {
        let plan = preset.decoder().unwrap().plan(rows, settings().numerics);
        for hardware in roofline::HARDWARE {
            let predicted = roofline::Totals::of(&plan, 1, 0).predict(hardware).predicted[1];
            let fits = |t: &&targets::Target| {
                t.device == hardware.name && t.model.as_deref() == Some(preset.name) && t.test == "decode"
            };
            let target = targets.iter().find(fits).and_then(|target| target.tokens_per_s).unwrap();
            assert!((target - predicted).abs() < 1.0, "{} on {}: {predicted}", preset.name, hardware.name);
        }
    }
}

#[test]
fn the_readmes_table_is_that_of_the_records() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let table = table::from_records(&root.join("benches/record")).unwrap();
    let generated = table::replace(&readme, &table).unwrap();
    assert!(generated == readme, "run `aprbench table --write README.md`");
}
