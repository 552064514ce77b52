//! A vocabulary as data, independent of the format that it came from.

use super::{Error, PreTokenizer};

/// Everything that a [`super::Tokenizer`] is built from.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizerSpec {
    /// How text becomes tokens.
    pub kind: TokenizerKind,
    /// The text of each token by id, as the file spells it (byte-level letters, or `▁` for a space). An empty text
    /// is an id without a token.
    pub tokens: Vec<String>,
    /// What each token is; without it, told from the text and from `special`.
    pub token_types: Option<Vec<TokenType>>,
    /// Tokens with a role.
    pub special: SpecialIds,
    /// More tokens that end a generation (`generation_config.json` may list several).
    pub end_of_generation: Vec<u32>,
    /// Begin with the bos token when special tokens are asked for.
    pub add_bos: bool,
    /// End with the eos token when special tokens are asked for.
    pub add_eos: bool,
    /// Where SentencePiece puts a space before text.
    pub space_prefix: SpacePrefix,
    /// Defaults that were taken because the file is silent, in words.
    pub notes: Vec<String>,
}

/// How text becomes tokens.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizerKind {
    /// Byte-level byte-pair encoding (GPT-2, Qwen, Llama 3).
    Bpe {
        /// How text is cut into words.
        pre: PreTokenizer,
        /// Text is brought to Unicode's composed form (NFC) first.
        compose: bool,
        /// A word that is a token is taken whole, without merging.
        ignore_merges: bool,
        /// Pairs `left right`, the first to be merged first.
        merges: Vec<String>,
    },
    /// SentencePiece BPE with byte fallback (Llama 2, Mistral, TinyLlama).
    SentencePiece {
        /// One score per token; the pair whose token scores highest is merged first.
        scores: Vec<f32>,
    },
}

impl TokenizerKind {
    /// Byte-level BPE as the models with this pre-tokenizer have it.
    pub fn bpe(pre: PreTokenizer, merges: Vec<String>) -> Self {
        Self::Bpe { pre, compose: pre.composes(), ignore_merges: pre.ignores_merges(), merges }
    }
}

/// What a token is, numbered as in `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenType {
    /// A piece of text.
    Normal,
    /// Stands for what has no token.
    Unknown,
    /// Steers the model and is no text, such as `<|im_end|>`.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Never written by the tokenizer.
    Unused,
    /// One byte, `<0x0A>`.
    Byte,
}

impl TokenType {
    /// The type with this number in `tokenizer.ggml.token_type`.
    pub fn from_code(code: i64) -> Option<Self> {
        Some(match code {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }

    /// The number in `tokenizer.ggml.token_type`.
    pub fn code(self) -> i32 {
        match self {
            Self::Normal => 1,
            Self::Unknown => 2,
            Self::Control => 3,
            Self::UserDefined => 4,
            Self::Unused => 5,
            Self::Byte => 6,
        }
    }
}

/// Tokens with a role; each may be absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpecialIds {
    /// Begin of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// Unknown.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// End of message (Llama 3.1: the tool is to answer).
    pub eom: Option<u32>,
}

impl SpecialIds {
    /// Each role with its key in a GGUF file.
    pub(super) fn by_key(&self) -> [(&'static str, Option<u32>); 6] {
        [
            ("tokenizer.ggml.bos_token_id", self.bos),
            ("tokenizer.ggml.eos_token_id", self.eos),
            ("tokenizer.ggml.unknown_token_id", self.unk),
            ("tokenizer.ggml.padding_token_id", self.pad),
            ("tokenizer.ggml.eot_token_id", self.eot),
            ("tokenizer.ggml.eom_token_id", self.eom),
        ]
    }
}

/// Where SentencePiece puts a space before text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpacePrefix {
    /// Nowhere.
    Never,
    /// Only at the very start.
    First,
    /// At the start and after every special token.
    AfterSpecial,
}

/// The tokenizer keys of a GGUF or APR file, unchecked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VocabularyFields {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: Option<String>,
    /// `tokenizer.ggml.pre`.
    pub pre: Option<String>,
    /// `tokenizer.ggml.tokens`.
    pub tokens: Option<Vec<String>>,
    /// `tokenizer.ggml.merges`.
    pub merges: Option<Vec<String>>,
    /// `tokenizer.ggml.scores`.
    pub scores: Option<Vec<f32>>,
    /// `tokenizer.ggml.token_type`, as numbers.
    pub token_types: Option<Vec<i64>>,
    /// The `_token_id` keys.
    pub special: SpecialIds,
    /// `tokenizer.ggml.add_bos_token`.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub add_space_prefix: Option<bool>,
}

impl TryFrom<VocabularyFields> for TokenizerSpec {
    type Error = Error;

    /// Checks kinds and fills in what the file leaves out, with llama.cpp's defaults; each one is noted.
    fn try_from(fields: VocabularyFields) -> Result<Self, Error> {
        let mut notes = Vec::new();
        let tokens = fields
            .tokens
            .ok_or(Error::Missing { key: "tokenizer.ggml.tokens", what: "the file has no vocabulary" })?;
        let token_types = match fields.token_types {
            None => {
                notes.push(
                    "tokenizer.ggml.token_type is missing; special tokens are told by their text".to_owned(),
                );
                None
            }
            Some(codes) => Some(codes.iter().enumerate().map(type_at).collect::<Result<Vec<_>, _>>()?),
        };
        let model = match fields.model {
            Some(model) => model,
            None if fields.merges.is_some() => {
                notes.push(
                    "tokenizer.ggml.model is missing; taken as gpt2, because there are merges".to_owned(),
                );
                "gpt2".to_owned()
            }
            None => {
                let what = "is it byte-level BPE (`gpt2`) or SentencePiece (`llama`)?";
                return Err(Error::Missing { key: "tokenizer.ggml.model", what });
            }
        };
        let kind = match model.as_str() {
            "gpt2" => {
                let pre = match fields.pre {
                    Some(name) => PreTokenizer::from_name(&name)?,
                    None => {
                        notes.push("tokenizer.ggml.pre is missing; taken as default".to_owned());
                        PreTokenizer::Default
                    }
                };
                let merges = fields.merges.ok_or(Error::Missing {
                    key: "tokenizer.ggml.merges",
                    what: "byte-level BPE needs them",
                })?;
                TokenizerKind::bpe(pre, merges)
            }
            "llama" => TokenizerKind::SentencePiece {
                scores: fields.scores.ok_or(Error::Missing {
                    key: "tokenizer.ggml.scores",
                    what: "SentencePiece needs them; convert the model again from its tokenizer.model",
                })?,
            },
            _ => return Err(Error::Model { name: model }),
        };
        let sentencepiece = matches!(kind, TokenizerKind::SentencePiece { .. });
        let llama3 = matches!(kind, TokenizerKind::Bpe { pre: PreTokenizer::Llama3, .. });
        let mut special = fields.special;
        if sentencepiece {
            let id = |text: &str| {
                tokens.iter().position(|token| token == text).and_then(|id| u32::try_from(id).ok())
            };
            for (slot, key, text) in [
                (&mut special.bos, "bos", "<s>"),
                (&mut special.eos, "eos", "</s>"),
                (&mut special.unk, "unknown", "<unk>"),
            ] {
                if let (None, Some(id)) = (&slot, id(text)) {
                    *slot = Some(id);
                    notes.push(format!("tokenizer.ggml.{key}_token_id is missing: {id}, {text}"));
                }
            }
        }
        let add_bos = fields.add_bos.unwrap_or_else(|| {
            let default = (sentencepiece || llama3) && special.bos.is_some();
            notes.push(format!("tokenizer.ggml.add_bos_token is missing; taken as {default}"));
            default
        });
        let space_prefix = match fields.add_space_prefix {
            _ if !sentencepiece => SpacePrefix::Never,
            Some(false) => SpacePrefix::Never,
            Some(true) | None => SpacePrefix::AfterSpecial,
        };
        Ok(Self {
            kind,
            tokens,
            token_types,
            special,
            end_of_generation: Vec::new(),
            add_bos,
            add_eos: fields.add_eos.unwrap_or(false),
            space_prefix,
            notes,
        })
    }
}

fn type_at((id, &code): (usize, &i64)) -> Result<TokenType, Error> {
    TokenType::from_code(code).ok_or_else(|| {
        Error::key("tokenizer.ggml.token_type", format!("token {id} has type {code}; types are 1 to 6"))
    })
}
