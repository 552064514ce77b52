//! attn_out and down: product, bias, residual, records.

use super::bench::*;
use aprgpu::backend::cuda::sources::Target;
use aprgpu::compare::Random;
use aprgpu::plan::OpKind;
use aprgpu::quant::TensorType;

/// What came out: the residual stream and the records.
fn run(shape: Shape, run_rows: usize, with: (bool, bool), seed: u64) -> (Vec<u32>, Vec<u32>) {
    let mut random = Random::new(seed + 1);
    let matrix = Matrix::random(&mut random, shape.a, shape.rows, shape.cols);
    let acts: Vec<Activation> = (0..shape.m).map(|_| Activation::random(&mut random, shape.cols)).collect();
    let bias = random.values(shape.rows);
    let norm = random.values(shape.rows);
    let residual = random.values(shape.m * shape.rows);
    let panels = matrix.panel_count();
    let mut bench = Bench::new();
    bench.put_bytes("weights", &[&[0x7f; 48][..], &matrix.panels].concat());
    bench.put("vectors", &bits(&[&[f32::NAN; 3][..], &bias, &norm].concat()));
    let k = shape.x == "q8_k";
    bench.put("acts", &acts.iter().flat_map(|a| a.records(k)).collect::<Vec<_>>());
    let mut state = vec![SENTINEL; 8 + 4 * shape.m];
    state[0] = run_rows as u32;
    bench.put("state", &state);
    bench.put("residual", &[&bits(&residual)[..], &[SENTINEL; 8]].concat());
    let records_out = shape.m * shape.rows.div_ceil(32);
    bench.put("acts_out", &vec![SENTINEL; (records_out + 1) * 44]);
    let mut params = shape.params();
    params.set("base0", 3);
    params.set("panels0", panels);
    params.set("stride_a", matrix.stride);
    if with.0 {
        params.set("bias0", 3);
    }
    if with.1 {
        params.set("norm", 3 + shape.rows as u32);
        params.set("flags", FLAG_RECORDS);
    }
    bench.launch(&shape.key(None), shape.target, shape.grid(panels), shape.geometry(), &params, seed);

    let what = format!("{shape:?}");
    let found = bench.floats("residual");
    let mut truth = Vec::new();
    let mut exact = true;
    for (m, act) in acts.iter().enumerate() {
        for (r, row) in matrix.rows.iter().enumerate() {
            let at = m * shape.rows + r;
            let mut value = residual[at];
            if m < run_rows {
                let mut product = act.dot(shape.a, row, shape.x);
                if with.0 {
                    product += bias[r];
                }
                value = product + residual[at];
            }
            exact &= value.to_bits() == found[at].to_bits();
            truth.push(value);
        }
    }
    close(&found[..truth.len()], &truth, 1e-9, &what);
    if shape.segments == Some(1) {
        assert!(exact, "{what}: with one segment the order is that of quant/dot.rs");
    }
    let words = bench.words("residual");
    assert!(words[truth.len()..].iter().all(|w| *w == SENTINEL), "{what}: past the residual stream");
    let out = bench.words("acts_out");
    if with.1 {
        let per_row = shape.rows.div_ceil(32);
        for (index, record) in records(&out).iter().enumerate() {
            let (m, panel) = (index / per_row, index % per_row);
            if m >= run_rows {
                assert!(record.0.iter().all(|w| *w == SENTINEL), "{what}: record {index}");
                continue;
            }
            let mut values = vec![0.0; 32];
            let mut squares = 0.0;
            for (i, value) in values.iter_mut().enumerate().take(shape.rows - 32 * panel) {
                let plain = found[m * shape.rows + 32 * panel + i];
                *value = plain * norm[32 * panel + i];
                squares += f64::from(plain) * f64::from(plain);
            }
            assert_eq!(bits(&record.values()), bits(&values), "{what}: values of record {index}");
            record.check(squares, &format!("{what}, record {index}"));
        }
    } else {
        assert!(out.iter().all(|w| *w == SENTINEL), "{what}: no records were asked for");
    }
    (words, out)
}

fn shape(a: TensorType, x: &'static str, rows: usize, cols: usize, m: usize) -> Shape {
    let op = if m % 2 == 1 { OpKind::Down } else { OpKind::AttnOut };
    Shape { op, a, x, rows, cols, m, tile: false, segments: None, target: Target::Sm80 }
}

/// Every type and form, odd counts of rows, lengths that leave segments of different sizes.
#[test]
fn every_type_and_form() {
    for (a, x) in types_and_forms() {
        let blocks = if a.is_float() { 1 } else { a.block_len() };
        for (rows, cols, m) in
            [(70, 768, 1), (33, 1536, 2), (1, 256, 1), (64, 896, 1), (40, 4864, 1), (33, 100, 2)]
        {
            if usize::is_multiple_of(cols, blocks) {
                run(shape(a, x, rows, cols, m), m, (m == 1, true), 5);
            }
        }
        // In one segment the order is that of the specification, so the bits are.
        run(Shape { segments: Some(1), ..shape(a, x, 35, 512, 1) }, 1, (true, false), 6);
    }
}

/// Every number of rows that there is a kernel for, and runs that do not have all of them.
#[test]
fn every_number_of_rows() {
    for (a, x) in types_and_forms() {
        for m in 3..=8 {
            let shape = Shape { segments: Some(3), ..shape(a, x, 34, 512, m) };
            run(shape, if m % 3 == 0 { m - 2 } else { m }, (true, true), m as u64);
        }
    }
}

/// A row's numbers do not depend on the batch it is in, nor on the order in which warps run.
#[test]
fn a_row_is_the_same_in_every_batch() {
    for (a, x) in types_and_forms() {
        let mut random = Random::new(77);
        let matrix = Matrix::random(&mut random, a, 40, 768);
        let acts: Vec<Activation> = (0..8).map(|_| Activation::random(&mut random, 768)).collect();
        let of = |m: usize, target: Target, seed: u64| {
            let shape = Shape { target, ..shape(a, x, 40, 768, m) };
            products(shape, &matrix, &acts[..m], seed)
        };
        let tiled = |m: usize, seed: u64| {
            let shape = Shape { tile: true, ..shape(a, x, 40, 768, m) };
            products(shape, &matrix, &acts[..m], seed)
        };
        let eight = of(8, Target::Sm80, 0);
        for (m, target, seed) in [(1, Target::Sm80, 1), (3, Target::Sm90, 2), (8, Target::Sm90, 3)] {
            assert!(of(m, target, seed) == eight[..m * 40], "{a} {x}, {m} rows");
        }
        for (m, seed) in [(8, 0), (5, 4)] {
            assert!(tiled(m, seed) == eight[..m * 40], "{a} {x}, a tile with {m} rows");
        }
    }
}

/// The bare products of `down`, which adds them to zeros.
fn products(shape: Shape, matrix: &Matrix, acts: &[Activation], seed: u64) -> Vec<u32> {
    let panels = matrix.panel_count();
    let mut bench = Bench::new();
    bench.put_bytes("weights", &matrix.panels);
    bench.put("vectors", &[0]);
    bench.put("acts", &acts.iter().flat_map(|a| a.records(shape.x == "q8_k")).collect::<Vec<_>>());
    bench.put("state", &[shape.m as u32; 8]);
    bench.put("residual", &vec![0; shape.m * shape.rows]);
    bench.put("acts_out", &[0]);
    let mut params = shape.params();
    params.set("panels0", panels);
    params.set("stride_a", matrix.stride);
    bench.launch(&shape.key(None), shape.target, shape.grid(panels), shape.geometry(), &params, seed);
    bench.words("residual")
}

/// Prefill: tiles that are full, that are not, and a run with fewer rows than the plan.
#[test]
fn tiles() {
    for (a, x) in types_and_forms() {
        for (rows, cols, m, run_rows) in [(33, 512, 37, 37), (70, 256, 9, 5)] {
            run(Shape { tile: true, ..shape(a, x, rows, cols, m) }, run_rows, (true, true), 8);
        }
        run(Shape { tile: true, segments: Some(1), ..shape(a, x, 32, 512, 10) }, 10, (false, false), 9);
    }
}
