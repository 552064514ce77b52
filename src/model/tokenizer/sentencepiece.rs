//! SentencePiece byte-pair encoding with byte fallback.
//!
//! The text, its spaces written `▁`, starts as a chain of characters. Of all neighbours whose joined text is a token,
//! the pair with the highest score is joined, the leftmost of equals, until no pair is left. A character that is no
//! token becomes its bytes. A heap holds the candidate pairs; a pair whose parts have changed since is recognised by
//! its length and skipped, so the whole takes `n log n` steps.
//!
//! The `tokenizers` crate orders merges by rank, one rank per pair. Scores order tokens instead: two pairs with the
//! same result are equals, and the leftmost wins. So this is written here.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

/// Text to ids.
#[derive(Debug)]
pub(super) struct SentencePiece {
    /// What plain text may become: no control, unknown or byte tokens.
    vocabulary: HashMap<String, (u32, f32)>,
    byte_ids: Vec<Option<u32>>,
    unk: Option<u32>,
    longest: usize,
}

/// A stretch of text in the chain; `len` 0 once it has been joined to its left neighbour.
struct Symbol {
    start: usize,
    len: usize,
    prev: usize,
    next: usize,
}

/// No neighbour.
const END: usize = usize::MAX;

/// Two neighbours that may be joined.
struct Pair {
    left: usize,
    right: usize,
    score: f32,
    len: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

impl SentencePiece {
    /// `byte_ids` has the token of each byte. Scores are numbers.
    pub(super) fn new(
        vocabulary: HashMap<String, (u32, f32)>,
        byte_ids: Vec<Option<u32>>,
        unk: Option<u32>,
    ) -> Self {
        let longest = vocabulary.keys().map(String::len).max().unwrap_or(0);
        Self { vocabulary, byte_ids, unk, longest }
    }

    /// Appends the ids of a text without special tokens; `prefix` puts a space before it.
    pub(super) fn encode(&self, text: &str, prefix: bool, ids: &mut Vec<u32>) {
        let mut escaped = String::with_capacity(text.len() + 3);
        if prefix {
            escaped.push('▁');
        }
        escaped.extend(text.chars().map(|c| if c == ' ' { '▁' } else { c }));
        let text = escaped.as_str();

        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol {
                start,
                len: c.len_utf8(),
                prev: i.checked_sub(1).unwrap_or(END),
                next: i + 1,
            })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = END;
        }
        let mut pairs = BinaryHeap::new();
        for right in 1..symbols.len() {
            pairs.extend(self.pair(text, &symbols, right - 1, right));
        }
        while let Some(pair) = pairs.pop() {
            let Some((prev, next)) = join(&mut symbols, &pair) else { continue };
            pairs.extend(self.pair(text, &symbols, prev, pair.left));
            pairs.extend(self.pair(text, &symbols, pair.left, next));
        }
        for symbol in symbols.iter().filter(|symbol| symbol.len > 0) {
            self.emit(text.get(symbol.start..symbol.start + symbol.len).unwrap_or_default(), ids);
        }
    }

    /// The two symbols as a candidate, if their joined text is a token.
    fn pair(&self, text: &str, symbols: &[Symbol], left: usize, right: usize) -> Option<Pair> {
        let (a, b) = (symbols.get(left)?, symbols.get(right)?);
        let len = a.len + b.len;
        if len > self.longest {
            return None;
        }
        let &(_, score) = self.vocabulary.get(text.get(a.start..a.start + len)?)?;
        Some(Pair { left, right, score, len })
    }

    fn emit(&self, piece: &str, ids: &mut Vec<u32>) {
        if let Some(&(id, _)) = self.vocabulary.get(piece) {
            ids.push(id);
            return;
        }
        for byte in piece.bytes() {
            ids.extend(self.byte_ids.get(usize::from(byte)).copied().flatten().or(self.unk));
        }
    }
}

/// Joins a pair unless one of its parts has changed; the joined symbol's neighbours.
fn join(symbols: &mut [Symbol], pair: &Pair) -> Option<(usize, usize)> {
    let (left_len, right_len) = (symbols.get(pair.left)?.len, symbols.get(pair.right)?.len);
    if left_len == 0 || right_len == 0 || left_len + right_len != pair.len {
        return None;
    }
    let right = symbols.get_mut(pair.right)?;
    right.len = 0;
    let next = right.next;
    let left = symbols.get_mut(pair.left)?;
    left.len = pair.len;
    left.next = next;
    let prev = left.prev;
    if let Some(after) = symbols.get_mut(next) {
        after.prev = pair.left;
    }
    Some((prev, next))
}
