//! Finding special tokens in text: each is one token, whatever stands around it.

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};

use super::Error;

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// Plain text, never empty.
    Text(Range<usize>),
    /// A special token.
    Token(u32),
}

/// Cuts text at special tokens; of several that begin at the same place the longest counts.
#[derive(Debug)]
pub(super) struct SpecialTokens {
    /// Tokens that the user defined: always found.
    user_defined: Matcher,
    /// Those and the control tokens: found when asked for.
    all: Matcher,
}

#[derive(Debug)]
struct Matcher {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl SpecialTokens {
    /// From texts with their ids, none empty; the flag says that the user defined it.
    pub(super) fn new(tokens: &[(&str, u32, bool)]) -> Result<Self, Error> {
        Ok(Self {
            user_defined: Matcher::new(tokens.iter().filter(|token| token.2))?,
            all: Matcher::new(tokens.iter())?,
        })
    }

    pub(super) fn split(&self, text: &str, parse_special: bool) -> Vec<Segment> {
        let matcher = if parse_special { &self.all } else { &self.user_defined };
        let mut segments = Vec::new();
        let mut at = 0;
        for found in matcher.automaton.iter().flat_map(|automaton| automaton.find_iter(text)) {
            let Some(&id) = matcher.ids.get(found.pattern().as_usize()) else { continue };
            if found.start() > at {
                segments.push(Segment::Text(at..found.start()));
            }
            segments.push(Segment::Token(id));
            at = found.end();
        }
        if at < text.len() {
            segments.push(Segment::Text(at..text.len()));
        }
        segments
    }
}

impl Matcher {
    fn new<'a>(tokens: impl Iterator<Item = &'a (&'a str, u32, bool)>) -> Result<Self, Error> {
        let (texts, ids): (Vec<&str>, Vec<u32>) = tokens.map(|&(text, id, _)| (text, id)).unzip();
        if texts.is_empty() {
            return Ok(Self { automaton: None, ids });
        }
        match AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts) {
            Ok(automaton) => Ok(Self { automaton: Some(automaton), ids }),
            Err(error) => Err(Error::key("tokenizer.ggml.token_type", format!("special tokens: {error}"))),
        }
    }
}
