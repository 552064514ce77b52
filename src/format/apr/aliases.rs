//! Metadata keys that go by several names in the wild. Only the canonical one is ever written: the peer's reader drops
//! all metadata of a file that has both.

use super::describe;
use crate::format::Error;
use serde_json::{Map, Value};
use std::path::Path;

/// Canonical name, then its aliases.
const ALIASES: &[(&str, &[&str])] = &[
    ("hidden_size", &["hidden_dim", "d_model", "n_embd"]),
    ("num_layers", &["n_layers", "num_hidden_layers", "n_layer"]),
    ("num_heads", &["n_heads", "num_attention_heads", "n_head"]),
    ("num_kv_heads", &["n_kv_heads", "num_key_value_heads"]),
    ("vocab_size", &["n_vocab"]),
    ("intermediate_size", &["ffn_dim", "intermediate_dim", "n_inner"]),
    ("max_position_embeddings", &["max_seq_len", "context_length", "n_ctx"]),
    ("rms_norm_eps", &["layer_norm_eps", "norm_eps"]),
    ("tokenizer.model", &["tokenizer.model_type"]),
];

/// The canonical name of a key that is an alias.
pub(super) fn canonical(key: &str) -> Option<&'static str> {
    ALIASES.iter().find(|(_, aliases)| aliases.contains(&key)).map(|(canonical, _)| *canonical)
}

/// The value of a key under any of its names.
pub(super) fn get<'a>(
    path: &Path,
    metadata: &'a Map<String, Value>,
    canonical: &str,
) -> Result<Option<&'a Value>, Error> {
    let aliases = ALIASES.iter().find(|(name, _)| *name == canonical).map_or(&[][..], |(_, aliases)| aliases);
    let mut found: Option<(&str, &Value)> = None;
    for name in std::iter::once(canonical).chain(aliases.iter().copied()) {
        let Some(value) = metadata.get(name).filter(|value| !value.is_null()) else { continue };
        match found {
            None => found = Some((name, value)),
            Some((_, first)) if same(first, value) => {}
            Some((first_name, first)) => {
                return Err(Error::Key {
                    path: path.to_owned(),
                    key: canonical.to_owned(),
                    what: format!(
                        "{first_name} is {}, but {name}, another name for it, is {}; one of them must go",
                        describe(first),
                        describe(value)
                    ),
                });
            }
        }
    }
    Ok(found.map(|(_, value)| value))
}

/// Refuses metadata in which two names of one key have different values.
pub(super) fn check(path: &Path, metadata: &Map<String, Value>) -> Result<(), Error> {
    ALIASES.iter().try_for_each(|(canonical, _)| get(path, metadata, canonical).map(|_| ()))
}

fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.as_f64().is_some() && a.as_f64() == b.as_f64())
}
