//! The KV cache, laid out for the lanes of attention.
//!
//! Keys are `[layer][slot][kv_head][position / 16][head_dim][16 positions]`: one load gives a dimension of 16 keys, so
//! that scores of 16 positions grow side by side and no lanes are added up. Values are
//! `[layer][slot][kv_head][position][head_dim]`, head_dim padded to a multiple of 16. Positions are padded to whole
//! splits; what is never written is never backed by memory.

use std::ops::Range;

use super::isa::{Isa, Task};
use super::lanes::Lanes;
use crate::backend::KeysAndValues;
use crate::backend::cpu::pool::{PoolError, SharedBuffer};
use crate::plan::{KvLayout, KvType};

/// Positions that attention takes together: see `attention`.
pub const SPLIT: usize = 256;

/// Keys and values of all layers.
#[derive(Debug)]
pub struct KvCache {
    layout: KvLayout,
    /// Positions per head, whole splits.
    positions: usize,
    /// Values per position, whole vectors.
    padded_dim: usize,
    keys: SharedBuffer<u8>,
    values: SharedBuffer<u8>,
}

impl KvCache {
    /// An empty cache. Memory is taken as positions are filled.
    ///
    /// # Errors
    /// [`PoolError::Memory`] if the system has no room for it.
    pub fn new(layout: KvLayout) -> Result<Self, PoolError> {
        let positions = layout.context.div_ceil(SPLIT).saturating_mul(SPLIT);
        let padded_dim = layout.head_dim.next_multiple_of(16);
        let vectors = [layout.slots, layout.num_kv_heads, positions, layout.kv_type.bytes()];
        let bytes = vectors.into_iter().fold(layout.num_layers, usize::saturating_mul);
        let keys = SharedBuffer::new(bytes.saturating_mul(layout.head_dim))?;
        let values = SharedBuffer::new(bytes.saturating_mul(padded_dim))?;
        Ok(Self { layout, positions, padded_dim, keys, values })
    }

    /// Sizes and type.
    pub const fn layout(&self) -> &KvLayout {
        &self.layout
    }

    /// Bytes of address space, taken when all positions of all slots are filled.
    pub const fn bytes(&self) -> usize {
        self.keys.len() + self.values.len()
    }

    /// Values per position in the cache.
    pub(super) const fn padded_dim(&self) -> usize {
        self.padded_dim
    }

    /// The head's index among all; `None` outside of the cache.
    fn head(&self, layer: usize, slot: usize, kv_head: usize) -> Option<usize> {
        let l = &self.layout;
        let inside = layer < l.num_layers && slot < l.slots && kv_head < l.num_kv_heads;
        inside.then(|| (layer * l.slots + slot) * l.num_kv_heads + kv_head)
    }

    /// Keys and values of a split of a head, whole, whatever is filled; `None` outside of the cache.
    ///
    /// # Safety
    /// Nobody may write the head meanwhile.
    pub(super) unsafe fn split(
        &self,
        (layer, slot, kv_head): (usize, usize, usize),
        split: usize,
    ) -> Option<(&[u8], &[u8])> {
        let first = self.head(layer, slot, kv_head)? * self.positions + split * SPLIT;
        if split >= self.positions / SPLIT {
            return None;
        }
        let range = |dim: usize| -> Range<usize> {
            let bytes = dim * self.layout.kv_type.bytes();
            first * bytes..(first + SPLIT) * bytes
        };
        // SAFETY: the caller's obligation is the same.
        Some(unsafe {
            (self.keys.slice(range(self.layout.head_dim)), self.values.slice(range(self.padded_dim)))
        })
    }

    /// Stores the key and the value of one position of one head, rounded to the cache's type. A place outside of the
    /// cache is ignored: rows are checked before they run.
    ///
    /// # Safety
    /// Nobody else may access these 16 positions (of the same multiple of 16) of this head meanwhile, except by calling
    /// this for another position; a barrier lies before reading.
    pub unsafe fn store(
        &self,
        isa: Isa,
        layer: usize,
        (slot, kv_head, position): (usize, usize, usize),
        key: &[f32],
        value: &[f32],
    ) {
        // SAFETY: the caller's obligation is the same.
        unsafe {
            self.store_key(isa, layer, (slot, kv_head, position), key);
            self.store_value(isa, layer, (slot, kv_head, position), value);
        }
    }

    /// The key's half of [`Self::store`].
    ///
    /// # Safety
    /// As for [`Self::store`], of keys alone.
    pub unsafe fn store_key(
        &self,
        isa: Isa,
        layer: usize,
        (slot, kv_head, position): (usize, usize, usize),
        key: &[f32],
    ) {
        let Some(head) = self.head(layer, slot, kv_head).filter(|_| position < self.layout.context) else {
            return;
        };
        let dim = self.layout.head_dim;
        let size = self.layout.kv_type.bytes();
        let mut rounded = [0; 64];
        // A column of a tile, a value at a time.
        let tile = (head * self.positions + position / 16 * 16) * dim;
        for (c, key) in key.chunks(16).enumerate() {
            isa.run(Round { kv_type: self.layout.kv_type, from: key, to: &mut rounded });
            for (i, bytes) in rounded.chunks_exact(size).enumerate().take(key.len()) {
                let at = (tile + (16 * c + i) * 16 + position % 16) * size;
                // SAFETY: this value belongs to this position alone; the caller rules out readers.
                unsafe { self.keys.slice_mut(at..at + size) }.copy_from_slice(bytes);
            }
        }
    }

    /// The value's half of [`Self::store`].
    ///
    /// # Safety
    /// As for [`Self::store`], of values alone.
    pub unsafe fn store_value(
        &self,
        isa: Isa,
        layer: usize,
        (slot, kv_head, position): (usize, usize, usize),
        value: &[f32],
    ) {
        let Some(head) = self.head(layer, slot, kv_head).filter(|_| position < self.layout.context) else {
            return;
        };
        let size = self.layout.kv_type.bytes();
        let mut rounded = [0; 64];
        for (c, value) in value.chunks(16).enumerate() {
            let at = ((head * self.positions + position) * self.padded_dim + 16 * c) * size;
            isa.run(Round { kv_type: self.layout.kv_type, from: value, to: &mut rounded });
            // SAFETY: this position's values belong to this call alone; the caller rules out readers.
            let to = unsafe { self.values.slice_mut(at..at + value.len() * size) };
            for (to, from) in to.iter_mut().zip(rounded) {
                *to = from;
            }
        }
    }

    /// The keys and values of one position, `[num_kv_heads, head_dim]` each; `None` outside of the cache.
    pub fn read(&mut self, layer: usize, slot: usize, position: usize) -> Option<KeysAndValues> {
        let (dim, kv_type) = (self.layout.head_dim, self.layout.kv_type);
        let first = self.head(layer, slot, 0).filter(|_| position < self.layout.context)?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in first..first + self.layout.num_kv_heads {
            for d in 0..dim {
                let key = ((head * self.positions + position / 16 * 16) * dim) + d * 16 + position % 16;
                keys.push(value_at(self.keys.as_mut_slice(), key, kv_type)?);
                let value = (head * self.positions + position) * self.padded_dim + d;
                values.push(value_at(self.values.as_mut_slice(), value, kv_type)?);
            }
        }
        Some((keys, values))
    }
}

/// Value `index` of a cache's bytes.
fn value_at(bytes: &[u8], index: usize, kv_type: KvType) -> Option<f32> {
    let bytes = bytes.get(index * kv_type.bytes()..)?;
    match kv_type {
        KvType::F16 => bytes.first_chunk().map(|bytes| half::f16::from_le_bytes(*bytes).to_f32()),
        KvType::F32 => bytes.first_chunk().map(|bytes| f32::from_le_bytes(*bytes)),
    }
}

impl KvType {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

/// Up to 16 values in the cache's type.
struct Round<'a> {
    kv_type: KvType,
    from: &'a [f32],
    to: &'a mut [u8; 64],
}

impl Task for Round<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let mut x = [0.0; 16];
        for (x, from) in x.iter_mut().zip(self.from) {
            *x = *from;
        }
        match self.kv_type {
            KvType::F16 => {
                if let Some(to) = self.to.first_chunk_mut() {
                    l.store_f16(l.load(&x), to);
                }
            }
            KvType::F32 => {
                for (to, x) in self.to.as_chunks_mut::<4>().0.iter_mut().zip(x) {
                    *to = x.to_le_bytes();
                }
            }
        }
    }
}
