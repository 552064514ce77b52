//! Decoding a token at a time.

use super::Tokenizer;

/// Turns tokens into text as they come and never splits a character: bytes of an unfinished one are held back until
/// the rest comes. All pieces together are what decoding at once gives. Control tokens are left out unless
/// [`StreamDecoder::with_special`] asks for them.
#[derive(Clone, Debug)]
pub struct StreamDecoder {
    pending: Vec<u8>,
    at_start: bool,
    special: bool,
}

impl StreamDecoder {
    /// For tokens that begin a text: SentencePiece's one leading space is taken off.
    pub fn new() -> Self {
        Self { pending: Vec::new(), at_start: true, special: false }
    }

    /// For tokens that go on after text which is already there: a leading space stays.
    pub fn continuing() -> Self {
        Self { at_start: false, ..Self::new() }
    }

    /// Control tokens are written out.
    #[must_use]
    pub fn with_special(mut self) -> Self {
        self.special = true;
        self
    }

    /// The text that this token completes; empty while a character is unfinished. An id without a token is U+FFFD.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        tokenizer.append_bytes(id, self.special, &mut self.at_start, &mut self.pending);
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text.push_str(chunk.valid());
            done += chunk.valid().len();
            let invalid = chunk.invalid();
            // Only an unfinished character at the very end may still become valid.
            if done + invalid.len() == self.pending.len() && is_unfinished(invalid) {
                break;
            }
            if !invalid.is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                done += invalid.len();
            }
        }
        self.pending.drain(..done);
        text
    }

    /// Ends the text: U+FFFD where bytes of an unfinished character are left. The decoder can be used again, for text
    /// that goes on.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        text
    }
}

impl Default for StreamDecoder {
    fn default() -> Self {
        Self::new()
    }
}

/// The bytes begin a character and could be completed.
fn is_unfinished(bytes: &[u8]) -> bool {
    match std::str::from_utf8(bytes) {
        Ok(_) => false,
        Err(error) => error.error_len().is_none(),
    }
}
