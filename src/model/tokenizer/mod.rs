//! Text to token ids and back, from the vocabulary in the model's file alone.
//!
//! ```text
//! GGUF, APR ──> VocabularyFields ──┐
//! Hugging Face folder ─────────────┴─> TokenizerSpec ──> Tokenizer
//! ```
//!
//! Encoding cuts the text at special tokens (`special`); what lies between goes through one of two models: byte-level
//! BPE (`byte_level`, with its `pre_tokenizer`) or SentencePiece (`sentencepiece`). Nothing here needs weights: a
//! GGUF file with a vocabulary alone will do.

mod byte_level;
mod error;
mod from_file;
mod hugging_face;
mod pre_tokenizer;
mod sentencepiece;
mod sentencepiece_model;
mod spec;
mod special;
mod stream;
mod to_hugging_face;
mod tokenizer_json;

use std::collections::HashMap;

pub use error::Error;
pub use pre_tokenizer::PreTokenizer;
pub use spec::{SpacePrefix, SpecialIds, TokenType, TokenizerKind, TokenizerSpec, VocabularyFields};
pub use stream::StreamDecoder;

use byte_level::ByteLevelBpe;
use sentencepiece::SentencePiece;
use special::{Segment, SpecialTokens};
use tokenizers::models::bpe::Vocab;

/// Texts of tokens that end a generation when they are special tokens, whatever the file calls them.
const END_OF_GENERATION: [&str; 12] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "<end_of_turn>",
    "<|end_of_turn|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<eos>",
    "<EOT>",
];

/// A model's tokenizer. Cheap to use from several threads at once.
pub struct Tokenizer {
    model: Model,
    special_tokens: SpecialTokens,
    /// Text of each token as the file has it, to its id.
    ids: Vocab,
    /// What each token decodes to, one after the other.
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
    types: Vec<TokenType>,
    ends_generation: Vec<bool>,
    special: SpecialIds,
    add_bos: bool,
    add_eos: bool,
    space_prefix: SpacePrefix,
    notes: Vec<String>,
}

enum Model {
    Bpe(Box<ByteLevelBpe>),
    SentencePiece(SentencePiece),
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match self.model {
            Model::Bpe(_) => "bpe",
            Model::SentencePiece(_) => "sentencepiece",
        };
        f.debug_struct("Tokenizer")
            .field("kind", &kind)
            .field("tokens", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

impl Tokenizer {
    /// Checks a vocabulary and builds its tokenizer.
    ///
    /// # Errors
    /// No tokens, equal tokens, lists of different lengths, ids out of range, merges that name no tokens, scores that
    /// are not numbers, bytes that could not be encoded.
    pub fn new(spec: TokenizerSpec) -> Result<Self, Error> {
        let ids = index(&spec.tokens)?;
        let count = spec.tokens.len();
        for (key, id) in spec.special.by_key() {
            check_id(key, id, count)?;
        }
        for &id in &spec.end_of_generation {
            check_id("generation_config.json: eos_token_id", Some(id), count)?;
        }
        for (key, asked, id) in [
            ("tokenizer.ggml.bos_token_id", spec.add_bos, spec.special.bos),
            ("tokenizer.ggml.eos_token_id", spec.add_eos, spec.special.eos),
        ] {
            if asked && id.is_none() {
                return Err(Error::Missing { key, what: "the file asks to add this token to every text" });
            }
        }
        let types = match &spec.token_types {
            Some(types) if types.len() == count => types.clone(),
            Some(types) => {
                let key = "tokenizer.ggml.token_type";
                return Err(Error::Length { key, expected: count, found: types.len() });
            }
            None => guess_types(&spec),
        };
        let mut special_texts = Vec::new();
        for ((id, token), kind) in (0u32..).zip(&spec.tokens).zip(&types) {
            let user_defined = *kind == TokenType::UserDefined;
            if !token.is_empty() && (user_defined || matches!(kind, TokenType::Control | TokenType::Unknown))
            {
                special_texts.push((token.as_str(), id, user_defined));
            }
        }
        let special_tokens = SpecialTokens::new(&special_texts)?;
        let model = build_model(&spec, &types)?;
        let (bytes, ends) = decoded(&spec, &types);
        let mut ends_generation = vec![false; count];
        let by_text = special_texts.iter().filter(|(text, ..)| END_OF_GENERATION.contains(text));
        let by_role = [spec.special.eos, spec.special.eot, spec.special.eom].into_iter().flatten();
        for id in by_text.map(|&(_, id, _)| id).chain(by_role).chain(spec.end_of_generation.iter().copied()) {
            if let Some(ends) = ends_generation.get_mut(id as usize) {
                *ends = true;
            }
        }
        Ok(Self {
            model,
            special_tokens,
            ids,
            bytes,
            ends,
            types,
            ends_generation,
            special: spec.special,
            add_bos: spec.add_bos,
            add_eos: spec.add_eos,
            space_prefix: spec.space_prefix,
            notes: spec.notes,
        })
    }

    /// The ids of a text. `add_special` adds the bos and eos tokens that the model wants; `parse_special` reads control
    /// tokens written out in the text, such as `<|im_end|>` (say no for text that is not trusted). Takes time linear
    /// in the text but for a logarithm.
    pub fn encode(&self, text: &str, add_special: bool, parse_special: bool) -> Vec<u32> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        if add_special && self.add_bos {
            ids.extend(self.special.bos);
        }
        let mut prefix = self.space_prefix != SpacePrefix::Never;
        for segment in self.special_tokens.split(text, parse_special) {
            match segment {
                Segment::Token(id) => {
                    ids.push(id);
                    prefix = self.space_prefix == SpacePrefix::AfterSpecial;
                }
                Segment::Text(range) => {
                    let text = text.get(range).unwrap_or_default();
                    match &self.model {
                        Model::Bpe(bpe) => bpe.encode(text, &mut ids),
                        Model::SentencePiece(sentencepiece) => sentencepiece.encode(text, prefix, &mut ids),
                    }
                    prefix = false;
                }
            }
        }
        if add_special && self.add_eos {
            ids.extend(self.special.eos);
        }
        ids
    }

    /// The text of a sequence, control tokens written out. Bytes that are not UTF-8 become U+FFFD, as does an id
    /// without a token. SentencePiece's one leading space is taken off.
    pub fn decode(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, true)).into_owned()
    }

    /// As [`Tokenizer::decode`], control tokens left out.
    pub fn decode_skip_special(&self, ids: &[u32]) -> String {
        String::from_utf8_lossy(&self.decode_bytes(ids, false)).into_owned()
    }

    /// The bytes of a sequence; `special` says whether control tokens are written out.
    pub fn decode_bytes(&self, ids: &[u32], special: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        let mut at_start = true;
        for &id in ids {
            self.append_bytes(id, special, &mut at_start, &mut bytes);
        }
        bytes
    }

    /// What a token stands for, control tokens included: `None` if there is no such token.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let index = id as usize;
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.bytes.get(start..end)
    }

    /// The id of a token, spelled as the file has it (`Ġthe`, `▁the`, `<|im_end|>`).
    pub fn id(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Steers the model and is no text.
    pub fn is_control(&self, id: u32) -> bool {
        self.token_type(id) == Some(TokenType::Control)
    }

    /// What a token is; `None` if there is no such token.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    /// Generation ends with this token: end of sequence, of turn or of message, by the file's keys or by its text.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.ends_generation.get(id as usize).copied().unwrap_or(false)
    }

    /// The tokens that end a generation, in order.
    pub fn end_of_generation(&self) -> Vec<u32> {
        (0u32..).zip(&self.ends_generation).filter(|&(_, ends)| *ends).map(|(id, _)| id).collect()
    }

    /// The number of tokens; the model's embedding may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.ends.len()
    }

    /// Tokens with a role.
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// The text of the bos token, which chat templates ask for.
    pub fn bos_text(&self) -> Option<&str> {
        self.text_of(self.special.bos)
    }

    /// The text of the eos token, which chat templates ask for.
    pub fn eos_text(&self) -> Option<&str> {
        self.text_of(self.special.eos)
    }

    /// Every text with special tokens begins with the bos token.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Every text with special tokens ends with the eos token.
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// Defaults that were taken because the file is silent, in words.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn text_of(&self, id: Option<u32>) -> Option<&str> {
        std::str::from_utf8(self.token_bytes(id?)?).ok()
    }

    /// Appends a token's bytes; `at_start` becomes false with the first token that is written.
    fn append_bytes(&self, id: u32, special: bool, at_start: &mut bool, out: &mut Vec<u8>) {
        let hidden = matches!(self.token_type(id), Some(TokenType::Control | TokenType::Unknown));
        if hidden && !special {
            return;
        }
        let bytes = self.token_bytes(id).unwrap_or("\u{FFFD}".as_bytes());
        let strip = *at_start && self.space_prefix != SpacePrefix::Never;
        *at_start = false;
        out.extend_from_slice(if strip { bytes.strip_prefix(b" ").unwrap_or(bytes) } else { bytes });
    }
}

/// Ids by text; empty texts are ids without a token.
fn index(tokens: &[String]) -> Result<Vocab, Error> {
    if tokens.is_empty() {
        return Err(Error::Missing { key: "tokenizer.ggml.tokens", what: "the vocabulary is empty" });
    }
    if u32::try_from(tokens.len()).is_err() {
        return Err(Error::key("tokenizer.ggml.tokens", "more tokens than ids of 32 bits"));
    }
    let mut ids = Vocab::with_capacity(tokens.len());
    for (second, token) in (0u32..).zip(tokens) {
        if token.is_empty() {
            continue;
        }
        if let Some(first) = ids.insert(token.clone(), second) {
            return Err(Error::Duplicate { token: token.clone(), first, second });
        }
    }
    Ok(ids)
}

fn check_id(key: &'static str, id: Option<u32>, count: usize) -> Result<(), Error> {
    match id {
        Some(id) if id as usize >= count => Err(Error::TokenId { key, id, count }),
        _ => Ok(()),
    }
}

/// Types of a vocabulary that has none: `<|…|>` and the tokens with a role steer the model, `<0x0A>` is a byte in a
/// SentencePiece vocabulary.
fn guess_types(spec: &TokenizerSpec) -> Vec<TokenType> {
    let sentencepiece = matches!(spec.kind, TokenizerKind::SentencePiece { .. });
    let special = &spec.special;
    let control = [special.bos, special.eos, special.pad, special.eot, special.eom];
    let guess = |(id, token): (u32, &String)| {
        if token.is_empty() {
            TokenType::Unused
        } else if special.unk == Some(id) || (sentencepiece && token == "<unk>") {
            TokenType::Unknown
        } else if control.contains(&Some(id))
            || (token.starts_with("<|") && token.ends_with("|>") && token.len() > 4)
            || (sentencepiece && (token == "<s>" || token == "</s>"))
        {
            TokenType::Control
        } else if sentencepiece && byte_of(token).is_some() {
            TokenType::Byte
        } else {
            TokenType::Normal
        }
    };
    (0u32..).zip(&spec.tokens).map(guess).collect()
}

/// The byte that a token like `<0x0A>` stands for.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn build_model(spec: &TokenizerSpec, types: &[TokenType]) -> Result<Model, Error> {
    let tokens = (0u32..).zip(&spec.tokens).zip(types).filter(|((_, token), _)| !token.is_empty());
    match &spec.kind {
        TokenizerKind::Bpe { pre, compose, ignore_merges, merges } => {
            let unk = spec.special.unk.and_then(|id| spec.tokens.get(id as usize));
            let vocabulary = tokens
                .filter(|((id, _), kind)| **kind != TokenType::Control || spec.special.unk == Some(*id))
                .map(|((id, token), _)| (token.clone(), id))
                .collect();
            let flags = (*compose, *ignore_merges);
            Ok(Model::Bpe(Box::new(ByteLevelBpe::new(
                *pre,
                flags,
                vocabulary,
                merges,
                unk.map(String::as_str),
            )?)))
        }
        TokenizerKind::SentencePiece { scores } => {
            let (key, expected, found) = ("tokenizer.ggml.scores", spec.tokens.len(), scores.len());
            if expected != found {
                return Err(Error::Length { key, expected, found });
            }
            let mut byte_ids = vec![None; 256];
            let mut vocabulary = HashMap::new();
            for (((id, token), kind), &score) in tokens.zip(scores) {
                if score.is_nan() {
                    return Err(Error::Score { id });
                }
                match kind {
                    TokenType::Byte => {
                        let byte = byte_of(token).ok_or_else(|| {
                            let what =
                                format!("token {id} {token:?} has type 6, a byte, but is not like <0x0A>");
                            Error::key("tokenizer.ggml.token_type", what)
                        })?;
                        if let Some(slot) = byte_ids.get_mut(usize::from(byte)) {
                            *slot = Some(id);
                        }
                    }
                    TokenType::Control | TokenType::Unknown => {}
                    TokenType::Normal | TokenType::UserDefined | TokenType::Unused => {
                        vocabulary.insert(token.clone(), (id, score));
                    }
                }
            }
            let missing = (0u8..=255).zip(&byte_ids).find(|(_, id)| id.is_none());
            if let (Some((byte, _)), None) = (missing, spec.special.unk) {
                return Err(Error::Byte { byte });
            }
            Ok(Model::SentencePiece(SentencePiece::new(vocabulary, byte_ids, spec.special.unk)))
        }
    }
}

/// What each token decodes to, and where its bytes end.
fn decoded(spec: &TokenizerSpec, types: &[TokenType]) -> (Vec<u8>, Vec<usize>) {
    let letters: HashMap<char, u8> = byte_level::letters().into_iter().zip(0u8..=255).collect();
    let mut bytes = Vec::new();
    let mut ends = Vec::with_capacity(spec.tokens.len());
    for (token, kind) in spec.tokens.iter().zip(types) {
        match (&spec.kind, kind) {
            (_, TokenType::Control | TokenType::Unknown | TokenType::UserDefined) => {
                bytes.extend_from_slice(token.as_bytes());
            }
            (TokenizerKind::Bpe { .. }, _) => byte_level::decode_letters(token, &letters, &mut bytes),
            (TokenizerKind::SentencePiece { .. }, TokenType::Byte) => bytes.extend(byte_of(token)),
            (TokenizerKind::SentencePiece { .. }, _) => {
                bytes.extend_from_slice(token.replace('▁', " ").as_bytes());
            }
        }
        ends.push(bytes.len());
    }
    (bytes, ends)
}
