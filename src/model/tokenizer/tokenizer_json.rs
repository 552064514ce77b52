//! The shape of `tokenizer.json`, as far as it matters.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// The whole file.
#[derive(serde::Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    pub(super) model: BpeJson,
}

#[derive(serde::Deserialize)]
pub(super) struct BpeJson {
    pub(super) vocab: Pairs,
    pub(super) merges: Vec<Merge>,
    #[serde(default)]
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    #[serde(default)]
    pub(super) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(super) end_of_word_suffix: Option<String>,
}

#[derive(Clone, serde::Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) special: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) single_word: bool,
}

/// The kind of model, read before the rest: a unigram vocabulary is no map.
#[derive(serde::Deserialize)]
pub(super) struct OnlyKind {
    pub(super) model: Kind,
}

#[derive(serde::Deserialize)]
pub(super) struct Kind {
    #[serde(rename = "type")]
    pub(super) name: Option<String>,
}

/// A JSON object as a list, so that nothing is lost when a key is there twice.
pub(super) struct Pairs(pub(super) Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PairsVisitor;

        impl<'de> Visitor<'de> for PairsVisitor {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object from tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(PairsVisitor)
    }
}

/// A merge, written `"left right"` or `["left", "right"]`.
pub(super) struct Merge(pub(super) String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergeVisitor;

        impl<'de> Visitor<'de> for MergeVisitor {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge, \"left right\" or [\"left\", \"right\"]")
            }

            fn visit_str<E>(self, merge: &str) -> Result<Merge, E> {
                Ok(Merge(merge.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Merge, A::Error> {
                let length = |n| serde::de::Error::invalid_length(n, &"two parts");
                let left: String = parts.next_element()?.ok_or_else(|| length(0))?;
                let right: String = parts.next_element()?.ok_or_else(|| length(1))?;
                match parts.next_element::<serde::de::IgnoredAny>()? {
                    None => Ok(Merge(format!("{left} {right}"))),
                    Some(_) => Err(length(3)),
                }
            }
        }

        deserializer.deserialize_any(MergeVisitor)
    }
}
