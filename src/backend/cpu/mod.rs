//! The CPU backend: `twin/` is the specification of every op, scalar; `simd/` is the fast path beside it.

mod fast;
mod phases;
pub mod pool;
mod probe;
pub mod simd;
mod slots;
pub mod twin;

pub use fast::Cpu;
pub use probe::{Probe, physical_cores, probe};
pub use simd::Isa;

use super::Error;
use crate::plan::KvLayout;

/// Values in the cache, or why there can be no such cache.
fn cache_len(layout: &KvLayout) -> Result<usize, Error> {
    let fits = layout.bytes().filter(|&bytes| bytes <= isize::MAX as usize);
    fits.and(layout.values()).ok_or_else(|| Error::OutOfMemory {
        what: format!("a KV cache of {} positions for {} sequences", layout.context, layout.slots),
        needed: u64::MAX,
        available: isize::MAX as u64,
        advice: "use a smaller --ctx or fewer sequences".to_owned(),
    })
}

fn outside_of_cache(layer: usize, slot: usize, position: usize) -> Error {
    Error::Misuse(format!("layer {layer}, slot {slot}, position {position} lies outside of the cache"))
}
