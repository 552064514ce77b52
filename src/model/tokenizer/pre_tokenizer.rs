//! Cutting text into words before byte-pair encoding, so that no merge crosses a word's edge.
//!
//! The models' own patterns end in `\s+(?!\S)|\s+`: a run of white space gives up its last character to a word that
//! follows. The `regex` crate has no look-ahead and in exchange never takes more than linear time, whatever the text.
//! So the patterns here end in `\s+`, and [`Trim`] says which runs are shortened by one character afterwards.

use std::ops::Range;

use regex::Regex;

use super::Error;

/// A known way to cut text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PreTokenizer {
    /// GPT-2's own.
    Gpt2,
    /// What llama.cpp does for `default`: punctuation apart, GPT-2, then numbers in groups of three digits.
    Default,
    /// Llama 3: numbers in groups of up to three digits; a word that is a token is taken whole.
    Llama3,
    /// Qwen2, Qwen2.5 and Qwen3: single digits; text is brought to Unicode's composed form (NFC) first.
    Qwen2,
    /// SmolLM: single digits, then GPT-2.
    SmolLm,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";

/// Which matches of white space leave their last character to what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trim {
    None,
    All,
    /// All but those that end a line: the pattern matches them by `\s*[\r\n]+`, which has no look-ahead.
    NotLineEnds,
}

impl PreTokenizer {
    /// Names in `tokenizer.ggml.pre`, the usual one of each first.
    const NAMES: [(&'static str, Self); 8] = [
        ("default", Self::Default),
        ("gpt-2", Self::Gpt2),
        ("llama-bpe", Self::Llama3),
        ("llama3", Self::Llama3),
        ("llama-v3", Self::Llama3),
        ("qwen2", Self::Qwen2),
        ("deepseek-r1-qwen", Self::Qwen2),
        ("smollm", Self::SmolLm),
    ];

    /// Looks a name of `tokenizer.ggml.pre` up.
    ///
    /// # Errors
    /// An unknown name; guessing would give wrong tokens in silence.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        Self::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, pre)| pre).ok_or_else(|| {
            let known = Self::NAMES.map(|(known, _)| known).join(", ");
            Error::PreTokenizer { name: name.to_owned(), known }
        })
    }

    /// The usual name in `tokenizer.ggml.pre`.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|&&(_, pre)| pre == self).map_or("default", |&(name, _)| name)
    }

    /// Finds the pre-tokenizer whose pattern a `tokenizer.json` spells out.
    pub(super) fn from_pattern(pattern: &str) -> Option<Self> {
        let ours = pattern.strip_suffix(r"|\s+(?!\S)|\s+")?;
        [(LLAMA3, Self::Llama3), (QWEN2, Self::Qwen2), (GPT2, Self::Gpt2)]
            .into_iter()
            .find(|(known, _)| known.strip_suffix(r"|\s+") == Some(ours))
            .map(|(_, pre)| pre)
    }

    /// The pattern as a `tokenizer.json` spells it out, where the words are what one pattern matches.
    pub(super) fn pattern(self) -> Option<String> {
        let ours = match self {
            Self::Llama3 => LLAMA3,
            Self::Qwen2 => QWEN2,
            Self::Gpt2 | Self::SmolLm | Self::Default => return None,
        };
        ours.strip_suffix(r"|\s+").map(|ours| format!(r"{ours}|\s+(?!\S)|\s+"))
    }

    /// The model brings text to Unicode's composed form.
    pub(super) fn composes(self) -> bool {
        self == Self::Qwen2
    }

    /// A word that is a token is taken whole, without merging.
    pub(super) fn ignores_merges(self) -> bool {
        self == Self::Llama3
    }

    fn stages(self) -> &'static [(&'static str, Trim)] {
        match self {
            Self::Gpt2 => &[(GPT2, Trim::All)],
            Self::Default => &[
                (r"[\p{P}$+<=>^~|]+", Trim::None),
                (GPT2, Trim::All),
                (r"\p{N}+", Trim::None),
                (r"[0-9]{3}", Trim::None),
            ],
            Self::Llama3 => &[(LLAMA3, Trim::NotLineEnds)],
            Self::Qwen2 => &[(QWEN2, Trim::NotLineEnds)],
            Self::SmolLm => &[(r"\p{N}", Trim::None), (GPT2, Trim::All)],
        }
    }
}

/// A compiled [`PreTokenizer`].
#[derive(Debug)]
pub(super) struct Splitter {
    stages: Vec<(Regex, Trim)>,
}

impl Splitter {
    pub(super) fn new(pre: PreTokenizer) -> Result<Self, Error> {
        let compile = |&(pattern, trim): &(&str, Trim)| match Regex::new(pattern) {
            Ok(regex) => Ok((regex, trim)),
            Err(error) => Err(Error::key("tokenizer.ggml.pre", error.to_string())),
        };
        Ok(Self { stages: pre.stages().iter().map(compile).collect::<Result<_, _>>()? })
    }

    /// The words of `text`, in order, none empty; together they are all of it.
    pub(super) fn split(&self, text: &str) -> Vec<Range<usize>> {
        let mut words = vec![Range { start: 0, end: text.len() }];
        for (regex, trim) in &self.stages {
            let mut finer = Vec::with_capacity(words.len());
            for word in words {
                split_word(regex, *trim, text, word, &mut finer);
            }
            words = finer;
        }
        words
    }
}

/// Cuts one word into matches and what lies between them.
fn split_word(regex: &Regex, trim: Trim, text: &str, word: Range<usize>, out: &mut Vec<Range<usize>>) {
    let Some(piece) = text.get(word.clone()) else { return };
    let mut at = 0;
    while let Some(found) = regex.find_at(piece, at) {
        let shortened = shorten(found.as_str(), trim, found.end() == piece.len());
        let end = found.start() + shortened;
        if found.start() > at {
            out.push(word.start + at..word.start + found.start());
        }
        out.push(word.start + found.start()..word.start + end);
        at = end;
    }
    if at < piece.len() {
        out.push(word.start + at..word.end);
    }
}

/// The length of a match after it has left its last character to what follows; never 0.
fn shorten(found: &str, trim: Trim, at_end: bool) -> usize {
    let last = found.chars().next_back();
    let candidate = match trim {
        Trim::None => false,
        Trim::All => true,
        Trim::NotLineEnds => !matches!(last, Some('\r' | '\n')),
    };
    let last_len = last.map_or(0, char::len_utf8);
    if candidate && !at_end && last_len < found.len() && found.chars().all(char::is_whitespace) {
        found.len() - last_len
    } else {
        found.len()
    }
}
