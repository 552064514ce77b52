//! What the graphs of a model share besides its weights: keys and values, cosines and sines, how each slot is sampled.

use super::gpu::Gpu;
use crate::backend::gpu::POSITIONS_PER_TILE;
use crate::backend::gpu::cache::{keys_and_values, places, words_per_head};
use crate::backend::gpu::sampling::{SamplingWords, recent_words};
use crate::backend::{Error, KeysAndValues, Sampling};
use crate::plan::{KvLayout, Plan, RopeTable, Shape};

/// The buffers.
pub(super) struct Cache {
    /// Keys and values of each layer.
    pub(super) layers: Vec<(wgpu::Buffer, wgpu::Buffer)>,
    /// Cosines and sines, `[context, pairs]`.
    pub(super) rope: wgpu::Buffer,
    /// How each slot is sampled.
    pub(super) sampling: wgpu::Buffer,
    /// The text of each slot that penalties look at: a count, then a ring.
    pub(super) recent: wgpu::Buffer,
    pub(super) recent_capacity: usize,
    /// Positions per slot, whole tiles.
    pub(super) context: usize,
    layout: KvLayout,
    shape: Shape,
}

impl Cache {
    /// An empty cache for `plan`'s model.
    pub(super) fn new(gpu: &Gpu, plan: &Plan, kv: &KvLayout, rope: &RopeTable) -> Result<Self, Error> {
        let words = words_per_head(kv);
        let whole = |what: String| Err(Error::Plan { step: 0, op: "attention", what });
        if !kv.head_dim.is_multiple_of(8) || words > 256 {
            return whole(format!("heads of {}: the shaders want a multiple of 8 up to 256", kv.head_dim));
        }
        if plan.numerics.kv != kv.kv_type {
            return whole("the plan and the cache differ in the type of keys and values".to_owned());
        }
        let context = kv.context.next_multiple_of(POSITIONS_PER_TILE);
        let bytes = [kv.slots, kv.num_kv_heads, context, words, 4]
            .into_iter()
            .try_fold(1usize, usize::checked_mul)
            .ok_or_else(|| Error::OutOfMemory {
                what: "a KV cache".to_owned(),
                needed: u64::MAX,
                available: gpu.limits.max_storage_buffer_binding_size,
                advice: "use a smaller --ctx or fewer sequences".to_owned(),
            })?;
        let mut layers = Vec::new();
        for _ in 0..kv.num_layers {
            let keys = gpu.storage("the keys of a layer", bytes as u64)?;
            let values = gpu.storage("the values of a layer", bytes as u64)?;
            layers.push((keys, values));
        }
        let pairs: Vec<[f32; 2]> = rope.cos.iter().zip(&rope.sin).map(|(&cos, &sin)| [cos, sin]).collect();
        let rope = gpu.storage("cosines and sines", 8 * pairs.len() as u64)?;
        gpu.queue.write_buffer(&rope, 0, bytemuck::cast_slice(&pairs));
        let sampling = gpu.storage("sampling", (size_of::<SamplingWords>() * kv.slots) as u64)?;
        let words = vec![SamplingWords::new(&Sampling::default()); kv.slots];
        gpu.queue.write_buffer(&sampling, 0, bytemuck::cast_slice(&words));
        let recent_capacity = kv.context + 1;
        let recent = gpu.storage("recent tokens", 4 * ((recent_capacity + 1) * kv.slots) as u64)?;
        let (layout, shape) = (kv.clone(), plan.shape.clone());
        Ok(Self { layers, rope, sampling, recent, recent_capacity, context, layout, shape })
    }

    /// Parts of attention per row, at most.
    pub(super) fn splits(&self) -> usize {
        self.context.div_ceil(256)
    }

    /// Bytes of keys and values.
    pub(super) fn bytes(&self) -> u64 {
        self.layers.iter().map(|(keys, values)| keys.size() + values.size()).sum()
    }

    /// Sets how a slot is sampled, and the text that penalties look at: the last tokens, as many as the ring holds.
    pub(super) fn set_sampling(
        &self,
        gpu: &Gpu,
        slot: u32,
        sampling: &Sampling,
        text: &[u32],
    ) -> Result<(), Error> {
        if slot as usize >= self.layout.slots {
            return Err(Error::Misuse(format!("slot {slot}: the cache has {}", self.layout.slots)));
        }
        let words = SamplingWords::new(sampling);
        let at = u64::from(slot) * size_of::<SamplingWords>() as u64;
        gpu.queue.write_buffer(&self.sampling, at, bytemuck::bytes_of(&words));
        let ring = recent_words(text, self.recent_capacity);
        let at = 4 * u64::from(slot) * (self.recent_capacity as u64 + 1);
        gpu.queue.write_buffer(&self.recent, at, bytemuck::cast_slice(&ring));
        gpu.check("the sampling parameters")
    }

    /// The keys and values of a position, the keys in the order of the model's dimensions.
    pub(super) fn read(
        &self,
        gpu: &Gpu,
        layer: usize,
        slot: u32,
        position: u32,
    ) -> Result<KeysAndValues, Error> {
        let inside = (slot as usize) < self.layout.slots && (position as usize) < self.layout.context;
        let Some((keys, values)) = self.layers.get(layer).filter(|_| inside) else {
            let place = format!("layer {layer}, slot {slot}, position {position}");
            return Err(Error::Misuse(format!("{place} lies outside of the cache")));
        };
        let at = |keys: bool| places(&self.layout, self.context, (slot, position), keys);
        let (from_keys, from_values) = (at(true), at(false));
        let runs: Vec<(&wgpu::Buffer, u64)> = from_keys
            .iter()
            .map(|&at| (keys, at))
            .chain(from_values.iter().map(|&at| (values, at)))
            .collect();
        let bytes = 16 * runs.len() as u64;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = gpu.buffer("cached keys and values", bytes, usage)?;
        let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (index, (buffer, at)) in runs.into_iter().enumerate() {
            encoder.copy_buffer_to_buffer(buffer, at, &staging, 16 * index as u64, 16);
        }
        let submission = gpu.queue.submit([encoder.finish()]);
        let words = super::passes::map(gpu, &staging, bytes, Some(submission), "cached keys and values")?;
        Ok(keys_and_values(&self.layout, &self.shape, &words))
    }
}
