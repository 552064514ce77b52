//! The configuration is the same whichever format states it, and no format loses a field.

#![expect(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

mod tiny;

use aprgpu::format::apr::{Apr, GgufOrigin};
use aprgpu::format::gguf::{Gguf, Metadata, Value};
use aprgpu::format::huggingface::HuggingFace;
use aprgpu::model::{DefaultTaken, Error, ModelConfig, RopePairing, RopeScaling, Source};
use serde_json::{Map, Value as Json, json};
use std::path::Path;
use tiny::{Stored, Tiny, fixtures};

type Built = Result<(ModelConfig, Vec<DefaultTaken>), Error>;

fn from_gguf(metadata: &[(String, Value)], tensors: &[Stored]) -> Built {
    ModelConfig::from_gguf(&Gguf::open(&tiny::gguf(metadata, tensors).path).unwrap())
}

fn from_apr(metadata: &Map<String, Json>, tensors: &[Stored]) -> Built {
    ModelConfig::from_apr(&Apr::open(&tiny::apr(metadata, tensors).path)?)
}

fn from_hf(config: &Json, tensors: &[Stored]) -> Built {
    ModelConfig::from_hf(&HuggingFace::open(&tiny::hf(config, tensors).path).unwrap())
}

/// Sets a GGUF key without its architecture, or removes it.
fn set(metadata: &mut Vec<(String, Value)>, architecture: &str, key: &str, value: Option<Value>) {
    let key = if key.starts_with("general.") { key.to_owned() } else { format!("{architecture}.{key}") };
    metadata.retain(|(other, _)| *other != key);
    metadata.extend(value.map(|value| (key, value)));
}

fn message(built: Built) -> String {
    built.expect_err("expected an error").to_string()
}

fn open(path: &Path) -> (ModelConfig, Vec<DefaultTaken>) {
    Source::open(path).unwrap().config().unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn three_formats_state_the_same_configuration() {
    for architecture in ["qwen2", "qwen3", "llama"] {
        let tiny = Tiny::new(architecture);
        let (gguf, defaults) = from_gguf(&tiny.gguf_metadata(), &tiny.gguf_tensors()).unwrap();
        assert_eq!(defaults, [], "{architecture}");
        assert_eq!(from_apr(&tiny.apr_metadata(), &tiny.gguf_tensors()).unwrap().0, gguf);
        assert_eq!(from_hf(&tiny.hf_config(), &tiny.hf_tensors()).unwrap().0, gguf);
        assert_eq!(gguf.qk_norm, architecture == "qwen3");
        assert_eq!(gguf.qkv_bias, architecture == "qwen2");
        assert_eq!(gguf.tied_embeddings, architecture != "llama");
        let norm = gguf.rope.pairing == RopePairing::Norm;
        assert_eq!(norm, architecture == "llama");
    }
}

#[test]
fn converted_and_original_files_state_the_same() {
    let Some(fixtures) = fixtures() else { return };
    for model in ["coder", "qwen2-896", "qwen3", "llama-spm"] {
        let (expected, _) = open(&fixtures.join(model).join("hf"));
        let mut files = 0;
        for entry in std::fs::read_dir(fixtures.join(model)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "gguf") {
                assert_eq!(open(&path).0, expected, "{}", path.display());
                files += 1;
            }
        }
        assert!(files > 0, "{model}");
    }
    for (apr, model) in
        [("coder-hf-names", "coder"), ("coder-aprq", "coder"), ("llama-gguf-names", "llama-spm")]
    {
        let (found, _) = open(&fixtures.join("apr-written").join(apr).with_extension("apr"));
        assert_eq!(found, open(&fixtures.join(model).join("hf")).0, "{apr}");
    }
}

/// One field, changed in all three formats; `None` removes it.
struct Change {
    gguf: Option<(&'static str, Option<Value>)>,
    apr: Option<(&'static str, Json)>,
    hf: Option<(&'static str, Json)>,
}

fn change(gguf: (&'static str, Value), apr: (&'static str, Json), hf: (&'static str, Json)) -> Change {
    Change { gguf: Some((gguf.0, Some(gguf.1))), apr: Some(apr), hf: Some(hf) }
}

#[test]
fn no_format_loses_a_field() {
    let n = |value: u32| Value::U32(value);
    let changes = [
        change(("embedding_length", n(64)), ("hidden_size", json!(64)), ("hidden_size", json!(64))),
        change(
            ("feed_forward_length", n(56)),
            ("intermediate_size", json!(56)),
            ("intermediate_size", json!(56)),
        ),
        change(("block_count", n(1)), ("num_layers", json!(1)), ("num_hidden_layers", json!(1))),
        change(("block_count", n(3)), ("num_layers", json!(3)), ("num_hidden_layers", json!(3))),
        change(("attention.head_count", n(8)), ("num_heads", json!(8)), ("num_attention_heads", json!(8))),
        change(
            ("attention.head_count_kv", n(1)),
            ("num_kv_heads", json!(1)),
            ("num_key_value_heads", json!(1)),
        ),
        change(("vocab_size", n(41)), ("vocab_size", json!(41)), ("vocab_size", json!(41))),
        change(
            ("context_length", n(4096)),
            ("max_position_embeddings", json!(4096)),
            ("max_position_embeddings", json!(4096)),
        ),
        change(
            ("attention.layer_norm_rms_epsilon", Value::F32(3e-4)),
            ("rms_norm_eps", json!(3e-4)),
            ("rms_norm_eps", json!(3e-4)),
        ),
        change(
            ("rope.freq_base", Value::F32(12345.0)),
            ("rope_theta", json!(12345)),
            ("rope_theta", json!(12345.0)),
        ),
        change(
            ("rope.dimension_count", n(4)),
            ("partial_rotary_factor", json!(0.25)),
            ("partial_rotary_factor", json!(0.25)),
        ),
        change(
            ("attention.sliding_window", n(512)),
            ("sliding_window", json!(512)),
            ("sliding_window", json!(512)),
        ),
        // Scaling by its type alone: a default is taken for the rest, or the missing factor is an error.
        change(
            ("rope.scaling.type", Value::from("yarn")),
            ("rope_scaling", json!({"type": "yarn"})),
            ("rope_scaling", json!({"type": "yarn"})),
        ),
        change(
            ("rope.scaling.factor", Value::F32(2.0)),
            ("rope_scaling", json!({"type": "linear", "factor": 2.0})),
            ("rope_scaling", json!({"type": "linear", "factor": 2.0})),
        ),
    ];
    for architecture in ["qwen2", "qwen3", "llama"] {
        let tiny = Tiny { head_dim: 16, ..Tiny::new(architecture) };
        let (gguf_tensors, hf_tensors) = (tiny.gguf_tensors(), tiny.hf_tensors());
        let (original, _) = from_gguf(&tiny.gguf_metadata(), &gguf_tensors).unwrap();
        for change in &changes {
            let (key, value) = change.gguf.clone().unwrap();
            let mut metadata = tiny.gguf_metadata();
            set(&mut metadata, architecture, key, value);
            let gguf = from_gguf(&metadata, &gguf_tensors).map(|built| built.0);

            let (key, value) = change.apr.clone().unwrap();
            let mut metadata = tiny.apr_metadata();
            metadata.insert(key.to_owned(), value);
            let apr = from_apr(&metadata, &gguf_tensors).map(|built| built.0);

            let (hf_key, value) = change.hf.clone().unwrap();
            let mut config = tiny.hf_config();
            config[hf_key] = value;
            if hf_key == "sliding_window" && architecture != "llama" {
                config["use_sliding_window"] = json!(true);
                config["max_window_layers"] = json!(0);
            } else if hf_key == "sliding_window" {
                config["model_type"] = json!("mistral");
            }
            let hf = from_hf(&config, &hf_tensors).map(|built| built.0);

            match (&gguf, &apr, &hf) {
                (Ok(gguf), Ok(apr), Ok(hf)) => {
                    assert_ne!(*gguf, original, "{architecture} {key}");
                    assert_eq!(gguf, apr, "{architecture} {key}");
                    assert_eq!(gguf, hf, "{architecture} {key}");
                }
                (Err(_), Err(_), Err(_)) => {}
                other => panic!("{architecture} {key}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_field_that_is_not_stated_is_an_error_or_a_default_that_is_reported() {
    for architecture in ["qwen2", "qwen3", "llama"] {
        let tiny = Tiny::new(architecture);
        let (original, _) = from_gguf(&tiny.gguf_metadata(), &tiny.gguf_tensors()).unwrap();
        let check = |key: &str, built: Built| match built {
            Err(Error::Invalid { subject, what, .. }) => {
                assert_eq!(subject, key);
                assert!(what.contains("missing"), "{what}");
            }
            Err(error) => panic!("{key}: {error}"),
            Ok((config, defaults)) => {
                let reported = defaults.iter().any(|default| default.key == key);
                // The vocabulary's size and what tensors show need no default.
                assert!(reported || config == original, "{key}: {defaults:?}");
            }
        };
        for (key, _) in tiny.gguf_metadata() {
            let mut metadata = tiny.gguf_metadata();
            metadata.retain(|(other, _)| *other != key);
            check(&key, from_gguf(&metadata, &tiny.gguf_tensors()));
        }
        for key in tiny.apr_metadata().keys() {
            let mut metadata = tiny.apr_metadata();
            metadata.remove(key);
            check(key, from_apr(&metadata, &tiny.gguf_tensors()));
        }
        for key in tiny.hf_config().as_object().unwrap().keys() {
            for value in [None, Some(Json::Null)] {
                let mut config = tiny.hf_config();
                match value {
                    None => config.as_object_mut().unwrap().remove(key).map(|_| ()),
                    Some(null) => config.as_object_mut().unwrap().insert(key.clone(), null).map(|_| ()),
                };
                match from_hf(&config, &tiny.hf_tensors()) {
                    // Not tied by default, and these have no head.
                    Err(Error::Invalid { subject, .. }) if subject == "lm_head.weight" => {}
                    built => check(key, built),
                }
            }
        }
    }
}

#[test]
fn defaults_belong_to_the_architecture() {
    let without = |architecture: &'static str, key: &str| {
        let tiny = Tiny::new(architecture);
        let mut metadata = tiny.gguf_metadata();
        set(&mut metadata, architecture, key, None);
        from_gguf(&metadata, &tiny.gguf_tensors())
    };
    assert_eq!(without("llama", "attention.layer_norm_rms_epsilon").unwrap().0.rms_norm_eps, 1e-5);
    assert_eq!(without("qwen2", "attention.layer_norm_rms_epsilon").unwrap().0.rms_norm_eps, 1e-6);
    assert_eq!(without("llama", "rope.freq_base").unwrap().0.rope.theta, 10_000.0);
    // A reader that assumed 10000 here would write garbage for a model trained with 1000000.
    assert!(message(without("qwen2", "rope.freq_base")).contains("qwen2.rope.freq_base: missing"));
    let (config, defaults) = without("qwen3", "attention.key_length").unwrap();
    assert_eq!(config.head_dim, 16);
    assert_ne!(config.head_dim, config.hidden_size / config.num_heads);
    assert_eq!(defaults.len(), 1);
    assert_eq!(without("llama", "attention.head_count_kv").map(|built| built.0.num_kv_heads).unwrap(), 4);
}

#[test]
fn an_unknown_architecture_is_named_with_the_known_ones() {
    let tiny = Tiny::new("llama");
    let mut metadata = tiny.gguf_metadata();
    set(&mut metadata, "llama", "general.architecture", Some(Value::from("mamba")));
    let gguf = from_gguf(&metadata, &tiny.gguf_tensors());
    let mut metadata = tiny.apr_metadata();
    metadata.insert("architecture".to_owned(), json!("mamba"));
    let apr = from_apr(&metadata, &tiny.gguf_tensors());
    let mut config = tiny.hf_config();
    config["model_type"] = json!("mamba");
    let hf = from_hf(&config, &tiny.hf_tensors());
    config["model_type"] = json!("llama");
    config["architectures"] = json!(["MambaForCausalLM"]);
    let class = from_hf(&config, &tiny.hf_tensors());
    for built in [gguf, apr, hf, class] {
        assert_eq!(built.as_ref().map_err(Error::exit_code), Err(6));
        let text = message(built).to_lowercase();
        assert!(text.contains("mamba") && text.contains("qwen2, qwen3, llama, mistral"), "{text}");
    }
}

#[test]
fn both_spellings_of_rope_scaling_load() {
    let tiny = Tiny { head_dim: 64, ..Tiny::new("llama") };
    let tensors = tiny.hf_tensors();
    let yarn = json!({"factor": 4.0, "original_max_position_embeddings": 512, "beta_fast": 24.0});
    let llama3 = json!({"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 256});
    for (name, parameters) in [("yarn", yarn), ("llama3", llama3), ("linear", json!({"factor": 3.0}))] {
        let mut built = Vec::new();
        for (object, kind) in
            [("rope_scaling", "type"), ("rope_scaling", "rope_type"), ("rope_parameters", "rope_type")]
        {
            let mut config = tiny.hf_config();
            config[object] = parameters.clone();
            config[object][kind] = json!(name);
            if object == "rope_parameters" {
                config[object]["rope_theta"] = config["rope_theta"].take();
                config.as_object_mut().unwrap().remove("rope_theta");
            }
            built.push(from_hf(&config, &tensors).unwrap().0);
        }
        assert_eq!(built[0], built[1]);
        assert_eq!(built[0], built[2]);
        assert_ne!(built[0].rope.scaling, RopeScaling::None);
    }
    let mut config = tiny.hf_config();
    config["rope_scaling"] = json!({"rope_type": "longrope", "factor": 2.0});
    assert!(message(from_hf(&config, &tensors)).contains("unknown RoPE scaling `longrope`"));
    config["rope_scaling"] = json!({"rope_type": "linear", "type": "yarn", "factor": 2.0});
    assert!(message(from_hf(&config, &tensors)).contains("linear, but rope_scaling.type is yarn"));
    config["rope_scaling"] = Json::Null;
    config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 10000.0});
    assert!(message(from_hf(&config, &tensors)).contains("rope_theta: 500000, but"));
}

#[test]
fn gguf_scaling_means_what_hugging_face_scaling_means() {
    let tiny = Tiny { head_dim: 64, ..Tiny::new("qwen2") };
    let gguf = |keys: &[(&str, Value)]| {
        let mut metadata = tiny.gguf_metadata();
        for (key, value) in keys {
            set(&mut metadata, "qwen2", key, Some(value.clone()));
        }
        from_gguf(&metadata, &tiny.gguf_tensors())
    };
    let scaling = |keys: &[(&str, Value)]| gguf(keys).unwrap().0.rope.scaling;
    let hf = |scaling: Json| {
        let mut config = tiny.hf_config();
        config["rope_scaling"] = scaling;
        from_hf(&config, &tiny.hf_tensors()).unwrap().0.rope.scaling
    };
    let f = Value::F32;
    let yarn = [
        ("rope.scaling.type", Value::from("yarn")),
        ("rope.scaling.factor", f(4.0)),
        ("rope.scaling.original_context_length", Value::U32(512)),
    ];
    let with = |key, value| [yarn.as_slice(), &[(key, value)]].concat();
    let stated = |extra: Json| {
        let mut all = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512});
        all.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        hf(all)
    };
    assert_eq!(scaling(&yarn), stated(json!({})));
    let RopeScaling::Yarn { attention_factor, beta_fast, beta_slow, .. } = scaling(&yarn) else { panic!() };
    assert_eq!((beta_fast, beta_slow), (32.0, 1.0));
    assert_eq!(attention_factor, (0.1 * 4.0f64.ln() + 1.0) as f32);
    let RopeScaling::Yarn { attention_factor, .. } = scaling(&with("rope.scaling.attn_factor", f(0.5)))
    else {
        panic!()
    };
    assert_eq!(attention_factor, (0.5 * (0.1 * 4.0f64.ln() + 1.0)) as f32);
    assert_eq!(
        scaling(&with("rope.scaling.yarn_attn_factor", f(0.75))),
        stated(json!({"attention_factor": 0.75}))
    );
    assert_eq!(scaling(&with("rope.scaling.yarn_beta_fast", f(16.0))), stated(json!({"beta_fast": 16})));
    assert_eq!(scaling(&with("rope.scaling.yarn_beta_slow", f(2.0))), stated(json!({"beta_slow": 2})));
    assert_eq!(stated(json!({"mscale": 1.0, "mscale_all_dim": 1.0})), stated(json!({"attention_factor": 1})));
    // llama.cpp takes a factor without a type for linear, and 0 for none.
    assert_eq!(scaling(&[("rope.scaling.factor", f(2.0))]), RopeScaling::Linear { factor: 2.0 });
    assert_eq!(scaling(&[("rope.scale_linear", f(2.0))]), RopeScaling::Linear { factor: 2.0 });
    assert_eq!(scaling(&[("rope.scaling.factor", f(0.0))]), RopeScaling::None);
    let none = [("rope.scaling.type", Value::from("none")), ("rope.scaling.factor", f(2.0))];
    assert_eq!(scaling(&none), RopeScaling::None);
    assert!(message(gguf(&[("rope.scaling.type", Value::from("longrope"))])).contains("`longrope`"));
    assert!(message(gguf(&with("rope.scaling.yarn_ext_factor", f(0.5)))).contains("yarn_ext_factor"));
    assert!(message(gguf(&yarn[..1])).contains("rope.scaling.factor: missing"));
}

/// apr reads `none` as NORM and `yarn` as NEOX; the type of scaling says nothing about pairs.
#[test]
fn the_type_of_scaling_is_never_a_pairing() {
    for (architecture, pairing) in [("qwen2", RopePairing::Neox), ("llama", RopePairing::Norm)] {
        let tiny = Tiny::new(architecture);
        for name in ["none", "linear", "yarn"] {
            let mut metadata = tiny.gguf_metadata();
            set(&mut metadata, architecture, "rope.scaling.type", Some(Value::from(name)));
            set(&mut metadata, architecture, "rope.scaling.factor", Some(Value::F32(2.0)));
            let (config, _) = from_gguf(&metadata, &tiny.gguf_tensors()).unwrap();
            assert_eq!(config.rope.pairing, pairing, "{architecture} {name}");
        }
    }
}

#[test]
fn frequency_factors_come_from_the_tensor() {
    let tiny = Tiny::new("llama");
    let factors = [1.0, 2.0, 4.0, 8.0];
    let mut tensors = tiny.gguf_tensors();
    tensors.push(Stored::f32("rope_freqs.weight", &[4], &factors));
    let expected = RopeScaling::Factors(factors.to_vec());
    assert_eq!(from_gguf(&tiny.gguf_metadata(), &tensors).unwrap().0.rope.scaling, expected);
    assert_eq!(from_apr(&tiny.apr_metadata(), &tensors).unwrap().0.rope.scaling, expected);
    // Linear scaling on top divides all of them.
    let mut metadata = tiny.gguf_metadata();
    set(&mut metadata, "llama", "rope.scaling.factor", Some(Value::F32(2.0)));
    let doubled = RopeScaling::Factors(vec![2.0, 4.0, 8.0, 16.0]);
    assert_eq!(from_gguf(&metadata, &tensors).unwrap().0.rope.scaling, doubled);
    for bad in [vec![1.0, 2.0, 4.0], vec![1.0, 2.0, 4.0, f32::NAN], vec![1.0, 2.0, 4.0, 0.0]] {
        *tensors.last_mut().unwrap() = Stored::f32("rope_freqs.weight", &[bad.len()], &bad);
        assert!(message(from_gguf(&tiny.gguf_metadata(), &tensors)).contains("rope_freqs.weight: expected"));
    }
}

#[test]
fn scaling_of_published_kinds_agrees_with_the_converter() {
    let Some(fixtures) = fixtures() else { return };
    let (gqa, _) = open(&fixtures.join("llama-gqa/llama-gqa-Q4_K_M.gguf"));
    let tiny = Tiny { head_dim: 64, ..Tiny::new("llama") };
    let mut config = tiny.hf_config();
    config["rope_scaling"] = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 256});
    let (hf, _) = from_hf(&config, &tiny.hf_tensors()).unwrap();
    assert_eq!(gqa.rope, hf.rope);

    let (yarn, defaults) = open(&fixtures.join("qwen2-yarn/qwen2-yarn-Q4_K_M.gguf"));
    let tiny = Tiny { head_dim: 64, ..Tiny::new("qwen2") };
    let mut config = tiny.hf_config();
    config["rope_scaling"] =
        json!({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 512});
    let (hf, _) = from_hf(&config, &tiny.hf_tensors()).unwrap();
    assert_eq!(yarn.rope, hf.rope);
    assert!(defaults.iter().any(|default| default.key == "qwen2.rope.scaling.yarn_beta_fast"));
}

#[test]
fn windows_follow_their_switches() {
    let window = |architecture: &'static str, keys: Json| {
        let tiny = Tiny::new(architecture);
        let mut config = tiny.hf_config();
        config.as_object_mut().unwrap().extend(keys.as_object().unwrap().clone());
        from_hf(&config, &tiny.hf_tensors()).map(|(config, defaults)| {
            (config.sliding_window, defaults.iter().any(|default| default.key == "sliding_window"))
        })
    };
    let ok = |architecture, keys| window(architecture, keys).unwrap();
    assert_eq!(ok("qwen2", json!({"sliding_window": 1024, "use_sliding_window": false})), (None, false));
    assert_eq!(ok("qwen2", json!({"sliding_window": 1024})), (None, false));
    let on = json!({"sliding_window": 1024, "use_sliding_window": true, "max_window_layers": 0});
    assert_eq!(ok("qwen2", on), (Some(1024), false));
    let above = json!({"sliding_window": 1024, "use_sliding_window": true, "max_window_layers": 2});
    assert_eq!(ok("qwen2", above), (None, false));
    let some = json!({"sliding_window": 1024, "use_sliding_window": true, "max_window_layers": 1});
    assert!(message_of(window("qwen2", some)).contains("1 of 2 layers"));
    // Mistral 7B v0.1, v0.2, and a file that leaves the class's own window.
    assert_eq!(ok("llama", json!({"model_type": "mistral", "sliding_window": 4096})), (Some(4096), false));
    assert_eq!(ok("llama", json!({"model_type": "mistral", "sliding_window": null})), (None, false));
    assert_eq!(ok("llama", json!({"model_type": "mistral"})), (Some(4096), true));
    assert_eq!(ok("llama", json!({})), (None, false));
}

fn message_of<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn apr_says_in_which_order_its_rows_are() {
    let tiny = Tiny::new("llama");
    let pairing = |rope_type: Option<u32>, tensors: &[Stored]| {
        let mut metadata = tiny.apr_metadata();
        metadata.insert("rope_type".to_owned(), json!(rope_type));
        from_apr(&metadata, tensors).map(|(config, defaults)| {
            (config.rope.pairing, defaults.iter().any(|default| default.key == "rope_type"))
        })
    };
    let (gguf, hf) = (tiny.gguf_tensors(), tiny.hf_tensors());
    for tensors in [&gguf, &hf] {
        assert_eq!(pairing(Some(0), tensors).unwrap(), (RopePairing::Norm, false));
        assert_eq!(pairing(Some(2), tensors).unwrap(), (RopePairing::Neox, false));
        assert!(message_of(pairing(Some(1), tensors)).contains("RoPE type 1"));
    }
    assert_eq!(pairing(None, &gguf).unwrap(), (RopePairing::Norm, true));
    assert_eq!(pairing(None, &hf).unwrap(), (RopePairing::Neox, true));
    // Qwen3 imported from GGUF is NEOX whatever another program's table of names says.
    let qwen3 = Tiny::new("qwen3");
    let mut metadata = qwen3.apr_metadata();
    metadata.remove("rope_type");
    assert_eq!(from_apr(&metadata, &qwen3.gguf_tensors()).unwrap().0.rope.pairing, RopePairing::Neox);
}

#[test]
fn apr_reads_the_spellings_of_other_writers() {
    let tiny = Tiny::new("qwen2");
    let (expected, _) = from_apr(&tiny.apr_metadata(), &tiny.hf_tensors()).unwrap();
    // The writer refuses aliases, so that their names are put into the file's bytes. Names keep their length.
    let written = tiny::apr(&tiny.apr_metadata(), &tiny.hf_tensors());
    let mut bytes = std::fs::read(&written.path).unwrap();
    for (canonical, alias) in
        [("\"hidden_size\":", "\"hidden_dim\" :"), ("\"rms_norm_eps\":", "\"norm_eps\"    :")]
    {
        let at = bytes.windows(canonical.len()).position(|window| window == canonical.as_bytes()).unwrap();
        bytes[at..at + alias.len()].copy_from_slice(alias.as_bytes());
    }
    // The footer no longer fits; a file may be without one.
    bytes.truncate(bytes.len() - 4);
    std::fs::write(&written.path, bytes).unwrap();
    let (found, _) = ModelConfig::from_apr(&Apr::open(&written.path).unwrap()).unwrap();
    assert_eq!(found, expected);
}

#[test]
fn apr_that_carries_gguf_metadata_states_all_of_them() {
    let tiny = Tiny { head_dim: 64, ..Tiny::new("qwen2") };
    let tensors = tiny.gguf_tensors();
    let mut metadata = tiny.gguf_metadata();
    set(&mut metadata, "qwen2", "rope.scaling.type", Some(Value::from("yarn")));
    set(&mut metadata, "qwen2", "rope.scaling.factor", Some(Value::F32(2.0)));
    set(&mut metadata, "qwen2", "attention.sliding_window", Some(Value::U32(512)));
    set(&mut metadata, "qwen2", "rope.dimension_count", Some(Value::U32(32)));
    let (expected, defaults) = from_gguf(&metadata, &tensors).unwrap();
    let origin = GgufOrigin {
        version: 3,
        tail: 0,
        tensors: tensors.iter().map(|tensor| (tensor.name.clone(), tensor.tensor_type)).collect(),
        metadata: Metadata::new(Path::new("tiny.gguf"), metadata).unwrap(),
    };
    let mut apr = tiny.apr_metadata();
    origin.store(&mut apr);
    assert_eq!(from_apr(&apr, &tensors).unwrap(), (expected, defaults));
    // Its own keys must say the same.
    for key in tiny.apr_metadata().keys() {
        let mut changed = apr.clone();
        let value = match &changed[key] {
            Json::Number(number) if key == "rope_type" => json!(2 - number.as_u64().unwrap()),
            Json::Number(number) => json!(number.as_f64().unwrap() * 2.0),
            Json::Bool(value) => json!(!value),
            _ => json!("llama"),
        };
        changed.insert(key.clone(), value);
        let error = from_apr(&changed, &tensors);
        assert!(error.is_err(), "{key}");
        assert_eq!(error.map_err(|error| error.exit_code()), Err(5), "{key}");
    }
}

#[test]
fn absurd_values_are_errors() {
    let tiny = Tiny::new("llama");
    let huge = 1u64 << 60;
    let gguf: Vec<(&str, Value)> = vec![
        ("block_count", Value::U32(0)),
        ("block_count", Value::U64(huge)),
        ("embedding_length", Value::U64(huge)),
        ("feed_forward_length", Value::U32(0)),
        ("attention.head_count", Value::U32(0)),
        ("attention.head_count", Value::U64(huge)),
        ("attention.head_count_kv", Value::U32(3)),
        ("attention.head_count_kv", Value::U32(0)),
        ("attention.key_length", Value::U32(0)),
        ("attention.key_length", Value::U32(16)),
        ("attention.value_length", Value::U32(16)),
        ("context_length", Value::U64(huge)),
        ("attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
        ("attention.layer_norm_rms_epsilon", Value::F32(0.0)),
        ("attention.layer_norm_rms_epsilon", Value::F32(-1e-5)),
        ("rope.freq_base", Value::F32(0.0)),
        ("rope.freq_base", Value::F32(f32::INFINITY)),
        ("rope.dimension_count", Value::U32(7)),
        ("rope.dimension_count", Value::U32(16)),
        ("rope.dimension_count", Value::U32(0)),
        ("rope.scaling.factor", Value::F32(-2.0)),
        ("rope.scaling.attn_factor", Value::F32(2.0)),
        ("attention.sliding_window", Value::U64(huge)),
        ("attention.head_count", Value::from("four")),
        ("expert_count", Value::U32(8)),
        ("logit_scale", Value::F32(0.5)),
        ("attention.causal", Value::Bool(false)),
    ];
    for (key, value) in gguf {
        let mut metadata = tiny.gguf_metadata();
        set(&mut metadata, "llama", key, Some(value.clone()));
        let error = message(from_gguf(&metadata, &tiny.gguf_tensors()));
        let named = key == "attention.key_length" || error.contains(key);
        assert!(named, "{key} {value:?}: {error}");
    }
    for (key, value) in [
        ("num_hidden_layers", json!(huge)),
        ("num_attention_heads", json!(0)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(0)),
        ("head_dim", json!(-8)),
        ("head_dim", json!(8.5)),
        ("head_dim", json!(huge)),
        ("rms_norm_eps", json!(-1.0)),
        ("rms_norm_eps", json!(1e-300)),
        ("rope_theta", json!("10000")),
        ("rope_theta", json!(1e300)),
        ("partial_rotary_factor", json!(1.5)),
        ("partial_rotary_factor", json!(0.4)),
        ("max_position_embeddings", json!(0)),
        ("vocab_size", json!(39)),
        ("hidden_act", json!("gelu")),
        ("quantization_config", json!({"quant_method": "gptq"})),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
        ("rope_scaling", json!("linear")),
        ("rope_scaling", json!({"type": "yarn", "factor": 2.0, "beta_fast": 1.0, "beta_slow": 2.0})),
        (
            "rope_scaling",
            json!({"type": "llama3", "factor": 2.0, "low_freq_factor": 4, "high_freq_factor": 1,
            "original_max_position_embeddings": 256}),
        ),
        ("rope_scaling", json!({"type": "llama3", "factor": 2.0})),
        ("rope_scaling", json!({"factor": 2.0})),
    ] {
        let mut config = tiny.hf_config();
        config[key] = value.clone();
        let error = message(from_hf(&config, &tiny.hf_tensors()));
        let named = error.contains(key) || key == "partial_rotary_factor";
        assert!(named && error.contains("config.json"), "{key} {value}: {error}");
    }
}

/// A file whose biases, norms or head do not fit what it says about itself.
#[test]
fn tensors_and_metadata_must_agree() {
    let without = |tiny: &Tiny, part: &str| -> Vec<Stored> {
        tiny.gguf_tensors().into_iter().filter(|tensor| !tensor.name.contains(part)).collect()
    };
    let qwen2 = Tiny::new("qwen2");
    let error = message(from_gguf(&qwen2.gguf_metadata(), &without(&qwen2, ".bias")));
    assert!(error.contains("blk.0.attn_q.bias: missing"), "{error}");
    let qwen3 = Tiny::new("qwen3");
    let error = message(from_gguf(&qwen3.gguf_metadata(), &without(&qwen3, "_norm.")));
    assert!(error.contains("attn_q_norm.weight: missing"), "{error}");
    // Tensors that would go unused.
    let mut llama = Tiny::new("llama");
    let mut tensors = llama.gguf_tensors();
    tensors.push(Stored::f32("blk.0.attn_q_norm.weight", &[8], &[1.0; 8]));
    assert!(message(from_gguf(&llama.gguf_metadata(), &tensors)).contains("no such tensor"));
    llama.biases = (true, true, true);
    let (config, _) = from_gguf(&llama.gguf_metadata(), &llama.gguf_tensors()).unwrap();
    assert!(config.qkv_bias && config.output_bias && config.mlp_bias);
    let mut hf = llama.hf_config();
    assert_eq!(from_hf(&hf, &llama.hf_tensors()).unwrap().0, config);
    hf["attention_bias"] = json!(false);
    assert!(
        message(from_hf(&hf, &llama.hf_tensors())).contains("attention_bias: not true, but the file has")
    );
    // Heads.
    llama.tied = true;
    let mut hf = llama.hf_config();
    hf["tie_word_embeddings"] = json!(false);
    assert!(message(from_hf(&hf, &llama.hf_tensors())).contains("lm_head.weight: missing"));
    let mut apr = llama.apr_metadata();
    apr.insert("tied_embeddings".to_owned(), json!(false));
    assert!(message(from_apr(&apr, &llama.gguf_tensors())).contains("lm_head.weight: missing"));
}

/// `apr import` writes a full copy of the embedding for a tied head.
#[test]
fn a_stored_copy_of_the_embedding_is_a_tied_head() {
    let tiny = Tiny::new("qwen2");
    let mut tensors = tiny.hf_tensors();
    let mut copy = tensors[0].clone();
    assert_eq!(copy.name, "model.embed_tokens.weight");
    copy.name = "lm_head.weight".to_owned();
    tensors.push(copy);
    let tied = |tensors: &[Stored]| {
        let (config, defaults) = from_apr(&tiny.apr_metadata(), tensors).unwrap();
        (config.tied_embeddings, defaults.iter().any(|default| default.key == "tied_embeddings"))
    };
    assert_eq!(tied(&tensors), (true, false));
    tensors.last_mut().unwrap().bytes[0] ^= 1;
    assert_eq!(tied(&tensors), (false, true));
    tensors.last_mut().unwrap().bytes.clear();
    assert_eq!(tied(&tensors), (true, false));
}
