//! The product of a row of weights with a row of activations: the specification that SIMD and GPU kernels are held to.
//!
//! Every product has one order, which a kernel reaches with one lane per row of weights. The columns are cut into segments
//! ([`Cut`]); each segment's sum begins with 0, and the sums of the segments are added in their order. Per 32 columns the
//! dot of the integers is exact; the floats are combined block after block, `fma(a, b, c)` meaning one rounding of
//! `a * b + c`.
//! `dot` is the exact integer of a block of 32, `sum` the sum of its activations' integers, `x_scale` their scale:
//!
//! | weights | per block of 32, in order |
//! |---|---|
//! | Q4_0, Q5_0, Q8_0 | `acc = fma(dot * d, x_scale, acc)`, the offset 8 or 16 taken off before the dot |
//! | Q4_1, Q5_1 | `acc = fma(dot * d, x_scale, acc)`, then `acc = fma(m, x_scale * sum, acc)` |
//! | Q4_K, Q5_K | `acc = fma(dot * (d * scale), x_scale, acc)`, then `acc = fma(-(dmin * minimum), x_scale * sum, acc)` |
//! | Q6_K | `acc = fma((scale0 * dot0 + scale1 * dot1) * d, x_scale, acc)`: the integers of both halves added first |
//!
//! With Q8_K activations the integer goes over a whole super-block, block scales included, and then
//! `acc = fma(dot, d * x_scale, acc)`, for Q4_K and Q5_K followed by `acc = fma(-sum, dmin * x_scale, acc)`, where
//! `sum` adds up minimum times sum of the eight blocks.
//!
//! With float activations the weights are decoded; each 32 columns have a partial sum, by fma in order from 0, and the
//! partial sums are added in order within the segment. Short partial sums keep the rounding small in long rows.
//!
//! A mismatch of type or length is a fault of the caller. It gives NaN, which the engine's checks name; it never reads
//! out of bounds.

use super::block::{Block, DotQ8, DotQ8K, blocks};
use super::q8::{Q8Blocks, Q8Row};
use super::q8_k::{Q8KBlock, Q8KRow};
use super::{
    BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K, BlockQ8_0, Cut, SegmentSum,
    TensorType, decode_row,
};

/// A row of quantized weights times activations in blocks of 32 ([`Q8Row::quantize`]; with
/// [`Q8Row::quantize_q8_0`] this is what ggml does for weights that are not in super-blocks).
///
/// NaN where the lengths differ or the type is not a quantized weight type.
pub fn dot_q8(tensor_type: TensorType, row: &[u8], x: &Q8Row, cut: Cut) -> f32 {
    match tensor_type {
        TensorType::Q4_0 => dot_q8_blocks::<BlockQ4_0>(row, x, cut),
        TensorType::Q4_1 => dot_q8_blocks::<BlockQ4_1>(row, x, cut),
        TensorType::Q5_0 => dot_q8_blocks::<BlockQ5_0>(row, x, cut),
        TensorType::Q5_1 => dot_q8_blocks::<BlockQ5_1>(row, x, cut),
        TensorType::Q8_0 => dot_q8_blocks::<BlockQ8_0>(row, x, cut),
        TensorType::Q4_K => dot_q8_blocks::<BlockQ4K>(row, x, cut),
        TensorType::Q5_K => dot_q8_blocks::<BlockQ5K>(row, x, cut),
        TensorType::Q6_K => dot_q8_blocks::<BlockQ6K>(row, x, cut),
        _ => f32::NAN,
    }
}

/// A row of Q4_K, Q5_K or Q6_K weights times Q8_K activations. (Other quantized types have no such product: in the mode
/// `q8_k` they take [`dot_q8`] with [`Q8Row::quantize_q8_0`].)
///
/// NaN where the lengths differ or the type has no super-blocks.
pub fn dot_q8_k(tensor_type: TensorType, row: &[u8], x: &Q8KRow, cut: Cut) -> f32 {
    match tensor_type {
        TensorType::Q4_K => dot_q8_k_blocks::<BlockQ4K>(row, x, cut),
        TensorType::Q5_K => dot_q8_k_blocks::<BlockQ5K>(row, x, cut),
        TensorType::Q6_K => dot_q8_k_blocks::<BlockQ6K>(row, x, cut),
        _ => f32::NAN,
    }
}

/// A row of weights of any weight type times float activations.
///
/// NaN where the lengths differ or the type cannot be decoded.
pub fn dot_f32(tensor_type: TensorType, row: &[u8], x: &[f32], cut: Cut) -> f32 {
    if tensor_type.row_bytes(x.len()) != Some(row.len()) {
        return f32::NAN;
    }
    // 256 columns at a time: whole blocks of every type, and no allocation.
    let (mut sum, mut rest) = (SegmentSum::new(cut, x.len()), row);
    let mut weights = [0.0f32; 256];
    for x in x.chunks(256) {
        let weights = &mut weights[..x.len()];
        let taken = tensor_type.row_bytes(x.len()).and_then(|bytes| rest.split_at_checked(bytes));
        let Some((bytes, after)) = taken else { return f32::NAN };
        if decode_row(tensor_type, bytes, weights).is_err() {
            return f32::NAN;
        }
        for (weights, x) in weights.chunks(32).zip(x.chunks(32)) {
            let partial = weights.iter().zip(x).fold(0.0f32, |partial, (w, x)| w.mul_add(*x, partial));
            sum.add(1, |acc| acc + partial);
        }
        rest = after;
    }
    sum.total()
}

fn dot_q8_blocks<B: Block + DotQ8>(row: &[u8], x: &Q8Row, cut: Cut) -> f32 {
    let Ok(blocks) = blocks::<B>(row, x.values.len()) else { return f32::NAN };
    let per_block = B::TYPE.block_len() / 32;
    let values = x.values.as_chunks::<32>().0;
    let sums = x.sums.as_chunks::<2>().0;
    if x.scales.len() != values.len() || sums.len() != values.len() {
        return f32::NAN;
    }
    let parts = x.scales.chunks(per_block).zip(values.chunks(per_block)).zip(sums.chunks(per_block));
    let mut sum = SegmentSum::new(cut, x.values.len());
    for (block, ((scales, values), sums)) in blocks.iter().zip(parts) {
        block.dot_q8(Q8Blocks { scales, values, sums }, &mut sum);
    }
    sum.total()
}

fn dot_q8_k_blocks<B: Block + DotQ8K>(row: &[u8], x: &Q8KRow, cut: Cut) -> f32 {
    let Ok(blocks) = blocks::<B>(row, x.values.len()) else { return f32::NAN };
    let values = x.values.as_chunks::<256>().0;
    let sums = x.sums.as_chunks::<16>().0;
    if x.scales.len() != values.len() || sums.len() != values.len() {
        return f32::NAN;
    }
    let parts = x.scales.iter().zip(values).zip(sums);
    let mut sum = SegmentSum::new(cut, x.values.len());
    for (block, ((&scale, values), sums)) in blocks.iter().zip(parts) {
        sum.add(8, |acc| block.dot_q8_k(Q8KBlock { scale, values, sums }, acc));
    }
    sum.total()
}
