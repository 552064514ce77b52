//! gate_up: two matrices, of one type or two, the norm's factor, SiLU, records.

use super::bench::*;
use aprgpu::backend::cuda::sources::Target;
use aprgpu::compare::Random;
use aprgpu::plan::OpKind;
use aprgpu::quant::TensorType::{self, *};

fn run(shape: Shape, b: Option<TensorType>, run_rows: usize, bias: bool, seed: u64) -> Vec<u32> {
    run_for(shape, [shape.a, b.unwrap_or(shape.a)], run_rows, bias, seed, FLAG_RECORDS)
}

/// `types`: of gate and up, one of them `shape.a`. `form`: the flags that say which records `down` wants.
fn run_for(
    shape: Shape,
    [gate_type, up_type]: [TensorType; 2],
    run_rows: usize,
    bias: bool,
    seed: u64,
    form: u32,
) -> Vec<u32> {
    let mut random = Random::new(seed + 11);
    let b = [gate_type, up_type].into_iter().find(|&t| t != shape.a);
    let gate = Matrix::random(&mut random, gate_type, shape.rows, shape.cols);
    let up = Matrix::random(&mut random, up_type, shape.rows, shape.cols);
    let acts: Vec<Activation> = (0..shape.m).map(|_| Activation::random(&mut random, shape.cols)).collect();
    let biases = [random.values(shape.rows), random.values(shape.rows)];
    let panels = gate.panel_count();
    let mut bench = Bench::new();
    bench.put_bytes("weights", &[&gate.panels[..], &up.panels].concat());
    bench.put("vectors", &bits(&biases.concat()));
    let k = shape.x == "q8_k";
    bench.put("acts", &acts.iter().flat_map(|a| a.records(k)).collect::<Vec<_>>());
    let mut state = vec![SENTINEL; 8];
    state[0] = run_rows as u32;
    bench.put("state", &state);
    let len = shape.m * shape.rows;
    bench.put("gated", &vec![SENTINEL; len + 8]);
    let per_row = shape.rows.div_ceil(32);
    let mut acts_out = vec![SENTINEL; (shape.m * per_row + 1) * 44];
    if form == FLAG_SUPER_BLOCKS {
        // The word that counts blocks.
        acts_out.chunks_exact_mut(44).for_each(|record| record[43] = 0);
    }
    bench.put("acts_out", &acts_out);
    let mut params = shape.params();
    params.set("base1", (gate.panels.len() / 16) as u32);
    params.set("panels0", panels);
    params.set("panels1", panels);
    params.set("stride_a", if gate_type == shape.a { gate.stride } else { up.stride });
    if let Some(b) = b {
        params.set("stride_b", if gate_type == b { gate.stride } else { up.stride });
        params.set("units_b", shape.units(b));
        params.set("second", if gate_type == b { 1 } else { 2 });
    }
    params.set("flags", form | if k { 0 } else { FLAG_NORM });
    if bias {
        params.set("bias0", 0);
        params.set("bias1", shape.rows as u32);
    }
    // Twice where blocks are counted: the count must begin anew.
    for _ in 0..if form == FLAG_SUPER_BLOCKS { 2 } else { 1 } {
        bench.launch(&shape.key(b), shape.target, shape.grid(panels), shape.geometry(), &params, seed);
    }

    let what = format!("{shape:?} {b:?}");
    let found = bench.words("gated");
    let mut truth = Vec::new();
    for act in acts.iter().take(run_rows) {
        let rms = if k { 1.0 } else { act.inverse_rms() };
        for r in 0..shape.rows {
            let mut gate = act.dot(gate_type, &gate.rows[r], shape.x) * rms;
            let mut up = act.dot(up_type, &up.rows[r], shape.x) * rms;
            if bias {
                gate += biases[0][r];
                up += biases[1][r];
            }
            truth.push(gate / (1.0 + (-gate).exp()) * up);
        }
    }
    let values: Vec<f32> = found[..truth.len()].iter().map(|w| f32::from_bits(*w)).collect();
    close(&values, &truth, 1e-9, &what);
    assert!(found[truth.len()..].iter().all(|w| *w == SENTINEL), "{what}: past the values");
    let out = bench.words("acts_out");
    for (index, record) in records(&out).iter().enumerate() {
        let (m, panel) = (index / per_row, index % per_row);
        if m >= run_rows {
            let left = if form == FLAG_SUPER_BLOCKS { &record.0[..43] } else { record.0 };
            assert!(left.iter().all(|w| *w == SENTINEL), "{what}: record {index}");
            continue;
        }
        let mut expected = vec![0.0; 32];
        for (i, value) in expected.iter_mut().enumerate().take(shape.rows - 32 * panel) {
            *value = values[m * shape.rows + 32 * panel + i];
        }
        assert_eq!(bits(&record.values()), bits(&expected), "{what}: values of record {index}");
        if form == FLAG_RECORDS {
            record.check(0.0, &format!("{what}, record {index}"));
        } else if panel == 0 {
            let form = if form == FLAG_SUPER_BLOCKS { "q8_k" } else { "q8_0" };
            check_ggml_row(&records(&out)[index..][..per_row], form, &what);
        }
    }
    found
}

#[test]
fn every_type_and_form() {
    for (a, x) in types_and_forms() {
        for (rows, cols, m, target) in
            [(70, 512, 1, Target::Sm80), (33, 768, 4, Target::Sm90), (1, 256, 7, Target::Sm80)]
        {
            let shape =
                Shape { op: OpKind::GateUp, a, x, rows, cols, m, tile: false, segments: None, target };
            run(shape, None, m - m / 4, m == 4, 3);
        }
    }
}

/// The records that `down` wants in the mode `q8_k`: those of super-blocks by the last of eight blocks, in any order of blocks.
#[test]
fn records_as_ggml_makes_them() {
    for (a, x, cols) in [(Q4_K, "q8_k", 256), (Q6_K, "q8_k", 512), (Q5_0, "q8", 64), (Q8_0, "q8", 96)] {
        for (m, run_rows, tile, target) in
            [(1, 1, false, Target::Sm80), (5, 4, false, Target::Sm90), (40, 35, true, Target::Sm80)]
        {
            for (rows, form) in [(512, FLAG_SUPER_BLOCKS), (70, FLAG_RECORDS | FLAG_ZERO)] {
                let shape = Shape { op: OpKind::GateUp, a, x, rows, cols, m, tile, segments: None, target };
                for seed in [3, 77] {
                    run_for(shape, [a, a], run_rows, false, seed, form);
                }
            }
        }
    }
}

#[test]
fn tiles() {
    for (a, x) in types_and_forms() {
        let shape = Shape {
            op: OpKind::GateUp,
            a,
            x,
            rows: 33,
            cols: 512,
            m: 34,
            tile: true,
            segments: None,
            target: Target::Sm80,
        };
        run(shape, None, 33, true, 5);
    }
    let shape = Shape {
        op: OpKind::GateUp,
        a: Q4_K,
        x: "q8",
        rows: 65,
        cols: 512,
        m: 9,
        tile: true,
        segments: Some(2),
        target: Target::Sm80,
    };
    run(shape, Some(Q6_K), 9, false, 6);
}

/// Two launches, one for each matrix, give what one launch gives.
#[test]
fn one_matrix_after_the_other() {
    for (m, tile) in [(2, false), (11, true)] {
        let shape = Shape {
            op: OpKind::GateUp,
            a: Q4_K,
            x: "q8",
            rows: 40,
            cols: 512,
            m,
            tile,
            segments: None,
            target: Target::Sm80,
        };
        let mut random = Random::new(3);
        let gate = Matrix::random(&mut random, Q4_K, 40, 512);
        let up = Matrix::random(&mut random, Q4_K, 40, 512);
        let acts: Vec<Activation> = (0..m).map(|_| Activation::random(&mut random, 512)).collect();
        let run = |flags: &[u32]| {
            let mut bench = Bench::new();
            bench.put_bytes("weights", &[&gate.panels[..], &up.panels].concat());
            bench.put("vectors", &bits(&random_bias()));
            bench.put("acts", &acts.iter().flat_map(|a| a.records(false)).collect::<Vec<_>>());
            bench.put("state", &[m as u32]);
            bench.put("gated", &vec![0; m * 40]);
            bench.put("acts_out", &vec![0; m * 2 * 44]);
            for &flags in flags {
                let mut params = shape.params();
                params.set("base1", (gate.panels.len() / 16) as u32);
                params.set("stride_a", gate.stride);
                params.set("panels0", 2);
                params.set("panels1", 2);
                params.set("bias0", 0);
                params.set("bias1", 40);
                let records = if flags == FLAG_UP { 0 } else { FLAG_RECORDS };
                params.set("flags", FLAG_NORM | flags | records);
                bench.launch(&shape.key(None), shape.target, shape.grid(2), shape.geometry(), &params, 0);
            }
            (bench.words("gated"), bench.words("acts_out"))
        };
        assert!(run(&[FLAG_UP, FLAG_GATE]) == run(&[0]), "{shape:?}");
    }
}

const FLAG_GATE: u32 = 64;
const FLAG_UP: u32 = 128;

fn random_bias() -> Vec<f32> {
    Random::new(8).values(80)
}

#[test]
fn gate_of_one_type_and_up_of_another() {
    for (a, b, x) in [(Q4_K, Q6_K, "q8"), (Q5_K, Q6_K, "q8_k"), (Q5_0, Q8_0, "q8"), (Q4_0, Q4_1, "f32")] {
        for m in [1, 5] {
            let target = if m == 1 { Target::Sm90 } else { Target::Sm80 };
            let shape = Shape {
                op: OpKind::GateUp,
                a,
                x,
                rows: 65,
                cols: 1024,
                m,
                tile: false,
                segments: Some(2),
                target,
            };
            run(shape, Some(b), m, false, 4);
            run_for(shape, [b, a], m, false, 9, FLAG_RECORDS);
        }
    }
}

#[test]
fn a_row_is_the_same_in_every_batch() {
    for (a, x) in types_and_forms() {
        for (rows, cols) in [(40, 256), (70, 1536)] {
            let of = |m, tile| Shape {
                op: OpKind::GateUp,
                a,
                x,
                rows,
                cols,
                m,
                tile,
                segments: None,
                target: Target::Sm80,
            };
            let alone = run(of(1, false), None, 1, false, 9);
            for (m, tile) in [(40, true), (5, false), (64, true)] {
                let found = run(of(m, tile), None, m, false, 9);
                assert!(found[..rows] == alone[..rows], "{a} {x} {cols}, {m} rows");
            }
        }
    }
}
