//! The CPU's fast kernels against the scalar specification in `quant`, bit for bit, for every instruction set that this
//! machine has.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use aprgpu::backend::cpu::pool::{Pool, SharedBuffer};
use aprgpu::backend::cpu::simd::{
    Epilogue, Isa, Matrix, Norm, Panels, Product, Source, Tile, TileKind, Tiles, inverse_rms, multiply,
    quantize_tile,
};
use aprgpu::plan::Activations;
use aprgpu::quant::{Cut, Q8KRow, Q8Row, TensorType, dot_f32, dot_q8, dot_q8_k, finite_scales, unit_columns};

/// A small generator (xorshift64*): the tests need variety, not quality.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// About normal, mostly within -2..2.
    fn float(&mut self) -> f32 {
        let sum: i64 = (0..4).map(|_| i64::from(self.next() >> 8)).sum();
        (sum as f32 / (1 << 24) as f32 - 2.0) * 1.7
    }

    fn floats(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.float()).collect()
    }

    /// Random blocks with finite scales of sensible size, either sign.
    fn weights(&mut self, t: TensorType, rows: usize, cols: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..rows * t.row_bytes(cols).unwrap()).map(|_| self.next() as u8).collect();
        let floats: &[usize] = match t {
            TensorType::F32 | TensorType::BF16 | TensorType::F16 => &[],
            TensorType::Q4_1 | TensorType::Q5_1 | TensorType::Q4_K | TensorType::Q5_K => &[0, 2],
            TensorType::Q6_K => &[208],
            _ => &[0],
        };
        for block in bytes.chunks_exact_mut(t.block_bytes()) {
            match t {
                TensorType::F32 => block.copy_from_slice(&self.float().to_le_bytes()),
                TensorType::F16 => block.copy_from_slice(&half::f16::from_f32(self.float()).to_le_bytes()),
                TensorType::BF16 => block.copy_from_slice(&half::bf16::from_f32(self.float()).to_le_bytes()),
                _ => {}
            }
            for &at in floats {
                let scale = half::f16::from_f32(self.float() * 0.01).to_le_bytes();
                block[at..at + 2].copy_from_slice(&scale);
            }
        }
        finite_scales(t, &bytes).unwrap();
        bytes
    }
}

/// A cut that every type can have.
const CUT: Cut = Cut::new(3, 128);

const WEIGHT_TYPES: [TensorType; 11] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
];

/// The instruction sets to test; says which are left out.
fn instruction_sets() -> Vec<Isa> {
    let available = Isa::available();
    for name in Isa::NAMES {
        if !available.iter().any(|isa| isa.name() == *name) {
            println!("skipped: this CPU has no {name}");
        }
    }
    available
}

fn pack(t: TensorType, rows: usize, cols: usize, bytes: &[u8], pool: &Pool) -> Panels {
    let row_bytes = t.row_bytes(cols).unwrap();
    Panels::pack(t, rows, cols, |row| &bytes[row * row_bytes..(row + 1) * row_bytes], pool).unwrap()
}

/// What the specification says: `[tokens, rows]`.
fn specified(
    t: TensorType,
    (kind, cut): (TileKind, Cut),
    rows: usize,
    cols: usize,
    bytes: &[u8],
    x: &[f32],
) -> Vec<f32> {
    let row_bytes = t.row_bytes(cols).unwrap();
    let (mut q8, mut q8_k) = (Q8Row::new(), Q8KRow::new());
    let mut out = Vec::new();
    for x in x.chunks(cols) {
        match kind {
            TileKind::F32 => {}
            TileKind::Q8 => q8.quantize(x).unwrap(),
            TileKind::Q8_0 => q8.quantize_q8_0(x).unwrap(),
            TileKind::Q8K => q8_k.quantize(x).unwrap(),
        }
        for row in bytes.chunks(row_bytes).take(rows) {
            out.push(match kind {
                TileKind::F32 => dot_f32(t, row, x, cut),
                TileKind::Q8 | TileKind::Q8_0 => dot_q8(t, row, &q8, cut),
                TileKind::Q8K => dot_q8_k(t, row, &q8_k, cut),
            });
        }
    }
    out
}

/// One product through the kernels: `[tokens, rows]`, and what lies behind it in the buffer.
fn computed(
    isa: Isa,
    pool: &Pool,
    weights: &Panels,
    (kind, cut): (TileKind, Cut),
    tokens: usize,
    x: &[f32],
) -> Vec<f32> {
    let (rows, cols) = (weights.rows(), weights.cols());
    let tiles = Tiles::new(kind, cols, tokens).unwrap();
    let stride = rows + 3;
    let mut out = SharedBuffer::new(tokens * stride + 100).unwrap();
    out.as_mut_slice().fill(-77.0);
    let source = Source { x, stride: cols, rows: None };
    pool.run(|worker, barrier| {
        for index in (worker..Tile::count(isa, tokens)).step_by(barrier.workers()) {
            // SAFETY: tiles are dealt out to the workers, and the barrier follows.
            unsafe { quantize_tile(isa, &tiles, Tile::get(isa, tokens, index), source, None) };
        }
        barrier.wait();
        let matrix = Matrix { weights, x: &tiles, cut, factors: None, bias: None };
        let product = Product { matrix, epilogue: Epilogue::Store, out: &out, stride, column: 0 };
        // SAFETY: every worker calls this alike, and nobody touches `out` before the run is over.
        unsafe { multiply(isa, &[product], tokens, worker, barrier.workers()) };
    })
    .unwrap();
    let out = out.as_mut_slice();
    for token in out.chunks(stride).take(tokens) {
        assert!(token[rows..].iter().all(|&x| x == -77.0), "a row beyond the last was written");
    }
    assert!(out[tokens * stride..].iter().all(|&x| x == -77.0), "a token beyond the last was written");
    out.chunks(stride).take(tokens).flat_map(|token| token[..rows].to_vec()).collect()
}

fn assert_same_bits(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!(got.to_bits() == want.to_bits(), "{what}: value {i} is {got}, specified {want}");
    }
}

/// Every type, kind of activations and instruction set: rows and tokens around the edges of panels and tiles.
fn check_products(t: TensorType, activations: &[Activations], shapes: &[(usize, usize, usize)]) {
    let pool = Pool::new(2).unwrap();
    let mut random = Random(t as u64 + 1);
    for (index, &(rows, cols, tokens)) in shapes.iter().enumerate() {
        let bytes = random.weights(t, rows, cols);
        let x = random.floats(tokens * cols);
        let weights = pack(t, rows, cols, &bytes, &pool);
        for &activations in activations {
            let kind = TileKind::of(activations, t);
            // One segment, some of equal length or not, more than there are units.
            let cut = Cut::new([1, 4, 5, 16][index % 4], unit_columns(t, kind == TileKind::Q8K));
            let want = specified(t, (kind, cut), rows, cols, &bytes, &x);
            for isa in instruction_sets() {
                let got = computed(isa, &pool, &weights, (kind, cut), tokens, &x);
                let what = format!("{t} [{rows}, {cols}] x {tokens}, {kind:?}, {cut:?}, {}", isa.name());
                assert_same_bits(&got, &want, &what);
            }
        }
    }
}

#[test]
fn products_are_the_specification_bit_for_bit() {
    for t in WEIGHT_TYPES {
        let all: &[Activations] = match t.is_float() {
            true => &[Activations::F32],
            false => &[Activations::Q8, Activations::Q8K, Activations::F32],
        };
        let cols = if t.block_len() == 256 { [256, 1536, 4864] } else { [32, 896, 1536] };
        let mut shapes = Vec::new();
        for rows in [1, 15, 16, 17, 33, 100] {
            for tokens in [1, 2, 4, 7, 8, 23, 64] {
                shapes.push((rows, cols[0], tokens));
            }
        }
        shapes.extend([(33, cols[1], 1), (17, cols[1], 23), (33, cols[2], 1), (17, cols[2], 7)]);
        check_products(t, all, &shapes);
    }
}

#[test]
fn float_rows_need_not_be_whole_blocks() {
    for t in [TensorType::F32, TensorType::F16, TensorType::BF16] {
        check_products(t, &[Activations::F32], &[(5, 1, 1), (17, 33, 3), (16, 80, 17)]);
    }
}

#[test]
fn packing_is_reversible() {
    let pool = Pool::new(2).unwrap();
    let mut random = Random(7);
    for t in WEIGHT_TYPES {
        for (rows, blocks) in [(1, 1), (16, 3), (37, 2)] {
            let cols = blocks * t.block_len();
            let bytes = random.weights(t, rows, cols);
            let weights = pack(t, rows, cols, &bytes, &pool);
            let row_bytes = t.row_bytes(cols).unwrap();
            let (mut row, mut values, mut want) = (vec![0; row_bytes], vec![0.0; cols], vec![0.0; cols]);
            for (r, bytes) in bytes.chunks(row_bytes).enumerate() {
                weights.unpack_row(r, &mut row);
                assert_eq!(row, bytes, "{t}, row {r} of {rows}");
                weights.decode_row(r, &mut values);
                aprgpu::quant::decode_row(t, bytes, &mut want).unwrap();
                assert_same_bits(&values, &want, &format!("{t}, row {r} of {rows}, decoded"));
            }
            assert!(weights.bytes() < (rows.next_multiple_of(16) * row_bytes).next_multiple_of(64) + 64 * 3);
        }
    }
}

#[test]
fn a_scale_that_is_not_finite_is_named() {
    let pool = Pool::new(2).unwrap();
    let mut bytes = Random(9).weights(TensorType::Q4_K, 40, 512);
    bytes[288 * 37 + 144..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    bytes[288 * 38..][..2].copy_from_slice(&half::f16::INFINITY.to_le_bytes());
    let packed = Panels::pack(TensorType::Q4_K, 40, 512, |r| &bytes[288 * r..288 * (r + 1)], &pool);
    let message = packed.unwrap_err().to_string();
    assert!(message.contains("row 37") && message.contains("block 1"), "{message}");
    let short = Panels::pack(TensorType::Q4_K, 2, 512, |_| &bytes[..100], &pool).unwrap_err().to_string();
    assert!(short.contains("100") && short.contains("288"), "{short}");
    assert!(Panels::pack(TensorType::Q2_K, 1, 256, |_| &[][..], &pool).is_err());
    assert!(Panels::pack(TensorType::Q4_K, 1, 128, |_| &[][..], &pool).is_err());
    assert!(Panels::pack(TensorType::Q4_K, 0, 256, |_| &[][..], &pool).is_err());
}

#[test]
fn results_do_not_depend_on_threads_or_company() {
    let mut random = Random(11);
    let (rows, cols, tokens) = (133, 512, 37);
    let x = random.floats(tokens * cols);
    for t in [TensorType::Q4_K, TensorType::Q6_K, TensorType::Q8_0] {
        let bytes = random.weights(t, rows, cols);
        let one = Pool::new(1).unwrap();
        let weights = pack(t, rows, cols, &bytes, &one);
        let isa = Isa::detect();
        let want = computed(isa, &one, &weights, (TileKind::Q8, CUT), tokens, &x);
        for threads in [2, 3, 5, 20] {
            let pool = Pool::new(threads).unwrap();
            let got = computed(isa, &pool, &weights, (TileKind::Q8, CUT), tokens, &x);
            assert_same_bits(&got, &want, &format!("{t}, {threads} threads"));
        }
        for token in 0..tokens {
            let x = &x[token * cols..(token + 1) * cols];
            let got = computed(isa, &one, &weights, (TileKind::Q8, CUT), 1, x);
            assert_same_bits(
                &got,
                &want[token * rows..(token + 1) * rows],
                &format!("{t}, token {token} alone"),
            );
        }
    }
}

#[test]
fn extreme_activations_are_the_specification_too() {
    let pool = Pool::new(1).unwrap();
    let mut random = Random(13);
    let (rows, cols) = (16, 256);
    let mut cases = vec![vec![0.0; cols], vec![1e-38; cols], vec![-1e-40; cols], vec![3e38; cols]];
    cases.push((0..cols).map(|i| if i % 32 == 5 { 1e30 } else { 1e-30 }).collect());
    cases.push((0..cols).map(|i| (i as f32 - 128.0) / 254.0).collect());
    cases.push((0..cols).map(|i| if i % 2 == 0 { -1.0 } else { 1.0 }).collect());
    for t in [TensorType::Q4_0, TensorType::Q8_0, TensorType::Q5_1, TensorType::Q4_K, TensorType::Q6_K] {
        let mut bytes = random.weights(t, rows, cols);
        if t == TensorType::Q8_0 {
            // The largest products that the byte dots must bear.
            bytes.chunks_exact_mut(34).for_each(|block| block[2..].fill(0x80));
        }
        let weights = pack(t, rows, cols, &bytes, &pool);
        for x in &cases {
            let want = specified(t, (TileKind::Q8, CUT), rows, cols, &bytes, x);
            for isa in instruction_sets() {
                let got = computed(isa, &pool, &weights, (TileKind::Q8, CUT), 1, x);
                assert_same_bits(&got, &want, &format!("{t}, {}, x = {:?}..", isa.name(), &x[..3]));
            }
        }
        for bad in [f32::NAN, f32::INFINITY] {
            let mut x = random.floats(cols);
            x[77] = bad;
            for isa in instruction_sets() {
                let got = computed(isa, &pool, &weights, (TileKind::Q8, CUT), 1, &x);
                assert!(got.iter().all(|y| !y.is_finite()), "{t}, {}: {bad} is lost", isa.name());
            }
        }
    }
}

#[test]
fn norm_bias_residual_and_gate_are_applied() {
    let pool = Pool::new(2).unwrap();
    let mut random = Random(17);
    let (rows, cols, tokens, t) = (50, 512, 5, TensorType::Q4_K);
    let bytes = [random.weights(t, rows, cols), random.weights(t, rows, cols)];
    let x = random.floats(tokens * cols);
    let norm_weight = random.floats(cols);
    let bias = random.floats(rows);
    let before = random.floats(tokens * rows);
    // The products are normed, not the row.
    let norm = Norm { weight: &norm_weight, eps: None };
    let (mut weighted, mut factors) = (x.clone(), Vec::new());
    for x in weighted.chunks_mut(cols) {
        let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / cols as f64;
        let r = inverse_rms(Isa::detect(), x, CUT, 1e-6);
        assert!(
            Isa::available().into_iter().all(|isa| inverse_rms(isa, x, CUT, 1e-6).to_bits() == r.to_bits())
        );
        assert!((f64::from(r) * (mean + 1e-6).sqrt() - 1.0).abs() < 1e-6);
        factors.push(r);
        for (x, w) in x.iter_mut().zip(&norm_weight) {
            *x *= w;
        }
    }
    let y = bytes.each_ref().map(|bytes| {
        let y = specified(t, (TileKind::Q8, CUT), rows, cols, bytes, &weighted);
        y.iter().enumerate().map(|(i, y)| y * factors[i / rows]).collect::<Vec<f32>>()
    });
    let weights = bytes.each_ref().map(|bytes| pack(t, rows, cols, bytes, &pool));
    let mut first_gated = Vec::new();
    for isa in instruction_sets() {
        let tiles = Tiles::new(TileKind::Q8, cols, tokens).unwrap();
        let stride = 3 * rows;
        let mut out = SharedBuffer::new(tokens * stride).unwrap();
        for (out, before) in out.as_mut_slice().chunks_mut(stride).zip(before.chunks(rows)) {
            out[rows..2 * rows].copy_from_slice(before);
        }
        let source = Source { x: &x, stride: cols, rows: None };
        pool.run(|worker, barrier| {
            if worker == 0 {
                // SAFETY: only one worker writes, the barrier follows.
                unsafe { quantize_tile(isa, &tiles, Tile::get(isa, tokens, 0), source, Some(norm)) };
            }
            barrier.wait();
            let of = |i: usize, bias| Matrix {
                weights: &weights[i],
                x: &tiles,
                cut: CUT,
                factors: Some(&factors),
                bias,
            };
            let products = [
                Product {
                    matrix: of(0, Some(&bias)),
                    epilogue: Epilogue::Store,
                    out: &out,
                    stride,
                    column: 0,
                },
                Product { matrix: of(1, None), epilogue: Epilogue::Add, out: &out, stride, column: rows },
                Product {
                    matrix: of(0, None),
                    epilogue: Epilogue::Gate(of(1, None)),
                    out: &out,
                    stride,
                    column: 2 * rows,
                },
            ];
            // SAFETY: every worker calls this alike; the products write different columns.
            unsafe { multiply(isa, &products, tokens, worker, barrier.workers()) };
        })
        .unwrap();
        let mut gated = Vec::new();
        for (token, out) in out.as_mut_slice().chunks(stride).enumerate() {
            for row in 0..rows {
                let i = token * rows + row;
                let what = format!("{}, token {token}, row {row}", isa.name());
                assert_eq!(out[row].to_bits(), (y[0][i] + bias[row]).to_bits(), "{what}");
                assert_eq!(out[rows + row].to_bits(), (before[i] + y[1][i]).to_bits(), "{what}");
                let (g, u) = (f64::from(y[0][i]), f64::from(y[1][i]));
                let silu = g / (1.0 + (-g).exp()) * u;
                let error = (f64::from(out[2 * rows + row]) - silu).abs();
                assert!(error <= 1e-6 * silu.abs() + 1e-30, "{what}: {silu}, error {error}");
                gated.push(out[2 * rows + row]);
            }
        }
        if first_gated.is_empty() {
            first_gated.clone_from(&gated);
        }
        assert_same_bits(&gated, &first_gated, isa.name());
    }
}

/// Speed of one product: GB/s of weights with one token, GMAC/s with many.
///
/// `cargo test --release --test cpu_kernels -- --ignored --nocapture speed`, with SPEED_TYPES, SPEED_ISA,
/// SPEED_ACTIVATIONS and SPEED_ROWS in the environment to choose among types, instruction sets, activations and sizes.
#[test]
#[ignore = "a measurement"]
fn speed() {
    let activations = match std::env::var("SPEED_ACTIVATIONS").as_deref() {
        Ok("f32") => Activations::F32,
        Ok("q8_k") => Activations::Q8K,
        _ => Activations::Q8,
    };
    let types =
        std::env::var("SPEED_TYPES").unwrap_or_else(|_| "Q4_K,Q6_K,Q5_0,Q8_0,Q5_K,Q4_0,F16".to_owned());
    let mut random = Random(1);
    for isa in Isa::available().into_iter().rev() {
        if std::env::var("SPEED_ISA").is_ok_and(|name| name != isa.name()) || isa.name() == "scalar" {
            continue;
        }
        for name in types.split(',') {
            let t = TensorType::from_name(name).unwrap();
            let rows = std::env::var("SPEED_ROWS").map_or(8960 * 24, |rows| rows.parse().unwrap());
            let cols = 1536;
            let one = random.weights(t, 64, cols);
            let row_bytes = t.row_bytes(cols).unwrap();
            for threads in [1, 2] {
                let pool = Pool::new(threads).unwrap();
                let start = std::time::Instant::now();
                let row = |r: usize| &one[r % 64 * row_bytes..(r % 64 + 1) * row_bytes];
                let weights = Panels::pack(t, rows, cols, row, &pool).unwrap();
                let packed = weights.bytes() as f64 / start.elapsed().as_secs_f64() / 1e9;
                let kind = TileKind::of(activations, t);
                let mut line = format!("{} {t} {threads} threads: pack {packed:.1} GB/s;", isa.name());
                for tokens in [1, 2, 4, 8, 16, 64, 256] {
                    let rows_used = if tokens < 64 { rows } else { rows.min(8960) };
                    let small = (tokens >= 64).then(|| Panels::pack(t, rows_used, cols, row, &pool).unwrap());
                    let weights = small.as_ref().unwrap_or(&weights);
                    let x = random.floats(tokens * cols);
                    let tiles = Tiles::new(kind, cols, tokens).unwrap();
                    let out = SharedBuffer::new(tokens * rows_used).unwrap();
                    let source = Source { x: &x, stride: cols, rows: None };
                    for index in 0..Tile::count(isa, tokens) {
                        // SAFETY: no workers run.
                        unsafe { quantize_tile(isa, &tiles, Tile::get(isa, tokens, index), source, None) };
                    }
                    let mut best = f64::MAX;
                    for _ in 0..20 {
                        let start = std::time::Instant::now();
                        pool.run(|worker, barrier| {
                            let matrix =
                                Matrix { weights, x: &tiles, cut: Cut::WHOLE, factors: None, bias: None };
                            let product = Product {
                                matrix,
                                epilogue: Epilogue::Store,
                                out: &out,
                                stride: rows_used,
                                column: 0,
                            };
                            // SAFETY: every worker calls this alike, and nobody else touches `out`.
                            unsafe { multiply(isa, &[product], tokens, worker, barrier.workers()) };
                        })
                        .unwrap();
                        best = best.min(start.elapsed().as_secs_f64());
                    }
                    let gmacs = (rows_used * cols * tokens) as f64 / best / 1e9;
                    let gbs = weights.bytes() as f64 / best / 1e9;
                    line += &format!(" M={tokens}: {gbs:.1} GB/s {gmacs:.0} GMAC/s;");
                }
                println!("{line}");
            }
        }
    }
}

/// Speed of RMSNorm and quantization.
#[test]
#[ignore = "a measurement"]
fn quantization_speed() {
    let mut random = Random(1);
    for isa in Isa::available() {
        for (cols, tokens) in [(1536, 1), (8960, 1), (1536, 64)] {
            let x = random.floats(cols * tokens);
            let weight = random.floats(cols);
            let tiles = Tiles::new(TileKind::Q8, cols, tokens).unwrap();
            let source = Source { x: &x, stride: cols, rows: None };
            let norm = Norm { weight: &weight, eps: None };
            let mut best = f64::MAX;
            for _ in 0..200 {
                let start = std::time::Instant::now();
                for index in 0..Tile::count(isa, tokens) {
                    // SAFETY: no workers run.
                    unsafe { quantize_tile(isa, &tiles, Tile::get(isa, tokens, index), source, Some(norm)) };
                }
                best = best.min(start.elapsed().as_secs_f64());
            }
            let each = best / (cols * tokens) as f64;
            println!("{} [{tokens}, {cols}]: {:.0} ns, {:.2} ns a value", isa.name(), best * 1e9, each * 1e9);
        }
    }
}
