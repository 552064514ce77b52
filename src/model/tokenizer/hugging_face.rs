//! Vocabularies from a Hugging Face folder: `tokenizer.json`, `tokenizer.model`, `tokenizer_config.json`,
//! `generation_config.json`.
//!
//! `tokenizer.json` can describe more than the two kinds of tokenizer that exist here. What it says is recognised piece
//! by piece, and what is not known is an error that quotes it. Where the folder of a SentencePiece model has
//! `tokenizer.model` too, tokens and scores come from there: it is the original, and Hugging Face's copy treats leading
//! spaces in another way.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use crate::format;

use super::sentencepiece_model::SentencePieceModel;
use super::tokenizer_json::{AddedToken, OnlyKind, TokenizerJson};
use super::{Error, PreTokenizer, SpacePrefix, SpecialIds, TokenType, TokenizerKind, TokenizerSpec, byte_of};

const FILE: &str = "tokenizer.json";

impl TokenizerSpec {
    /// From a Hugging Face folder; it need not have weights.
    ///
    /// # Errors
    /// Files that cannot be read, are no JSON or describe another kind of tokenizer.
    pub fn from_hugging_face(folder: &Path) -> Result<Self, Error> {
        let text = |name: &str| match read(&folder.join(name))? {
            None => Ok(None),
            Some(bytes) => String::from_utf8(bytes).map(Some).map_err(|_| Error::key(name, "is not UTF-8")),
        };
        let json = |name: &str| match text(name)? {
            None => Ok(Value::Null),
            Some(text) => serde_json::from_str(&text).map_err(|error| Error::key(name, error.to_string())),
        };
        let config = json("tokenizer_config.json")?;
        let original = read(&folder.join("tokenizer.model"))?;
        let mut spec = match text(FILE)? {
            Some(text) => from_json(&text, original.as_deref(), &config)?,
            None => match original {
                Some(original) => {
                    let added = added_by_config(&config, &json("added_tokens.json")?)?;
                    from_sentencepiece_model(&original, &added, &config)?
                }
                None => {
                    let what =
                        format!("neither {FILE} nor tokenizer.model is in the folder; one of them is needed");
                    return Err(Error::key(folder.display().to_string(), what));
                }
            },
        };
        let ends = json("generation_config.json")?;
        let ends = match &ends["eos_token_id"] {
            Value::Array(ids) => ids.clone(),
            Value::Null => Vec::new(),
            id => vec![id.clone()],
        };
        for id in &ends {
            match id.as_u64().and_then(|id| u32::try_from(id).ok()) {
                Some(id) if (id as usize) < spec.tokens.len() => spec.end_of_generation.push(id),
                _ => spec
                    .notes
                    .push(format!("generation_config.json: eos_token_id {id} is no token and is left out")),
            }
        }
        Ok(spec)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(format::Error::Io { path: path.to_owned(), source }.into()),
    }
}

fn from_json(text: &str, original: Option<&[u8]>, config: &Value) -> Result<TokenizerSpec, Error> {
    let bad = |error: serde_json::Error| Error::key(FILE, error.to_string());
    let kind = serde_json::from_str::<OnlyKind>(text).map_err(bad)?.model.name;
    if let Some(other) = kind.filter(|kind| kind != "BPE") {
        return Err(Error::key(FILE, format!("model.type {other} is not supported; only BPE is")));
    }
    let file: TokenizerJson = serde_json::from_str(text).map_err(bad)?;
    let affixes = [&file.model.continuing_subword_prefix, &file.model.end_of_word_suffix];
    if affixes.into_iter().flatten().any(|affix| !affix.is_empty()) {
        let what = "continuing_subword_prefix and end_of_word_suffix are not supported";
        return Err(Error::key(FILE, what));
    }
    let mut notes = Vec::new();
    for token in file.added_tokens.iter().filter(|token| token.lstrip || token.rstrip || token.single_word) {
        let content = &token.content;
        notes.push(format!("{FILE}: lstrip, rstrip and single_word of added token {content:?} are left out"));
    }
    let byte_level = parts(&file.pre_tokenizer).iter().any(|part| part["type"] == "ByteLevel");
    let mut spec = if byte_level {
        let pre = pre_tokenizer(&file.pre_tokenizer)?;
        let (tokens, token_types) = vocabulary(&file)?;
        let kind = TokenizerKind::Bpe {
            pre,
            compose: composes(&file.normalizer)?,
            ignore_merges: file.model.ignore_merges,
            merges: file.model.merges.into_iter().map(|merge| merge.0).collect(),
        };
        new_spec(kind, tokens, token_types, SpacePrefix::Never)
    } else if let Some(original) = original {
        from_sentencepiece_model(original, &file.added_tokens, config)?
    } else {
        let space_prefix = space_prefix(&file)?;
        let (tokens, token_types) = vocabulary(&file)?;
        let merges: Vec<String> = file.model.merges.into_iter().map(|merge| merge.0).collect();
        let scores = scores_of_merges(&tokens, &merges);
        new_spec(TokenizerKind::SentencePiece { scores }, tokens, token_types, space_prefix)
    };
    spec.special = special_ids(&spec, config, file.model.unk_token.as_deref());
    (spec.add_bos, spec.add_eos) = adds(&file.post_processor, config, &spec);
    spec.notes.extend(notes);
    Ok(spec)
}

fn from_sentencepiece_model(
    bytes: &[u8],
    added: &[AddedToken],
    config: &Value,
) -> Result<TokenizerSpec, Error> {
    let SentencePieceModel { mut tokens, mut scores, mut types, special, add_space_prefix } =
        SentencePieceModel::parse(bytes)?;
    let limit = id_limit(tokens.len() + added.len());
    for token in added {
        let kind = if token.special { TokenType::Control } else { TokenType::UserDefined };
        let index = place(token, &mut tokens, limit)?;
        scores.resize(tokens.len(), f32::NEG_INFINITY);
        types.resize(tokens.len(), TokenType::Unused);
        if let Some(slot) = types.get_mut(index) {
            // The model's own control, unknown and byte tokens are listed as added tokens too.
            if matches!(slot, TokenType::Normal | TokenType::Unused) {
                *slot = kind;
            }
        }
    }
    let space_prefix = if add_space_prefix { SpacePrefix::AfterSpecial } else { SpacePrefix::Never };
    let kind = TokenizerKind::SentencePiece { scores };
    let mut spec = new_spec(kind, tokens, types, space_prefix);
    spec.special = special;
    spec.special = special_ids(&spec, config, None);
    spec.add_bos = config["add_bos_token"].as_bool().unwrap_or(spec.special.bos.is_some());
    spec.add_eos = config["add_eos_token"].as_bool().unwrap_or(false);
    Ok(spec)
}

fn new_spec(
    kind: TokenizerKind,
    tokens: Vec<String>,
    types: Vec<TokenType>,
    space_prefix: SpacePrefix,
) -> TokenizerSpec {
    TokenizerSpec {
        kind,
        tokens,
        token_types: Some(types),
        special: SpecialIds::default(),
        end_of_generation: Vec::new(),
        add_bos: false,
        add_eos: false,
        space_prefix,
        notes: Vec::new(),
    }
}

/// One more than the highest id that a file with this many tokens may use. Ids may have holes, but no file of a few
/// bytes may ask for a vocabulary of billions.
fn id_limit(listed: usize) -> usize {
    listed.saturating_mul(2).saturating_add(1 << 16)
}

/// Puts an added token at its id, growing the vocabulary for it; the id as an index.
fn place(token: &AddedToken, tokens: &mut Vec<String>, limit: usize) -> Result<usize, Error> {
    let index = token.id as usize;
    if index >= limit {
        let what =
            format!("added token {:?} has id {}, far past the vocabulary's end", token.content, token.id);
        return Err(Error::key(FILE, what));
    }
    if index >= tokens.len() {
        tokens.resize(index + 1, String::new());
    }
    if let Some(slot) = tokens.get_mut(index) {
        if !slot.is_empty() && *slot != token.content {
            let what = format!("id {} is both {slot:?} and the added token {:?}", token.id, token.content);
            return Err(Error::key(FILE, what));
        }
        slot.clone_from(&token.content);
    }
    Ok(index)
}

/// Tokens by id with their types.
fn vocabulary(file: &TokenizerJson) -> Result<(Vec<String>, Vec<TokenType>), Error> {
    let pairs = &file.model.vocab.0;
    let limit = id_limit(pairs.len() + file.added_tokens.len());
    let count = pairs.iter().map(|&(_, id)| id as usize + 1).max().unwrap_or(0);
    if count > limit {
        return Err(Error::key(FILE, format!("{} tokens, but ids up to {}", pairs.len(), count - 1)));
    }
    let mut tokens = vec![String::new(); count];
    for (token, id) in pairs {
        if let Some(slot) = tokens.get_mut(*id as usize) {
            if !slot.is_empty() {
                return Err(Error::key(FILE, format!("id {id} is both {slot:?} and {token:?}")));
            }
            slot.clone_from(token);
        }
    }
    let mut types: Vec<TokenType> = tokens
        .iter()
        .map(|token| match token.as_str() {
            "" => TokenType::Unused,
            token if file.model.byte_fallback && byte_of(token).is_some() => TokenType::Byte,
            _ => TokenType::Normal,
        })
        .collect();
    for token in &file.added_tokens {
        let index = place(token, &mut tokens, limit)?;
        types.resize(tokens.len(), TokenType::Unused);
        let unknown = file.model.unk_token.as_ref() == Some(&token.content);
        if let Some(slot) = types.get_mut(index) {
            *slot = match (unknown, token.special) {
                (true, _) => TokenType::Unknown,
                (_, true) => TokenType::Control,
                (_, false) => TokenType::UserDefined,
            };
        }
    }
    Ok((tokens, types))
}

/// Added tokens when there is no `tokenizer.json`: `added_tokens_decoder`, or the older `added_tokens.json`.
fn added_by_config(config: &Value, older: &Value) -> Result<Vec<AddedToken>, Error> {
    let mut added = Vec::new();
    let number = |id: &str| id.parse::<u32>().ok();
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        let (Some(id), Some(content)) = (number(id), token["content"].as_str()) else {
            return Err(Error::key(
                "tokenizer_config.json",
                format!("added_tokens_decoder: {id:?} has no content"),
            ));
        };
        let special = token["special"].as_bool().unwrap_or(false);
        added.push((id, content.to_owned(), special));
    }
    if added.is_empty() {
        for (content, id) in older.as_object().into_iter().flatten() {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            let id = id.ok_or_else(|| Error::key("added_tokens.json", format!("{content:?} has no id")))?;
            added.push((id, content.clone(), content.starts_with('<') && content.ends_with('>')));
        }
    }
    added.sort();
    let token = |(id, content, special)| AddedToken {
        id,
        content,
        special,
        lstrip: false,
        rstrip: false,
        single_word: false,
    };
    Ok(added.into_iter().map(token).collect())
}

/// Scores that put tokens in the order in which merges make them. Hugging Face makes the merges of a SentencePiece
/// model by sorting its tokens by score, so this is the way back.
pub(super) fn scores_of_merges(tokens: &[String], merges: &[String]) -> Vec<f32> {
    let mut ranks: HashMap<String, usize> = HashMap::with_capacity(merges.len());
    for merge in merges {
        let next = ranks.len();
        ranks.entry(merge.replacen(' ', "", 1)).or_insert(next);
    }
    let score = |token: &String| ranks.get(token).map_or(f32::NEG_INFINITY, |&rank| -(rank as f32));
    tokens.iter().map(score).collect()
}

/// The parts of a `Sequence`, or the one thing itself.
fn parts(value: &Value) -> Vec<&Value> {
    for list in ["pretokenizers", "normalizers", "processors"] {
        if let Some(parts) = value[list].as_array() {
            return parts.iter().flat_map(parts_of).collect();
        }
    }
    if value.is_null() { Vec::new() } else { vec![value] }
}

fn parts_of(value: &Value) -> Vec<&Value> {
    if value["type"] == "Sequence" { parts(value) } else { vec![value] }
}

fn unknown(what: &str, value: &Value) -> Error {
    let mut text = value.to_string();
    if text.len() > 400 {
        text = text.chars().take(400).chain("...".chars()).collect();
    }
    Error::key(FILE, format!("{what} is not supported: {text}"))
}

fn pre_tokenizer(value: &Value) -> Result<PreTokenizer, Error> {
    let parts = parts(value);
    let byte_level = |part: &Value, use_regex: bool| {
        part["type"] == "ByteLevel"
            && !part["add_prefix_space"].as_bool().unwrap_or(true)
            && part["use_regex"].as_bool().unwrap_or(true) == use_regex
    };
    match parts.as_slice() {
        [only] if byte_level(only, true) => Ok(PreTokenizer::Gpt2),
        [digits, last]
            if digits["type"] == "Digits"
                && digits["individual_digits"] == true
                && byte_level(last, true) =>
        {
            Ok(PreTokenizer::SmolLm)
        }
        [split, last]
            if split["type"] == "Split"
                && split["behavior"] == "Isolated"
                && split["invert"] != true
                && byte_level(last, false) =>
        {
            let pattern = split["pattern"]["Regex"].as_str();
            pattern
                .and_then(PreTokenizer::from_pattern)
                .ok_or_else(|| unknown("the pre_tokenizer's pattern", split))
        }
        _ => Err(unknown("pre_tokenizer", value)),
    }
}

/// Whether text is composed before it is cut.
fn composes(normalizer: &Value) -> Result<bool, Error> {
    match parts(normalizer).as_slice() {
        [] => Ok(false),
        [nfc] if nfc["type"] == "NFC" => Ok(true),
        _ => Err(unknown("normalizer", normalizer)),
    }
}

/// Where a SentencePiece model's description puts a space.
fn space_prefix(file: &TokenizerJson) -> Result<SpacePrefix, Error> {
    let mut prefix = SpacePrefix::Never;
    for part in parts(&file.normalizer) {
        if part["type"] == "Prepend" && part["prepend"] == "▁" {
            prefix = SpacePrefix::AfterSpecial;
        } else if !(part["type"] == "Replace" && part["pattern"]["String"] == " " && part["content"] == "▁")
        {
            return Err(unknown("normalizer", &file.normalizer));
        }
    }
    for part in parts(&file.pre_tokenizer) {
        if part["type"] != "Metaspace" || part["replacement"] != "▁" || part["split"] != false {
            return Err(unknown("pre_tokenizer", &file.pre_tokenizer));
        }
        prefix = match part["prepend_scheme"].as_str() {
            Some("never") => SpacePrefix::Never,
            Some("first") => SpacePrefix::First,
            _ => SpacePrefix::AfterSpecial,
        };
    }
    Ok(prefix)
}

/// Ids of the tokens that `tokenizer_config.json` names, where the vocabulary has them.
fn special_ids(spec: &TokenizerSpec, config: &Value, unk: Option<&str>) -> SpecialIds {
    let id =
        |text: &str| spec.tokens.iter().position(|token| token == text).and_then(|id| u32::try_from(id).ok());
    let named = |key: &str| {
        let token = &config[key];
        token.as_str().or_else(|| token["content"].as_str()).and_then(id)
    };
    let own = spec.special;
    SpecialIds {
        bos: named("bos_token").or(own.bos),
        eos: named("eos_token").or(own.eos),
        unk: unk.and_then(id).or_else(|| named("unk_token")).or(own.unk),
        pad: named("pad_token").or(own.pad),
        eot: own.eot,
        eom: own.eom,
    }
}

/// Whether bos and eos are added: as the post-processor says, or else the configuration.
fn adds(post_processor: &Value, config: &Value, spec: &TokenizerSpec) -> (bool, bool) {
    let parts = parts(post_processor);
    let template = parts.iter().find(|part| part["type"] == "TemplateProcessing");
    let single = template.and_then(|template| template["single"].as_array());
    if let Some(single) = single {
        let text = |id: Option<u32>| id.and_then(|id| spec.tokens.get(id as usize)).map(String::as_str);
        let is = |part: Option<&Value>, token: Option<&str>| {
            let named = part.and_then(|part| part["SpecialToken"]["id"].as_str());
            named.is_some() && named == token
        };
        return (is(single.first(), text(spec.special.bos)), is(single.last(), text(spec.special.eos)));
    }
    let flag = |key: &str| config[key].as_bool().unwrap_or(false);
    (flag("add_bos_token") && spec.special.bos.is_some(), flag("add_eos_token") && spec.special.eos.is_some())
}
