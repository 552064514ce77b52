//! The twin's cache: two vectors, indexed by [`KvLayout::at`].

use crate::plan::{KvLayout, KvType};
use half::f16;

/// The cache. Pages are taken from the system as positions are written.
#[derive(Debug)]
pub(super) struct KvCache {
    layout: KvLayout,
    keys: Storage,
    values: Storage,
}

/// Values in one of the cache's types.
#[derive(Debug)]
pub(super) enum Storage {
    F16(Vec<f16>),
    F32(Vec<f32>),
}

impl Storage {
    fn new(kv_type: KvType, len: usize) -> Self {
        match kv_type {
            KvType::F16 => Self::F16(bytemuck::allocation::zeroed_vec(len)),
            KvType::F32 => Self::F32(bytemuck::allocation::zeroed_vec(len)),
        }
    }

    fn write(&mut self, at: usize, values: &[f32]) {
        match self {
            Self::F16(stored) => {
                for (stored, &value) in stored[at..][..values.len()].iter_mut().zip(values) {
                    *stored = f16::from_f32(value);
                }
            }
            Self::F32(stored) => stored[at..][..values.len()].copy_from_slice(values),
        }
    }

    fn read(&self, at: usize, values: &mut [f32]) {
        match self {
            Self::F16(stored) => {
                for (stored, value) in stored[at..][..values.len()].iter().zip(values) {
                    *value = stored.to_f32();
                }
            }
            Self::F32(stored) => values.copy_from_slice(&stored[at..][..values.len()]),
        }
    }
}

impl KvCache {
    /// An empty cache; `len` is the layout's.
    pub(super) fn new(layout: KvLayout, len: usize) -> Self {
        let keys = Storage::new(layout.kv_type, len);
        let values = Storage::new(layout.kv_type, len);
        Self { layout, keys, values }
    }

    /// See [`KvLayout::value_sums`].
    pub(super) fn value_sums(&self) -> usize {
        self.layout.value_sums()
    }

    /// Stores one head's key and value, `head_dim` values each.
    pub(super) fn append(
        &mut self,
        layer: usize,
        slot: usize,
        kv_head: usize,
        position: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let at = self.layout.at(layer, slot, kv_head, position);
        self.keys.write(at, key);
        self.values.write(at, value);
    }

    /// Reads one head's key.
    pub(super) fn key(&self, layer: usize, slot: usize, kv_head: usize, position: usize, key: &mut [f32]) {
        self.keys.read(self.layout.at(layer, slot, kv_head, position), key);
    }

    /// Reads one head's value.
    pub(super) fn value(
        &self,
        layer: usize,
        slot: usize,
        kv_head: usize,
        position: usize,
        value: &mut [f32],
    ) {
        self.values.read(self.layout.at(layer, slot, kv_head, position), value);
    }
}
