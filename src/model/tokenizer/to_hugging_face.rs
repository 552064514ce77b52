//! A vocabulary as the `tokenizer.json` of a Hugging Face folder, such that the same texts become the same tokens there.

use super::{Error, PreTokenizer, SpacePrefix, TokenType, TokenizerKind, TokenizerSpec};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

impl TokenizerSpec {
    /// The content of `tokenizer.json`.
    ///
    /// # Errors
    /// The vocabulary has no types, or its pre-tokenizer cannot be said there.
    pub fn to_tokenizer_json(&self) -> Result<Value, Error> {
        let types = self.token_types.as_ref().ok_or(Error::Missing {
            key: "tokenizer.ggml.token_type",
            what: "without types nobody can tell the special tokens",
        })?;
        let tokens: Vec<(u32, &str, TokenType)> = (0u32..)
            .zip(&self.tokens)
            .zip(types)
            .map(|((id, token), kind)| (id, token.as_str(), *kind))
            .filter(|(id, token, kind)| !is_filler(*id, token, *kind))
            .collect();
        let is_added = |kind: TokenType| {
            matches!(kind, TokenType::Control | TokenType::UserDefined | TokenType::Unknown)
        };
        let added: Vec<Value> = tokens
            .iter()
            .filter(|(_, _, kind)| is_added(*kind))
            .map(|&(id, content, kind)| {
                let special = kind != TokenType::UserDefined;
                json!({
                    "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": special,
                })
            })
            .collect();
        let parts = match &self.kind {
            TokenizerKind::Bpe { pre, compose, ignore_merges, merges } => {
                let vocabulary = tokens.iter().filter(|(_, _, kind)| !is_added(*kind));
                Parts {
                    normalizer: if *compose { json!({ "type": "NFC" }) } else { Value::Null },
                    pre_tokenizer: pre_tokenizer(*pre)?,
                    decoder: byte_level(true),
                    model: model(vocabulary, merges, *ignore_merges, None),
                }
            }
            TokenizerKind::SentencePiece { scores } => {
                let merges = merges_of_scores(&tokens, scores);
                let unk = self.special.unk.and_then(|id| self.tokens.get(id as usize));
                Parts {
                    normalizer: Value::Null,
                    pre_tokenizer: metaspace(self.space_prefix),
                    decoder: sentencepiece_decoder(self.space_prefix),
                    model: model(tokens.iter(), &merges, false, Some(unk.map(String::as_str))),
                }
            }
        };
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": parts.normalizer,
            "pre_tokenizer": parts.pre_tokenizer,
            "post_processor": self.post_processor(),
            "decoder": parts.decoder,
            "model": parts.model,
        }))
    }

    /// Puts the bos and eos tokens that the model wants around a text.
    fn post_processor(&self) -> Value {
        let mut special = Map::new();
        let mut one = |asked: bool, id: Option<u32>| -> Vec<Value> {
            let token = id.filter(|_| asked).and_then(|id| Some((id, self.tokens.get(id as usize)?)));
            let Some((id, token)) = token else { return Vec::new() };
            special.insert(token.clone(), json!({ "id": token, "ids": [id], "tokens": [token] }));
            vec![json!({ "SpecialToken": { "id": token, "type_id": 0 } })]
        };
        let (bos, eos) = (one(self.add_bos, self.special.bos), one(self.add_eos, self.special.eos));
        let sequence = |id: &str, type_id: u32| vec![json!({ "Sequence": { "id": id, "type_id": type_id } })];
        let around = |inner: Vec<Value>| [bos.clone(), inner, eos.clone()].concat();
        let mut second = around(sequence("B", 1));
        for part in &mut second {
            if let Some(token) = part.get_mut("SpecialToken") {
                token["type_id"] = 1.into();
            }
        }
        let (single, pair) = (around(sequence("A", 0)), [around(sequence("A", 0)), second].concat());
        json!({
            "type": "TemplateProcessing",
            "single": single,
            "pair": pair,
            "special_tokens": special,
        })
    }
}

struct Parts {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
}

/// A token that only fills the vocabulary up to the rows of the embedding.
fn is_filler(id: u32, token: &str, kind: TokenType) -> bool {
    token.is_empty() || kind == TokenType::Unused && token == format!("[PAD{id}]")
}

/// The model; `unk` is there for SentencePiece only, where bytes stand in for what has no token.
fn model<'a>(
    tokens: impl Iterator<Item = &'a (u32, &'a str, TokenType)>,
    merges: &[String],
    ignore_merges: bool,
    unk: Option<Option<&str>>,
) -> Value {
    let vocabulary: Map<String, Value> =
        tokens.map(|&(id, token, _)| (token.to_owned(), id.into())).collect();
    // As pairs: in a string "left right" no part could hold a space.
    let merges: Vec<Value> = merges
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => json!([left, right]),
            None => json!(merge),
        })
        .collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": unk.flatten(),
        "continuing_subword_prefix": null,
        "end_of_word_suffix": null,
        "fuse_unk": unk.is_some(),
        "byte_fallback": unk.is_some(),
        "ignore_merges": ignore_merges,
        "vocab": vocabulary,
        "merges": merges,
    })
}

fn byte_level(use_regex: bool) -> Value {
    json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex })
}

fn pre_tokenizer(pre: PreTokenizer) -> Result<Value, Error> {
    let sequence = |first: Value, use_regex: bool| json!({ "type": "Sequence", "pretokenizers": [first, byte_level(use_regex)] });
    match (pre, pre.pattern()) {
        (_, Some(pattern)) => Ok(sequence(
            json!({
                "type": "Split", "pattern": { "Regex": pattern }, "behavior": "Isolated", "invert": false
            }),
            false,
        )),
        (PreTokenizer::Gpt2, None) => Ok(byte_level(true)),
        (PreTokenizer::SmolLm, None) => {
            Ok(sequence(json!({ "type": "Digits", "individual_digits": true }), true))
        }
        (other, None) => {
            let what = format!("`{}` has no counterpart in tokenizer.json", other.name());
            Err(Error::key("tokenizer.ggml.pre", what))
        }
    }
}

fn metaspace(prefix: SpacePrefix) -> Value {
    let scheme = match prefix {
        SpacePrefix::Never => "never",
        SpacePrefix::First => "first",
        SpacePrefix::AfterSpecial => "always",
    };
    json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false })
}

fn sentencepiece_decoder(prefix: SpacePrefix) -> Value {
    let mut decoders = vec![
        json!({ "type": "Replace", "pattern": { "String": "▁" }, "content": " " }),
        json!({ "type": "ByteFallback" }),
        json!({ "type": "Fuse" }),
    ];
    if prefix != SpacePrefix::Never {
        decoders.push(json!({ "type": "Strip", "content": " ", "start": 1, "stop": 0 }));
    }
    json!({ "type": "Sequence", "decoders": decoders })
}

/// The merges of a SentencePiece vocabulary: every way to make a token of two others, the token that scores highest
/// first; ways to make the same token in the order of their parts' ids.
fn merges_of_scores(tokens: &[(u32, &str, TokenType)], scores: &[f32]) -> Vec<String> {
    let usable = |kind: TokenType| matches!(kind, TokenType::Normal | TokenType::UserDefined);
    let ids: HashMap<&str, u32> =
        tokens.iter().filter(|(_, _, kind)| usable(*kind)).map(|&(id, token, _)| (token, id)).collect();
    let mut merges: Vec<(f32, u32, u32, String)> = Vec::new();
    for &(id, token, _) in tokens.iter().filter(|(_, _, kind)| usable(*kind)) {
        let score = scores.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&a), Some(&b)) = (ids.get(left), ids.get(right)) {
                merges.push((score, a, b, format!("{left} {right}")));
            }
        }
    }
    merges.sort_by(|x, y| y.0.total_cmp(&x.0).then_with(|| (x.1, x.2).cmp(&(y.1, y.2))));
    merges.into_iter().map(|(.., merge)| merge).collect()
}
