//! quantize: records of float rows, in the three forms, bit for bit.

use super::bench::*;
use aprgpu::backend::cuda::forms::Geometry;
use aprgpu::backend::cuda::sources::Target;
use aprgpu::compare::Random;

fn run(form: &str, rows: usize, cols: usize, norm: bool, target: Target, seed: u64) {
    let mut random = Random::new(seed + 41);
    let weights = random.values(cols);
    let x: Vec<Vec<f32>> = (0..rows).map(|_| Activation::random(&mut random, cols).values).collect();
    let per_row = cols.div_ceil(32);
    let mut bench = Bench::new();
    bench.put("vectors", &bits(&weights));
    bench.put("x", &bits(&x.concat()));
    bench.put("state", &[rows as u32 - 1, 0, 0, 0]);
    bench.put("acts_out", &vec![SENTINEL; rows * per_row * 44]);
    let mut params = Params::new();
    params.set("columns", cols as u32);
    params.set("records", per_row as u32);
    if norm {
        params.set("norm", 0);
        params.set("flags", FLAG_NORM);
    }
    let geometry = Geometry { threads: 256, shared_bytes: 0 };
    let grid = [cols.div_ceil(256) as u32, rows as u32, 1];
    bench.launch(&format!("quantize X={form}"), target, grid, geometry, &params, seed);
    let out = bench.words("acts_out");
    for (index, record) in records(&out).iter().enumerate() {
        let (row, block) = (index / per_row, index % per_row);
        if row + 1 == rows {
            assert!(record.0.iter().all(|w| *w == SENTINEL), "{form}: a row that the run does not have");
            continue;
        }
        let what = format!("{form} {cols} {norm}, record {index}");
        let rms = if norm && form != "q8" { Activation::new(x[row].clone()).inverse_rms() } else { 1.0 };
        let mut squares = 0.0;
        let expected: Vec<f32> = (0..32)
            .map(|i| {
                let column = 32 * block + i;
                let plain = x[row].get(column).map_or(0.0, |v| v * rms);
                squares += f64::from(plain) * f64::from(plain);
                plain * if norm { weights.get(column).copied().unwrap_or(1.0) } else { 1.0 }
            })
            .collect();
        close(&record.values(), &expected, 1e-12, &what);
        // The integers are those of the values that were written.
        if form == "q8" {
            assert_eq!(bits(&record.values()), bits(&expected), "{what}");
            record.check(squares, &what);
            continue;
        }
        if block == 0 {
            check_ggml_row(&records(&out)[row * per_row..][..per_row], form, &what);
        }
    }
}

#[test]
fn every_form() {
    for target in [Target::Sm80, Target::Sm90] {
        for norm in [false, true] {
            run("q8", 3, 896, norm, target, 1);
            run("q8", 2, 100, norm, target, 2);
            run("q8_0", 3, 896, norm, target, 3);
            run("q8_k", 3, 1536, norm, target, 4);
            run("q8_k", 2, 256, norm, target, 5);
        }
    }
}
