//! The modifiers of one instruction. Each must be taken by the lowering: what is left is an error, not a guess.

use crate::float::Round;
use crate::ir::Ty;
use std::cell::Cell;

pub(super) struct Modifiers<'a> {
    words: Vec<(&'a str, Cell<bool>)>,
}

impl<'a> Modifiers<'a> {
    pub(super) fn new(words: &'a [String]) -> Self {
        Modifiers { words: words.iter().map(|w| (w.as_str(), Cell::new(false))).collect() }
    }

    /// Takes `word` if it is there.
    pub(super) fn take(&self, word: &str) -> bool {
        self.one_of(&[(word, ())]).is_some()
    }

    /// Takes the first of the words that is there.
    pub(super) fn one_of<T: Copy>(&self, table: &[(&str, T)]) -> Option<T> {
        for (word, used) in &self.words {
            if let Some((_, value)) = table.iter().find(|(name, _)| name == word)
                && !used.replace(true)
            {
                return Some(*value);
            }
        }
        None
    }

    /// Takes every word that `keep` accepts.
    pub(super) fn take_all(&self, keep: impl Fn(&str) -> bool) -> Vec<&'a str> {
        let free = self.words.iter().filter(|(word, used)| !used.get() && keep(word));
        free.map(|(word, used)| {
            used.set(true);
            *word
        })
        .collect()
    }

    /// Takes all types, in order.
    pub(super) fn types(&self) -> Vec<Ty> {
        self.take_all(|w| Ty::parse(w).is_some()).iter().filter_map(|w| Ty::parse(w)).collect()
    }

    /// The last type, without taking it.
    pub(super) fn last_type(&self) -> Option<Ty> {
        self.words.iter().rev().find_map(|(word, _)| Ty::parse(word))
    }

    /// Takes a rounding of a floating-point result.
    pub(super) fn round(&self) -> Option<Round> {
        self.one_of(&[
            ("rn", Round::Nearest),
            ("rna", Round::NearestAway),
            ("rz", Round::Zero),
            ("rm", Round::Down),
            ("rp", Round::Up),
        ])
    }

    /// Takes a rounding to an integral value.
    pub(super) fn integral(&self) -> Option<Round> {
        self.one_of(&[
            ("rni", Round::Nearest),
            ("rzi", Round::Zero),
            ("rmi", Round::Down),
            ("rpi", Round::Up),
        ])
    }

    /// Takes a scope; true if it goes beyond the block. `None` if none is given.
    pub(super) fn scope(&self) -> Option<bool> {
        self.one_of(&[("cta", false), ("cluster", true), ("gpu", true), ("sys", true)])
    }

    /// A word that nobody took.
    pub(super) fn rest(&self) -> Option<&'a str> {
        self.words.iter().find(|(_, used)| !used.get()).map(|(word, _)| *word)
    }
}
