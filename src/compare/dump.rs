//! Buffers as files that other tools read: NumPy's `.npy`, and the `APRT` dumps of the published `apr` (`apr diff --values`).
//!
//! `<dir>/<step>-<layer>-<op>-<buffer>.npy` holds float32 `[rows, width]`, all tiles of the prompt together.
//! `<dir>/layer-<i>/<stage>.bin` is "APRT", the layer as u32 (0xFFFFFFFF for what belongs to none), the number of values
//! as u32, then the values, under the stages' names there.

use super::Error;
use super::steps::Written;
use crate::plan::OpKind;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A buffer over the whole prompt.
struct Dumped {
    op: OpKind,
    width: usize,
    values: Vec<f32>,
}

/// Collects what steps wrote, then writes it.
#[derive(Default)]
pub struct Dump {
    buffers: BTreeMap<(usize, Option<usize>, &'static str), Dumped>,
}

impl Dump {
    /// Keeps `values` of a buffer, which are one side of `written`; rows of later tiles follow those of earlier ones.
    pub fn add(&mut self, written: &Written<'_>, values: &[f32]) {
        let key = (written.step, written.layer, written.buffer);
        let (op, width) = (written.op, written.width);
        let dumped = self.buffers.entry(key).or_insert_with(|| Dumped { op, width, values: Vec::new() });
        dumped.values.extend_from_slice(values);
    }

    /// Writes both kinds of files into `folder`, which is made.
    ///
    /// # Errors
    /// Files that cannot be written.
    pub fn write(&self, folder: &Path) -> Result<usize, Error> {
        for ((step, layer, buffer), dumped) in &self.buffers {
            let place = layer.map_or("model".to_owned(), |layer| format!("layer-{layer}"));
            let name = format!("{step:03}-{place}-{}-{buffer}.npy", dumped.op.name());
            write(&folder.join(name), &npy(dumped.width, &dumped.values))?;
            if let Some(stage) = stage(dumped.op, buffer) {
                let path = folder.join(place).join(format!("{stage}.bin"));
                write(&path, &aprt(*layer, &dumped.values))?;
            }
        }
        Ok(self.buffers.len())
    }
}

fn write(path: &PathBuf, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
    let done = folder.and_then(|()| fs::write(path, bytes));
    done.map_err(|source| Error::Io { path: path.clone(), source })
}

/// The published `apr`'s name for a buffer, where it has one.
fn stage(op: OpKind, buffer: &str) -> Option<&'static str> {
    Some(match (op, buffer) {
        (OpKind::Embed, _) => "embedding",
        (OpKind::QkvRope, "query") => "q_post_rope",
        (OpKind::QkvRope, "keys") => "k_post_rope",
        (OpKind::Attention, _) => "attention",
        (OpKind::AttnOut, _) => "post_attn_residual",
        (OpKind::GateUp, _) => "ffn_swigl",
        (OpKind::Down, _) => "post_ffn_residual",
        (OpKind::Head, _) => "lm_head",
        _ => return None,
    })
}

/// NumPy's format, version 1.0: magic, version, header length, header padded to 64 bytes, data.
pub fn npy(width: usize, values: &[f32]) -> Vec<u8> {
    let rows = values.len() / width.max(1);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    while !(10 + header.len() + 1).is_multiple_of(64) {
        header.push(' ');
    }
    header.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}

/// The published `apr`'s dump of one stage.
pub fn aprt(layer: Option<usize>, values: &[f32]) -> Vec<u8> {
    let layer = layer.map_or(u32::MAX, |layer| layer as u32);
    let mut bytes = b"APRT".to_vec();
    bytes.extend(layer.to_le_bytes());
    bytes.extend((values.len() as u32).to_le_bytes());
    bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    bytes
}
