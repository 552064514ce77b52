//! The CPU's attention against float64 arithmetic, and against itself: instruction sets, threads and company must not
//! change a bit.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use aprgpu::backend::cpu::pool::{Pool, SharedBuffer};
use aprgpu::backend::cpu::simd::{Attention, AttentionScratch, Isa, KvCache, attend};
use aprgpu::plan::{KvLayout, KvType, Pairing, Row, Shape};

fn random(seed: &mut u64) -> f32 {
    *seed ^= *seed >> 12;
    *seed ^= *seed << 25;
    *seed ^= *seed >> 27;
    let x = seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40;
    (x as f32 / (1 << 24) as f32 - 0.5) * 3.0
}

struct Case {
    shape: Shape,
    context: usize,
    kv_type: KvType,
    rows: Vec<Row>,
    /// `[slot][kv_head][position][head_dim]`.
    keys: Vec<f32>,
    values: Vec<f32>,
    query: Vec<f32>,
}

const SLOTS: usize = 2;

impl Case {
    fn new(
        (num_heads, num_kv_heads, head_dim): (usize, usize, usize),
        context: usize,
        window: Option<usize>,
        kv_type: KvType,
        positions: &[(u32, u32)],
    ) -> Self {
        let shape = Shape {
            hidden_size: 0,
            intermediate_size: 0,
            num_layers: 2,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size: 0,
            rms_norm_eps: 0.0,
            rope_dim: head_dim,
            rope_pairing: Pairing::Neox,
            sliding_window: window,
        };
        let mut seed = (head_dim * 31 + num_heads) as u64;
        let rows = positions
            .iter()
            .map(|&(slot, position)| Row { token: 0, slot, position, logits: false })
            .collect::<Vec<_>>();
        let mut floats = |count: usize| (0..count).map(|_| random(&mut seed)).collect::<Vec<f32>>();
        let cache = SLOTS * num_kv_heads * context * head_dim;
        let (mut keys, mut values) = (floats(cache), floats(cache));
        if kv_type == KvType::F16 {
            for x in keys.iter_mut().chain(&mut values) {
                *x = half::f16::from_f32(*x).to_f32();
            }
        }
        let query = floats(rows.len() * num_heads * head_dim);
        Self { shape, context, kv_type, rows, keys, values, query }
    }

    /// Softmax in float64.
    fn expected(&self) -> Vec<f64> {
        let Shape { num_heads, num_kv_heads, head_dim, .. } = self.shape;
        let mut out = Vec::new();
        for (row, query) in self.rows.iter().zip(self.query.chunks(num_heads * head_dim)) {
            for (head, query) in query.chunks(head_dim).enumerate() {
                let kv_head = head / (num_heads / num_kv_heads);
                let base = (row.slot as usize * num_kv_heads + kv_head) * self.context;
                let end = row.position as usize + 1;
                let start = self.shape.sliding_window.map_or(0, |w| end.saturating_sub(w));
                let vector = |all: &[f32], p: usize| -> Vec<f64> {
                    all[(base + p) * head_dim..][..head_dim].iter().map(|x| f64::from(*x)).collect()
                };
                let scores: Vec<f64> = (start..end)
                    .map(|p| {
                        let key = vector(&self.keys, p);
                        let dot: f64 = key.iter().zip(query).map(|(k, q)| k * f64::from(*q)).sum();
                        dot / (head_dim as f64).sqrt()
                    })
                    .collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut result = vec![0.0; head_dim];
                for (p, weight) in (start..end).zip(&weights) {
                    for (to, v) in result.iter_mut().zip(vector(&self.values, p)) {
                        *to += weight / sum * v;
                    }
                }
                out.extend(result);
            }
        }
        out
    }

    fn computed(&self, isa: Isa, threads: usize, rows: &[Row], query: &[f32]) -> Vec<f32> {
        let Shape { num_layers, num_kv_heads, head_dim, .. } = self.shape;
        let layout = KvLayout {
            num_layers,
            slots: SLOTS,
            num_kv_heads,
            context: self.context,
            head_dim,
            kv_type: self.kv_type,
        };
        let cache = KvCache::new(layout).unwrap();
        for slot in 0..SLOTS {
            for kv_head in 0..num_kv_heads {
                for position in 0..self.context {
                    let at = ((slot * num_kv_heads + kv_head) * self.context + position) * head_dim;
                    let (key, value) = (&self.keys[at..at + head_dim], &self.values[at..at + head_dim]);
                    // SAFETY: no other thread knows the cache.
                    unsafe { cache.store(isa, 1, (slot, kv_head, position), key, value) };
                }
            }
        }
        let pool = Pool::new(threads).unwrap();
        let mut out = SharedBuffer::new(query.len()).unwrap();
        out.as_mut_slice().fill(-77.0);
        let scratch = AttentionScratch::new(&self.shape, self.context, rows.len(), threads).unwrap();
        let attention = Attention {
            shape: &self.shape,
            cache: &cache,
            layer: 1,
            rows,
            query,
            out: &out,
            scratch: &scratch,
        };
        // SAFETY: every worker calls this alike, and nobody else touches the buffers.
        pool.run(|worker, barrier| unsafe { attend(isa, &attention, worker, barrier) }).unwrap();
        out.as_mut_slice().to_vec()
    }
}

fn nmse(got: &[f32], want: &[f64]) -> f64 {
    let error: f64 = got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).powi(2)).sum();
    error / want.iter().map(|w| w * w).sum::<f64>()
}

/// Close to float64 everywhere, and the same bits from every instruction set, thread count and batch.
fn check(case: &Case, name: &str) {
    let want = case.expected();
    let first = case.computed(Isa::detect(), 1, &case.rows, &case.query);
    let error = nmse(&first, &want);
    assert!(error < 1e-12, "{name}: NMSE {error:e}");
    for isa in Isa::available() {
        for threads in [1, 2, 7] {
            let got = case.computed(isa, threads, &case.rows, &case.query);
            assert!(
                got.iter().zip(&first).all(|(a, b)| a.to_bits() == b.to_bits()),
                "{name}: {} with {threads} threads differs",
                isa.name()
            );
        }
    }
    let width = case.shape.num_heads * case.shape.head_dim;
    for (i, query) in case.query.chunks(width).enumerate().step_by(5) {
        let alone = case.computed(Isa::detect(), 3, &case.rows[i..=i], query);
        assert_eq!(alone, first[i * width..(i + 1) * width], "{name}: row {i} alone differs");
    }
}

#[test]
fn attention_is_close_to_float64_and_has_one_order() {
    for name in Isa::NAMES {
        if !Isa::available().iter().any(|isa| isa.name() == *name) {
            println!("skipped: this CPU has no {name}");
        }
    }
    let decode = [(0, 0), (1, 5), (0, 255), (1, 256), (0, 599)];
    let chunk: Vec<(u32, u32)> = (240..277).map(|p| (1, p)).collect();
    for kv_type in [KvType::F16, KvType::F32] {
        for heads in
            [(2, 2, 64), (6, 2, 80), (7, 1, 64), (12, 2, 128), (4, 1, 96), (5, 1, 256), (2, 1, 40), (3, 1, 7)]
        {
            for window in [None, Some(1), Some(100), Some(300)] {
                let case = Case::new(heads, 600, window, kv_type, &decode);
                check(&case, &format!("decode, heads {heads:?}, window {window:?}, {kv_type:?}"));
            }
            let case = Case::new(heads, 300, None, kv_type, &chunk);
            check(&case, &format!("chunk, heads {heads:?}, {kv_type:?}"));
        }
    }
}

#[test]
fn one_row_over_many_splits() {
    let case = Case::new((4, 2, 64), 3000, None, KvType::F16, &[(0, 2999)]);
    check(&case, "long");
}

#[test]
fn a_value_that_is_not_a_number_stays_visible() {
    for isa in Isa::available() {
        let mut case = Case::new((2, 1, 64), 300, None, KvType::F32, &[(0, 280)]);
        case.keys[64 * 17 + 3] = f32::NAN;
        let got = case.computed(isa, 2, &case.rows, &case.query);
        assert!(got.iter().all(|x| x.is_nan()), "{}: a NaN among the keys is lost", isa.name());
    }
}

#[test]
fn rows_outside_of_the_cache_are_not_numbers() {
    let case = Case::new((2, 1, 64), 300, None, KvType::F16, &[(0, 280), (0, 281)]);
    let mut rows = case.rows.clone();
    rows[1].position = 300;
    let got = case.computed(Isa::detect(), 2, &rows, &case.query);
    assert!(got[..128].iter().all(|x| x.is_finite()) && got[128..].iter().all(|x| x.is_nan()));
}

/// Speed of one layer's attention: GB/s of keys and values with one row, GMAC/s with many.
#[test]
#[ignore = "a measurement"]
fn speed() {
    for (name, heads, context, rows) in [
        ("1.5B decode at 512", (12, 2, 128), 512, 1),
        ("1.5B decode at 8192", (12, 2, 128), 8192, 1),
        ("0.5B decode at 8192", (14, 2, 64), 8192, 1),
        ("1.5B prefill 512", (12, 2, 128), 512, 512),
        ("1.5B prefill 512 at 4096", (12, 2, 128), 4096, 512),
    ] {
        let positions: Vec<(u32, u32)> = (context - rows..context).map(|p| (0, p as u32)).collect();
        let case = Case::new(heads, context, None, KvType::F16, &positions);
        let cache = KvCache::new(KvLayout {
            num_layers: 2,
            slots: 1,
            num_kv_heads: heads.1,
            context,
            head_dim: heads.2,
            kv_type: KvType::F16,
        })
        .unwrap();
        let vector = vec![0.5; heads.2];
        for kv_head in 0..heads.1 {
            for position in 0..context {
                // SAFETY: no other thread knows the cache.
                unsafe { cache.store(Isa::detect(), 0, (0, kv_head, position), &vector, &vector) };
            }
        }
        for isa in Isa::available().into_iter().filter(|isa| isa.name() != "scalar") {
            for threads in [1, 2] {
                let pool = Pool::new(threads).unwrap();
                let out = SharedBuffer::new(case.query.len()).unwrap();
                let scratch = AttentionScratch::new(&case.shape, context, rows, threads).unwrap();
                let attention = Attention {
                    shape: &case.shape,
                    cache: &cache,
                    layer: 0,
                    rows: &case.rows,
                    query: &case.query,
                    out: &out,
                    scratch: &scratch,
                };
                let mut best = f64::MAX;
                for _ in 0..20 {
                    let start = std::time::Instant::now();
                    // SAFETY: every worker calls this alike, and nobody else touches the buffers.
                    pool.run(|worker, barrier| unsafe { attend(isa, &attention, worker, barrier) }).unwrap();
                    best = best.min(start.elapsed().as_secs_f64());
                }
                let seen: usize = positions.iter().map(|p| p.1 as usize + 1).sum();
                println!(
                    "{name}, {} {threads} threads: {:.1} us, {:.1} GB/s, {:.1} GMAC/s",
                    isa.name(),
                    best * 1e6,
                    (context * heads.1 * heads.2 * 4) as f64 / best / 1e9,
                    (seen * heads.0 * heads.2 * 2) as f64 / best / 1e9,
                );
            }
        }
    }
}
