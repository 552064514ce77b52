//! GGUF's tokenizer keys from the tokenizer files of a Hugging Face folder.

use super::Report;
use crate::format::Error as FormatError;
use crate::format::gguf::{Array, Strings, Value};
use crate::format::huggingface::read_json;
use crate::model::Error;
use crate::model::chat_template;
use crate::model::tokenizer::{PreTokenizer, SpacePrefix, TokenType, TokenizerKind, TokenizerSpec};
use serde_json::Value as Json;
use std::collections::HashSet;
use std::path::Path;

/// The score of a token that was added to a SentencePiece vocabulary, and of one that fills it up.
const ADDED_SCORE: f32 = -1000.0;
const UNUSED_SCORE: f32 = -10000.0;

/// Adds all tokenizer keys through `put`, for the tokenizer in the folder `path` and an embedding of `rows` rows (as many
/// as there are tokens, where that is not known).
pub(super) fn add(
    path: &Path,
    rows: Option<usize>,
    report: &mut Report,
    put: &mut impl FnMut(&str, Value),
) -> Result<(), Error> {
    let json = |name: &str| {
        let file = path.join(name);
        if file.is_file() { read_json(&file) } else { Ok(Json::Null) }
    };
    let wrong = |source| Error::Tokenizer { path: path.to_owned(), source };
    let spec = TokenizerSpec::from_hugging_face(path).map_err(wrong)?;
    report.notes.extend(spec.notes.iter().cloned());
    let error =
        |key: &str, what: String| FormatError::Key { path: path.to_owned(), key: key.to_owned(), what };
    let known = spec.tokens.len();
    let rows = rows.unwrap_or(known);
    if known > rows {
        let what = format!("{known} tokens, but the embedding has {rows} rows");
        return Err(error("tokenizer.json", what).into());
    }
    let mut types = spec.token_types.clone().unwrap_or_else(|| vec![TokenType::Normal; known]);
    types.resize(rows, TokenType::Unused);
    let mut tokens = Strings::default();
    let mut seen = HashSet::new();
    for (id, token) in
        spec.tokens.iter().map(String::as_str).chain(std::iter::repeat("")).take(rows).enumerate()
    {
        let filler = format!("[PAD{id}]");
        let token = if token.is_empty() { &filler } else { token };
        if !seen.insert(token.to_owned()) {
            let what = format!("token {id}, {token:?}, is there twice; llama.cpp refuses that");
            return Err(error("tokenizer.json", what).into());
        }
        tokens.push(token.as_bytes());
    }
    if known < rows {
        report
            .notes
            .push(format!("the vocabulary of {known} tokens is padded to the embedding's {rows} rows"));
    }
    let pre = match &spec.kind {
        TokenizerKind::Bpe { pre, .. } => Some(*pre),
        TokenizerKind::SentencePiece { .. } => None,
    };
    put("tokenizer.ggml.model", if pre.is_some() { "gpt2" } else { "llama" }.into());
    put("tokenizer.ggml.pre", pre.map_or("default", PreTokenizer::name).into());
    put("tokenizer.ggml.tokens", Array::String(tokens).into());
    if let TokenizerKind::SentencePiece { scores } = &spec.kind {
        put("tokenizer.ggml.scores", Array::F32(finite_scores(scores, &types)).into());
    }
    put("tokenizer.ggml.token_type", Array::I32(types.iter().map(|kind| kind.code()).collect()).into());
    if let TokenizerKind::Bpe { merges, compose, ignore_merges, pre } = &spec.kind {
        put("tokenizer.ggml.merges", Array::String(merges.iter().collect()).into());
        let usual = TokenizerKind::bpe(*pre, Vec::new());
        if !matches!(usual, TokenizerKind::Bpe { compose: c, ignore_merges: i, .. } if (c, i) == (*compose, *ignore_merges))
        {
            report.notes.push(format!(
                "tokenizer.json differs from what GGUF's pre-tokenizer {:?} stands for in how it normalizes text \
                 or takes whole words; rare texts may become other tokens",
                pre.name()
            ));
        }
    }
    let special = &spec.special;
    for (name, id) in [
        ("bos", special.bos),
        ("eos", special.eos),
        ("unknown", special.unk),
        ("padding", special.pad),
        ("eot", special.eot),
        ("eom", special.eom),
    ] {
        if let Some(id) = id {
            put(&format!("tokenizer.ggml.{name}_token_id"), Value::U32(id));
        }
    }
    let stated = json("tokenizer_config.json")?;
    // Llama's tokenizers add bos unless a file says otherwise.
    let by_default = matches!(pre, None | Some(PreTokenizer::Llama3));
    if spec.add_bos || by_default || stated["add_bos_token"].is_boolean() {
        put("tokenizer.ggml.add_bos_token", Value::Bool(spec.add_bos));
    }
    if separates_pairs(&json("tokenizer.json")?) {
        put("tokenizer.ggml.add_sep_token", Value::Bool(false));
    }
    if spec.add_eos || stated["add_eos_token"].is_boolean() {
        put("tokenizer.ggml.add_eos_token", Value::Bool(spec.add_eos));
    }
    if pre.is_none() && spec.space_prefix == SpacePrefix::Never {
        put("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    }
    if pre.is_none() && spec.space_prefix == SpacePrefix::First {
        report.notes.push(
            "tokenizer.json puts a space only before the first piece of text; GGUF knows only before each: text \
             behind special tokens may become other tokens"
                .to_owned(),
        );
    }
    if let Some(template) = chat_template::source::from_hugging_face(path)? {
        put("tokenizer.chat_template", template.as_str().into());
    }
    Ok(())
}

/// Scores without infinities: GGUF's convention for tokens that no merge makes.
fn finite_scores(scores: &[f32], types: &[TokenType]) -> Vec<f32> {
    let lowest = scores.iter().copied().filter(|score| score.is_finite()).fold(0.0, f32::min);
    let score = |(i, kind): (usize, &TokenType)| match scores.get(i) {
        Some(score) if score.is_finite() => *score,
        _ if *kind == TokenType::Unused => UNUSED_SCORE,
        _ if *kind == TokenType::Normal => lowest - ADDED_SCORE.abs(),
        _ => ADDED_SCORE,
    };
    types.iter().enumerate().map(score).collect()
}

/// Whether the post-processor puts a special token between two texts; llama.cpp's converter then says that it is not a
/// separator that prompts need.
fn separates_pairs(tokenizer: &Json) -> bool {
    let processor = &tokenizer["post_processor"];
    let several = processor["processors"].as_array().cloned().unwrap_or_else(|| vec![processor.clone()]);
    several.iter().filter(|one| one["type"] == "TemplateProcessing").any(|one| {
        let pair = one["pair"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_sequence = |part: &&Json| part["Sequence"].is_object();
        let first = pair.iter().position(|part| is_sequence(&part));
        let second = pair.iter().rposition(|part| is_sequence(&part));
        matches!((first, second), (Some(a), Some(b)) if b > a + 1)
    })
}
