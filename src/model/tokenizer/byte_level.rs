//! Byte-level byte-pair encoding: each byte is written as one letter, so that every text has tokens.
//!
//! The letters are GPT-2's: a printable byte of Latin-1 stands for itself, the 68 others for U+0100 and up, in order.
//! Merging is the `tokenizers` crate's; it answers a bad merge list with an error that names no merge and drops a
//! letter without a token in silence, so both are checked here first.

use std::collections::{HashMap, HashSet};

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::tokenizer::normalizer::NormalizedString;

use super::pre_tokenizer::Splitter;
use super::{Error, PreTokenizer};

/// The letter of each byte.
pub(super) fn letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut next = 0x100;
    for (byte, letter) in (0u8..=255).zip(letters.iter_mut()) {
        *letter = if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            char::from(byte)
        } else {
            let code = next;
            next += 1;
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
        };
    }
    letters
}

/// The bytes that a token's letters stand for; a token with any other letter stands for its own text.
pub(super) fn decode_letters(token: &str, bytes: &HashMap<char, u8>, out: &mut Vec<u8>) {
    let start = out.len();
    for letter in token.chars() {
        match bytes.get(&letter) {
            Some(&byte) => out.push(byte),
            None => {
                out.truncate(start);
                out.extend_from_slice(token.as_bytes());
                return;
            }
        }
    }
}

/// Text to ids.
pub(super) struct ByteLevelBpe {
    compose: bool,
    splitter: Splitter,
    letters: [char; 256],
    byte_ids: Vec<Option<u32>>,
    bpe: BPE,
}

impl ByteLevelBpe {
    /// `vocabulary` holds what plain text may become: no control tokens.
    pub(super) fn new(
        pre: PreTokenizer,
        (compose, ignore_merges): (bool, bool),
        vocabulary: Vocab,
        merges: &[String],
        unk: Option<&str>,
    ) -> Result<Self, Error> {
        let letters = letters();
        let byte_ids: Vec<_> =
            letters.iter().map(|letter| vocabulary.get(letter.encode_utf8(&mut [0; 4])).copied()).collect();
        if unk.is_none() {
            for (byte, id) in (0u8..=255).zip(&byte_ids) {
                if id.is_none() {
                    return Err(Error::Byte { byte });
                }
            }
        }
        let merges = check_merges(merges, &vocabulary)?;
        let mut builder = BPE::builder().vocab_and_merges(vocabulary, merges).ignore_merges(ignore_merges);
        if let Some(unk) = unk {
            builder = builder.unk_token(unk.to_owned());
        }
        let bpe = builder.build().map_err(|error| Error::key("tokenizer.ggml.merges", error.to_string()))?;
        Ok(Self { compose, splitter: Splitter::new(pre)?, letters, byte_ids, bpe })
    }

    /// Appends the ids of a text without special tokens.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let composed;
        let text = if self.compose && !text.is_ascii() {
            let mut normalized = NormalizedString::from(text);
            normalized.nfc();
            composed = normalized.get().to_owned();
            composed.as_str()
        } else {
            text
        };
        let mut letters = String::new();
        for word in self.splitter.split(text) {
            let bytes = text.as_bytes().get(word).unwrap_or_default();
            letters.clear();
            letters.extend(bytes.iter().filter_map(|&byte| self.letters.get(usize::from(byte))));
            match self.bpe.tokenize(&letters) {
                Ok(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                Err(_) => ids.extend(
                    bytes.iter().filter_map(|&byte| self.byte_ids.get(usize::from(byte)).copied().flatten()),
                ),
            }
        }
    }
}

/// Splits each merge at its space and makes sure that its parts and its result are tokens. A merge is longer than its
/// parts, so merging always ends; only an empty part could make it go round in circles. Of two equal merges the first
/// counts.
fn check_merges(merges: &[String], vocabulary: &Vocab) -> Result<Vec<(String, String)>, Error> {
    let mut seen = HashSet::with_capacity(merges.len());
    let mut pairs = Vec::with_capacity(merges.len());
    let mut joined = String::new();
    for (rank, merge) in merges.iter().enumerate() {
        let bad = |what: &str| Error::Merge { rank, merge: merge.clone(), what: what.to_owned() };
        let (left, right) = merge.split_once(' ').ok_or_else(|| bad("expected two parts and a space"))?;
        if left.is_empty() || right.is_empty() {
            return Err(bad("a part is empty, so the merge would make itself again without end"));
        }
        if right.contains(' ') {
            return Err(bad("expected one space"));
        }
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        let id = |name: &str, token: &str| {
            let what = || bad(&format!("the {name} {token:?} is not a token that text may become"));
            vocabulary.get(token).copied().ok_or_else(what)
        };
        let pair = (id("left part", left)?, id("right part", right)?);
        id("result", &joined)?;
        if seen.insert(pair) {
            pairs.push((left.to_owned(), right.to_owned()));
        }
    }
    Ok(pairs)
}
