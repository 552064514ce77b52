//! head: logits of the rows that ask, and the best of each panel.

use super::bench::*;
use aprgpu::backend::cuda::sources::Target;
use aprgpu::compare::Random;
use aprgpu::plan::OpKind;

fn run(shape: Shape, asked: &[u32], seed: u64) -> Vec<u32> {
    let mut random = Random::new(seed + 21);
    let matrix = Matrix::random(&mut random, shape.a, shape.rows, shape.cols);
    let rows = 45;
    let acts: Vec<Activation> = (0..rows).map(|_| Activation::random(&mut random, shape.cols)).collect();
    let panels = matrix.panel_count();
    let mut bench = Bench::new();
    bench.put_bytes("weights", &matrix.panels);
    let k = shape.x == "q8_k";
    bench.put("acts", &acts.iter().flat_map(|a| a.records(k)).collect::<Vec<_>>());
    let mut state = vec![SENTINEL; 8 + 4 * rows];
    state[0] = rows as u32;
    state[1] = asked.len() as u32;
    let asked_at = state.len() as u32;
    state.extend(asked);
    state.resize(state.len() + shape.m, SENTINEL);
    bench.put("state", &state);
    let len = shape.m * shape.rows;
    bench.put("logits", &vec![SENTINEL; len + 8]);
    bench.put("best", &vec![SENTINEL; 2 * shape.m * panels as usize]);
    let mut params = shape.params();
    params.set("panels0", panels);
    params.set("stride_a", matrix.stride);
    params.set("asked_at", asked_at);
    params.set("flags", if k { 0 } else { FLAG_NORM });
    bench.launch(&shape.key(None), shape.target, shape.grid(panels), shape.geometry(), &params, seed);

    let what = format!("{shape:?} {asked:?}");
    let found = bench.words("logits");
    let mut truth = Vec::new();
    for &row in asked {
        let act = &acts[row as usize];
        let rms = if k { 1.0 } else { act.inverse_rms() };
        truth.extend(matrix.rows.iter().map(|row| act.dot(shape.a, row, shape.x) * rms));
    }
    let values: Vec<f32> = found[..truth.len()].iter().map(|w| f32::from_bits(*w)).collect();
    close(&values, &truth, 1e-9, &what);
    assert!(found[truth.len()..].iter().all(|w| *w == SENTINEL), "{what}: past the logits");
    let best = bench.words("best");
    for (token, logits) in values.chunks(shape.rows).enumerate() {
        for (panel, logits) in logits.chunks(32).enumerate() {
            let mut place = 0;
            for (i, value) in logits.iter().enumerate() {
                if *value > logits[place] {
                    place = i;
                }
            }
            let at = 2 * (token * panels as usize + panel);
            assert_eq!(best[at..at + 2], [logits[place].to_bits(), (32 * panel + place) as u32], "{what}");
        }
    }
    let written = 2 * asked.len() * panels as usize;
    assert!(best[written..].iter().all(|w| *w == SENTINEL), "{what}: past the best");
    found
}

#[test]
fn every_type_and_form() {
    for (a, x) in types_and_forms() {
        let of = |rows, cols, m, target| Shape {
            op: OpKind::Head,
            a,
            x,
            rows,
            cols,
            m,
            tile: false,
            segments: None,
            target,
        };
        run(of(70, 512, 1, Target::Sm80), &[3], 1);
        run(of(33, 768, 3, Target::Sm90), &[0, 5], 2);
        run(of(64, 256, 8, Target::Sm80), &[8, 1, 2, 3, 4, 5, 6, 7], 3);
        run(of(1, 512, 6, Target::Sm80), &[], 4);
    }
}

#[test]
fn tiles() {
    for (a, x) in types_and_forms() {
        let of = |m| Shape {
            op: OpKind::Head,
            a,
            x,
            rows: 40,
            cols: 512,
            m,
            tile: true,
            segments: None,
            target: Target::Sm80,
        };
        let asked: Vec<u32> = (0..40).map(|i| 44 - i).collect();
        run(of(40), &asked, 5);
        run(of(9), &asked[..3], 6);
    }
}

/// The norm's factor is the same, too, however many rows go together.
#[test]
fn a_row_is_the_same_in_every_batch() {
    for (a, x) in types_and_forms() {
        for (rows, cols) in [(40, 256), (70, 1536)] {
            let of = |m, tile| Shape {
                op: OpKind::Head,
                a,
                x,
                rows,
                cols,
                m,
                tile,
                segments: None,
                target: Target::Sm80,
            };
            let asked: Vec<u32> = (0..40).collect();
            let tiles = run(of(40, true), &asked, 9);
            for row in [0, 7, 31, 39] {
                let alone = run(of(1, false), &[row], 9);
                let at = row as usize * rows;
                assert!(tiles[at..at + rows] == alone[..rows], "{a} {x} {cols}, row {row} of a tile");
                let eight: Vec<u32> = (row.max(4) - 4..row.max(4) + 1).collect();
                let together = run(of(5, false), &eight, 9);
                let at = (row.max(4) - eight[0]) as usize * rows;
                let alone = run(of(1, false), &[row.max(4)], 9);
                assert!(together[at..at + rows] == alone[..rows], "{a} {x} {cols}, row {row} of five");
            }
        }
    }
}
