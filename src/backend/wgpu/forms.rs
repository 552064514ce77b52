//! Which shader multiplies which weights: forms of activations, units of columns, mixtures of types.

use super::shaders;
use crate::backend::gpu::weights;
use crate::plan::Activations;
use crate::quant::{self, TensorType};

/// How activations lie in records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Form {
    Q8,
    Q8Zero,
    Q8K,
}

impl Form {
    pub(super) fn new(activations: Activations, tensor_type: TensorType) -> Self {
        let super_blocks = matches!(tensor_type, TensorType::Q4_K | TensorType::Q5_K | TensorType::Q6_K);
        match activations {
            Activations::Q8 | Activations::F32 => Self::Q8,
            Activations::Q8K if super_blocks => Self::Q8K,
            Activations::Q8K => Self::Q8Zero,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Q8 => "q8",
            Self::Q8Zero => "q8_0",
            Self::Q8K => "q8_k",
        }
    }
}

/// The define `X` of a product.
pub(super) fn product(activations: Activations, tensor_type: TensorType) -> &'static str {
    match activations {
        _ if tensor_type.is_float() => "f32",
        Activations::F32 => "f32",
        activations if Form::new(activations, tensor_type) == Form::Q8K => "q8_k",
        _ => "q8",
    }
}

/// Columns that one unit of a type's shader covers.
pub(super) fn unit_columns(tensor_type: TensorType, x: &str) -> u32 {
    quant::unit_columns(tensor_type, x == "q8_k") as u32
}

/// The two types of a mixture for which there is one shader, the first being `A`.
pub(super) fn mixture(types: &[TensorType]) -> Option<(TensorType, Option<TensorType>)> {
    weights::mixture(types, |a, b| {
        shaders::find(&format!("qkv_rope A={} B={} X=f32", lower(a), lower(b))).is_some()
    })
}

/// Whether matrices of these types can be multiplied in one dispatch.
pub(super) fn in_one_dispatch(types: &[TensorType]) -> bool {
    mixture(types).is_some()
}

pub(super) fn lower(tensor_type: TensorType) -> String {
    tensor_type.name().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixtures_that_llama_cpp_writes_take_one_dispatch() {
        use TensorType::*;
        assert_eq!(mixture(&[Q4_K, Q4_K, Q6_K]), Some((Q4_K, Some(Q6_K))));
        assert_eq!(mixture(&[Q8_0, Q5_0, Q5_0]), Some((Q5_0, Some(Q8_0))));
        assert_eq!(mixture(&[F16, F16, F16]), Some((F16, None)));
        assert_eq!(mixture(&[Q4_K, Q5_K, Q6_K]), None);
        assert_eq!(mixture(&[Q4_K, Q4_K, F16]), None);
    }
}
