//! What can be wrong with a vocabulary.

/// A vocabulary that no tokenizer can be built from. Each message names the key as GGUF spells it, or the file of a
/// Hugging Face folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file names a kind of tokenizer that is not known.
    #[error(
        "tokenizer.ggml.model: `{name}` is not supported; known are `gpt2` (byte-level BPE) and `llama` (SentencePiece)"
    )]
    Model {
        /// The name in the file.
        name: String,
    },
    /// The file names a pre-tokenizer that is not known.
    #[error("tokenizer.ggml.pre: `{name}` is not supported; known are {known}")]
    PreTokenizer {
        /// The name in the file.
        name: String,
        /// The names that are known.
        known: String,
    },
    /// A key that has no default is not there.
    #[error("{key}: missing; {what}")]
    Missing {
        /// The key.
        key: &'static str,
        /// What it is needed for.
        what: &'static str,
    },
    /// Two lists that describe the same tokens differ in length.
    #[error("{key}: {found} entries, but there are {expected} tokens")]
    Length {
        /// The key.
        key: &'static str,
        /// The number of tokens.
        expected: usize,
        /// The number of entries.
        found: usize,
    },
    /// The same text stands for two ids.
    #[error("tokenizer.ggml.tokens: {token:?} is there twice, as ids {first} and {second}")]
    Duplicate {
        /// The text.
        token: String,
        /// The lower id.
        first: u32,
        /// The higher id.
        second: u32,
    },
    /// An id points past the end of the vocabulary.
    #[error("{key}: id {id} is out of range, there are {count} tokens")]
    TokenId {
        /// The key.
        key: &'static str,
        /// The id.
        id: u32,
        /// The number of tokens.
        count: usize,
    },
    /// A merge that cannot be carried out.
    #[error("tokenizer.ggml.merges: merge {rank} {merge:?}: {what}")]
    Merge {
        /// Position in the list, from 0.
        rank: usize,
        /// The merge as the file has it.
        merge: String,
        /// What is wrong with it.
        what: String,
    },
    /// Some bytes could not be encoded.
    #[error(
        "tokenizer.ggml.tokens: no token stands for byte 0x{byte:02X} and there is no unknown token; text with it could not be encoded"
    )]
    Byte {
        /// The first byte without a token.
        byte: u8,
    },
    /// A score that orders nothing.
    #[error("tokenizer.ggml.scores: the score of token {id} is not a number")]
    Score {
        /// The token.
        id: u32,
    },
    /// The file itself cannot be read.
    #[error(transparent)]
    File(#[from] crate::format::Error),
    /// Anything else about one key.
    #[error("{key}: {what}")]
    Key {
        /// The key, or file and key.
        key: String,
        /// Expected, found, what to do.
        what: String,
    },
}

impl Error {
    pub(super) fn key(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Key { key: key.into(), what: what.into() }
    }
}
