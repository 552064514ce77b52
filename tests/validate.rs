//! Every rule of `validate`, each with a file that breaks it; and files that break none.
//!
//! With `APRGPU_DUMP=FOLDER` the broken files are kept there, each named after its rule, so that
//! `tools/llama_cpp_loads.py --refused FOLDER` can ask llama.cpp what it says of them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]
#![allow(clippy::duplicate_mod, reason = "two helpers look for the fixtures")]

mod model_files;
#[path = "model_files/parts.rs"]
mod parts;
#[path = "support/mod.rs"]
mod support;

use aprgpu::convert::validate::{Outcome, RULES, Validation, validate};
use aprgpu::format::gguf::{Array, Value};
use aprgpu::quant::TensorType;
use model_files::{files, fixtures};
use parts::Parts;
use std::collections::BTreeSet;
use std::path::Path;
use support::repository;

/// Validates a file of these bytes.
fn check(folder: &Path, name: &str, bytes: &[u8]) -> Validation {
    let path = folder.join(name);
    std::fs::write(&path, bytes).unwrap();
    validate(&path).unwrap()
}

fn problems<'a>(validation: &'a Validation, rule: &str) -> &'a [String] {
    match &validation.findings.iter().find(|finding| finding.rule == rule).unwrap().outcome {
        Outcome::Failed(problems) => problems,
        other => panic!("{rule}: {other:?} in {:?}", validation.failed()),
    }
}

type Change = fn(&mut Parts);

fn u32s(key: &'static str, value: u32) -> (&'static str, Value) {
    (key, Value::U32(value))
}

/// Rule, what its message says, and the change that breaks it.
const CODER: &[(&str, &str, Change)] = &[
    ("config", "qwen9", |p| p.set("general.architecture", "qwen9")),
    ("config", "embedding_length", |p| p.remove("qwen2.embedding_length")),
    ("rope-and-epsilon-stated", "eps", |p| p.remove("qwen2.attention.layer_norm_rms_epsilon")),
    ("tensors", "attn_k.bias", |p| p.tensors.retain(|(spec, _)| spec.name != "blk.2.attn_k.bias")),
    ("finite", "blk.1.attn_q.weight", |p| {
        p.tensor("blk.1.attn_q.weight").1[..2].copy_from_slice(&0x7e00_u16.to_le_bytes());
    }),
    ("finite", "output_norm.weight", |p| {
        p.tensor("output_norm.weight").1[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
    }),
    ("tokenizer", "merges", |p| p.remove("tokenizer.ggml.merges")),
    ("tokenizer-size", "4097 tokens", |p| {
        let mut tokens = p.strings("tokenizer.ggml.tokens");
        tokens.push(b"one too many".to_vec());
        p.set_strings("tokenizer.ggml.tokens", tokens);
        p.remove("tokenizer.ggml.token_type");
    }),
    ("tokenizer-distinct", "tokens 300 and 400", |p| {
        let mut tokens = p.strings("tokenizer.ggml.tokens");
        tokens[400] = tokens[300].clone();
        p.set_strings("tokenizer.ggml.tokens", tokens);
    }),
    ("tokenizer-merges", "is no token", |p| {
        let mut merges = p.strings("tokenizer.ggml.merges");
        merges[7] = b"qqq zzz".to_vec();
        p.set_strings("tokenizer.ggml.merges", merges);
    }),
    ("tokenizer-end", "plain text", |p| p.set("tokenizer.ggml.eos_token_id", Value::U32(300))),
    ("chat-template", "template", |p| p.set("tokenizer.chat_template", "{% for message in messages %}")),
    ("chat-template", "user's message", |p| p.set("tokenizer.chat_template", "always the same")),
    ("llama.cpp-keys", "rope.freq_base: expected f32, found f64", |p| {
        p.set("qwen2.rope.freq_base", Value::F64(1e6));
    }),
    ("llama.cpp-keys", "block_count: expected u32, found u64", |p| p.set("qwen2.block_count", Value::U64(6))),
    ("llama.cpp-keys", "head_count_kv is missing", |p| p.remove("qwen2.attention.head_count_kv")),
    ("llama.cpp-tensors", "blk.0.extra.weight is not a tensor", |p| {
        p.add("blk.0.extra.weight", &[4], vec![0.0; 4]);
    }),
    ("llama.cpp-tensors", "blk.3.ffn_up.weight: expected shape", |p| {
        let (spec, _) = p.tensor("blk.3.ffn_up.weight");
        spec.shape = vec![spec.shape[1], spec.shape[0]];
    }),
    ("llama.cpp-vectors", "found F16", |p| {
        let (spec, bytes) = p.tensor("blk.0.attn_norm.weight");
        spec.tensor_type = TensorType::F16;
        spec.bytes /= 2;
        bytes.truncate(spec.bytes);
    }),
    ("llama.cpp-rope", "rope.dimension_count is 32", |p| p.set("qwen2.rope.dimension_count", Value::U32(32))),
    ("llama.cpp-rope", "no rope.scaling.factor", |p| p.set("qwen2.rope.scaling.type", "yarn")),
    ("llama.cpp-vocabulary", "4095 tokens", |p| {
        let mut tokens = p.strings("tokenizer.ggml.tokens");
        tokens.pop();
        p.set_strings("tokenizer.ggml.tokens", tokens);
    }),
    ("llama.cpp-merges", "has not two parts", |p| {
        let mut merges = p.strings("tokenizer.ggml.merges");
        merges[7] = b"together".to_vec();
        p.set_strings("tokenizer.ggml.merges", merges);
    }),
    ("llama.cpp-pre", "no-such-cut", |p| p.set("tokenizer.ggml.pre", "no-such-cut")),
    ("llama.cpp-pre", "is missing", |p| p.remove("tokenizer.ggml.pre")),
    ("llama.cpp-token-types", "found u32", |p| {
        p.set("tokenizer.ggml.token_type", Array::U32(vec![1; 4096]));
    }),
    ("llama.cpp-token-types", "7 types for 4096", |p| {
        p.set("tokenizer.ggml.token_type", Array::I32(vec![1; 7]));
    }),
    ("llama.cpp-special-ids", "there are 4096", |p| {
        let (key, value) = u32s("tokenizer.ggml.padding_token_id", 4096);
        p.set(key, value);
    }),
    ("llama.cpp-special-ids", "eos_token_id is missing", |p| p.remove("tokenizer.ggml.eos_token_id")),
    ("llama.cpp-special-ids", "expected u32, found i32", |p| {
        p.set("tokenizer.ggml.eos_token_id", Value::I32(1));
    }),
];

const LLAMA: &[(&str, &str, Change)] = &[
    ("llama.cpp-scores", "3 scores for 264", |p| p.set("tokenizer.ggml.scores", Array::F32(vec![0.0; 3]))),
    ("llama.cpp-scores", "token 9 is not finite", |p| {
        let mut scores = vec![0.0; 264];
        scores[9] = f32::NAN;
        p.set("tokenizer.ggml.scores", Array::F32(scores));
    }),
    ("tokenizer-bytes", "0x00", |p| {
        let mut tokens = p.strings("tokenizer.ggml.tokens");
        tokens[3] = b"zero".to_vec();
        p.set_strings("tokenizer.ggml.tokens", tokens);
        let mut types = vec![6; 264];
        types[..4].copy_from_slice(&[2, 3, 3, 1]);
        types[259..].fill(1);
        p.set("tokenizer.ggml.token_type", Array::I32(types));
    }),
    ("llama.cpp-tensors", "rope_freqs.weight: expected shape [4]", |p| {
        p.add("rope_freqs.weight", &[3], vec![1.0; 3]);
    }),
];

#[test]
fn each_rule_fails_on_a_file_that_breaks_it() {
    let folder = tempfile::tempdir().unwrap();
    let dump = std::env::var_os("APRGPU_DUMP");
    let mut broken = BTreeSet::new();
    for (base, cases) in [(Parts::tiny_coder(), CODER), (Parts::tiny_llama(), LLAMA)] {
        let good = check(folder.path(), "good.gguf", &base.write());
        assert!(good.passed(), "{:?}", good.findings);
        for (at, (rule, expected, change)) in cases.iter().enumerate() {
            let mut parts = base.clone();
            change(&mut parts);
            let bytes = parts.write();
            let validation = check(folder.path(), "broken.gguf", &bytes);
            assert!(!validation.passed());
            let found = problems(&validation, rule);
            assert!(found.iter().any(|problem| problem.contains(expected)), "{rule}: {found:?}");
            broken.insert(*rule);
            if let Some(dump) = &dump {
                let architecture = if cases.len() == CODER.len() { "qwen2" } else { "llama" };
                std::fs::write(Path::new(dump).join(format!("{rule}.{architecture}-{at}.gguf")), bytes)
                    .unwrap();
            }
        }
    }

    // Rules about the container and about what becomes a GGUF file.
    let good = Parts::tiny_coder().write();
    let short = check(folder.path(), "short.gguf", &good[..good.len() - 100]);
    assert!(problems(&short, "container")[0].contains("cut off"));
    assert!(!short.passed());
    broken.insert("container");
    let mut damaged = std::fs::read(repository("tests/models/tiny-coder.apr")).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let damaged = check(folder.path(), "damaged.apr", &damaged);
    assert!(problems(&damaged, "checksum")[0].contains("checksum"));
    broken.insert("checksum");
    let keys = serde_json::json!({
        "architecture": "llama", "hidden_size": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4,
        "intermediate_size": 16, "max_position_embeddings": 128, "rope_theta": 10000.0, "rms_norm_eps": 1e-5
    });
    let no_tokenizer = model_files::apr(keys, &[("model.embed_tokens.weight", TensorType::F32, &[4, 8])]);
    let no_tokenizer = check(folder.path(), "no-tokenizer.apr", &no_tokenizer);
    assert!(problems(&no_tokenizer, "gguf-export")[0].contains("tokenizer"));
    broken.insert("gguf-export");

    let all: BTreeSet<_> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!(broken, all, "a rule that nothing breaks");
}

#[test]
fn good_files_of_every_format_pass() {
    assert!(validate(&repository("tests/models/tiny-coder.apr")).unwrap().passed());
    let Some(folder) = fixtures() else { return };
    let mut models = files(&folder, "gguf");
    models.extend(["coder", "qwen2-896", "qwen3", "llama-spm"].map(|name| folder.join(name).join("hf")));
    assert!(models.len() >= 20);
    for model in models {
        let validation = validate(&model).unwrap();
        assert!(validation.passed(), "{}: {:?}", model.display(), validation.findings);
    }
}

#[test]
fn files_of_the_peer_are_told_what_they_lack() {
    let Some(folder) = fixtures() else { return };
    for (name, expected) in [("coder-hf-names", None), ("coder-aprq", None), ("llama-gguf-names", None)]
        as [(&str, Option<&str>); 3]
    {
        let validation = validate(&folder.join("apr-written").join(format!("{name}.apr"))).unwrap();
        let failed = validation.failed();
        assert_eq!(failed.first().copied(), expected, "{name}: {:?}", validation.findings);
    }
}

#[test]
fn a_missing_file_is_an_error_and_a_foreign_one_a_finding() {
    assert!(validate(Path::new("nothing.gguf")).unwrap_err().to_string().contains("no such file"));
    let folder = tempfile::tempdir().unwrap();
    let foreign = check(folder.path(), "text.gguf", b"not a model");
    assert!(problems(&foreign, "container")[0].contains("expected a GGUF file"));
    let reached = foreign.findings.iter().filter(|finding| finding.outcome != Outcome::NotReached).count();
    assert_eq!(reached, 1);
}
