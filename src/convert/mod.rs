//! One format written from another, without loss: GGUF to APR and back.
//!
//! Tensors keep their bytes. Metadata keeps its order and types: an APR file made of a GGUF file carries that file's
//! metadata (see [`GgufOrigin`](crate::format::apr::GgufOrigin)), so that the way back gives the same file, byte for
//! byte. Where something has to change, the [`Report`] says what, and what it cost.

mod apr_keys;
mod apr_to_gguf;
pub mod diff;
mod export;
mod folder_texts;
mod gguf_keys;
mod gguf_to_apr;
mod gguf_tokenizer;
mod hf_to_gguf;
mod hf_tokenizer;
mod importance;
pub mod mix;
mod names;
mod plan;
mod reencode;
mod stamp;
mod to_hugging_face;
mod to_lattice;
pub mod validate;

pub use apr_to_gguf::{apr_to_gguf, write_gguf};
pub use export::{FileFormat, Planned, dry_run, export};
pub use gguf_to_apr::{gguf_to_apr, write_apr};
pub use importance::Importance;
pub use stamp::{Change, Stamp, Stamped, stamp};
pub use to_hugging_face::export_hugging_face;
pub use to_lattice::export_lattice;

use crate::quant::TensorType;
use std::fmt;
use std::num::NonZeroUsize;

/// What a conversion may change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// GGUF to APR: store only types that the published `apr` reads. Others are decoded to F16, or to F32 where F16
    /// would overflow, and the report says so.
    pub compat: bool,
    /// The model's new name.
    pub name: Option<String>,
    /// Threads that encode; one per core if it is not said.
    pub threads: Option<NonZeroUsize>,
}

impl Options {
    fn threads(&self) -> NonZeroUsize {
        self.threads.or_else(|| std::thread::available_parallelism().ok()).unwrap_or(NonZeroUsize::MIN)
    }
}

/// How weights are to be quantized.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Which weight gets which type.
    pub mix: mix::MixOptions,
    /// How much each column matters.
    pub importance: Option<Importance>,
    /// Quantize what is quantized already.
    pub allow_requantize: bool,
}

/// How far a conversion has come, in bytes of the output's tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written.
    pub done: u64,
    /// Bytes to write in all.
    pub total: u64,
}

/// What a conversion did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tensors written.
    pub tensors: usize,
    /// Bytes of the tensors in the input.
    pub bytes_read: u64,
    /// Bytes of the tensors in the output.
    pub bytes_written: u64,
    /// Tensors whose values are stored in another type than before.
    pub reencoded: Vec<Reencoded>,
    /// What else a user should know: a default that was taken, a key that was not there.
    pub notes: Vec<String>,
}

/// A tensor that was stored in another type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reencoded {
    /// Its name in the input.
    pub name: String,
    /// Its type in the input.
    pub from: TensorType,
    /// Its type in the output.
    pub to: TensorType,
    /// Bytes in the input.
    pub bytes_read: u64,
    /// Bytes in the output.
    pub bytes_written: u64,
    /// Whether every value is the same as before.
    pub exact: bool,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let megabytes = |bytes: u64| bytes as f64 / 1e6;
        write!(f, "{} tensors, {:.1} MB", self.tensors, megabytes(self.bytes_written))?;
        if self.reencoded.is_empty() {
            write!(f, ", every tensor byte for byte as it was")?;
        }
        for one in &self.reencoded {
            let loss = if one.exact { "exactly" } else { "rounded" };
            let (from, to) = (megabytes(one.bytes_read), megabytes(one.bytes_written));
            write!(f, "\n{}: {} to {}, {loss}, {from:.2} MB to {to:.2} MB", one.name, one.from, one.to)?;
        }
        self.notes.iter().try_for_each(|note| write!(f, "\nnote: {note}"))
    }
}
