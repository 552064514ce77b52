//! Matrix times activations, the heart of every projection: `y[m][row] = weight[row] . x[m]`, the norm in front of it included.
//!
//! Each product is `quant`'s scalar dot, so the order of every sum is written there, once.

use super::rms_norm::{inverse_rms, rms_norm};
use crate::plan::{Activations, Weight, WeightId, WeightSource};
use crate::quant::{self, Cut, Q8KRow, Q8Row, TensorType};

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
    /// How its rows are cut, and the activations where a norm adds up their squares.
    pub(super) cut: Cut,
    pub(super) squares_cut: Cut,
}

/// A norm in front of a product.
#[derive(Clone, Copy)]
pub(super) struct Norm<'a> {
    pub(super) weight: &'a [f32],
    pub(super) eps: f32,
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

    fn dot(&self, tensor_type: TensorType, row: &[u8], cut: Cut) -> f32 {
        match self {
            Self::Q8(x) => quant::dot_q8(tensor_type, row, x, cut),
            Self::Q8K(x) => quant::dot_q8_k(tensor_type, row, x, cut),
            Self::F32(x) => quant::dot_f32(tensor_type, row, x, cut),
            Self::NotFinite => f32::NAN,
        }
    }
}

/// Reads `x` [M, cols], writes `y` [M, rows].
pub(super) fn matmul(
    activations: Activations,
    weight: Affine<'_>,
    norm: Option<Norm<'_>>,
    x: &[f32],
    y: &mut [f32],
) {
    let Weight { tensor_type, rows, cols, .. } = *weight.matrix.weight;
    for (x, y) in x.chunks_exact(cols).zip(y.chunks_exact_mut(rows)) {
        let (x, factor) = match norm {
            None => (x.to_vec(), None),
            Some(norm) if activations == Activations::Q8K => (rms_norm(x, norm.weight, norm.eps), None),
            Some(norm) => {
                let weighted = x.iter().zip(norm.weight).map(|(x, weight)| x * weight).collect();
                (weighted, Some(inverse_rms(x, weight.squares_cut, norm.eps)))
            }
        };
        let x = Quantized::new(activations, tensor_type, &x);
        for r in 0..rows {
            let product = x.dot(tensor_type, weight.matrix.row(r), weight.cut);
            let product = factor.map_or(product, |factor| product * factor);
            y[r] = weight.bias.map_or(product, |bias| product + bias[r]);
        }
    }
}
