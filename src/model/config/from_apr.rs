//! Configuration from an APR file.
//!
//! Two kinds of files: those made of a GGUF file by this program carry its metadata along, exact and whole; there that
//! is the source, and the APR keys beside it must say the same. In all others the APR keys are the source. APR itself has
//! no key for RoPE scaling, partial rotation or a window: `rope_scaling`, `partial_rotary_factor` and `sliding_window`
//! are read as in a Hugging Face `config.json`.

use super::fields::{Fields, Stated, StatedTie};
use super::json::Object;
use super::{DefaultTaken, ModelConfig, RopePairing, from_gguf};
use crate::format::apr::Apr;
use crate::model::Architecture;
use crate::model::architecture::ArchitectureRow;
use crate::model::error::Error;
use crate::model::names::Role;
use crate::model::table::TensorTable;
use std::path::Path;

impl ModelConfig {
    /// The configuration in an APR file, with every default that was taken.
    ///
    /// # Errors
    /// An unknown architecture, RoPE type or scaling; a key that is missing without an architecture default, absurd, or in
    /// contradiction to another key or to the tensors.
    pub fn from_apr(apr: &Apr) -> Result<(Self, Vec<DefaultTaken>), Error> {
        let table = TensorTable::new(apr.path(), apr.tensors())?;
        let stated = Keys { path: apr.path(), apr };
        let row = stated.architecture()?;
        match apr.gguf_origin()? {
            Some(origin) => {
                let mut fields = from_gguf::fields(&origin.metadata)?;
                if let Some(row) = row.filter(|row| row.architecture != fields.row.architecture) {
                    let what =
                        format!("{}, but general.architecture is {}", row.gguf_name, fields.row.gguf_name);
                    return Err(Error::invalid(apr.path(), "architecture", what));
                }
                stated.agree(&mut fields)?;
                fields.build(apr.path(), &table, Vec::new())
            }
            None => {
                let Some(row) = row else {
                    let what = "missing; the file does not say what it is";
                    return Err(Error::invalid(apr.path(), "architecture", what));
                };
                stated.fields(row, &table)?.build(apr.path(), &table, Vec::new())
            }
        }
    }
}

/// The APR keys of a file.
struct Keys<'a> {
    path: &'a Path,
    apr: &'a Apr,
}

impl<'a> Keys<'a> {
    fn usize(&self, key: &str) -> Result<Stated<usize>, Error> {
        Ok(Stated::new(key, self.apr.usize(key)?))
    }

    fn f32(&self, key: &str) -> Result<Stated<f32>, Error> {
        Ok(Stated::new(key, self.apr.f32(key)?))
    }

    fn object(&self) -> Object<'a> {
        Object::new(self.path, Some(self.apr.metadata()))
    }

    /// `architecture`, or what the file calls the Hugging Face names of it.
    fn architecture(&self) -> Result<Option<&'static ArchitectureRow>, Error> {
        for key in ["architecture", "hf_model_type", "hf_architecture"] {
            if let Some(name) = self.apr.string(key)? {
                return match Architecture::from_apr_name(name) {
                    Some(row) => Ok(Some(row)),
                    None => {
                        let what =
                            format!("unknown architecture `{name}`; known are {}", Architecture::known());
                        Err(Error::unsupported(self.path, key, what))
                    }
                };
            }
        }
        Ok(None)
    }

    /// `rope_type`: 0 is NORM, 2 is NEOX. `rope.scaling.type` and its like never are.
    fn pairing(&self) -> Result<Stated<RopePairing>, Error> {
        let value = match self.apr.usize("rope_type")? {
            None => None,
            Some(0) => Some(RopePairing::Norm),
            Some(2) => Some(RopePairing::Neox),
            Some(other) => {
                let what = format!("RoPE type {other}; known are 0 (NORM) and 2 (NEOX)");
                return Err(Error::unsupported(self.path, "rope_type", what));
            }
        };
        Ok(Stated::new("rope_type", value))
    }

    fn fields(&self, row: &'static ArchitectureRow, table: &TensorTable<'_>) -> Result<Fields, Error> {
        for key in ["num_experts", "num_experts_per_tok"] {
            if let Some(count) = self.apr.usize(key)?.filter(|count| *count > 0) {
                let what = format!("{count}; mixtures of experts are not computed here");
                return Err(Error::unsupported(self.path, key, what));
            }
        }
        let top = self.object();
        let rope = top.rope()?;
        // Only imports from Hugging Face name llama's tensors in Hugging Face's way, and those keep the order of rows.
        let hf_names = table.global(Role::TokenEmbedding).is_some_and(|t| t.name.contains("embed_tokens"));
        let default_rope_pairing = match hf_names {
            true => (RopePairing::Neox, "the order of files with Hugging Face names"),
            false => (row.rope_pairing, "the architecture's order in files with GGUF names"),
        };
        Ok(Fields {
            row,
            hidden_size: self.usize("hidden_size")?,
            intermediate_size: self.usize("intermediate_size")?,
            num_layers: self.usize("num_layers")?,
            num_heads: self.usize("num_heads")?,
            num_kv_heads: self.usize("num_kv_heads")?,
            head_dim: self.usize("head_dim")?,
            vocab_size: self.usize("vocab_size")?,
            context_length: self.usize("max_position_embeddings")?,
            rms_norm_eps: self.f32("rms_norm_eps")?,
            rope_theta: rope.theta,
            default_rope_theta: row.default_rope_theta,
            rope_dim: Stated::new("partial_rotary_factor", None),
            rope_fraction: rope.fraction,
            rope_pairing: self.pairing()?,
            default_rope_pairing,
            scaling_prefix: rope.scaling_prefix,
            scaling: rope.scaling,
            sliding_window: top.usize("sliding_window")?,
            tie: StatedTie::KeyOrAbsence(self.apr.bool("tied_embeddings")?),
            attention_bias: Stated::new("", None),
            mlp_bias: Stated::new("", None),
        })
    }

    /// Checks that the APR keys which are there say what `fields`, from the GGUF metadata, say.
    fn agree(&self, fields: &mut Fields) -> Result<(), Error> {
        let sizes = [
            ("hidden_size", &mut fields.hidden_size),
            ("intermediate_size", &mut fields.intermediate_size),
            ("num_layers", &mut fields.num_layers),
            ("num_heads", &mut fields.num_heads),
            ("num_kv_heads", &mut fields.num_kv_heads),
            ("head_dim", &mut fields.head_dim),
            ("vocab_size", &mut fields.vocab_size),
            ("max_position_embeddings", &mut fields.context_length),
            ("sliding_window", &mut fields.sliding_window),
        ];
        for (key, field) in sizes {
            self.same(self.usize(key)?, field)?;
        }
        self.same(self.f32("rms_norm_eps")?, &mut fields.rms_norm_eps)?;
        self.same(self.f32("rope_theta")?, &mut fields.rope_theta)?;
        let pairing = self.pairing()?;
        if let Some(value) = pairing.value
            && value != fields.default_rope_pairing.0
        {
            let what = format!(
                "{value:?}, but the GGUF metadata in the file mean {:?}",
                fields.default_rope_pairing.0
            );
            return Err(Error::invalid(self.path, pairing.key, what));
        }
        fields.tie = StatedTie::KeyOrAbsence(self.apr.bool("tied_embeddings")?);
        Ok(())
    }

    /// A field that both may state. Where only the APR key does, it rules.
    fn same<T: PartialEq + std::fmt::Display>(
        &self,
        apr: Stated<T>,
        gguf: &mut Stated<T>,
    ) -> Result<(), Error> {
        match (apr.value, &gguf.value) {
            (Some(a), Some(b)) if a != *b => {
                Err(Error::invalid(self.path, apr.key, format!("{a}, but {} is {b}", gguf.key)))
            }
            (Some(a), None) => {
                gguf.value = Some(a);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
