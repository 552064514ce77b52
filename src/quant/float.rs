//! F32, F16 and BF16: no blocks, little-endian values one after the other. BF16 is the upper half of a float32.

use super::TensorType;
use super::block::{Block, F16Bytes};
use bytemuck::{Pod, Zeroable};
use half::bf16;

/// A float32 in a file, unaligned.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct F32Bytes(pub [u8; 4]);

/// A bfloat16 in a file, unaligned.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub struct Bf16Bytes(pub [u8; 2]);

impl F32Bytes {
    /// The value.
    #[inline]
    pub fn to_f32(self) -> f32 {
        f32::from_le_bytes(self.0)
    }
}

impl Bf16Bytes {
    /// The value as float32 (exact).
    #[inline]
    pub fn to_f32(self) -> f32 {
        bf16::from_le_bytes(self.0).to_f32()
    }

    /// The bfloat16 nearest to `value`, ties to even.
    #[inline]
    pub fn from_f32(value: f32) -> Self {
        Self(bf16::from_f32(value).to_le_bytes())
    }
}

impl Block for F32Bytes {
    const TYPE: TensorType = TensorType::F32;

    fn decode(&self, out: &mut [f32]) {
        out.fill(self.to_f32());
    }

    fn is_finite(&self) -> bool {
        self.to_f32().is_finite()
    }
}

impl Block for F16Bytes {
    const TYPE: TensorType = TensorType::F16;

    fn decode(&self, out: &mut [f32]) {
        out.fill(self.to_f32());
    }

    fn is_finite(&self) -> bool {
        (*self).is_finite()
    }
}

impl Block for Bf16Bytes {
    const TYPE: TensorType = TensorType::BF16;

    fn decode(&self, out: &mut [f32]) {
        out.fill(self.to_f32());
    }

    fn is_finite(&self) -> bool {
        self.to_f32().is_finite()
    }
}
