//! Rules about the text side of a model.

use super::Outcome;
use super::model::listed;
use crate::model::Source;
use crate::model::tokenizer::{TokenType, TokenizerKind, TokenizerSpec};
use serde_json::{Map, json};
use std::collections::{HashMap, HashSet};

pub(super) fn builds(source: &Source) -> Outcome {
    Outcome::of_result(source.tokenizer())
}

/// Runs a rule on the vocabulary, where there is one.
fn with_spec(source: &Source, rule: impl FnOnce(&TokenizerSpec) -> Outcome) -> Outcome {
    source.tokenizer_spec().map_or(Outcome::NotReached, |spec| rule(&spec))
}

pub(super) fn size(source: &Source) -> Outcome {
    let Ok((config, _)) = source.config() else { return Outcome::NotReached };
    with_spec(source, |spec| {
        let (tokens, rows) = (spec.tokens.len(), config.vocab_size);
        let problem = format!("{tokens} tokens, but the embedding has {rows} rows");
        Outcome::of((tokens > rows).then_some(problem).into_iter().collect())
    })
}

pub(super) fn distinct(source: &Source) -> Outcome {
    with_spec(source, |spec| {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let mut problems = Vec::new();
        for (id, token) in spec.tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
            if let Some(first) = seen.insert(token, id) {
                problems.push(format!("tokens {first} and {id} are both {token:?}"));
            }
        }
        listed(problems.into_iter())
    })
}

pub(super) fn merges(source: &Source) -> Outcome {
    with_spec(source, |spec| {
        let TokenizerKind::Bpe { merges, .. } = &spec.kind else { return Outcome::NotApplicable };
        let tokens: HashSet<&str> = spec.tokens.iter().map(String::as_str).collect();
        listed(merges.iter().enumerate().filter_map(|(at, merge)| {
            let Some((left, right)) = merge.split_once(' ') else {
                return Some(format!("merge {at}, {merge:?}, has not two parts"));
            };
            let whole = format!("{left}{right}");
            let unknown = [left, right, &whole].into_iter().find(|part| !tokens.contains(part))?;
            Some(format!("merge {at}, {merge:?}: {unknown:?} is no token"))
        }))
    })
}

pub(super) fn bytes(source: &Source) -> Outcome {
    let Ok(tokenizer) = source.tokenizer() else { return Outcome::NotReached };
    let single: HashSet<u8> = (0..tokenizer.vocab_size() as u32)
        .filter_map(|id| match tokenizer.token_bytes(id) {
            Some(&[byte]) => Some(byte),
            _ => None,
        })
        .collect();
    // These never occur in UTF-8.
    let occurs = |byte: &u8| !matches!(byte, 0xc0 | 0xc1 | 0xf5..);
    let missing: Vec<String> = (0..=u8::MAX)
        .filter(|byte| occurs(byte) && !single.contains(byte))
        .map(|b| format!("{b:#04x}"))
        .collect();
    let problem = format!("no token for {} of 256 bytes: {}", missing.len(), missing.join(" "));
    Outcome::of((!missing.is_empty()).then_some(problem).into_iter().collect())
}

pub(super) fn end(source: &Source) -> Outcome {
    with_spec(source, |spec| {
        let special = &spec.special;
        let mut problems = Vec::new();
        for (name, id) in [
            ("bos", special.bos),
            ("eos", special.eos),
            ("unknown", special.unk),
            ("padding", special.pad),
            ("eot", special.eot),
            ("eom", special.eom),
        ] {
            if let Some(id) = id.filter(|&id| id as usize >= spec.tokens.len()) {
                problems.push(format!("{name} is token {id}, but there are {}", spec.tokens.len()));
            }
        }
        match source.tokenizer() {
            Ok(tokenizer) if tokenizer.end_of_generation().is_empty() => {
                problems.push("no token ends a text".to_owned());
            }
            Ok(tokenizer) => {
                let plain = |id: &u32| tokenizer.token_type(*id) == Some(TokenType::Normal);
                problems.extend(special.eos.filter(plain).map(|id| {
                    format!(
                        "token {id} ends a text, but its type is that of plain text: a prompt could spell it"
                    )
                }));
            }
            Err(_) => {}
        }
        Outcome::of(problems)
    })
}

pub(super) fn chat_template(source: &Source) -> Outcome {
    match source.chat_template_text() {
        Ok(None) => return Outcome::NotApplicable,
        Err(error) => return Outcome::Failed(vec![error.to_string()]),
        Ok(Some(_)) => {}
    }
    let Ok(tokenizer) = source.tokenizer() else { return Outcome::NotReached };
    let rendered = source.chat_template(&tokenizer).map_err(|error| error.to_string()).and_then(|template| {
        let chat = [json!({ "role": "user", "content": "What is one plus one?" })];
        template.render(&chat, true, &Map::new()).map_err(|error| error.to_string())
    });
    match rendered {
        Err(error) => Outcome::Failed(vec![error]),
        Ok(text) if !text.contains("What is one plus one?") => {
            Outcome::Failed(vec!["the rendered chat does not hold the user's message".to_owned()])
        }
        Ok(_) => Outcome::Passed,
    }
}
