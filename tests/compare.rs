//! The tools that compare, on faults planted on purpose: each must name the step and the layer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::cpu::Cpu;
use aprgpu::backend::cpu::twin::Twin;
use aprgpu::compare::dump::Dump;
use aprgpu::compare::files;
use aprgpu::compare::ops::{Case, RandomWeights, cases};
use aprgpu::compare::perplexity::{Text, perplexity};
use aprgpu::compare::selftest::{Extent, selftest};
use aprgpu::compare::steps::{BufferReport, Inputs, Options, compare_steps, first_over};
use aprgpu::engine::{self, Device, Settings};
use aprgpu::format::Map;
use aprgpu::format::apr::Apr;
use aprgpu::model::{Model, Role, Source};
use aprgpu::plan::{Activations, Decoder, KvType, Numerics, OpKind, RopeTable, WeightId, WeightSource};
use std::sync::Arc;
use support::repository;

const LAYERS: usize = 4;
const CONTEXT: usize = 48;

/// A model of four layers, whole on the twin and with a fault on the fast path.
struct Pair {
    case: Case,
    decoder: Decoder,
    source: Arc<RandomWeights>,
}

impl Pair {
    fn new() -> Self {
        let case = cases().remove(0);
        let (decoder, source) = case.decoder_of(LAYERS, 3).unwrap();
        Self { case, decoder, source }
    }

    fn id(&self, role: Role, layer: usize) -> WeightId {
        let ids = (0..self.decoder.weights().len() as u32).map(WeightId);
        ids.into_iter().find(|&id| self.decoder.role(id) == Some((role, Some(layer)))).unwrap()
    }

    /// The reports of a run whose device under test has `weights` and `rope`.
    fn compare(
        &self,
        weights: RandomWeights,
        rope: RopeTable,
        activations: Activations,
        options: &Options,
    ) -> Vec<BufferReport> {
        let numerics = Numerics { activations, kv: KvType::F16 };
        let kv = || self.decoder.kv_layout(1, CONTEXT, numerics.kv);
        let right = RopeTable::new(&self.case.rope(), CONTEXT);
        let source: Arc<dyn WeightSource + Send + Sync> = self.source.clone();
        let twin = Twin::new(self.decoder.weights(), source, kv(), right).unwrap();
        let parts = (kv(), rope);
        let cpu = Cpu::new(&self.decoder, Arc::new(weights), parts, Some(2), None, &mut |_, _| {}).unwrap();
        let sizes = (CONTEXT, CONTEXT);
        let mut truth = Device::new(Box::new(twin), self.decoder.clone(), numerics, sizes, 1, 16);
        let mut found = Device::new(Box::new(cpu), self.decoder.clone(), numerics, sizes, 1, 16);
        let tokens: Vec<u32> = (0..40).map(|i| i * 7 % 301).collect();
        compare_steps(&mut truth, &mut found, &tokens, options, &mut |_| Ok(())).unwrap()
    }

    fn rope(&self) -> RopeTable {
        RopeTable::new(&self.case.rope(), CONTEXT)
    }

    /// Plants a fault in a weight; the op, layer and buffer that must be named, whatever the activations.
    fn check(&self, plant: impl Fn(&mut RandomWeights), expected: (OpKind, usize, &str)) {
        let (op, layer, buffer) = expected;
        for activations in [Activations::F32, Activations::Q8, Activations::Q8K] {
            let mut weights = (*self.source).clone();
            plant(&mut weights);
            let reports = self.compare(weights, self.rope(), activations, &Options::default());
            let first = first_over(&reports).unwrap_or_else(|| panic!("{expected:?} went unseen"));
            assert_eq!((first.op, first.layer, first.buffer), (op.name(), Some(layer), buffer), "{first:?}");
        }
    }
}

#[test]
fn a_right_backend_breaks_no_limit() {
    let pair = Pair::new();
    for activations in [Activations::F32, Activations::Q8, Activations::Q8K] {
        let reports = pair.compare((*pair.source).clone(), pair.rope(), activations, &Options::default());
        assert_eq!(first_over(&reports), None);
        // Embed, five ops of each layer with two more buffers for the cache, head.
        assert_eq!(reports.len(), 2 + 7 * LAYERS);
    }
}

#[test]
fn a_flipped_scale_is_found() {
    let pair = Pair::new();
    let down = pair.id(Role::FfnDown, 2);
    // Q6_K: the scales of a block's sixteen groups are its bytes 192 to 207.
    let flip = |weights: &mut RandomWeights| weights.row_mut(down, 7).unwrap()[195] ^= 0x20;
    pair.check(flip, (OpKind::Down, 2, "residual"));
}

#[test]
fn a_changed_bias_is_found() {
    let pair = Pair::new();
    let bias = pair.id(Role::AttnVBias, 1);
    let change = |weights: &mut RandomWeights| {
        weights.row_mut(bias, 0).unwrap()[4 * 9..4 * 10].copy_from_slice(&0f32.to_le_bytes());
    };
    pair.check(change, (OpKind::QkvRope, 1, "values"));
}

#[test]
fn a_row_of_k_in_the_place_of_another_is_found() {
    let pair = Pair::new();
    let k = pair.id(Role::AttnK, 3);
    let swap = |weights: &mut RandomWeights| {
        let other = weights.row_mut(k, 5).unwrap().clone();
        *weights.row_mut(k, 6).unwrap() = other;
    };
    pair.check(swap, (OpKind::QkvRope, 3, "keys"));
}

#[test]
fn a_wrong_angle_is_found_with_its_position() {
    let pair = Pair::new();
    let mut rope = pair.rope();
    let (position, turn) = (21, 5);
    rope.sin[position * rope.pairs + turn] *= -1.0;
    let reports = pair.compare((*pair.source).clone(), rope, Activations::Q8, &Options::default());
    let first = first_over(&reports).unwrap();
    assert_eq!((first.op, first.layer, first.position), ("qkv_rope", Some(0), position), "{first:?}");
    // With the same inputs for every step, the steps between show nothing.
    let innocent = |r: &&BufferReport| matches!(r.op, "attn_out" | "gate_up" | "down");
    assert!(reports.iter().filter(innocent).all(|report| !report.is_over()));
}

#[test]
fn own_inputs_let_a_fault_spread_and_stop_after_ends_the_run() {
    let pair = Pair::new();
    let norm = pair.id(Role::FfnNorm, 1);
    let mut weights = (*pair.source).clone();
    weights.row_mut(norm, 0).unwrap()[..4].copy_from_slice(&3f32.to_le_bytes());
    let own = Options { inputs: Inputs::Own, ..Options::default() };
    let reports = pair.compare(weights.clone(), pair.rope(), Activations::F32, &own);
    let first = first_over(&reports).unwrap();
    assert_eq!((first.op, first.layer), ("gate_up", Some(1)));
    assert!(reports.last().unwrap().is_over(), "the logits must differ too");
    let stop = Options { stop_after: Some((OpKind::AttnOut, Some(1))), ..own };
    let reports = pair.compare(weights, pair.rope(), Activations::F32, &stop);
    assert_eq!(first_over(&reports), None);
    assert_eq!((reports.last().unwrap().op, reports.last().unwrap().layer), ("attn_out", Some(1)));
}

#[test]
fn a_scale_that_is_not_a_number_is_reported_where_it_appears() {
    let pair = Pair::new();
    let norm = pair.id(Role::FfnNorm, 2);
    let mut weights = (*pair.source).clone();
    // Finite, so that it loads; its product is not.
    weights.row_mut(norm, 0).unwrap()[..4].copy_from_slice(&f32::MAX.to_le_bytes());
    let reports = pair.compare(weights, pair.rope(), Activations::F32, &Options::default());
    let first = first_over(&reports).unwrap();
    assert_eq!((first.op, first.layer), ("gate_up", Some(2)), "{first:?}");
}

#[test]
fn selftest_passes_on_the_cpu_and_fails_on_a_backend_that_turns_the_other_way() {
    let cpu = |turned: bool| {
        let make = move |decoder: &Decoder, source: Arc<RandomWeights>, kv_layout, mut rope: RopeTable| {
            if turned {
                rope.sin.iter_mut().for_each(|sin| *sin = -*sin);
            }
            let cpu = Cpu::new(decoder, source, (kv_layout, rope), Some(2), None, &mut |_, _| {})?;
            Ok(Box::new(cpu) as _)
        };
        selftest(&make, Extent::Reduced).unwrap()
    };
    let failed = |checks: Vec<aprgpu::compare::selftest::Check>| -> Vec<String> {
        checks.into_iter().filter(|check| !check.passed).map(|check| check.name).collect()
    };
    assert_eq!(failed(cpu(false)), Vec::<String>::new());
    let found = failed(cpu(true));
    assert!(
        found.contains(&"qkv_rope".to_owned()) && found.contains(&"model: logits".to_owned()),
        "{found:?}"
    );
    assert!(!found.contains(&"down".to_owned()), "{found:?}");
}

fn tiny_coder() -> Model {
    Model::open(&repository("tests/models/tiny-coder.apr")).unwrap()
}

fn device(model: Model) -> Device {
    let settings = Settings { context: Some(128), threads: Some(2), chunk: 32, ..Settings::default() };
    engine::load(&Arc::new(model), &settings, &mut |_, _| {}).unwrap().0
}

fn sample_text(model: &Model) -> Vec<u32> {
    let code = "def add(a, b):\n    \"\"\"Return the sum.\"\"\"\n    return a + b\n\n\nclass Point:\n    def __init__(self, x, y):\n        self.x = x\n";
    model.tokenizer().unwrap().encode(code, true, true)
}

#[test]
fn a_file_agrees_with_itself_and_a_widened_layer_is_flagged() {
    let tokens = sample_text(&tiny_coder());
    let same = files::compare_models(&mut device(tiny_coder()), &mut device(tiny_coder()), &tokens).unwrap();
    assert!(same.first_flagged().is_none() && same.positions.iter().all(|p| p.same_top && p.nmse == 0.0));
    assert_eq!((same.layers.len(), same.positions.len()), (6, tokens.len()));
    assert!(same.svg().contains("<polyline"));

    // The norm before the feed-forward of layer 3, three times as large.
    let path = repository("tests/models/tiny-coder.apr");
    let mut bytes = std::fs::read(&path).unwrap();
    let name = "model.layers.3.post_attention_layernorm.weight";
    let range = Apr::open(&path).unwrap().tensor(name).unwrap().range.clone();
    for value in bytes[range].as_chunks_mut::<4>().0 {
        *value = (3.0 * f32::from_le_bytes(*value)).to_le_bytes();
    }
    let end = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    let wide =
        Model::from_source(Source::Apr(Apr::from_map(Map::from_bytes(&path, bytes)).unwrap())).unwrap();
    let found = files::compare_models(&mut device(tiny_coder()), &mut device(wide), &tokens).unwrap();
    assert_eq!(found.first_flagged().unwrap().layer, 3, "{:?}", found.layers);
}

#[test]
fn raw_logits_are_compared_at_every_position_or_the_last() {
    let model = tiny_coder();
    let tokens = sample_text(&model);
    let mut device = device(model);
    let logits = device.logits(&tokens, true).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("logits.f32");
    let vocab = logits.len() / tokens.len();
    for (values, expected) in [(&logits[..], 0), (&logits[logits.len() - vocab..], tokens.len() - 1)] {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        std::fs::write(&file, &bytes).unwrap();
        let found = files::compare_logits(&mut device, &file, &tokens).unwrap();
        assert_eq!(found.positions[0].position, expected);
        assert!(found.positions.iter().all(|p| p.nmse == 0.0 && p.cosine > 0.999_999));
        std::fs::write(&file, &bytes[..bytes.len() - 4]).unwrap();
        assert!(files::compare_logits(&mut device, &file, &tokens).is_err());
    }
}

#[test]
fn perplexity_against_its_own_base_diverges_by_nothing() {
    let model = tiny_coder();
    let tokens = sample_text(&model);
    let mut device = device(model);
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base.aprk");
    let window = 16;
    let mut nothing = |_, _| {};
    let text = Text { tokens: &tokens, window, bos: None };
    let first = perplexity(&mut device, text, (Some(&base), None), &mut nothing).unwrap();
    let again = perplexity(&mut device, text, (None, Some(&base)), &mut nothing).unwrap();
    assert_eq!((first.perplexity, first.positions), (again.perplexity, again.positions));
    assert_eq!(first.positions, tokens.len() / window * (window / 2 - 1));
    let against = again.base.unwrap();
    assert!(against.mean_kl.abs() < 1e-6 && against.same_top == against.positions, "{against:?}");
    assert!(first.perplexity > 1.0 && first.perplexity < 500.0, "{first:?}");
    let other = perplexity(&mut device, Text { window: 8, ..text }, (None, Some(&base)), &mut nothing);
    assert!(other.is_err(), "a base of another window must be refused");
}

#[test]
fn dumps_hold_every_buffer_of_every_tile() {
    let tokens: Vec<u32> = (1..40).collect();
    let (mut truth, mut found) = (device(tiny_coder()), device(tiny_coder()));
    let mut dump = Dump::default();
    let options = Options { stop_after: Some((OpKind::QkvRope, Some(0))), ..Options::default() };
    compare_steps(&mut truth, &mut found, &tokens, &options, &mut |written| {
        dump.add(written, written.values);
        Ok(())
    })
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(dump.write(folder.path()).unwrap(), 4);
    let npy = std::fs::read(folder.path().join("001-layer-0-qkv_rope-keys.npy")).unwrap();
    let header = String::from_utf8_lossy(&npy[10..128]);
    assert!(npy.starts_with(b"\x93NUMPY\x01\x00") && header.contains("'shape': (39, 128)"), "{header}");
    assert_eq!(npy.len(), 128 + 4 * 39 * 128);
    let aprt = std::fs::read(folder.path().join("layer-0/q_post_rope.bin")).unwrap();
    assert_eq!(&aprt[..12], [b"APRT" as &[u8], &0u32.to_le_bytes(), &(39u32 * 256).to_le_bytes()].concat());
    assert!(folder.path().join("model/embedding.bin").is_file());
}
