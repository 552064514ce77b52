//! F32, F16 and BF16: no blocks, little-endian values one after the other. BF16 is the upper half of a float32.

use super::TensorType;
use super::block::{Block, Encode, F16Bytes};
use bytemuck::{Pod, Zeroable};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

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
        f32::from_bits(u32::from(u16::from_le_bytes(self.0)) << 16)
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

    fn decode_row(values: &[Self], out: &mut [f32]) {
        for (value, out) in values.iter().zip(out) {
            *out = value.to_f32();
        }
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

    /// With the processor's conversion of whole vectors, where it has one.
    fn decode_row(values: &[Self], out: &mut [f32]) {
        let mut aligned = [f16::ZERO; 256];
        for (values, out) in values.chunks(256).zip(out.chunks_mut(256)) {
            let aligned = &mut aligned[..values.len()];
            for (aligned, value) in aligned.iter_mut().zip(values) {
                *aligned = f16::from_le_bytes(value.0);
            }
            aligned.convert_to_f32_slice(out);
        }
    }

    fn is_finite(&self) -> bool {
        Self::is_finite(*self)
    }
}

impl Block for Bf16Bytes {
    const TYPE: TensorType = TensorType::BF16;

    fn decode(&self, out: &mut [f32]) {
        out.fill(self.to_f32());
    }

    fn decode_row(values: &[Self], out: &mut [f32]) {
        for (value, out) in values.iter().zip(out) {
            *out = value.to_f32();
        }
    }

    fn is_finite(&self) -> bool {
        const EXPONENT: u16 = 0x7f80;
        u16::from_le_bytes(self.0) & EXPONENT != EXPONENT
    }
}

impl Encode for F32Bytes {
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        for (x, out) in x.iter().zip(out) {
            *out = Self(x.to_le_bytes());
        }
    }
}

impl Encode for F16Bytes {
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        let mut rounded = [f16::ZERO; 256];
        for (x, out) in x.chunks(256).zip(out.chunks_mut(256)) {
            let rounded = &mut rounded[..x.len()];
            rounded.convert_from_f32_slice(x);
            for (rounded, out) in rounded.iter().zip(out) {
                *out = Self(rounded.to_le_bytes());
            }
        }
    }
}

impl Encode for Bf16Bytes {
    /// As [`Bf16Bytes::from_f32`], without its care for NaN, which cannot come here.
    fn encode_row(x: &[f32], _importance: Option<&[f32]>, out: &mut [Self]) {
        for (x, out) in x.iter().zip(out) {
            *out = Self((((x.to_bits() + 0x7fff + (x.to_bits() >> 16 & 1)) >> 16) as u16).to_le_bytes());
        }
    }
}
