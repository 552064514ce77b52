//! Reading `tokenizer.model`: SentencePiece's own file, a protocol buffer.
//!
//! ```text
//! ModelProto      1: SentencePiece, once per token   2: TrainerSpec   3: NormalizerSpec
//! SentencePiece   1: text   2: score (f32)   3: type, numbered as in GGUF (1 if left out)
//! TrainerSpec     3: 1 unigram, 2 bpe   40, 41, 42, 43: ids of unk, bos, eos, pad, -1 for none
//! NormalizerSpec  3: a space before the text (true if left out)
//! ```

use super::{Error, SpecialIds, TokenType};

const FILE: &str = "tokenizer.model";

/// The parts of a `tokenizer.model` that matter.
#[derive(Debug)]
pub(super) struct SentencePieceModel {
    pub(super) tokens: Vec<String>,
    pub(super) scores: Vec<f32>,
    pub(super) types: Vec<TokenType>,
    pub(super) special: SpecialIds,
    pub(super) add_space_prefix: bool,
}

/// One field of a message.
enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    Fixed32([u8; 4]),
    Fixed64,
}

impl SentencePieceModel {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut model = Self {
            tokens: Vec::new(),
            scores: Vec::new(),
            types: Vec::new(),
            special: SpecialIds { unk: Some(0), bos: Some(1), eos: Some(2), ..SpecialIds::default() },
            add_space_prefix: true,
        };
        let mut unigram = true;
        for_each_field(bytes, |number, field| {
            match (number, field) {
                (1, Field::Bytes(piece)) => model.add_piece(piece)?,
                (2, Field::Bytes(trainer)) => for_each_field(trainer, |number, field| {
                    let Field::Number(value) = field else { return Ok(()) };
                    let id = u32::try_from(value).ok();
                    match number {
                        3 => unigram = value != 2,
                        40 => model.special.unk = id,
                        41 => model.special.bos = id,
                        42 => model.special.eos = id,
                        43 => model.special.pad = id,
                        _ => {}
                    }
                    Ok(())
                })?,
                (3, Field::Bytes(normalizer)) => for_each_field(normalizer, |number, field| {
                    if let (3, Field::Number(value)) = (number, field) {
                        model.add_space_prefix = value != 0;
                    }
                    Ok(())
                })?,
                _ => {}
            }
            Ok(())
        })?;
        if unigram {
            return Err(Error::key(FILE, "a unigram model; only SentencePiece's BPE is supported"));
        }
        Ok(model)
    }

    fn add_piece(&mut self, piece: &[u8]) -> Result<(), Error> {
        let id = self.tokens.len();
        let (mut text, mut score, mut kind) = (String::new(), 0.0, TokenType::Normal);
        for_each_field(piece, |number, field| {
            match (number, field) {
                (1, Field::Bytes(bytes)) => match std::str::from_utf8(bytes) {
                    Ok(piece) => text = piece.to_owned(),
                    Err(_) => return Err(Error::key(FILE, format!("token {id} is not UTF-8"))),
                },
                (2, Field::Fixed32(bytes)) => score = f32::from_le_bytes(bytes),
                (3, Field::Number(code)) => {
                    let known = i64::try_from(code).ok().and_then(TokenType::from_code);
                    let unknown =
                        || Error::key(FILE, format!("token {id} has type {code}; types are 1 to 6"));
                    kind = known.ok_or_else(unknown)?;
                }
                _ => {}
            }
            Ok(())
        })?;
        if kind == TokenType::UserDefined {
            // Such a token is looked for in the text itself, whose spaces are spaces.
            text = text.replace('▁', " ");
        }
        self.tokens.push(text);
        self.scores.push(score);
        self.types.push(kind);
        Ok(())
    }
}

/// Calls `on_field` with each field's number and value.
fn for_each_field<'a>(
    bytes: &'a [u8],
    mut on_field: impl FnMut(u64, Field<'a>) -> Result<(), Error>,
) -> Result<(), Error> {
    let truncated = || Error::key(FILE, "ends in the middle of a field, or is no SentencePiece model");
    let mut rest = bytes;
    while !rest.is_empty() {
        let tag = varint(&mut rest).ok_or_else(truncated)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut rest).ok_or_else(truncated)?),
            1 => {
                rest = rest.get(8..).ok_or_else(truncated)?;
                Field::Fixed64
            }
            2 => {
                let len =
                    varint(&mut rest).and_then(|len| usize::try_from(len).ok()).ok_or_else(truncated)?;
                let (value, after) = rest.split_at_checked(len).ok_or_else(truncated)?;
                rest = after;
                Field::Bytes(value)
            }
            5 => {
                let (value, after) = rest.split_first_chunk::<4>().ok_or_else(truncated)?;
                rest = after;
                Field::Fixed32(*value)
            }
            _ => return Err(truncated()),
        };
        on_field(tag >> 3, field)?;
    }
    Ok(())
}

/// A number in groups of seven bits, the lowest first.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7F) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
