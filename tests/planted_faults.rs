//! Each fault that peers have shipped, planted on purpose: the limit that right models keep must break.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

mod support;

use aprgpu::engine::{self, Settings};
use aprgpu::format::Map;
use aprgpu::format::apr::Apr;
use aprgpu::format::gguf::Gguf;
use aprgpu::model::{Model, RopePairing, RopeScaling, Source};
use aprgpu::plan::{Activations, KvType, Numerics};
use std::path::Path;
use std::sync::Arc;
use support::{fixtures, nmse, read_f32, read_json, repository, u32s};

/// The limit for float activations over a float cache, as in `tests/logits.rs`.
const LIMIT: f64 = 1e-10;

/// NMSE of the last row of a prompt from the exact logits.
fn error(model: Model, tokens: &[u32], exact: &[f32]) -> f64 {
    let numerics = Numerics { activations: Activations::F32, kv: KvType::F32 };
    let settings = Settings { numerics, threads: Some(2), ..Settings::default() };
    let (mut device, _) = engine::load(&Arc::new(model), &settings, &mut |_, _| {}).unwrap();
    nmse(&device.logits(tokens, false).unwrap(), exact)
}

/// A fault's name and how to plant it.
type Fault<'a> = (&'a str, &'a dyn Fn(&mut Model));

/// A fault is seen in every prompt of more than a few tokens; the first has eight.
fn check(open: &dyn Fn() -> Model, golden: (&Path, &str, &str), faults: &[Fault<'_>]) {
    let (folder, name, kind) = golden;
    let entry = &read_json(&folder.join(format!("{name}.json")))["files"][kind];
    let exact = read_f32(&folder.join(format!("{name}-{kind}.exact.f32")));
    let prompts = entry["tokens"].as_array().unwrap();
    let vocab = exact.len() / prompts.len();
    for (tokens, exact) in prompts.iter().map(u32s).zip(exact.chunks_exact(vocab)).take(3) {
        assert!(error(open(), &tokens, exact) <= LIMIT, "the model without a fault");
        for (fault, plant) in faults {
            let mut model = open();
            plant(&mut model);
            let found = error(model, &tokens, exact);
            println!("{fault}: NMSE {found:e}");
            assert!(found > LIMIT, "{fault} went unseen: NMSE {found:e}");
        }
    }
}

fn tiny_coder() -> Model {
    Model::open(&repository("tests/models/tiny-coder.apr")).unwrap()
}

/// The model with some bytes of one tensor set to zero.
fn with_zeroed(tensor: &str, values: std::ops::Range<usize>) -> Model {
    let path = repository("tests/models/tiny-coder.apr");
    let mut bytes = std::fs::read(&path).unwrap();
    let range = Apr::open(&path).unwrap().tensor(tensor).unwrap().range.clone();
    bytes[range][values.start * 4..values.end * 4].fill(0);
    // The checksum at the end covers the change.
    let end = bytes.len() - 4;
    let checksum = crc32fast::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(&checksum.to_le_bytes());
    Model::from_source(Source::Apr(Apr::from_map(Map::from_bytes(&path, bytes)).unwrap())).unwrap()
}

#[test]
fn a_wrong_epsilon_or_pairing_or_a_lost_bias_breaks_the_limit() {
    let golden = repository("tests/golden/tiny-coder");
    let faults: [Fault<'_>; 4] = [
        ("eps 1e-5 for 1e-6", &|model| model.config.rms_norm_eps = 1e-5),
        ("NORM for NEOX", &|model| model.config.rope.pairing = RopePairing::Norm),
        ("theta 1e4 for 1e6", &|model| model.config.rope.theta = 1e4),
        ("the bias of one query head dropped", &|model| {
            *model = with_zeroed("model.layers.2.self_attn.q_proj.bias", 64..128);
        }),
    ];
    check(&tiny_coder, (&golden, "coder", "Q4_K_M"), &faults);
}

#[test]
fn lost_rope_factors_break_the_limit() {
    let Some(fixtures) = fixtures() else { return };
    let folder = fixtures.join("llama-gqa");
    let open = || {
        let gguf = Gguf::open(&folder.join("llama-gqa-Q4_K_M.gguf")).unwrap();
        Model::from_source(Source::Gguf(gguf)).unwrap()
    };
    let faults: [Fault<'_>; 2] = [
        ("rope_freqs left out", &|model| model.config.rope.scaling = RopeScaling::None),
        ("NEOX for NORM", &|model| model.config.rope.pairing = RopePairing::Neox),
    ];
    check(&open, (&folder, "llama-gqa", "Q4_K_M"), &faults);
}
