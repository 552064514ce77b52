//! Keys and values of past positions: `[layer][slot][kv_head][position][head_dim]`, as [`KvLayout`] says.

use super::pool::SharedBuffer;
use crate::plan::{KvLayout, KvType};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// The cache. The fast path appends to it from several threads at a time.
#[derive(Debug)]
pub(crate) struct KvCache {
    pub(super) layout: KvLayout,
    pub(super) keys: Storage,
    pub(super) values: Storage,
}

/// Values in one of the cache's types.
#[derive(Debug)]
pub(crate) enum Storage {
    F16(SharedBuffer<f16>),
    F32(SharedBuffer<f32>),
}

impl Storage {
    fn new(kv_type: KvType, len: usize) -> Self {
        match kv_type {
            KvType::F16 => Self::F16(SharedBuffer::new(len)),
            KvType::F32 => Self::F32(SharedBuffer::new(len)),
        }
    }
}

impl KvCache {
    /// An empty cache; `len` is the layout's.
    pub(crate) fn new(layout: KvLayout, len: usize) -> Self {
        let keys = Storage::new(layout.kv_type, len);
        let values = Storage::new(layout.kv_type, len);
        Self { layout, keys, values }
    }
}

impl KvCache {
    /// Stores one head's key and value, `head_dim` values each, at (layer, slot, kv_head, position).
    ///
    /// # Safety
    /// While this runs, nobody else reads or writes that place.
    pub(crate) unsafe fn append(
        &self,
        (layer, slot, kv_head, position): (usize, usize, usize, usize),
        key: &[f32],
        value: &[f32],
    ) {
        let at = self.layout.at(layer, slot, kv_head, position);
        for (storage, from) in [(&self.keys, key), (&self.values, value)] {
            match storage {
                Storage::F16(buffer) => {
                    // SAFETY: the caller's obligation is the same.
                    let to = unsafe { buffer.slice_mut(at..at + from.len()) };
                    to.convert_from_f32_slice(from);
                }
                // SAFETY: as above.
                Storage::F32(buffer) => {
                    unsafe { buffer.slice_mut(at..at + from.len()) }.copy_from_slice(from)
                }
            }
        }
    }
}
