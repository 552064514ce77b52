//! The bit layouts against what ggml and gguf-py made of the same values, and the dots against float64 arithmetic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "support/fixtures.rs"]
mod lookup;

use aprgpu::quant::{self, Cut, Error, Q8KRow, Q8Row, TensorType};
use lookup::fixtures;
use proptest::prelude::*;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

/// Columns of the golden rows.
const COLS: usize = 1024;

const QUANTIZED: [TensorType; 8] = [
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

const K_TYPES: [TensorType; 3] = [TensorType::Q4_K, TensorType::Q5_K, TensorType::Q6_K];

/// The folders with goldens: eight rows in the repository, all rows where the larger fixtures are at hand.
fn golden_folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join("tests/golden/quant")];
    folders.extend(fixtures().map(|fixtures| fixtures.join("quant")));
    folders
}

fn read(folder: &Path, name: &str) -> Vec<u8> {
    let path = folder.join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn read_f32(folder: &Path, name: &str) -> Vec<f32> {
    read(folder, name).as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn decode(tensor_type: TensorType, bytes: &[u8]) -> Vec<f32> {
    let values = bytes.len() / tensor_type.block_bytes() * tensor_type.block_len();
    let mut out = vec![0.0; values];
    quant::decode_row(tensor_type, bytes, &mut out).unwrap();
    out
}

/// Rows of one type with the activations to multiply them with: row `r` of the golden blocks with the input's next row.
fn dot_cases(tensor_type: TensorType) -> Vec<(Vec<u8>, Vec<f32>)> {
    let mut cases = Vec::new();
    for folder in golden_folders() {
        let blocks = read(&folder, &format!("{tensor_type}.blocks"));
        let input = read_f32(&folder, "input.f32");
        let rows: Vec<&[u8]> = blocks.chunks(tensor_type.row_bytes(COLS).unwrap()).collect();
        let inputs: Vec<&[f32]> = input.chunks(COLS).collect();
        for (r, row) in rows.iter().enumerate() {
            for x in [inputs[r], inputs[(r + 1) % inputs.len()]] {
                cases.push((row.to_vec(), x.to_vec()));
            }
        }
    }
    cases
}

/// The exact product in float64, and the sum of the magnitudes of its terms.
fn product(weights: &[f32], x: &[f32]) -> (f64, f64) {
    weights.iter().zip(x).fold((0.0, 0.0), |(sum, magnitude), (&w, &x)| {
        let term = f64::from(w) * f64::from(x);
        (sum + term, magnitude + term.abs())
    })
}

#[test]
fn decoding_is_bit_exact() {
    for folder in golden_folders() {
        for tensor_type in QUANTIZED.into_iter().chain([TensorType::F16, TensorType::BF16]) {
            let decoded = decode(tensor_type, &read(&folder, &format!("{tensor_type}.blocks")));
            let expected = read_f32(&folder, &format!("{tensor_type}.f32"));
            assert_eq!(decoded.len(), expected.len());
            for (i, (decoded, expected)) in decoded.iter().zip(&expected).enumerate() {
                assert_eq!(
                    decoded.to_bits(),
                    expected.to_bits(),
                    "{tensor_type}, value {i}: {decoded} is not {expected}"
                );
            }
        }
        let input = read_f32(&folder, "input.f32");
        assert_eq!(decode(TensorType::F32, bytemuck::cast_slice(&input)), input);
    }
}

#[test]
fn q8_k_activations_are_ggmls_bytes() {
    for folder in golden_folders() {
        let mut row = Q8KRow::new();
        row.quantize(&read_f32(&folder, "input.f32")).unwrap();
        let blocks: Vec<_> = row.blocks().collect();
        let (ours, ggml): (&[u8], _) = (bytemuck::cast_slice(&blocks), read(&folder, "Q8_K.blocks"));
        assert_eq!(ours.len(), ggml.len());
        let differs = ours.iter().zip(&ggml).position(|(a, b)| a != b);
        assert_eq!(differs, None, "first differing byte, blocks have 292");
    }
}

#[test]
fn q8_0_activations_are_ggmls_blocks() {
    for folder in golden_folders() {
        let mut row = Q8Row::new();
        row.quantize_q8_0(&read_f32(&folder, "input.f32")).unwrap();
        let mut values = vec![0.0; row.len()];
        row.decode(&mut values);
        assert_eq!(values, decode(TensorType::Q8_0, &read(&folder, "Q8_0.blocks")));
    }
}

#[test]
fn q8_activations_are_nearest_and_their_sums_add_up() {
    for folder in golden_folders() {
        let input = read_f32(&folder, "input.f32");
        let mut row = Q8Row::new();
        row.quantize(&input).unwrap();
        let mut decoded = vec![0.0; input.len()];
        row.decode(&mut decoded);
        for (b, x) in input.chunks(32).enumerate() {
            let max = x.iter().fold(0.0f32, |max, v| max.max(v.abs()));
            assert_eq!(row.scales[b], max / 127.0);
            let q = &row.values[32 * b..][..32];
            for (j, (x, decoded)) in x.iter().zip(&decoded[32 * b..]).enumerate() {
                assert!(
                    (x - decoded).abs() <= 0.5001 * row.scales[b],
                    "block {b}, value {j}: {x} became {decoded}"
                );
                assert!(q[j] >= -127);
            }
            assert_eq!(row.sums[2 * b], q[..16].iter().map(|&q| i16::from(q)).sum::<i16>());
            assert_eq!(row.sums[2 * b + 1], q[16..].iter().map(|&q| i16::from(q)).sum::<i16>());
        }
    }
}

#[test]
fn q8_rounds_halves_to_even_and_keeps_zeros_and_faults() {
    let mut x = [0.0f32; 32];
    x[..6].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]);
    let (scale, q) = quant::q8::quantize_block(&x);
    assert_eq!((scale, &q[..6]), (1.0, [127, 0, 2, 2, 0, -2].as_slice()));

    assert_eq!(quant::q8::quantize_block(&[0.0; 32]), (0.0, [0; 32]));
    assert_eq!(quant::q8::quantize_block(&[-0.0; 32]), (0.0, [0; 32]));
    let largest_zero = f32::from_bits(quant::q8::SMALLEST_MAXIMUM.to_bits() - 1);
    assert_eq!(quant::q8::quantize_block(&[largest_zero; 32]), (0.0, [0; 32]));
    let (scale, q) = quant::q8::quantize_block(&[quant::q8::SMALLEST_MAXIMUM; 32]);
    assert!(scale.is_normal() && (1.0 / scale).is_finite());
    assert_eq!(q, [127; 32]);

    for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        x[9] = fault;
        assert!(!quant::q8::quantize_block(&x).0.is_finite());
    }
}

#[test]
fn dots_with_q8_are_the_float_product_of_the_same_values() {
    for tensor_type in QUANTIZED {
        for (row, input) in dot_cases(tensor_type) {
            let weights = decode(tensor_type, &row);
            for rounded_scales in [false, true] {
                let mut x = Q8Row::new();
                if rounded_scales { x.quantize_q8_0(&input) } else { x.quantize(&input) }.unwrap();
                let mut decoded = vec![0.0; input.len()];
                x.decode(&mut decoded);
                let dot = f64::from(quant::dot_q8(tensor_type, &row, &x, Cut::WHOLE));
                // Integers are exact; what remains are the roundings of the decoded values and of the sum of blocks.
                let (exact, magnitude) = product(&weights, &decoded);
                assert!(
                    (dot - exact).abs() <= 1e-6 * magnitude + 1e-40,
                    "{tensor_type}: {dot} is not {exact}"
                );
            }
        }
    }
}

#[test]
fn dots_with_q8_k_are_the_float_product_of_the_same_values() {
    for tensor_type in K_TYPES {
        for (row, input) in dot_cases(tensor_type) {
            let mut x = Q8KRow::new();
            x.quantize(&input).unwrap();
            let mut decoded = vec![0.0; input.len()];
            x.decode(&mut decoded);
            let dot = f64::from(quant::dot_q8_k(tensor_type, &row, &x, Cut::WHOLE));
            let (exact, magnitude) = product(&decode(tensor_type, &row), &decoded);
            assert!((dot - exact).abs() <= 1e-6 * magnitude + 1e-40, "{tensor_type}: {dot} is not {exact}");
        }
    }
}

#[test]
fn dots_with_floats_are_the_float_product() {
    for tensor_type in QUANTIZED.into_iter().chain([TensorType::F16, TensorType::BF16]) {
        for (row, x) in dot_cases(tensor_type) {
            let dot = f64::from(quant::dot_f32(tensor_type, &row, &x, Cut::WHOLE));
            let (exact, magnitude) = product(&decode(tensor_type, &row), &x);
            assert!((dot - exact).abs() <= 1e-6 * magnitude + 1e-40, "{tensor_type}: {dot} is not {exact}");
        }
    }
}

#[test]
fn encoding_gives_ggmls_bytes() {
    for folder in golden_folders() {
        let input = read_f32(&folder, "input.f32");
        for tensor_type in QUANTIZED.into_iter().chain([TensorType::F16, TensorType::BF16]) {
            let expected = read(&folder, &format!("{tensor_type}.blocks"));
            for threads in [1, 3] {
                let mut out = vec![0xa5; expected.len()];
                let threads = NonZeroUsize::new(threads).unwrap();
                quant::encode_rows(tensor_type, &input, COLS, None, &mut out, threads).unwrap();
                let differs: Vec<usize> = (0..out.len()).filter(|&i| out[i] != expected[i]).collect();
                assert_eq!(differs.first(), None, "{tensor_type}: {} bytes differ", differs.len());
            }
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let values: Vec<f32> = (0..700 * 256).map(|i| ((i * 7919 % 10_007) as f32 - 5000.0) / 1000.0).collect();
    let encode = |threads| {
        let mut out = vec![0; 700 * 144];
        let threads = NonZeroUsize::new(threads).unwrap();
        quant::encode_rows(TensorType::Q4_K, &values, 256, None, &mut out, threads).unwrap();
        out
    };
    let one = encode(1);
    assert_eq!(one, encode(2));
    assert_eq!(one, encode(64));
    let mut rows = vec![0; 700 * 144];
    for (row, out) in values.chunks(256).zip(rows.chunks_mut(144)) {
        quant::encode_row(TensorType::Q4_K, row, None, out).unwrap();
    }
    assert_eq!(one, rows);
}

/// The goldens of this test lie in the repository only: `importance.f32` and `<TYPE>.weighted.blocks`.
#[test]
fn encoding_with_an_importance_matrix_gives_ggmls_bytes() {
    let folder = &golden_folders()[0];
    let input = read_f32(folder, "input.f32");
    let importance = read_f32(folder, "importance.f32");
    for tensor_type in QUANTIZED {
        let uses_it = tensor_type != TensorType::Q8_0;
        let unweighted = read(folder, &format!("{tensor_type}.blocks"));
        let expected = if uses_it {
            read(folder, &format!("{tensor_type}.weighted.blocks"))
        } else {
            unweighted.clone()
        };
        assert_eq!(uses_it, expected != unweighted);
        let mut out = vec![0; expected.len()];
        let threads = NonZeroUsize::new(2).unwrap();
        quant::encode_rows(tensor_type, &input, COLS, Some(&importance), &mut out, threads).unwrap();
        let differs = out.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!(differs, None, "{tensor_type}: first differing byte");
    }
}

/// A row of 33 blocks leaves lanes of the searches unused; its blocks must be those of a row of 32 and a row of 1.
#[test]
fn blocks_do_not_depend_on_their_neighbours() {
    let folder = &golden_folders()[0];
    let input = &read_f32(folder, "input.f32")[..COLS];
    let row: Vec<f32> = input.iter().chain(&input[..32]).copied().collect();
    // With an importance matrix the mean square of the whole row counts too; it is the same if a block repeats.
    let repeated: Vec<f32> = input[..32].repeat(9);
    for tensor_type in [TensorType::Q4_0, TensorType::Q4_1, TensorType::Q5_0, TensorType::Q5_1] {
        let encode = |row: &[f32], importance: Option<&[f32]>| {
            let mut out = vec![0; tensor_type.row_bytes(row.len()).unwrap()];
            quant::encode_row(tensor_type, row, importance, &mut out).unwrap();
            out
        };
        let (whole, block) = (encode(&row, None), encode(&input[..32], None));
        assert_eq!(whole[..whole.len() - block.len()], encode(input, None));
        assert_eq!(whole[whole.len() - block.len()..], block);
        let weights = vec![1.0; repeated.len()];
        assert_eq!(encode(&repeated, Some(&weights)), encode(&input[..32], Some(&weights[..32])).repeat(9));
    }
}

#[test]
fn what_cannot_be_encoded_is_refused() {
    let threads = NonZeroUsize::new(3).unwrap();
    for tensor_type in QUANTIZED.into_iter().chain([TensorType::F32, TensorType::F16, TensorType::BF16]) {
        for fault in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1.0; 512 * 512];
            values[150_001] = fault;
            values[200_000] = fault;
            let mut out = vec![0; tensor_type.row_bytes(values.len()).unwrap()];
            let result = quant::encode_rows(tensor_type, &values, 512, None, &mut out, threads);
            assert!(
                matches!(result, Err(Error::NotFiniteInput { index: 150_001, .. })),
                "{tensor_type}: {result:?}"
            );
        }
    }
    // Wherever in a block, and together with its opposite.
    for tensor_type in QUANTIZED {
        for fault in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for at in 0..32 {
                let mut values = [0.5f32; 256];
                (values[at], values[40]) = (fault, -fault);
                let mut out = vec![0; tensor_type.row_bytes(256).unwrap()];
                let result = quant::encode_row(tensor_type, &values, None, &mut out);
                assert!(
                    matches!(result, Err(Error::NotFiniteInput { index, .. }) if index == at),
                    "{tensor_type} {fault} at {at}: {result:?}"
                );
            }
        }
    }
    let mut out = [0; 4 * 34];
    let large = [[1.0f32; 64], [1e7; 64]].concat();
    let result = quant::encode_rows(TensorType::Q8_0, &large, 64, None, &mut out, threads);
    assert_eq!(result, Err(Error::TooLarge { tensor_type: TensorType::Q8_0, index: 64 }));
    let mut out = [0; 288];
    let encode = |cols, importance: Option<&[f32]>, out: &mut [u8]| {
        quant::encode_rows(TensorType::Q4_K, &[1.0; 512], cols, importance, out, threads)
    };
    assert_eq!(encode(256, Some(&[1.0; 256]), &mut out), Ok(()));
    assert!(matches!(encode(300, None, &mut out), Err(Error::PartialRow { values: 512, cols: 300 })));
    assert!(matches!(encode(0, None, &mut out), Err(Error::PartialRow { .. })));
    assert!(matches!(encode(128, None, &mut out), Err(Error::PartialBlock { values: 128, .. })));
    assert!(matches!(encode(256, None, &mut out[..287]), Err(Error::WrongBytes { expected: 288, .. })));
    let length = encode(256, Some(&[1.0; 512]), &mut out);
    assert!(matches!(length, Err(Error::ImportanceLength { expected: 256, found: 512 })));
    for value in [-1.0, f32::NAN, f32::INFINITY] {
        let mut importance = [1.0; 256];
        importance[17] = value;
        let result = encode(256, Some(&importance), &mut out);
        assert!(matches!(result, Err(Error::ImportanceValue { index: 17, .. })), "{result:?}");
    }
    let unknown = quant::encode_row(TensorType::AprQ4, &[0.0; 32], None, &mut [0; 18]);
    assert!(matches!(unknown, Err(Error::Unsupported { .. })));
}

#[test]
fn the_other_activations_round_as_ggml_does() {
    let mut x = [0.0f32; 256];
    x[..6].copy_from_slice(&[-127.0, 0.5, 1.5, 2.5, -0.5, 127.0]);
    let (scale, q) = quant::q8_k::quantize_block(&x);
    assert_eq!((scale, &q[..6]), (1.0, [-127, 0, 2, 2, 0, 127].as_slice()), "halves to even");
    x[0] = 127.0;
    x[5] = -127.0;
    let (scale, q) = quant::q8_k::quantize_block(&x);
    assert_eq!(
        (scale, &q[..6]),
        (-1.0, [-127, 0, -2, -2, 0, 127].as_slice()),
        "the first largest has the sign"
    );

    let mut row = Q8Row::new();
    row.quantize_q8_0(&x[..32]).unwrap();
    assert_eq!(
        (row.scales[0], &row.values[..6]),
        (1.0, [127, 1, 2, 3, -1, -127].as_slice()),
        "away from zero"
    );
}

/// The order that every kernel must follow, spelled out once more over blocks of each kind.
#[test]
fn the_order_of_the_floats_is_pinned() {
    let folder = &golden_folders()[0];
    let mut x = Q8Row::new();
    x.quantize(&read_f32(folder, "input.f32")[..512]).unwrap();
    let values = |b: usize| &x.values[32 * b..32 * (b + 1)];
    let dot = |q: &[i8], v: &[i8]| q.iter().zip(v).map(|(&q, &v)| i32::from(q) * i32::from(v)).sum::<i32>();
    let sum = |b: usize| values(b).iter().map(|&v| i32::from(v)).sum::<i32>() as f32;

    let row = &read(folder, "Q5_0.blocks")[..22 * 16];
    let mut acc = 0.0f32;
    for (b, block) in bytemuck::cast_slice::<_, quant::BlockQ5_0>(row).iter().enumerate() {
        acc = f32::mul_add(dot(&block.quants(), values(b)) as f32 * block.d.to_f32(), x.scales[b], acc);
    }
    assert_eq!(quant::dot_q8(TensorType::Q5_0, row, &x, Cut::WHOLE).to_bits(), acc.to_bits(), "Q5_0");

    let row = &read(folder, "Q4_1.blocks")[..20 * 16];
    let mut acc = 0.0f32;
    for (b, block) in bytemuck::cast_slice::<_, quant::BlockQ4_1>(row).iter().enumerate() {
        acc = f32::mul_add(dot(&block.quants(), values(b)) as f32 * block.d.to_f32(), x.scales[b], acc);
        acc = f32::mul_add(block.m.to_f32(), x.scales[b] * sum(b), acc);
    }
    assert_eq!(quant::dot_q8(TensorType::Q4_1, row, &x, Cut::WHOLE).to_bits(), acc.to_bits(), "Q4_1");
    // In segments: 16 blocks are 6 + 5 + 5.
    let part = |blocks: std::ops::Range<usize>| {
        let blocks_of = bytemuck::cast_slice::<_, quant::BlockQ4_1>(row);
        blocks.fold(0.0f32, |acc, b| {
            let block = &blocks_of[b];
            let acc =
                f32::mul_add(dot(&block.quants(), values(b)) as f32 * block.d.to_f32(), x.scales[b], acc);
            f32::mul_add(block.m.to_f32(), x.scales[b] * sum(b), acc)
        })
    };
    let parts = part(0..6) + part(6..11) + part(11..16);
    assert_ne!(parts.to_bits(), acc.to_bits(), "the order does not show");
    assert_eq!(quant::dot_q8(TensorType::Q4_1, row, &x, Cut::new(3, 32)).to_bits(), parts.to_bits(), "cut");

    let row = &read(folder, "Q4_K.blocks")[..288];
    let mut acc = 0.0f32;
    for b in 0..16 {
        let block = &bytemuck::cast_slice::<_, quant::BlockQ4K>(row)[b / 8];
        let (scales, minimums) = block.scales_and_minimums();
        let scale = block.d.to_f32() * f32::from(scales[b % 8]);
        let minimum = block.dmin.to_f32() * f32::from(minimums[b % 8]);
        let q = &block.quants()[b % 8 * 32..][..32];
        acc = f32::mul_add(dot(q, values(b)) as f32 * scale, x.scales[b], acc);
        acc = f32::mul_add(-minimum, x.scales[b] * sum(b), acc);
    }
    assert_eq!(quant::dot_q8(TensorType::Q4_K, row, &x, Cut::WHOLE).to_bits(), acc.to_bits(), "Q4_K");

    let row = &read(folder, "Q6_K.blocks")[..420];
    let mut acc = 0.0f32;
    for b in 0..16 {
        let block = &bytemuck::cast_slice::<_, quant::BlockQ6K>(row)[b / 8];
        let scale = |half: usize| i32::from(block.scales[b % 8 * 2 + half]);
        let q = &block.quants()[b % 8 * 32..][..32];
        let whole = scale(0) * dot(&q[..16], &values(b)[..16]) + scale(1) * dot(&q[16..], &values(b)[16..]);
        acc = f32::mul_add(whole as f32 * block.d.to_f32(), x.scales[b], acc);
    }
    assert_eq!(quant::dot_q8(TensorType::Q6_K, row, &x, Cut::WHOLE).to_bits(), acc.to_bits(), "Q6_K");
}

#[test]
fn a_float_row_may_have_any_length() {
    for cols in [1, 31, 33, 255, 257, 300, 1000] {
        let weights: Vec<f32> = (0..cols).map(|i| (i % 7) as f32 - 3.0).collect();
        let x: Vec<f32> = (0..cols).map(|i| (i % 5) as f32).collect();
        let (exact, _) = product(&weights, &x);
        let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(
            f64::from(quant::dot_f32(TensorType::F32, &bytes, &x, Cut::WHOLE)),
            exact,
            "{cols} columns"
        );
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut out = [0.0; 64];
    let wrong = quant::decode_row(TensorType::Q4_0, &[0; 35], &mut out);
    assert!(matches!(wrong, Err(Error::WrongBytes { expected: 36, found: 35, .. })), "{wrong:?}");
    let partial = quant::decode_row(TensorType::Q4_K, &[0; 144], &mut out);
    assert!(matches!(partial, Err(Error::PartialBlock { values: 64, block_len: 256, .. })), "{partial:?}");
    let unknown = quant::decode_row(TensorType::Q2_K, &[0; 84], &mut [0.0; 256]);
    assert!(matches!(unknown, Err(Error::Unsupported { .. })), "{unknown:?}");
    assert!(quant::finite_scales(TensorType::Q6_K, &[0; 211]).is_err());
    assert!(quant::finite_scales(TensorType::IQ1_S, &[0; 50]).is_err());

    assert!(Q8Row::new().quantize(&[0.0; 33]).is_err());
    assert!(Q8KRow::new().quantize(&[0.0; 255]).is_err());
    let mut x = Q8Row::new();
    x.quantize(&[1.0; 64]).unwrap();
    assert!(quant::dot_q8(TensorType::Q4_0, &[0; 18], &x, Cut::WHOLE).is_nan(), "one block times two");
    assert!(
        quant::dot_q8(TensorType::F16, &[0; 128], &x, Cut::WHOLE).is_nan(),
        "floats take float activations"
    );
    x.scales.pop();
    assert!(quant::dot_q8(TensorType::Q4_0, &[0; 36], &x, Cut::WHOLE).is_nan(), "a scale is missing");
    assert!(quant::dot_q8_k(TensorType::Q8_0, &[0; 272], &Q8KRow::new(), Cut::WHOLE).is_nan());
    assert!(quant::dot_f32(TensorType::Q8_0, &[0; 34], &[0.0; 31], Cut::WHOLE).is_nan());
}

#[test]
fn a_scale_that_is_not_finite_is_found() {
    let f16_nan = half::f16::NAN.to_le_bytes();
    let f16_infinite = half::f16::NEG_INFINITY.to_le_bytes();
    // Type, and where in a block its float16 numbers lie.
    let places: [(TensorType, &[usize]); 9] = [
        (TensorType::Q4_0, &[0]),
        (TensorType::Q4_1, &[0, 2]),
        (TensorType::Q5_0, &[0]),
        (TensorType::Q5_1, &[0, 2]),
        (TensorType::Q8_0, &[0]),
        (TensorType::Q4_K, &[0, 2]),
        (TensorType::Q5_K, &[0, 2]),
        (TensorType::Q6_K, &[208]),
        (TensorType::AprQ4, &[0]),
    ];
    for (tensor_type, offsets) in places {
        let size = tensor_type.block_bytes();
        // Bytes of 0xff in the integers must not be mistaken for a float.
        let mut blocks = vec![0xff; 4 * size];
        for block in 0..4 {
            for offset in offsets {
                blocks[block * size + offset..][..2].fill(0);
            }
        }
        assert_eq!(quant::finite_scales(tensor_type, &blocks), Ok(()));
        for offset in offsets {
            for fault in [f16_nan, f16_infinite] {
                let mut blocks = blocks.clone();
                blocks[2 * size + offset..][..2].copy_from_slice(&fault);
                let found = quant::finite_scales(tensor_type, &blocks);
                assert_eq!(found, Err(Error::NotFinite { tensor_type, block: 2 }));
            }
        }
    }
    let floats = [1.0f32, f32::INFINITY];
    let found = quant::finite_scales(TensorType::F32, bytemuck::cast_slice(&floats));
    assert_eq!(found, Err(Error::NotFinite { tensor_type: TensorType::F32, block: 1 }));
    let bf16 = [0x80, 0x3f, 0x80, 0x7f];
    assert!(quant::finite_scales(TensorType::BF16, &bf16).is_err());
    assert!(quant::finite_scales(TensorType::F16, &[0, 0x3c, 0, 0x7c]).is_err());
    assert!(quant::finite_scales(TensorType::AprQ8, &[0, 0, 0x80, 0x7f, 1]).is_err());
}

#[test]
fn apr_q4_puts_neighbours_into_one_byte_and_may_end_inside_a_block() {
    let mut bytes = vec![0; 36];
    for block in bytes.chunks_mut(18) {
        block[..2].copy_from_slice(&half::f16::from_f32(0.5).to_le_bytes());
        for (j, byte) in block[2..].iter_mut().enumerate() {
            *byte = (j as u8) | ((15 - j as u8) << 4);
        }
    }
    let mut out = [f32::NAN; 37];
    quant::decode_row(TensorType::AprQ4, &bytes, &mut out).unwrap();
    for (i, value) in out.iter().enumerate() {
        let j = (i % 32 / 2) as f32;
        let q = if i % 2 == 0 { j } else { 15.0 - j };
        assert_eq!(*value, 0.5 * (q - 8.0), "value {i}");
    }
    assert!(quant::decode_row(TensorType::AprQ4, &bytes[..35], &mut out).is_err());
    assert!(quant::decode_row(TensorType::AprQ4, &bytes, &mut [0.0; 32]).is_err());
}

#[test]
fn apr_q8_has_one_scale() {
    let mut bytes = 0.25f32.to_le_bytes().to_vec();
    bytes.extend([0, 1, 0xff, 127, 0x81]);
    let mut out = [f32::NAN; 5];
    quant::decode_row(TensorType::AprQ8, &bytes, &mut out).unwrap();
    assert_eq!(out, [0.0, 0.25, -0.25, 31.75, -31.75]);
    assert!(quant::decode_row(TensorType::AprQ8, &bytes, &mut [0.0; 4]).is_err());
    assert!(quant::decode_row(TensorType::AprQ8, &[0, 0], &mut []).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes decode, check and multiply without a panic, and decode to what the integers of the blocks say.
    #[test]
    fn arbitrary_bytes_do_not_panic(
        tensor_type in proptest::sample::select(TensorType::ALL),
        bytes in proptest::collection::vec(any::<u8>(), 0..1300),
        values in 0usize..1100,
    ) {
        let mut out = vec![0.0; values];
        let decoded = quant::decode_row(tensor_type, &bytes, &mut out);
        let _ = quant::finite_scales(tensor_type, &bytes);
        let fits = tensor_type.is_weight_type() && tensor_type.row_bytes(values) == Some(bytes.len());
        if tensor_type.block_len() > 1 || tensor_type.is_float() {
            let apr = tensor_type == TensorType::AprQ4 && bytes.len() == 18 * values.div_ceil(32);
            prop_assert_eq!(decoded.is_ok(), fits || apr);
        }
        let _ = quant::dot_f32(tensor_type, &bytes, &out, Cut::WHOLE);
    }

    /// Any finite values encode without a panic into blocks that decode to finite values.
    #[test]
    fn arbitrary_values_encode(
        tensor_type in proptest::sample::select(&QUANTIZED[..]),
        exponent in -44.0f32..4.0,
        x in proptest::collection::vec(-1.0f32..1.0, 256),
        importance in proptest::option::of(proptest::collection::vec(0.0f32..1e3, 256)),
    ) {
        let x: Vec<f32> = x.iter().map(|x| x * 10f32.powf(exponent)).collect();
        let mut bytes = vec![0; tensor_type.row_bytes(256).unwrap()];
        quant::encode_row(tensor_type, &x, importance.as_deref(), &mut bytes).unwrap();
        prop_assert_eq!(quant::finite_scales(tensor_type, &bytes), Ok(()));
        let max = x.iter().fold(0.0f32, |max, x| max.max(x.abs()));
        for (x, decoded) in x.iter().zip(decode(tensor_type, &bytes)) {
            // No scale leaves a value further away than all values are from each other; 2e-4 is what the rounding of
            // a float16 near 0 can come to, times the largest block scale and integer.
            prop_assert!((x - decoded).abs() <= 2.0 * max + 2e-4, "{} became {}", x, decoded);
        }
    }

    /// Whole blocks of arbitrary bytes never overflow an integer in a product.
    #[test]
    fn arbitrary_blocks_multiply_without_overflow(
        tensor_type in proptest::sample::select(&QUANTIZED[..]),
        seed in proptest::collection::vec(any::<u8>(), 256),
        x in proptest::collection::vec(proptest::num::f32::ANY, 512),
    ) {
        let bytes: Vec<u8> = seed.iter().copied().cycle().take(tensor_type.row_bytes(512).unwrap()).collect();
        let mut out = vec![0.0; 512];
        prop_assert!(quant::decode_row(tensor_type, &bytes, &mut out).is_ok());
        let mut q8 = Q8Row::new();
        q8.quantize(&x).unwrap();
        let _ = quant::dot_q8(tensor_type, &bytes, &q8, Cut::WHOLE);
        // A caller may hand in any integers, -128 included.
        q8.values.iter_mut().for_each(|v| *v = -128);
        let _ = quant::dot_q8(tensor_type, &bytes, &q8, Cut::WHOLE);
        let mut q8_k = Q8KRow::new();
        q8_k.quantize(&x).unwrap();
        q8_k.values.iter_mut().for_each(|v| *v = -128);
        q8_k.sums.iter_mut().for_each(|v| *v = i16::MIN);
        let _ = quant::dot_q8_k(tensor_type, &bytes, &q8_k, Cut::WHOLE);
    }
}
