//! Stop strings in streamed text: nothing of a stop string is ever shown, however it is spread over tokens.

/// Watches a stream of text for stop strings.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    held: String,
}

impl StopStrings {
    /// Watches for any of `stops`; empty strings are ignored.
    pub fn new(stops: &[String]) -> Self {
        Self { stops: stops.iter().filter(|stop| !stop.is_empty()).cloned().collect(), held: String::new() }
    }

    /// Takes more text; gives what may be shown, and whether a stop string was completed. What could still become a
    /// stop string is held back.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        if let Some(at) = self.stops.iter().filter_map(|stop| self.held.find(stop)).min() {
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let held = self.stops.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - held);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text held back, at the end of the stream.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that are a beginning of `stop`, `stop` itself excluded.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    (1..=longest).rev().find(|&n| stop.is_char_boundary(n) && text.ends_with(&stop[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `size` characters.
    fn stream(stops: &[&str], text: &str, size: usize) -> (String, bool) {
        let mut watch = StopStrings::new(&stops.iter().map(|stop| (*stop).to_owned()).collect::<Vec<_>>());
        let mut shown = String::new();
        let characters: Vec<char> = text.chars().collect();
        for piece in characters.chunks(size) {
            let (text, stopped) = watch.push(&piece.iter().collect::<String>());
            shown += &text;
            if stopped {
                return (shown, true);
            }
        }
        (shown + &watch.finish(), false)
    }

    #[test]
    fn stops_wherever_the_pieces_are_cut() {
        for size in 1..12 {
            assert_eq!(stream(&["\n\n"], "one\ntwo\n\nthree", size), ("one\ntwo".to_owned(), true));
            assert_eq!(
                stream(&["END", "EN!"], "the EN of EN! and END", size),
                ("the EN of ".to_owned(), true)
            );
            assert_eq!(stream(&["naïve"], "a naïf", size), ("a naïf".to_owned(), false));
            assert_eq!(stream(&["aab"], "aaab", size), ("a".to_owned(), true));
        }
    }

    #[test]
    fn shows_at_once_what_cannot_be_a_stop() {
        let mut watch = StopStrings::new(&["stop".to_owned()]);
        assert_eq!(watch.push("go st"), ("go ".to_owned(), false));
        assert_eq!(watch.push("ay"), ("stay".to_owned(), false));
    }
}
