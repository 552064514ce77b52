//! What the wgpu and the CUDA backend agree on: both run the same plan over the same bytes, one by shaders, one by PTX.
//! Nothing here names a device's API.

pub(in crate::backend) mod cache;
pub(in crate::backend) mod cache_folder;
pub(in crate::backend) mod grid;
pub(in crate::backend) mod params;
pub(in crate::backend) mod passes;
pub(in crate::backend) mod profile;
pub(in crate::backend) mod sampling;
pub(in crate::backend) mod state;
pub(in crate::backend) mod weights;

/// Positions per part of attention.
pub(in crate::backend) const SPLIT: usize = 256;
/// Positions per tile of keys; the cache has room for whole tiles.
pub(in crate::backend) const POSITIONS_PER_TILE: usize = 32;
/// Activation rows per tile of a prefill kernel.
pub(in crate::backend) const TILE: usize = 32;
/// The largest decode batch.
pub(in crate::backend) const MAX_M: usize = 8;
/// Bytes of an activation record of 32 columns.
pub(in crate::backend) const RECORD_BYTES: usize = 176;
/// Passes whose tokens the ring holds.
pub(in crate::backend) const RING: usize = 64;
