//! Chat templates against what transformers renders (`tests/golden/chat_template`, written by
//! `tools/make_chat_goldens.py`), and the errors of templates that cannot be used.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use aprgpu::model::chat_template::{ChatTemplate, Error, TemplateOrigin};
use aprgpu::model::tokenizer::{Tokenizer, TokenizerKind, TokenizerSpec, VocabularyFields};
use chrono::{NaiveDate, NaiveDateTime};
use serde_json::{Map, Value, json};

fn golden_folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat_template")
}

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn now() -> NaiveDateTime {
    NaiveDate::from_ymd_opt(2025, 3, 7).unwrap().and_hms_opt(9, 5, 2).unwrap()
}

/// What differs from transformers, in words.
fn difference(result: Result<String, Error>, expected: &Value) -> Option<String> {
    if let Some(text) = expected["text"].as_str() {
        return match result {
            Ok(ours) if ours == text => None,
            Ok(ours) => Some(format!("\n  ours:   {ours:?}\n  theirs: {text:?}")),
            Err(error) => Some(format!("\n  ours:   {error}\n  theirs: {text:?}")),
        };
    }
    if let Some(message) = expected["refused"].as_str() {
        return match result {
            Err(Error::Refused { message: ours, line }) if ours == message && line > 0 => None,
            other => Some(format!("{other:?}, expected to be refused: {message}")),
        };
    }
    match result {
        Err(_) => None,
        Ok(text) => Some(format!("{text:?}, expected an error: {expected}")),
    }
}

fn check_folder(folder: &Path) -> (usize, Vec<String>) {
    let golden = read(&folder.join("rendered.json"));
    let mut checked = 0;
    let mut failures = Vec::new();
    for row in golden["templates"].as_array().unwrap() {
        let name = row["template"].as_str().unwrap();
        let source = std::fs::read_to_string(folder.join("templates").join(name)).unwrap();
        let template = match ChatTemplate::new(&source, row["bos_token"].as_str(), row["eos_token"].as_str())
        {
            Ok(template) => template.with_now(now()),
            Err(error) => {
                failures.push(format!("{name}: {error}"));
                continue;
            }
        };
        let conversations = golden["conversations"].as_array().unwrap();
        for (conversation, expected) in conversations.iter().zip(row["rendered"].as_array().unwrap()) {
            let result = template.render(
                conversation["messages"].as_array().unwrap(),
                conversation["add_generation_prompt"].as_bool().unwrap(),
                conversation["extra"].as_object().unwrap(),
            );
            checked += 1;
            if let Some(what) = difference(result, expected) {
                failures.push(format!("{name}: {}: {what}", conversation["name"]));
            }
        }
    }
    (checked, failures)
}

#[test]
fn conversations_are_rendered_as_transformers_does() {
    let (checked, failures) = check_folder(&golden_folder());
    assert!(failures.is_empty(), "{} of {checked} differ:\n{}", failures.len(), failures.join("\n"));
    assert!(checked >= 7 * 27);
}

/// Other templates, for which `tools/make_chat_goldens.py` was run.
#[test]
fn other_templates_are_rendered_as_transformers_does() {
    let Some(folder) = std::env::var_os("APRGPU_CHAT_GOLDENS") else {
        println!("skipped: APRGPU_CHAT_GOLDENS is not set");
        return;
    };
    let (checked, failures) = check_folder(Path::new(&folder));
    assert!(failures.is_empty(), "{} of {checked} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn constructs_are_rendered_as_jinja2_does() {
    let golden = read(&golden_folder().join("snippets.json"));
    let mut failures = Vec::new();
    for snippet in golden["snippets"].as_array().unwrap() {
        let source = snippet["source"].as_str().unwrap();
        let result = ChatTemplate::new(source, Some("<bos>"), Some("<eos>")).and_then(|template| {
            template.with_now(now()).render(&[], false, golden["values"].as_object().unwrap())
        });
        if let Some(what) = difference(result, snippet) {
            failures.push(format!("{source}: {what}"));
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn reasoning_is_passed_under_the_names_that_templates_read() {
    let golden = read(&golden_folder().join("snippets.json"))["reasoning"].clone();
    let template = ChatTemplate::new(golden["source"].as_str().unwrap(), None, None).unwrap();
    let text = template.render(golden["messages"].as_array().unwrap(), false, &Map::new()).unwrap();
    assert_eq!(text, golden["text"].as_str().unwrap());
}

fn render(source: &str) -> Result<String, Error> {
    ChatTemplate::new(source, None, None)?.render(
        &[json!({"role": "user", "content": "Hi"})],
        true,
        &Map::new(),
    )
}

#[test]
fn errors_name_the_line() {
    match ChatTemplate::new("a\nb\n{% if %}", None, None) {
        Err(Error::Syntax { line: 3, .. }) => {}
        other => panic!("{other:?}"),
    }
    match render("a\n{{ messages[0].content + 1 }}") {
        Err(Error::Render { line: 2, what }) => assert!(what.contains('+'), "{what}"),
        other => panic!("{other:?}"),
    }
    let refused = Error::Refused { line: 4, message: "no such role".to_owned() };
    assert_eq!(render("a\r\n\r\n\r\n{{ raise_exception('no such role') }}"), Err(refused));
    let template = ChatTemplate::new("{{ messages }}", None, None).unwrap();
    let error = template.render(&[json!({}), json!("Hi")], true, &Map::new()).unwrap_err();
    assert_eq!(error, Error::Message { index: 1, found: "a string" });
}

#[test]
fn hostile_templates_end() {
    let nested = "{% for a in range(10000) %}{% for b in range(10000) %}{% for c in range(10000) %}";
    let ends = "{% endfor %}{% endfor %}{% endfor %}";
    assert!(matches!(render(&format!("{nested}{{{{ a }}}}{ends}")), Err(Error::Render { .. })));
    let long = "{% set s = 'x' * 1000000 %}{% for a in range(1000) %}{{ s }}{% endfor %}";
    assert!(matches!(render(long), Err(Error::Render { .. })));
    assert!(render("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").is_err());
    assert!(render("{{ 'x' * 100000000000 }}").is_err());
    for source in [
        "{{ strftime_now('%') }}",
        "{{ strftime_now('%Q') }}",
        "{{ [1]|tojson(indent=-1) }}",
        "{{ 'a'.split('') }}",
    ] {
        let _ = render(source);
    }
}

/// The engine recurses; on the stack of a main thread each of these would end the process.
#[test]
fn deep_templates_and_deep_values_are_errors_at_most() {
    let sum = format!("{{{{ 1{} }}}}", "+1".repeat(60_000));
    assert_eq!(render(&sum).unwrap(), "60001");
    let _ = render(&format!("{{{{ ''{} }}}}", "|d".repeat(60_000)));
    let _ = render(&format!("{{{{ 1{} }}}}", ".a".repeat(60_000)));
    let _ = render(&format!("{{{{ {}1 }}}}", "not ".repeat(30_000)));
    assert!(matches!(render(&" ".repeat(1 << 20)), Err(Error::Syntax { .. })));

    let nested = |loops: &str, ends: &str, then: &str| {
        let set = "{% set ns.x = [ns.x] %}";
        render(&format!("{{% set ns = namespace(x=[]) %}}{loops}{set}{ends}{then}"))
    };
    let (once, end) = ("{% for i in range(90000) %}", "{% endfor %}");
    assert!(nested(once, end, "{{ ns.x }}").unwrap().contains("[[[...]]]"));
    assert!(matches!(nested(once, end, "{{ ns.x|tojson }}"), Err(Error::Render { .. })));
    let (thrice, ends) = (["{% for i in range(200) %}"; 3].concat(), [end; 3].concat());
    let _ = nested(&thrice, &ends, "");
}

#[test]
fn the_clock_is_read_when_no_time_is_given() {
    let year = render("{{ strftime_now('%Y') }}").unwrap();
    assert!(year.parse::<u32>().unwrap() >= 2025, "{year}");
}

#[test]
fn the_order_of_keys_is_kept() {
    let template = ChatTemplate::new("{{ messages[0] | tojson }}{{ x | tojson }}", None, None).unwrap();
    let message = json!({"role": "user", "zebra": 1, "apple": {"z": 1, "a": 2}});
    let extra = json!({"x": {"c": 1, "a": 2, "b": 3}});
    let text = template.render(&[message], false, extra.as_object().unwrap()).unwrap();
    assert_eq!(text, r#"{"role": "user", "zebra": 1, "apple": {"z": 1, "a": 2}}{"c": 1, "a": 2, "b": 3}"#);
}

fn tokenizer(fields: VocabularyFields) -> Tokenizer {
    Tokenizer::new(TokenizerSpec::try_from(fields).unwrap()).unwrap()
}

fn vocabulary(name: &str) -> VocabularyFields {
    let value = read(&PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizer").join(name));
    let strings = |key: &str| -> Option<Vec<String>> { serde_json::from_value(value[key].clone()).ok() };
    VocabularyFields {
        model: value["model"].as_str().map(str::to_owned),
        pre: value["pre"].as_str().map(str::to_owned),
        tokens: strings("tokens"),
        merges: strings("merges"),
        scores: serde_json::from_value(value["scores"].clone()).ok(),
        token_types: serde_json::from_value(value["token_type"].clone()).ok(),
        ..VocabularyFields::default()
    }
}

#[test]
fn chatml_is_used_only_by_models_that_know_it() {
    let knows = tokenizer(vocabulary("bpe.vocabulary.json"));
    let template = ChatTemplate::for_model(None, &knows).unwrap();
    assert_eq!(template.origin(), TemplateOrigin::ChatMl);
    let text = template.render(&[json!({"role": "user", "content": "Hi"})], true, &Map::new()).unwrap();
    assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    assert_eq!(knows.encode(&text, false, true)[0], knows.id("<|im_start|>").unwrap());
    let own = ChatTemplate::for_model(Some("{{ messages[0].content }}"), &knows).unwrap();
    assert_eq!(own.origin(), TemplateOrigin::Model);
    assert_eq!(own.from_user().origin(), TemplateOrigin::User);

    let mut half = TokenizerSpec::try_from(vocabulary("bpe.vocabulary.json")).unwrap();
    half.tokens[4095] = "<|other|>".to_owned();
    assert!(matches!(half.kind, TokenizerKind::Bpe { .. }));
    for other in [Tokenizer::new(half).unwrap(), tokenizer(vocabulary("spm.vocabulary.json"))] {
        let error = ChatTemplate::for_model(None, &other).unwrap_err();
        assert_eq!(error, Error::NoTemplate);
        assert!(error.to_string().contains("no chat template"));
    }
}
