//! From what a file states to a configuration: the one place where defaults are taken and values are checked.

use super::scaling::StatedScaling;
use super::{DefaultTaken, ModelConfig, RopeConfig, RopePairing};
use crate::model::architecture::{ArchitectureRow, Presence};
use crate::model::error::Error;
use crate::model::names::{Role, Slot};
use crate::model::table::{Head, TensorTable};
use std::path::Path;

/// A field as a file states it, if it does, under the key of its format.
pub(super) struct Stated<T> {
    /// The key, for messages.
    pub(super) key: String,
    /// The value.
    pub(super) value: Option<T>,
}

impl<T> Stated<T> {
    /// A field that is or is not in the file.
    pub(super) fn new(key: impl Into<String>, value: Option<T>) -> Self {
        Self { key: key.into(), value }
    }
}

/// How a file states that the head is the embedding.
pub(super) enum StatedTie {
    /// By having no head.
    Absence,
    /// By a key that may contradict the tensors (APR).
    KeyOrAbsence(Option<bool>),
    /// By a key that rules: a head in a file that ties them is not used (Hugging Face).
    Key(bool),
}

/// Everything a file states, before defaults.
pub(super) struct Fields {
    pub(super) row: &'static ArchitectureRow,
    pub(super) hidden_size: Stated<usize>,
    pub(super) intermediate_size: Stated<usize>,
    pub(super) num_layers: Stated<usize>,
    pub(super) num_heads: Stated<usize>,
    pub(super) num_kv_heads: Stated<usize>,
    pub(super) head_dim: Stated<usize>,
    pub(super) vocab_size: Stated<usize>,
    pub(super) context_length: Stated<usize>,
    pub(super) rms_norm_eps: Stated<f32>,
    pub(super) rope_theta: Stated<f32>,
    pub(super) default_rope_theta: Option<f32>,
    pub(super) rope_dim: Stated<usize>,
    /// Part of a head that is rotated, where a file states it so.
    pub(super) rope_fraction: Option<f64>,
    pub(super) rope_pairing: Stated<RopePairing>,
    pub(super) default_rope_pairing: (RopePairing, &'static str),
    /// What comes before the names of the scaling's parameters, for messages.
    pub(super) scaling_prefix: String,
    pub(super) scaling: StatedScaling,
    pub(super) sliding_window: Stated<usize>,
    pub(super) tie: StatedTie,
    /// Biases on q, k, v and on the output projection, where the metadata say.
    pub(super) attention_bias: Stated<bool>,
    /// Biases on gate, up and down, where the metadata say.
    pub(super) mlp_bias: Stated<bool>,
}

/// Sizes and counts above this are refused: positions and token ids are 32 bits wide.
const MAX_SIZE: usize = i32::MAX as usize;

/// Checks fields and records the defaults that it takes.
pub(super) struct Builder<'a> {
    pub(super) path: &'a Path,
    row: &'static ArchitectureRow,
    pub(super) table: &'a TensorTable<'a>,
    defaults: Vec<DefaultTaken>,
}

impl Fields {
    /// The configuration that these fields and the file's tensors describe.
    pub(super) fn build(
        self,
        path: &Path,
        table: &TensorTable<'_>,
        defaults: Vec<DefaultTaken>,
    ) -> Result<(ModelConfig, Vec<DefaultTaken>), Error> {
        let mut b = Builder { path, row: self.row, table, defaults };
        let num_layers = b.layers(&self.num_layers)?;
        let hidden_size = b.size(&self.hidden_size)?;
        let intermediate_size = b.size(&self.intermediate_size)?;
        let num_heads = b.size(&self.num_heads)?;
        let num_kv_heads = b.kv_heads(&self.num_kv_heads, num_heads)?;
        let head_dim = b.head_dim(&self.head_dim, hidden_size, num_heads, num_kv_heads)?;
        let vocab_size = b.vocab_size(&self.vocab_size)?;
        let context_length = b.size(&self.context_length)?;
        let rms_norm_eps =
            b.float(&self.rms_norm_eps, Some(self.row.default_rms_norm_eps), "the family's value")?;
        let theta =
            b.float(&self.rope_theta, self.default_rope_theta, "what the format's own readers assume")?;
        let dim = b.rope_dim(&self.rope_dim, self.rope_fraction, head_dim)?;
        let pairing = b.pairing(&self.rope_pairing, self.default_rope_pairing);
        let scaling = b.scaling(&self.scaling_prefix, self.scaling, theta, dim, context_length)?;
        let sliding_window = match self.sliding_window.value {
            None | Some(0) => None,
            Some(_) => Some(b.size(&self.sliding_window)?),
        };
        let tied_embeddings = b.tie(&self.tie)?;
        let row = self.row;
        let qkv = [Role::AttnQBias, Role::AttnKBias, Role::AttnVBias].map(Slot::One);
        let qkv = [qkv.as_slice(), &[Slot::QkvBias]].concat();
        let mlp = [Role::FfnGateBias, Role::FfnUpBias, Role::FfnDownBias].map(Slot::One);
        let norms = [Role::AttnQNorm, Role::AttnKNorm].map(Slot::One);
        let output = [Slot::One(Role::AttnOutputBias)];
        let config = ModelConfig {
            architecture: row.architecture,
            hidden_size,
            intermediate_size,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size,
            context_length,
            rms_norm_eps,
            rope: RopeConfig { theta, dim, pairing, scaling },
            sliding_window,
            tied_embeddings,
            qkv_bias: b.presence(row.qkv_bias, &self.attention_bias, &qkv, "q, k and v biases")?,
            output_bias: b.presence(row.output_bias, &self.attention_bias, &output, "an output bias")?,
            mlp_bias: b.presence(row.mlp_bias, &self.mlp_bias, &mlp, "feed-forward biases")?,
            qk_norm: b.presence(row.qk_norm, &Stated::new("", None), &norms, "q and k norms")?,
        };
        Ok((config, b.defaults))
    }
}

impl Builder<'_> {
    pub(super) fn invalid(&self, key: &str, what: impl Into<String>) -> Error {
        Error::invalid(self.path, key, what)
    }

    pub(super) fn take(&mut self, key: &str, value: impl ToString, why: impl Into<String>) {
        self.defaults.push(DefaultTaken { key: key.to_owned(), value: value.to_string(), why: why.into() });
    }

    /// A size that must be stated.
    fn size(&self, field: &Stated<usize>) -> Result<usize, Error> {
        match field.value {
            None => {
                let what = format!("missing; architecture {} has no default for it", self.row.gguf_name);
                Err(self.invalid(&field.key, what))
            }
            Some(value) => self.checked(&field.key, value),
        }
    }

    pub(super) fn checked(&self, key: &str, value: usize) -> Result<usize, Error> {
        if (1..=MAX_SIZE).contains(&value) {
            Ok(value)
        } else {
            Err(self.invalid(key, format!("expected 1 to {MAX_SIZE}, found {value}")))
        }
    }

    /// A positive number.
    pub(super) fn float(
        &mut self,
        field: &Stated<f32>,
        default: Option<f32>,
        why: &str,
    ) -> Result<f32, Error> {
        let value = match (field.value, default) {
            (Some(value), _) => value,
            (None, Some(default)) => {
                self.take(&field.key, default, why);
                default
            }
            (None, None) => {
                let what = format!("missing; architecture {} has no default for it", self.row.gguf_name);
                return Err(self.invalid(&field.key, what));
            }
        };
        if value.is_finite() && value > 0.0 {
            Ok(value)
        } else {
            Err(self.invalid(&field.key, format!("expected a positive number, found {value}")))
        }
    }

    fn layers(&self, field: &Stated<usize>) -> Result<usize, Error> {
        let stated = self.size(field)?;
        let (found, name) = match self.table.last_layer() {
            Some((layer, tensor)) => (layer + 1, tensor.name.as_str()),
            None => (0, "none"),
        };
        if stated == found {
            return Ok(stated);
        }
        let tensors = self.table.len();
        let what = format!(
            "{stated}, but the file's {tensors} tensors belong to {found} layers (the last one: {name})"
        );
        Err(self.invalid(&field.key, what))
    }

    fn kv_heads(&mut self, field: &Stated<usize>, num_heads: usize) -> Result<usize, Error> {
        let value = match field.value {
            Some(value) => self.checked(&field.key, value)?,
            None => {
                self.take(&field.key, num_heads, "as many as query heads");
                num_heads
            }
        };
        if num_heads.is_multiple_of(value) {
            Ok(value)
        } else {
            Err(self.invalid(&field.key, format!("expected a divisor of {num_heads} heads, found {value}")))
        }
    }

    fn head_dim(
        &mut self,
        field: &Stated<usize>,
        hidden_size: usize,
        num_heads: usize,
        num_kv_heads: usize,
    ) -> Result<usize, Error> {
        let value = match field.value {
            Some(value) => self.checked(&field.key, value)?,
            None => {
                let query = self.table.get(Some(0), Slot::One(Role::AttnQ)).map(|q| (q, num_heads));
                let fused = || {
                    let heads = num_kv_heads.checked_mul(2)?.checked_add(num_heads)?;
                    Some((self.table.get(Some(0), Slot::Qkv)?, heads))
                };
                let (rows, heads, why) = match query.or_else(fused) {
                    Some((q, heads)) => (q.rows(), heads, format!("rows of {} over {heads} heads", q.name)),
                    None => (hidden_size, num_heads, format!("hidden size over {num_heads} heads")),
                };
                if rows == 0 || !rows.is_multiple_of(heads) {
                    let what = format!("missing, and {why} is not a whole number ({rows} rows)");
                    return Err(self.invalid(&field.key, what));
                }
                self.take(&field.key, rows / heads, why);
                rows / heads
            }
        };
        let width = value.checked_mul(num_heads).filter(|&width| width <= MAX_SIZE);
        match width {
            Some(_) => Ok(value),
            None => Err(self.invalid(&field.key, format!("{num_heads} heads of {value} are too wide"))),
        }
    }

    fn vocab_size(&self, field: &Stated<usize>) -> Result<usize, Error> {
        let Some(embedding) = self.table.global(Role::TokenEmbedding) else {
            let name = Role::TokenEmbedding.gguf_name(None);
            return Err(self.invalid(&name, "missing; the file has no token embedding"));
        };
        let rows = self.checked(&embedding.name, embedding.rows())?;
        match field.value {
            Some(stated) if stated != rows => {
                let what = format!("{stated}, but {} has {rows} rows", embedding.name);
                Err(self.invalid(&field.key, what))
            }
            _ => Ok(rows),
        }
    }

    fn rope_dim(
        &mut self,
        field: &Stated<usize>,
        fraction: Option<f64>,
        head_dim: usize,
    ) -> Result<usize, Error> {
        let value = match (field.value, fraction) {
            (Some(value), _) => value,
            (None, Some(fraction)) if fraction > 0.0 && fraction <= 1.0 => {
                (head_dim as f64 * fraction) as usize
            }
            (None, Some(fraction)) => {
                return Err(self
                    .invalid(&field.key, format!("expected a part of a head in (0, 1], found {fraction}")));
            }
            (None, None) => {
                // Hugging Face's key is a part of the head, GGUF's a number of dimensions.
                let taken = if field.key == "partial_rotary_factor" { 1 } else { head_dim };
                self.take(&field.key, taken, "the whole head is rotated");
                head_dim
            }
        };
        if value > 0 && value <= head_dim && value.is_multiple_of(2) {
            Ok(value)
        } else {
            let what = format!("expected an even number of up to {head_dim} dimensions, found {value}");
            Err(self.invalid(&field.key, what))
        }
    }

    fn pairing(&mut self, field: &Stated<RopePairing>, default: (RopePairing, &str)) -> RopePairing {
        field.value.unwrap_or_else(|| {
            let (pairing, why) = default;
            if !field.key.is_empty() {
                self.take(&field.key, format!("{pairing:?}").to_uppercase(), why);
            }
            pairing
        })
    }

    fn tie(&mut self, stated: &StatedTie) -> Result<bool, Error> {
        let head = self.table.head();
        let missing =
            |key: &str| Err(self.invalid("lm_head.weight", format!("missing, although {key} is false")));
        match (stated, head) {
            (StatedTie::Absence, head) => Ok(head != Head::Stored),
            (StatedTie::Key(true), _) => Ok(true),
            (StatedTie::Key(false), Head::Stored) => Ok(false),
            (StatedTie::Key(false), _) => missing("tie_word_embeddings"),
            (StatedTie::KeyOrAbsence(Some(false)), Head::Absent) => missing("tied_embeddings"),
            (StatedTie::KeyOrAbsence(_), Head::Absent | Head::Empty) => Ok(true),
            (StatedTie::KeyOrAbsence(Some(true)), Head::Stored) => {
                let copy = self.table.head_repeats_embedding();
                if !copy {
                    let why = "the file says true, but holds a head that is not a copy of its embedding";
                    self.take("tied_embeddings", false, why);
                }
                Ok(copy)
            }
            (StatedTie::KeyOrAbsence(_), Head::Stored) => Ok(false),
        }
    }

    /// Whether the model has the tensors of `slots`: the table, the metadata and the file must agree.
    fn presence(
        &self,
        expected: Presence,
        stated: &Stated<bool>,
        slots: &[Slot],
        what: &str,
    ) -> Result<bool, Error> {
        let found = self.table.any(slots);
        let family = self.row.gguf_name;
        match (expected, found) {
            (Presence::Never, Some(tensor)) => {
                Err(self
                    .invalid(&tensor.name, format!("models of architecture {family} have no such tensor")))
            }
            (Presence::Never, None) => Ok(false),
            (Presence::Always, None) => {
                let name = slots.first().map_or_else(String::new, |slot| slot.gguf_name(Some(0)));
                let what = format!("missing; models of architecture {family} have {what}");
                Err(self.invalid(&name, what))
            }
            (Presence::Always, Some(_)) => Ok(true),
            (Presence::Optional, found) => match (stated.value, found) {
                (Some(true), None) => {
                    Err(self.invalid(&stated.key, format!("true, but the file does not have {what}")))
                }
                (Some(false), Some(tensor)) => {
                    Err(self.invalid(&stated.key, format!("not true, but the file has {}", tensor.name)))
                }
                (_, found) => Ok(found.is_some()),
            },
        }
    }
}
