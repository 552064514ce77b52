//! GGUF's tokenizer keys from the `tokenizer.*` keys of an APR file that was not made of a GGUF file.

use super::Report;
use super::gguf_keys::{Config, error};
use crate::format::Error;
use crate::format::apr::Apr;
use crate::format::gguf::{Array, Strings, Value};
use std::collections::HashSet;

/// Token types, as llama.cpp numbers them.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;
/// The score of a token that must never be chosen.
const UNUSED_SCORE: f32 = -10000.0;

/// Adds all tokenizer keys through `put`.
pub(super) fn add(
    apr: &Apr,
    config: &Config,
    report: &mut Report,
    put: &mut impl FnMut(&str, Value),
) -> Result<(), Error> {
    let missing = |key: &str| error(apr, key, "the key is missing, and llama.cpp loads no model without it");
    let model = apr.string("tokenizer.model")?.ok_or_else(|| missing("tokenizer.model"))?;
    let model = match model.to_ascii_lowercase().as_str() {
        "gpt2" | "bpe" => "gpt2",
        "llama" | "spm" | "sentencepiece" | "unigram" => "llama",
        _ => {
            return Err(error(
                apr,
                "tokenizer.model",
                format!("expected \"gpt2\" or \"llama\", found {model:?}"),
            ));
        }
    };
    let pre = match (apr.string("tokenizer.pre_type")?, config.architecture, model) {
        (Some(pre), ..) => pre,
        (None, _, "llama") => "default",
        (None, "qwen2" | "qwen3", _) => "qwen2",
        (None, ..) => return Err(missing("tokenizer.pre_type")),
    };
    let mut tokens = apr.strings("tokenizer.vocabulary")?.ok_or_else(|| missing("tokenizer.vocabulary"))?;
    let known = tokens.len();
    let vocab_size = config.vocab_size as usize;
    if known > vocab_size {
        let what = format!("found {known} tokens, but the embedding has {vocab_size} rows");
        return Err(error(apr, "tokenizer.vocabulary", what));
    }
    let mut seen = HashSet::new();
    if let Some((id, token)) = tokens.iter().enumerate().find(|(_, token)| !seen.insert(*token)) {
        let what =
            format!("token {id}, \"{}\", is there twice; llama.cpp refuses that", token.escape_ascii());
        return Err(error(apr, "tokenizer.vocabulary", what));
    }
    let mut types = match apr.i32s("tokenizer.token_type")? {
        Some(types) if types.len() == known => types,
        Some(types) => {
            let what = format!("expected {known} types, one per token, found {}", types.len());
            return Err(error(apr, "tokenizer.token_type", what));
        }
        None => {
            report.notes.push(
                "tokenizer.token_type is missing; types are guessed from the tokens' spelling".to_owned(),
            );
            guess_types(&tokens, model)
        }
    };
    let mut scores = apr.f32s("tokenizer.scores")?;
    if let Some(found) = scores.as_ref().map(Vec::len).filter(|&found| found != known) {
        return Err(error(
            apr,
            "tokenizer.scores",
            format!("expected {known} scores, one per token, found {found}"),
        ));
    }
    if known < vocab_size {
        report
            .notes
            .push(format!("the vocabulary of {known} tokens is padded to the embedding's {vocab_size} rows"));
        for id in known..vocab_size {
            tokens.push(format!("[PAD{id}]").as_bytes());
        }
        types.resize(vocab_size, UNUSED);
        if let Some(scores) = &mut scores {
            scores.resize(vocab_size, UNUSED_SCORE);
        }
    }
    put("tokenizer.ggml.model", model.into());
    put("tokenizer.ggml.pre", pre.into());
    put("tokenizer.ggml.tokens", Array::String(tokens).into());
    match (scores, model) {
        (Some(scores), _) => put("tokenizer.ggml.scores", Array::F32(scores).into()),
        (None, "llama") => return Err(missing("tokenizer.scores")),
        _ => {}
    }
    put("tokenizer.ggml.token_type", Array::I32(types).into());
    match (apr.strings("tokenizer.merges")?, model) {
        (Some(merges), _) => put("tokenizer.ggml.merges", Array::String(merges).into()),
        (None, "gpt2") => return Err(missing("tokenizer.merges")),
        _ => {}
    }
    for name in ["bos", "eos", "eot", "unknown", "padding"] {
        let key = format!("tokenizer.{name}_token_id");
        let Some(id) = apr.u32(&key)? else { continue };
        if id >= config.vocab_size {
            return Err(error(apr, &key, format!("found {id}, but there are {vocab_size} tokens")));
        }
        put(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
    }
    if apr.u32("tokenizer.eos_token_id")?.is_none() {
        return Err(missing("tokenizer.eos_token_id"));
    }
    for name in ["add_bos_token", "add_eos_token", "add_space_prefix"] {
        if let Some(add) = apr.bool(&format!("tokenizer.{name}"))? {
            put(&format!("tokenizer.ggml.{name}"), Value::Bool(add));
        } else if name == "add_bos_token" && config.architecture != "llama" {
            put("tokenizer.ggml.add_bos_token", Value::Bool(false));
        }
    }
    let template = match apr.string("chat_template")? {
        Some(template) => Some(template),
        None => apr.string("tokenizer.chat_template")?,
    };
    if let Some(template) = template {
        put("tokenizer.chat_template", template.into());
    }
    Ok(())
}

/// Types by spelling: `<|...|>` and SentencePiece's `<s>` and `</s>` are control tokens, `<0x0A>` is a byte.
fn guess_types(tokens: &Strings, model: &str) -> Vec<i32> {
    let sentence_piece = model == "llama";
    let type_of = |token: &[u8]| match token {
        [b'<', b'|', .., b'|', b'>'] => CONTROL,
        b"<unk>" if sentence_piece => UNKNOWN,
        b"<s>" | b"</s>" if sentence_piece => CONTROL,
        [b'<', b'0', b'x', _, _, b'>'] if sentence_piece => BYTE,
        _ => NORMAL,
    };
    tokens.iter().map(type_of).collect()
}
