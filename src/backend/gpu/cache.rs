//! Where keys and values lie: keys in tiles of 32 positions, values in rows (see `shaders/qkv_rope.wgsl`).

use super::POSITIONS_PER_TILE;
use super::weights::row_order;
use crate::backend::KeysAndValues;
use crate::plan::{KvLayout, KvType, Shape};
use half::f16;

/// Words of four bytes of one head's keys, or values, of a position.
pub(in crate::backend) fn words_per_head(kv: &KvLayout) -> usize {
    match kv.kv_type {
        KvType::F16 => kv.head_dim / 2,
        KvType::F32 => kv.head_dim,
    }
}

/// Where the words of a position lie in a cache of `context` positions per slot: the first byte of each run of 16 bytes,
/// for each key/value head.
pub(in crate::backend) fn places(
    kv: &KvLayout,
    context: usize,
    (slot, position): (u32, u32),
    keys: bool,
) -> Vec<u64> {
    let words = words_per_head(kv);
    let mut places = Vec::new();
    for head in 0..kv.num_kv_heads {
        let row = (slot as usize * kv.num_kv_heads + head) * context + position as usize;
        let place = |word: usize| match keys {
            true => {
                (row / POSITIONS_PER_TILE * (words / 4) + word / 4) * POSITIONS_PER_TILE
                    + row % POSITIONS_PER_TILE
            }
            false => row * (words / 4) + word / 4,
        };
        places.extend((0..words).step_by(4).map(|word| 16 * place(word) as u64));
    }
    places
}

/// The keys and values of a position from their words, all keys first; the keys in the order of the model's dimensions.
pub(in crate::backend) fn keys_and_values(kv: &KvLayout, shape: &Shape, words: &[u32]) -> KeysAndValues {
    let floats = |words: &[u32]| -> Vec<f32> {
        match kv.kv_type {
            KvType::F32 => words.iter().map(|&word| f32::from_bits(word)).collect(),
            KvType::F16 => {
                let halves = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]);
                halves.map(|bits| f16::from_bits(bits).to_f32()).collect()
            }
        }
    };
    let (keys, values) = words.split_at(words.len() / 2);
    let (keys, values) = (floats(keys), floats(values));
    let mut in_order = vec![0.0; keys.len()];
    for (stored, key) in keys.into_iter().enumerate() {
        if let Some(place) = in_order.get_mut(row_order(shape, stored)) {
            *place = key;
        }
    }
    (in_order, values)
}
