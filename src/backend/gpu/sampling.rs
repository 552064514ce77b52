//! How a slot is sampled, as `shaders/sample.wgsl` and `kernels/sample.ptx` read it.

use crate::backend::Sampling;
use bytemuck::{Pod, Zeroable};

/// `Sampling` in words of four bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(in crate::backend) struct SamplingWords {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    log_min_p: f32,
    penalty: f32,
    window: u32,
    seed: [u32; 2],
    sequence: u32,
    padding: [u32; 3],
}

const _: () = assert!(size_of::<SamplingWords>() == 48);

impl SamplingWords {
    pub(in crate::backend) fn new(sampling: &Sampling) -> Self {
        let small = |n: usize| n.min(u32::MAX as usize) as u32;
        Self {
            temperature: sampling.temperature,
            top_k: small(sampling.top_k),
            top_p: sampling.top_p,
            log_min_p: if sampling.min_p > 0.0 { sampling.min_p.min(1.0).ln() } else { -3.0e38 },
            penalty: sampling.repeat_penalty,
            window: small(sampling.repeat_window),
            seed: [sampling.seed as u32, (sampling.seed >> 32) as u32],
            sequence: sampling.sequence,
            padding: [0; 3],
        }
    }
}

/// The text that penalties look at, as the device holds it: a count, then the last `capacity` tokens.
pub(in crate::backend) fn recent_words(recent: &[u32], capacity: usize) -> Vec<u32> {
    let kept = &recent[recent.len().saturating_sub(capacity)..];
    let mut words = vec![kept.len() as u32];
    words.extend_from_slice(kept);
    words
}
