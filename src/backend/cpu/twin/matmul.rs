//! Matrix times activations, the heart of every projection: `y[m][row] = weight[row] . x[m]`.
//!
//! Each product is `quant`'s scalar dot, so the order of every sum is written there, once.

use crate::plan::{Activations, Weight, WeightId, WeightSource};
use crate::quant::{self, Q8KRow, Q8Row, TensorType};

/// A weight matrix with access to its rows.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    pub(super) weight: &'a Weight,
    pub(super) id: WeightId,
    pub(super) source: &'a dyn WeightSource,
}

impl<'a> Matrix<'a> {
    fn row(&self, row: usize) -> &'a [u8] {
        self.source.row(self.id, row)
    }

    /// Decodes one row into `cols` values.
    pub(super) fn decode_row(&self, row: usize, out: &mut [f32]) {
        if quant::decode_row(self.weight.tensor_type, self.row(row), out).is_err() {
            out.fill(f32::NAN);
        }
    }
}

/// A matrix with its optional bias.
#[derive(Clone, Copy)]
pub(super) struct Affine<'a> {
    pub(super) matrix: Matrix<'a>,
    pub(super) bias: Option<&'a [f32]>,
}

/// One row of activations in the kind that meets the weights. A row that holds a value that is not a number comes out
/// as NaN everywhere, for the check after the step to find.
enum Quantized<'a> {
    Q8(Q8Row),
    Q8K(Q8KRow),
    F32(&'a [f32]),
    NotFinite,
}

impl<'a> Quantized<'a> {
    fn new(activations: Activations, tensor_type: TensorType, x: &'a [f32]) -> Self {
        let (mut q8, mut q8_k) = (Q8Row::new(), Q8KRow::new());
        let k_type = matches!(tensor_type, TensorType::Q4_K | TensorType::Q5_K | TensorType::Q6_K);
        match activations {
            _ if tensor_type.is_float() => Self::F32(x),
            Activations::F32 => Self::F32(x),
            Activations::Q8 => q8.quantize(x).map_or(Self::NotFinite, |()| Self::Q8(q8)),
            Activations::Q8K if k_type => q8_k.quantize(x).map_or(Self::NotFinite, |()| Self::Q8K(q8_k)),
            Activations::Q8K => q8.quantize_q8_0(x).map_or(Self::NotFinite, |()| Self::Q8(q8)),
        }
    }

    fn dot(&self, tensor_type: TensorType, row: &[u8]) -> f32 {
        match self {
            Self::Q8(x) => quant::dot_q8(tensor_type, row, x),
            Self::Q8K(x) => quant::dot_q8_k(tensor_type, row, x),
            Self::F32(x) => quant::dot_f32(tensor_type, row, x),
            Self::NotFinite => f32::NAN,
        }
    }
}

/// Reads `x` [M, cols], writes `y` [M, rows].
pub(super) fn matmul(activations: Activations, weight: Affine<'_>, x: &[f32], y: &mut [f32]) {
    let Weight { tensor_type, rows, cols, .. } = *weight.matrix.weight;
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(rows)) {
        let x = Quantized::new(activations, tensor_type, x);
        for r in 0..rows {
            y[r] = x.dot(tensor_type, weight.matrix.row(r)) + weight.bias.map_or(0.0, |bias| bias[r]);
        }
    }
}
