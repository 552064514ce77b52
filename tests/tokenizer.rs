//! Tokenizers against llama.cpp and Hugging Face (`tests/golden/tokenizer`, written by
//! `tools/make_tokenizer_goldens.py`), and against files that lie.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/fixtures.rs"]
mod lookup;

use lookup::fixtures;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aprgpu::format::apr::Apr;
use aprgpu::format::gguf::Gguf;
use aprgpu::model::chat_template::source;
use aprgpu::model::tokenizer::{
    Error, PreTokenizer, SpacePrefix, SpecialIds, StreamDecoder, TokenType, Tokenizer, TokenizerKind,
    TokenizerSpec, VocabularyFields,
};
use proptest::prelude::*;
use serde_json::Value;

fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer").join(name);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

fn strings(value: &Value) -> Option<Vec<String>> {
    Some(value.as_array()?.iter().map(|v| v.as_str().unwrap().to_owned()).collect())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn fields(value: &Value) -> VocabularyFields {
    let id = |key: &str| value[key].as_u64().map(|id| id as u32);
    VocabularyFields {
        model: value["model"].as_str().map(str::to_owned),
        pre: value["pre"].as_str().map(str::to_owned),
        tokens: strings(&value["tokens"]),
        merges: strings(&value["merges"]),
        scores: value["scores"].as_array().map(|v| v.iter().map(|v| v.as_f64().unwrap() as f32).collect()),
        token_types: value["token_type"].as_array().map(|v| v.iter().map(|v| v.as_i64().unwrap()).collect()),
        special: SpecialIds {
            bos: id("bos_token_id"),
            eos: id("eos_token_id"),
            unk: id("unknown_token_id"),
            pad: id("padding_token_id"),
            eot: id("eot_token_id"),
            eom: None,
        },
        add_bos: value["add_bos_token"].as_bool(),
        add_eos: value["add_eos_token"].as_bool(),
        add_space_prefix: value["add_space_prefix"].as_bool(),
    }
}

fn build(fields: VocabularyFields) -> Result<Tokenizer, Error> {
    Tokenizer::new(TokenizerSpec::try_from(fields)?)
}

fn bpe() -> VocabularyFields {
    fields(&golden("bpe.vocabulary.json"))
}

fn spm() -> VocabularyFields {
    fields(&golden("spm.vocabulary.json"))
}

fn model(name: &str) -> Tokenizer {
    build(match name {
        "coder" => bpe(),
        "llama-gqa" => VocabularyFields { pre: Some("llama-bpe".to_owned()), ..bpe() },
        _ => spm(),
    })
    .unwrap()
}

const MODELS: [&str; 3] = ["coder", "llama-gqa", "llama-spm"];

#[test]
fn ids_and_text_are_those_of_the_oracles() {
    for name in MODELS {
        let tokenizer = model(name);
        for row in golden(&format!("{name}.tokens.json")).as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true, true), ids(&row["ids"]), "{name}: {text:?}");
            let decoded = tokenizer.decode(&ids(&row["decoded_ids"]));
            assert_eq!(decoded, row["decoded"].as_str().unwrap(), "{name}: {text:?}");
        }
        for row in golden(&format!("{name}.prompts.json")).as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true, true), ids(&row["ids"]), "{name}: {text:?}");
        }
    }
}

#[test]
fn variants_are_tokenized_as_llama_cpp_does() {
    let mut failures = Vec::new();
    for variant in golden("variants.json").as_array().unwrap() {
        let base = variant["base"].as_str().unwrap();
        let mut value = golden(&format!("{base}.vocabulary.json"));
        for (key, change) in variant["changes"].as_object().unwrap() {
            if key == "added_merges" {
                value["merges"].as_array_mut().unwrap().extend_from_slice(change.as_array().unwrap());
                continue;
            }
            if key != "added" {
                value[key.as_str()] = change.clone();
                continue;
            }
            for (token, kind) in change.as_object().unwrap() {
                value["tokens"].as_array_mut().unwrap().push(token.as_str().into());
                value["token_type"].as_array_mut().unwrap().push(kind.clone());
                if let Some(scores) = value["scores"].as_array_mut() {
                    scores.push((-1000.0).into());
                }
            }
        }
        let tokenizer = build(fields(&value)).unwrap();
        for row in variant["rows"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            let flags = (row["add_special"].as_bool().unwrap(), row["parse_special"].as_bool().unwrap());
            let got = tokenizer.encode(text, flags.0, flags.1);
            if got != ids(&row["ids"]) {
                failures.push(format!(
                    "{base} {} {text:?} {flags:?}: {got:?}, not {}",
                    variant["changes"], row["ids"]
                ));
            }
        }
    }
    assert!(failures.is_empty(), "{} rows differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn every_prompt_of_every_fixture_model_has_its_tokens() {
    let Some(folder) = fixtures() else { return };
    let mut checked = 0;
    for (file, tokenizer) in [
        ("coder/coder.json", "coder"),
        ("qwen2-896/qwen2-896.json", "coder"),
        ("qwen2-yarn/qwen2-yarn.json", "coder"),
        ("qwen3/qwen3.json", "coder"),
        ("llama-gqa/llama-gqa.json", "llama-gqa"),
        ("llama-spm/llama-spm.json", "llama-spm"),
    ] {
        let tokenizer = model(tokenizer);
        let value: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join(file)).unwrap()).unwrap();
        for entry in value["files"].as_object().unwrap().values() {
            for (prompt, tokens) in
                value["prompts"].as_array().unwrap().iter().zip(entry["tokens"].as_array().unwrap())
            {
                assert_eq!(tokenizer.encode(prompt.as_str().unwrap(), true, true), ids(tokens), "{file}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 6 * 5);
}

/// All rows of a model's oracle, for a tokenizer that was made in another way.
fn check_against_oracle(tokenizer: &Tokenizer, name: &str, source: &str) {
    for file in [format!("{name}.tokens.json"), format!("{name}.prompts.json")] {
        for row in golden(&file).as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            assert_eq!(tokenizer.encode(text, true, true), ids(&row["ids"]), "{source}: {text:?}");
        }
    }
}

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer").join(name)
}

#[test]
fn a_gguf_file_without_tensors_has_a_tokenizer() {
    let gguf = Gguf::open(&golden_path("bpe.gguf")).unwrap();
    assert!(gguf.tensors().is_empty());
    let spec = TokenizerSpec::from_gguf(gguf.typed_metadata()).unwrap();
    assert_eq!(spec, TokenizerSpec::try_from(bpe()).unwrap());
    check_against_oracle(&Tokenizer::new(spec).unwrap(), "coder", "bpe.gguf");
    let template = source::from_gguf(gguf.typed_metadata()).unwrap();
    assert_eq!(template, source::from_hugging_face(&golden_path("hf-bpe")).unwrap());
    assert!(template.unwrap().contains("<|im_start|>"));
}

#[test]
fn a_hugging_face_folder_gives_the_same_tokenizer_as_the_gguf_file() {
    for (folder, fields, name) in [("hf-bpe", bpe(), "coder"), ("hf-spm", spm(), "llama-spm")] {
        let spec = TokenizerSpec::from_hugging_face(&golden_path(folder)).unwrap();
        let gguf = TokenizerSpec::try_from(fields).unwrap();
        assert!(spec.notes.is_empty(), "{:?}", spec.notes);
        let same = TokenizerSpec { end_of_generation: vec![], notes: gguf.notes.clone(), ..spec.clone() };
        assert!(same == gguf, "{folder}: {:?}", (spec.special, spec.add_bos, spec.space_prefix));
        check_against_oracle(&Tokenizer::new(spec).unwrap(), name, folder);
    }
}

/// A folder with some of the files of another.
fn folder_with(from: &str, files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        std::fs::copy(golden_path(from).join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn either_file_of_a_sentencepiece_folder_will_do() {
    for file in ["tokenizer.json", "tokenizer.model"] {
        let folder = folder_with("hf-spm", &[file, "tokenizer_config.json"]);
        let spec = TokenizerSpec::from_hugging_face(folder.path()).unwrap();
        check_against_oracle(&Tokenizer::new(spec).unwrap(), "llama-spm", file);
    }
    let folder = folder_with("hf-spm", &["tokenizer_config.json"]);
    let message = TokenizerSpec::from_hugging_face(folder.path()).unwrap_err().to_string();
    assert!(message.contains("tokenizer.json") && message.contains("tokenizer.model"), "{message}");
}

#[test]
fn added_tokens_grow_a_sentencepiece_vocabulary() {
    let folder = folder_with("hf-spm", &["tokenizer.model"]);
    let config = r#"{"eos_token": {"content": "<|im_end|>"}, "added_tokens_decoder": {
        "2048": {"content": "<|im_start|>", "special": true}, "2049": {"content": "<|im_end|>", "special": true},
        "2051": {"content": "of the", "special": false}, "1": {"content": "<s>", "special": true}}}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), config).unwrap();
    let tokenizer = Tokenizer::new(TokenizerSpec::from_hugging_face(folder.path()).unwrap()).unwrap();
    assert_eq!(tokenizer.vocab_size(), 2052);
    assert_eq!(tokenizer.encode("<|im_start|>of the<|im_end|>", true, true), [1, 2048, 2051, 2049]);
    assert_eq!(tokenizer.end_of_generation(), [2, 2049]);
    assert_eq!(tokenizer.token_type(2050), Some(TokenType::Unused));
    assert_eq!(tokenizer.decode(&[2050]), "");
}

fn hugging_face_error(change: impl FnOnce(&mut Value)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut json = golden("hf-bpe/tokenizer.json");
    change(&mut json);
    std::fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let built = TokenizerSpec::from_hugging_face(folder.path()).and_then(Tokenizer::new);
    built.err().map_or_else(|| "none".to_owned(), |error| error.to_string())
}

#[test]
fn descriptions_that_are_not_known_are_refused_and_quoted() {
    assert_eq!(hugging_face_error(|_| ()), "none");
    let pattern =
        |json: &mut Value| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "\\w+".into();
    let message = hugging_face_error(pattern);
    assert!(message.contains("pattern") && message.contains("w+"), "{message}");
    let message = hugging_face_error(|json| json["normalizer"] = serde_json::json!({"type": "Lowercase"}));
    assert!(message.contains("normalizer") && message.contains("Lowercase"), "{message}");
    let unigram = serde_json::json!({"type": "Unigram", "vocab": [["a", 0.5]]});
    let message = hugging_face_error(|json| json["model"] = unigram);
    assert!(message.contains("Unigram"), "{message}");
    let message = hugging_face_error(|json| json["model"]["merges"][0] = serde_json::json!(["a"]));
    assert!(message.contains("tokenizer.json"), "{message}");
    let message = hugging_face_error(|json| json["model"]["vocab"]["far"] = 4_000_000_000u32.into());
    assert!(message.contains("4000000000"), "{message}");
    let message = hugging_face_error(|json| json["added_tokens"][0]["id"] = 3_000_000_000u32.into());
    assert!(message.contains("3000000000"), "{message}");
    let message = hugging_face_error(|json| json["added_tokens"][0]["id"] = 7.into());
    assert!(message.contains("id 7 is both"), "{message}");
    let message = hugging_face_error(|json| json["model"]["vocab"]["zz zz"] = 7.into());
    assert!(message.contains("id 7 is both"), "{message}");
}

#[test]
fn fixture_files_have_the_tokens_of_the_oracles() {
    let Some(folder) = fixtures() else { return };
    for (file, name) in [
        ("coder/coder-Q4_K_M.gguf", "coder"),
        ("qwen3/qwen3-Q5_1.gguf", "coder"),
        ("llama-gqa/llama-gqa-Q4_K_M.gguf", "llama-gqa"),
        ("llama-spm/llama-spm-Q4_K_M.gguf", "llama-spm"),
    ] {
        let gguf = Gguf::open(&folder.join(file)).unwrap();
        let spec = TokenizerSpec::from_gguf(gguf.typed_metadata()).unwrap();
        check_against_oracle(&Tokenizer::new(spec).unwrap(), name, file);
    }
    for (file, name) in [
        ("apr-written/coder-hf-names.apr", "coder"),
        ("apr-written/coder-aprq.apr", "coder"),
        ("apr-written/llama-gguf-names.apr", "llama-spm"),
    ] {
        let apr = Apr::open(&folder.join(file)).unwrap();
        let spec = TokenizerSpec::from_apr(&apr).unwrap();
        check_against_oracle(&Tokenizer::new(spec).unwrap(), name, file);
        assert_eq!(source::from_apr(&apr).unwrap().is_some(), name == "coder", "{file}");
    }
    for (file, name) in [
        ("coder/hf", "coder"),
        ("qwen2-896/hf", "coder"),
        ("qwen3/hf", "coder"),
        ("llama-spm/hf", "llama-spm"),
    ] {
        let spec = TokenizerSpec::from_hugging_face(&folder.join(file)).unwrap();
        check_against_oracle(&Tokenizer::new(spec).unwrap(), name, file);
        assert_eq!(
            source::from_hugging_face(&folder.join(file)).unwrap().is_some(),
            name == "coder",
            "{file}"
        );
    }
}

#[test]
fn control_tokens_in_text_are_read_only_when_asked_for() {
    let tokenizer = model("coder");
    let end = tokenizer.id("<|im_end|>").unwrap();
    assert_eq!(tokenizer.encode("<|im_end|>", false, true), [end]);
    let plain = tokenizer.encode("<|im_end|>", false, false);
    assert!(plain.len() > 1 && !plain.contains(&end));
    assert_eq!(tokenizer.decode(&plain), "<|im_end|>");
    assert_eq!(tokenizer.decode_skip_special(&[end, plain[0]]), "<");

    let tokenizer = model("llama-spm");
    for text in ["<s>", "</s>", "<unk>", "a</s>b", "<0x41>"] {
        for id in tokenizer.encode(text, false, false) {
            assert!(!tokenizer.is_control(id), "{text:?} gave control token {id}");
        }
    }
}

#[test]
fn roles_are_known() {
    let tokenizer = model("coder");
    assert_eq!(tokenizer.vocab_size(), 4096);
    assert_eq!(tokenizer.end_of_generation(), [4093, 4095]); // <|endoftext|> by its text, <|im_end|> is eos
    assert!(tokenizer.is_control(4094) && !tokenizer.is_control(0) && !tokenizer.is_control(9999));
    assert!(!tokenizer.is_end_of_generation(4094) && !tokenizer.is_end_of_generation(9999));
    assert_eq!(tokenizer.eos_text(), Some("<|im_end|>"));
    assert_eq!(tokenizer.bos_text(), None);
    assert_eq!(tokenizer.token_bytes(4096), None);
    assert_eq!(tokenizer.token_bytes(tokenizer.id("Ġthe").unwrap()), Some(b" the".as_slice()));
    assert_eq!(tokenizer.decode(&[0, 5000]), "!\u{FFFD}");

    let tokenizer = model("llama-spm");
    assert_eq!((tokenizer.bos_text(), tokenizer.eos_text()), (Some("<s>"), Some("</s>")));
    assert_eq!(tokenizer.token_bytes(tokenizer.id("<0x0A>").unwrap()), Some(b"\n".as_slice()));
    assert_eq!(tokenizer.token_bytes(tokenizer.id("▁the").unwrap()), Some(b" the".as_slice()));
    assert_eq!(tokenizer.end_of_generation(), [2]);
    assert!(tokenizer.adds_bos());
}

#[test]
fn a_vocabulary_without_types_is_told_by_its_text() {
    for name in ["coder", "llama-spm"] {
        let typed = model(name);
        let fields = VocabularyFields { token_types: None, ..if name == "coder" { bpe() } else { spm() } };
        let guessed = build(fields).unwrap();
        for id in 0..typed.vocab_size() as u32 {
            assert_eq!(guessed.token_type(id), typed.token_type(id), "{name} {id}");
        }
        assert!(guessed.notes().iter().any(|note| note.contains("token_type")), "{:?}", guessed.notes());
    }
}

#[test]
fn the_space_before_sentencepiece_text_comes_and_goes() {
    let tokenizer = model("llama-spm");
    let ids = tokenizer.encode(" two  spaces", true, true);
    assert_eq!(tokenizer.decode_skip_special(&ids), " two  spaces");
    assert_eq!(tokenizer.decode(&ids), "<s>  two  spaces");
    let first = build(spm()).unwrap().encode("a</s>b", true, true);
    let spec = TokenizerSpec { space_prefix: SpacePrefix::First, ..TokenizerSpec::try_from(spm()).unwrap() };
    let only_first = Tokenizer::new(spec).unwrap().encode("a</s>b", true, true);
    assert_eq!(tokenizer.decode(&first), "<s> a</s> b");
    assert_eq!(tokenizer.decode(&only_first), "<s> a</s>b");
}

#[test]
fn a_stream_never_splits_a_character() {
    for name in MODELS {
        let tokenizer = model(name);
        let text = " naïve 🦙🚀 日本語\tПривет 👩\u{200d}👧 end";
        let ids = tokenizer.encode(text, true, true);
        let mut stream = StreamDecoder::new();
        let mut pieces: Vec<String> = ids.iter().map(|&id| stream.push(&tokenizer, id)).collect();
        assert!(pieces.iter().all(|piece| !piece.contains('\u{FFFD}')), "{name}: {pieces:?}");
        assert!(pieces.iter().any(String::is_empty), "{name}: no token was held back");
        pieces.push(stream.finish());
        assert_eq!(pieces.concat(), text, "{name}");
        assert_eq!(pieces.last().unwrap(), "");
    }
}

#[test]
fn a_stream_ends_an_unfinished_character_with_a_replacement() {
    let tokenizer = model("llama-spm");
    let byte = |byte: u8| tokenizer.id(&format!("<0x{byte:02X}>")).unwrap();
    let mut stream = StreamDecoder::new();
    assert_eq!(stream.push(&tokenizer, byte(0xF0)), "");
    assert_eq!(stream.push(&tokenizer, byte(0x9F)), "");
    assert_eq!(stream.push(&tokenizer, byte(b'x')), "\u{FFFD}x");
    assert_eq!(stream.push(&tokenizer, byte(0xE3)), "");
    assert_eq!(stream.finish(), "\u{FFFD}");
    assert_eq!(stream.finish(), "");
}

#[test]
fn a_continued_stream_keeps_its_space_and_hides_control_tokens() {
    let tokenizer = model("llama-spm");
    let the = tokenizer.id("▁the").unwrap();
    assert_eq!(StreamDecoder::continuing().push(&tokenizer, the), " the");
    let mut stream = StreamDecoder::new();
    assert_eq!(stream.push(&tokenizer, 1), "");
    assert_eq!(stream.push(&tokenizer, the), "the");
    assert_eq!(StreamDecoder::new().with_special().push(&tokenizer, 2), "</s>");
    assert_eq!(StreamDecoder::new().push(&tokenizer, 1 << 31), "\u{FFFD}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_survives_the_round_trip(text in "\\PC{0,12}[ \\n\\r\\t'é🙂a-c1-3]{0,24}") {
        for name in MODELS {
            let tokenizer = model_once(name);
            let ids = tokenizer.encode(&text, true, false);
            let decoded = tokenizer.decode_skip_special(&ids);
            if name == "coder" {
                prop_assert_eq!(tokenizer.encode(&decoded, true, false), ids);
            } else {
                prop_assert_eq!(&decoded, &text);
            }
        }
    }

    #[test]
    fn a_stream_gives_what_decoding_at_once_gives(ids in prop::collection::vec(0u32..2100, 0..40), special: bool) {
        for name in MODELS {
            let tokenizer = model_once(name);
            let mut stream = if special { StreamDecoder::new().with_special() } else { StreamDecoder::new() };
            let mut text: String = ids.iter().map(|&id| stream.push(tokenizer, id)).collect();
            text += &stream.finish();
            let whole = if special { tokenizer.decode(&ids) } else { tokenizer.decode_skip_special(&ids) };
            prop_assert_eq!(text, whole);
        }
    }

    #[test]
    fn no_sentencepiece_file_panics(at in 0usize..28_000, byte: u8, cut in prop::option::of(0usize..28_000)) {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = std::fs::read(golden_path("hf-spm/tokenizer.model")).unwrap();
        bytes[at] = byte;
        bytes.truncate(cut.unwrap_or(bytes.len()));
        std::fs::write(folder.path().join("tokenizer.model"), bytes).unwrap();
        if let Ok(tokenizer) = TokenizerSpec::from_hugging_face(folder.path()).and_then(Tokenizer::new) {
            tokenizer.encode("some text é", true, true);
        }
    }

    #[test]
    fn no_vocabulary_panics(
        tokens in prop::collection::vec("[abĠ▁<|>0x4]{0,4}|<0x4[01]>", 0..12),
        merges in prop::collection::vec("[abĠ]{0,2} ?[abĠ]{0,2}", 0..6),
        types in prop::option::of(prop::collection::vec(0i64..8, 0..12)),
        scores in prop::option::of(prop::collection::vec(any::<f32>(), 0..12)),
        bos in prop::option::of(0u32..20),
        unk in prop::option::of(0u32..20),
        llama: bool,
    ) {
        let fields = VocabularyFields {
            model: Some(if llama { "llama" } else { "gpt2" }.to_owned()),
            tokens: Some(tokens),
            merges: Some(merges),
            token_types: types,
            scores,
            special: SpecialIds { bos, unk, ..SpecialIds::default() },
            ..VocabularyFields::default()
        };
        if let Ok(tokenizer) = build(fields) {
            let ids = tokenizer.encode("ab <|a|>é a", true, true);
            tokenizer.decode(&ids);
        }
    }
}

fn model_once(name: &str) -> &'static Tokenizer {
    use std::sync::OnceLock;
    static BUILT: [OnceLock<Tokenizer>; 3] = [const { OnceLock::new() }; 3];
    BUILT[MODELS.iter().position(|known| *known == name).unwrap()].get_or_init(|| model(name))
}

fn error(fields: VocabularyFields) -> Error {
    build(fields).unwrap_err()
}

#[test]
fn names_that_are_not_known_are_refused_with_those_that_are() {
    let message = error(VocabularyFields { pre: Some("deepseek-llm".to_owned()), ..bpe() }).to_string();
    assert!(
        message.contains("`deepseek-llm`") && message.contains("qwen2") && message.contains("llama-bpe"),
        "{message}"
    );
    let message = error(VocabularyFields { model: Some("rwkv".to_owned()), ..bpe() }).to_string();
    assert!(message.contains("`rwkv`") && message.contains("gpt2"), "{message}");
    for name in ["default", "gpt-2", "llama-bpe", "qwen2", "smollm"] {
        assert_eq!(PreTokenizer::from_name(name).unwrap().name(), name);
    }
}

#[test]
fn missing_and_short_lists_are_refused() {
    let key = |fields| match error(fields) {
        Error::Missing { key, .. } => key,
        other => panic!("{other}"),
    };
    assert_eq!(key(VocabularyFields { tokens: None, ..bpe() }), "tokenizer.ggml.tokens");
    assert_eq!(key(VocabularyFields { tokens: Some(vec![]), ..bpe() }), "tokenizer.ggml.tokens");
    assert_eq!(key(VocabularyFields { merges: None, ..bpe() }), "tokenizer.ggml.merges");
    assert_eq!(key(VocabularyFields { scores: None, ..spm() }), "tokenizer.ggml.scores");
    assert_eq!(key(VocabularyFields { model: None, ..spm() }), "tokenizer.ggml.model");
    assert_eq!(key(VocabularyFields { add_bos: Some(true), ..bpe() }), "tokenizer.ggml.bos_token_id");

    let expect = |fields, wanted| match error(fields) {
        Error::Length { key, expected: 4096 | 2048, found: 7 } => assert_eq!(key, wanted),
        other => panic!("{other}"),
    };
    expect(VocabularyFields { token_types: Some(vec![1; 7]), ..bpe() }, "tokenizer.ggml.token_type");
    expect(VocabularyFields { scores: Some(vec![0.0; 7]), ..spm() }, "tokenizer.ggml.scores");
    let types = VocabularyFields { token_types: Some(vec![9; 4096]), ..bpe() };
    assert!(error(types).to_string().contains("type 9"));
}

#[test]
fn ids_out_of_range_and_equal_tokens_are_refused() {
    let special = SpecialIds { eot: Some(4096), ..bpe().special };
    match error(VocabularyFields { special, ..bpe() }) {
        Error::TokenId { key: "tokenizer.ggml.eot_token_id", id: 4096, count: 4096 } => {}
        other => panic!("{other}"),
    }
    let mut fields = bpe();
    fields.tokens.as_mut().unwrap()[9] = "!".to_owned();
    assert!(matches!(error(fields), Error::Duplicate { token, first: 0, second: 9 } if token == "!"));
    let mut fields = spm();
    fields.scores.as_mut().unwrap()[300] = f32::NAN;
    assert!(matches!(error(fields), Error::Score { id: 300 }));
    let mut fields = bpe();
    fields.tokens.as_mut().unwrap()[0] = String::new(); // "!"
    fields.merges = Some(vec![]);
    assert!(matches!(error(fields), Error::Byte { byte: b'!' }));
}

#[test]
fn merges_that_cannot_be_carried_out_are_refused() {
    for (merge, said) in [
        ("a ", "without end"),
        (" a", "without end"),
        ("ab", "expected two parts"),
        ("a b c", "expected one space"),
        ("zq! a", "left part \"zq!\""),
        ("a zq!", "right part \"zq!\""),
        ("~ ~~~", "is not a token"),
        ("<| im_end|>", "is not a token"),
    ] {
        let mut fields = bpe();
        fields.merges.as_mut().unwrap().insert(2, merge.to_owned());
        match error(fields) {
            Error::Merge { rank: 2, merge: found, what } => {
                assert_eq!(found, merge);
                assert!(what.contains(said), "{merge:?}: {what}");
            }
            other => panic!("{merge:?}: {other}"),
        }
    }
}

#[test]
fn of_two_equal_merges_the_first_counts() {
    let mut fields = bpe();
    let merges = fields.merges.as_mut().unwrap();
    let first = merges[0].clone();
    merges.push(first);
    let text = "a    b  c        d";
    assert_eq!(build(fields).unwrap().encode(text, false, false), model("coder").encode(text, false, false));
}

#[test]
fn a_megabyte_takes_a_second_not_an_hour() {
    let texts = [
        ("code", "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1)\n".repeat(16 << 10)),
        ("one word", "ab".repeat(512 << 10)),
        ("spaces", " ".repeat(1 << 20)),
        ("spaces, then a word", " ".repeat(1 << 20) + "x"),
        ("new lines and spaces", "\n ".repeat(512 << 10)),
        ("punctuation", "!".repeat(1 << 20)),
        ("digits", "7".repeat(1 << 20)),
        ("not ascii", "é".repeat(512 << 10)),
        ("unfinished specials", "<|im_".repeat(200 << 10)),
    ];
    for name in MODELS {
        let tokenizer = model(name);
        for (what, text) in &texts {
            let start = Instant::now();
            let ids = tokenizer.encode(text, false, true);
            let took = start.elapsed();
            println!("{name}: {what}: {} bytes, {} tokens, {took:?}", text.len(), ids.len());
            assert!(
                took < Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 10 }),
                "{name}: {what}: {took:?}"
            );
            assert_eq!(tokenizer.decode(&ids).len(), text.len(), "{name}: {what}");
        }
    }
}

#[test]
fn a_large_vocabulary_loads_in_about_a_second() {
    let bytes = bpe().tokens.unwrap().into_iter().take(256);
    let mut tokens: Vec<String> = bytes.collect();
    let mut merges = Vec::new();
    let mut seen: std::collections::HashSet<String> = tokens.iter().cloned().collect();
    let mut state = 1u64;
    while tokens.len() < 151_900 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let left = tokens[(state >> 33) as usize % tokens.len()].clone();
        let right = tokens[(state >> 13) as usize % 256].clone();
        let joined = format!("{left}{right}");
        if joined.len() < 40 && seen.insert(joined.clone()) {
            merges.push(format!("{left} {right}"));
            tokens.push(joined);
        }
    }
    let mut types = vec![TokenType::Normal; tokens.len()];
    for i in 0..36 {
        tokens.push(format!("<|special_{i}|>"));
        types.push(TokenType::Control);
    }
    let spec = TokenizerSpec {
        kind: TokenizerKind::bpe(PreTokenizer::Qwen2, merges),
        tokens,
        token_types: Some(types),
        special: SpecialIds::default(),
        end_of_generation: vec![],
        add_bos: false,
        add_eos: false,
        space_prefix: SpacePrefix::Never,
        notes: vec![],
    };
    let start = Instant::now();
    let tokenizer = Tokenizer::new(spec).unwrap();
    let took = start.elapsed();
    println!("{} tokens: {took:?}", tokenizer.vocab_size());
    assert!(took < Duration::from_secs(if cfg!(debug_assertions) { 60 } else { 5 }), "{took:?}");
    assert_eq!(tokenizer.decode(&tokenizer.encode("naïve 🙂", false, true)), "naïve 🙂");
}
