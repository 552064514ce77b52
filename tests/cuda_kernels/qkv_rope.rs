//! qkv_rope: three matrices of one or two types, biases, rotation, the query, the cache.

use super::bench::*;
use aprgpu::backend::cuda::sources::Target;
use aprgpu::compare::Random;
use aprgpu::plan::OpKind;
use aprgpu::quant::TensorType::{self, *};
use half::f16;

const FLAG_NEOX: u32 = 4;
const FLAG_KV_F32: u32 = 8;
const FLAG_HEAD_NORM: u32 = 16;
const CONTEXT: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Pairs that are turned.
    pairs: usize,
    flags: u32,
    bias: bool,
}

fn run(
    shape: Shape,
    b: Option<TensorType>,
    second: u32,
    heads: Heads,
    run_rows: usize,
    seed: u64,
) -> Vec<u32> {
    let mut random = Random::new(seed + 31);
    let Heads { head_dim, kv_heads, pairs, flags, .. } = heads;
    let widths = [heads.heads * head_dim, kv_heads * head_dim, kv_heads * head_dim];
    let types = [0, 1, 2].map(|i| if second >> i & 1 == 1 { b.unwrap() } else { shape.a });
    let matrices = [0, 1, 2].map(|i| Matrix::random(&mut random, types[i], widths[i], shape.cols));
    let acts: Vec<Activation> = (0..shape.m).map(|_| Activation::random(&mut random, shape.cols)).collect();
    let biases: Vec<Vec<f32>> = widths.iter().map(|width| random.values(*width)).collect();
    let rope: Vec<f32> = random.values(2 * CONTEXT * pairs.max(1));
    let places: Vec<(u32, u32)> =
        (0..shape.m).map(|m| ((m % 2) as u32, ((37 + 3 * (m / 2)) % CONTEXT) as u32)).collect();
    let mut bench = Bench::new();
    bench.put_bytes("weights", &matrices.iter().flat_map(|m| m.panels.clone()).collect::<Vec<_>>());
    bench.put("vectors", &bits(&biases.concat()));
    let k = shape.x == "q8_k";
    bench.put("acts", &acts.iter().flat_map(|a| a.records(k)).collect::<Vec<_>>());
    let mut state = vec![SENTINEL; 8];
    state[0] = run_rows as u32;
    for &(slot, position) in &places {
        state.extend([0, slot, position, NONE]);
    }
    bench.put("state", &state);
    bench.put("rope", &bits(&rope));
    let head_norm = flags & FLAG_HEAD_NORM != 0;
    let wide = flags & FLAG_KV_F32 != 0;
    let query_len = shape.m * (widths[0] + if head_norm { widths[1] } else { 0 });
    bench.put("query", &vec![SENTINEL; query_len + 4]);
    let words = if wide { head_dim } else { head_dim / 2 };
    let cache_len = 2 * kv_heads * CONTEXT * words;
    bench.put("keys", &vec![SENTINEL; cache_len]);
    bench.put("values", &vec![SENTINEL; cache_len]);
    let panels = matrices.each_ref().map(|m| m.panel_count());
    let all = panels.iter().sum();
    let mut params = shape.params();
    let mut base = 0;
    for (i, (base_name, panels_name, bias_name)) in
        [("base0", "panels0", "bias0"), ("base1", "panels1", "bias1"), ("base2", "panels2", "bias2")]
            .into_iter()
            .enumerate()
    {
        params.set(base_name, base);
        params.set(panels_name, panels[i]);
        base += (matrices[i].panels.len() / 16) as u32;
        if heads.bias {
            params.set(bias_name, biases[..i].concat().len() as u32);
        }
        let stride = if second >> i & 1 == 1 { "stride_b" } else { "stride_a" };
        params.set(stride, matrices[i].stride);
    }
    if let Some(b) = b {
        params.set("units_b", shape.units(b));
        params.set("second", second);
    }
    params.set("num_heads", heads.heads as u32);
    params.set("num_kv_heads", kv_heads as u32);
    params.set("head_dim", head_dim as u32);
    params.set("rope_pairs", pairs as u32);
    params.set("context", CONTEXT as u32);
    params.set("flags", flags | if k { 0 } else { FLAG_NORM });
    bench.launch(&shape.key(b), shape.target, shape.grid(all), shape.geometry(), &params, seed);

    let what = format!("{shape:?} {b:?} {heads:?}");
    let (query, keys, values) = (bench.words("query"), bench.words("keys"), bench.words("values"));
    let mut touched = [vec![false; query.len()], vec![false; cache_len], vec![false; cache_len]];
    let (mut found, mut truth) = (Vec::new(), Vec::new());
    // Half precision: held to the rounding of the value, one step either way.
    let mut halves: Vec<(f32, f32)> = Vec::new();
    for m in 0..run_rows {
        let (slot, position) = (places[m].0 as usize, places[m].1 as usize);
        let rms = if k { 1.0 } else { acts[m].inverse_rms() };
        for i in 0..3 {
            let mut row: Vec<f32> =
                matrices[i].rows.iter().map(|row| acts[m].dot(types[i], row, shape.x) * rms).collect();
            if heads.bias {
                row.iter_mut().zip(&biases[i]).for_each(|(value, bias)| *value += bias);
            }
            for r in 0..widths[i] {
                let (head, dim) = (r / head_dim, r % head_dim);
                let (pair, odd) = (dim / 2, dim % 2 == 1);
                let mut value = row[r];
                if i < 2 && !head_norm && pair < pairs {
                    let (cos, sin) =
                        (rope[2 * (position * pairs + pair)], rope[2 * (position * pairs + pair) + 1]);
                    let (a, b) = (row[r & !1], row[r | 1]);
                    value = if odd { a * sin + b * cos } else { a * cos - b * sin };
                }
                if i == 0 || i == 1 && head_norm {
                    let at = if head_norm {
                        m * (widths[0] + widths[1]) + i * widths[0] + r
                    } else {
                        let turned = flags & FLAG_NEOX != 0 && pair < pairs;
                        let dim = if turned { pair + if odd { pairs } else { 0 } } else { dim };
                        m * widths[0] + head * head_dim + dim
                    };
                    touched[0][at] = true;
                    found.push(f32::from_bits(query[at]));
                    truth.push(value);
                    continue;
                }
                let word = if wide { dim } else { pair };
                let row_of_head = (slot * kv_heads + head) * CONTEXT + position;
                let at = if i == 1 {
                    ((row_of_head / 32 * (words / 4) + word / 4) * 32 + row_of_head % 32) * 4 + word % 4
                } else {
                    row_of_head * words + word
                };
                touched[i][at] = true;
                let word = if i == 1 { keys[at] } else { values[at] };
                if wide {
                    found.push(f32::from_bits(word));
                    truth.push(value);
                } else {
                    let half = f16::from_bits((word >> if odd { 16 } else { 0 }) as u16);
                    halves.push((half.to_f32(), value));
                }
            }
        }
    }
    close(&found, &truth, 1e-9, &what);
    for (half, value) in halves {
        assert!((half - value).abs() <= value.abs() * 5e-4 + 1e-4, "{what}: {half} for {value}");
    }
    for (buffer, touched) in [&query, &keys, &values].into_iter().zip(&touched) {
        for (at, (word, touched)) in buffer.iter().zip(touched).enumerate() {
            assert!(*touched != (*word == SENTINEL), "{what}: word {at}");
        }
    }
    let width = widths[0];
    let row_of_head = 37 * words;
    [&query[..width], &values[row_of_head..row_of_head + words]].concat()
}

fn shape(a: TensorType, x: &'static str, cols: usize, m: usize, target: Target) -> Shape {
    Shape { op: OpKind::QkvRope, a, x, rows: 0, cols, m, tile: false, segments: None, target }
}

const HEADS: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 24, pairs: 8, flags: FLAG_NEOX, bias: true };

#[test]
fn every_type_and_form() {
    for (a, x) in types_and_forms() {
        run(shape(a, x, 512, 1, Target::Sm80), None, 0, HEADS, 1, 1);
        run(
            shape(a, x, 256, 5, Target::Sm90),
            None,
            0,
            Heads { flags: FLAG_KV_F32, bias: false, ..HEADS },
            3,
            2,
        );
        let norms = Heads { flags: FLAG_HEAD_NORM | FLAG_NEOX, head_dim: 32, pairs: 16, ..HEADS };
        run(shape(a, x, 256, 2, Target::Sm80), None, 0, norms, 2, 3);
    }
}

#[test]
fn tiles() {
    for (a, x) in types_and_forms() {
        let of = |m| Shape { tile: true, ..shape(a, x, 256, m, Target::Sm80) };
        run(of(34), None, 0, HEADS, 33, 6);
        run(of(9), None, 0, Heads { flags: FLAG_KV_F32, bias: false, ..HEADS }, 9, 7);
    }
    for (a, b, x) in [(Q4_K, Q6_K, "q8"), (Q4_K, Q5_K, "q8_k"), (Q5_0, Q8_0, "q8"), (Q4_1, Q5_1, "f32")] {
        run(Shape { tile: true, ..shape(a, x, 512, 12, Target::Sm80) }, Some(b), 4, HEADS, 12, 8);
    }
}

#[test]
fn every_mixture() {
    let pairs = [
        (Q4_K, Q5_K),
        (Q4_K, Q6_K),
        (Q5_K, Q6_K),
        (Q5_0, Q5_1),
        (Q5_0, Q8_0),
        (Q4_0, Q4_1),
        (Q4_0, Q5_0),
        (Q4_1, Q5_1),
    ];
    for (index, (a, b)) in pairs.into_iter().enumerate() {
        for x in ["q8", "q8_k", "f32"] {
            if x == "q8_k" && a.block_len() != 256 {
                continue;
            }
            let target = if index % 2 == 0 { Target::Sm80 } else { Target::Sm90 };
            run(shape(a, x, 768, 1 + index, target), Some(b), 4, HEADS, 1 + index, 4);
        }
    }
    run(shape(Q4_K, "q8", 512, 2, Target::Sm80), Some(Q6_K), 3, HEADS, 2, 5);
}

#[test]
fn a_row_is_the_same_in_every_batch() {
    let heads = Heads { pairs: 0, bias: false, flags: FLAG_KV_F32, ..HEADS };
    for (a, b, x) in [
        (Q4_K, None, "q8"),
        (Q4_K, Some(Q6_K), "q8"),
        (Q4_K, Some(Q6_K), "q8_k"),
        (Q5_0, Some(Q8_0), "q8"),
        (Q4_K, Some(Q5_K), "f32"),
    ] {
        for cols in [256, 1536] {
            let second = if b.is_some() { 4 } else { 0 };
            let alone = run(shape(a, x, cols, 1, Target::Sm80), b, second, heads, 1, 9);
            for (m, tile) in [(40, true), (5, false)] {
                let shape = Shape { tile, ..shape(a, x, cols, m, Target::Sm80) };
                assert!(run(shape, b, second, heads, m, 9) == alone, "{a} {b:?} {x} {cols}, {m} rows");
            }
        }
    }
}
