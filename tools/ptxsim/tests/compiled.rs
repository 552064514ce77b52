//! What nvcc makes of CUDA C runs here and computes what the source says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "helpers of a test file count as production code to these lints"
)]

mod common;

use common::{Noise, download_f32, download_u32, f32_bytes, u32_bytes};
use ptxsim::{Arg, Fault, FaultKind, Kernel, Memory, Module, Options, Report, launch};

fn module() -> Module {
    Module::parse(include_str!("compiled/kernels.ptx")).unwrap()
}

fn start(
    k: &Kernel,
    memory: &Memory,
    grid: u32,
    block: [u32; 3],
    args: &[Arg],
    options: &Options,
) -> Result<Report, Fault> {
    launch(k, memory, [grid, 1, 1], block, 0, &k.pack(args)?, options)
}

fn half(x: f32) -> u16 {
    half_from_f64(f64::from(x))
}

/// To nearest even, for normal results: enough for test data.
fn half_from_f64(x: f64) -> u16 {
    let scale = 2f64.powi(x.abs().log2().floor().clamp(-14.0, 15.0) as i32 - 10);
    let m = (x.abs() / scale).round_ties_even() * scale;
    if m == 0.0 {
        return 0;
    }
    let e = m.log2().floor() as i32;
    let fraction = ((m / 2f64.powi(e) - 1.0) * 1024.0) as u16;
    (if x < 0.0 { 0x8000 } else { 0 }) | (((e + 15) as u16) << 10) | fraction
}

fn half_value(h: u16) -> f64 {
    let (e, m) = (i32::from(h >> 10 & 31), f64::from(h & 1023));
    let v = if e == 0 { m * 2f64.powi(-24) } else { (1.0 + m / 1024.0) * 2f64.powi(e - 15) };
    if h & 0x8000 != 0 { -v } else { v }
}

/// The dot of a row of Q4_K with activations, in f64.
fn q4k_row(row: &[u8], x: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (b, block) in row.chunks(144).enumerate() {
        let d = half_value(u16::from_le_bytes([block[0], block[1]]));
        let dmin = half_value(u16::from_le_bytes([block[2], block[3]]));
        let (q, qs) = (&block[4..16], &block[16..]);
        for j in 0..8 {
            let (scale, min) = if j < 4 {
                (q[j] & 63, q[j + 4] & 63)
            } else {
                ((q[j + 4] & 15) | ((q[j - 4] >> 6) << 4), (q[j + 4] >> 4) | ((q[j] >> 6) << 4))
            };
            for l in 0..32 {
                let v = qs[(j / 2) * 32 + l];
                let n = if j % 2 == 0 { v & 15 } else { v >> 4 };
                sum +=
                    (d * f64::from(scale) * f64::from(n) - dmin * f64::from(min)) * x[b * 256 + j * 32 + l];
            }
        }
    }
    sum
}

#[test]
fn q4k_matvec_agrees_with_f64() {
    let (rows, cols) = (16usize, 1024usize);
    let blocks = cols / 256;
    let mut noise = Noise(1);
    let mut w = noise.bytes(rows * blocks * 144);
    for b in w.chunks_mut(144) {
        b[..4].copy_from_slice(&[0x00, 0x20, 0x00, 0x1c]);
    }
    let (mut xq, mut x) = (vec![], vec![]);
    for _ in 0..blocks {
        let q: Vec<i8> = (0..256).map(|_| (noise.next() % 255) as i32 - 127).map(|v| v as i8).collect();
        let d = 0.01f32;
        xq.extend(d.to_le_bytes());
        xq.extend(q.iter().map(|v| *v as u8));
        for c in q.chunks(16) {
            xq.extend(c.iter().map(|v| i16::from(*v)).sum::<i16>().to_le_bytes());
        }
        x.extend(q.iter().map(|v| f64::from(d) * f64::from(*v)));
    }
    let mut m = Memory::new();
    let (wp, xp, op) = (m.upload(&w).unwrap(), m.upload(&xq).unwrap(), m.alloc(rows * 4).unwrap());
    let module = module();
    let k = module.kernel("q4k_q8k_matvec").unwrap();
    let args = [Arg::U64(wp), Arg::U64(xp), Arg::U64(op), Arg::U32(blocks as u32), Arg::U32(rows as u32)];
    start(k, &m, rows as u32 / 4, [32, 4, 1], &args, &Options::default()).unwrap();
    for (r, got) in download_f32(&m, op, rows).into_iter().enumerate() {
        let want = q4k_row(&w[r * blocks * 144..][..blocks * 144], &x);
        assert!((want - f64::from(got)).abs() < 1e-4 * want.abs().max(1.0), "row {r}: {got} for {want}");
    }
}

#[test]
fn rmsnorm_agrees_and_its_missing_barrier_is_found() {
    let n = 1000;
    let mut noise = Noise(2);
    let (x, g) = (noise.units(n), noise.units(n));
    let mut m = Memory::new();
    let (xp, gp, op) =
        (m.upload(&f32_bytes(&x)).unwrap(), m.upload(&f32_bytes(&g)).unwrap(), m.alloc(n * 4).unwrap());
    let args = [Arg::U64(xp), Arg::U64(gp), Arg::U64(op), Arg::U32(n as u32), Arg::F32(1e-5)];
    let module = module();
    for seed in 0..4 {
        let options = Options { seed, ..Options::default() };
        start(module.kernel("rmsnorm").unwrap(), &m, 1, [256, 1, 1], &args, &options).unwrap();
        let mean = x.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / n as f64;
        let scale = 1.0 / (mean + 1e-5).sqrt();
        for (i, got) in download_f32(&m, op, n).into_iter().enumerate() {
            assert!((f64::from(x[i]) * scale * f64::from(g[i]) - f64::from(got)).abs() < 2e-6);
        }
        let f =
            start(module.kernel("rmsnorm_racy").unwrap(), &m, 1, [256, 1, 1], &args, &options).unwrap_err();
        assert_eq!(f.kind, FaultKind::SharedRace, "{f}");
        let source = f.source.unwrap();
        assert_eq!(&*source.file, "kernels.cu");
        assert!((38..=55).contains(&source.line), "{source}");
    }
}

#[test]
fn attention_holds_for_every_conforming_exponential() {
    let (heads, t) = (2usize, 50usize);
    let mut noise = Noise(3);
    let q = noise.units(heads * 64);
    let kv: Vec<Vec<u16>> =
        (0..2).map(|_| (0..heads * t * 64).map(|_| half(noise.unit())).collect()).collect();
    let bytes = |v: &Vec<u16>| v.iter().flat_map(|h| h.to_le_bytes()).collect::<Vec<u8>>();
    let mut m = Memory::new();
    let qp = m.upload(&f32_bytes(&q)).unwrap();
    let (kp, vp) = (m.upload(&bytes(&kv[0])).unwrap(), m.upload(&bytes(&kv[1])).unwrap());
    let op = m.alloc(heads * 64 * 4).unwrap();
    let args = [Arg::U64(qp), Arg::U64(kp), Arg::U64(vp), Arg::U64(op), Arg::U32(t as u32), Arg::F32(0.125)];
    let module = module();
    let mut results = vec![];
    for perturb in 0..3 {
        let options = Options { perturb, ..Options::default() };
        start(module.kernel("attention").unwrap(), &m, heads as u32, [32, 1, 1], &args, &options).unwrap();
        results.push(download_f32(&m, op, heads * 64));
    }
    assert_ne!(results[0], results[1]);
    assert_ne!(results[1], results[2]);
    for h in 0..heads {
        let at = |side: usize, i: usize, d: usize| half_value(kv[side][(h * t + i) * 64 + d]);
        let score = |i: usize| (0..64).map(|d| f64::from(q[h * 64 + d]) * at(0, i, d)).sum::<f64>() * 0.125;
        let e: Vec<f64> = (0..t).map(|i| score(i).exp()).collect();
        let z: f64 = e.iter().sum();
        for d in 0..64 {
            let want: f64 = (0..t).map(|i| e[i] / z * at(1, i, d)).sum();
            for r in &results {
                assert!((want - f64::from(r[h * 64 + d])).abs() < 1e-5);
            }
        }
    }
}

#[test]
fn lanes_that_loop_differently_meet_again() {
    let n: Vec<i32> = (0..32).map(|i| (i * 7) % 13).collect();
    let mut m = Memory::new();
    let np = m.upload(&u32_bytes(&n.iter().map(|v| *v as u32).collect::<Vec<_>>())).unwrap();
    let op = m.alloc(128).unwrap();
    let module = module();
    let k = module.kernel("diverge").unwrap();
    start(k, &m, 1, [32, 1, 1], &[Arg::U64(np), Arg::U64(op)], &Options::default()).unwrap();
    let own = |t: i32| {
        let mut s = 0;
        for i in 0..n[t as usize] {
            if i & 1 == 1 { s += i } else { s ^= t }
        }
        if t & 1 == 1 { s * 3 } else { s + 7 }
    };
    let want: Vec<u32> = (0..32).map(|t| (own(t) + own((t + 1).min(31))) as u32).collect();
    assert_eq!(download_u32(&m, op, 32), want);
}

#[test]
fn division_local_arrays_and_half_math() {
    let a: Vec<i32> = (0..40).map(|i| (i * 7919) % 1000 - 500).collect();
    let mut m = Memory::new();
    let ap = m.upload(&u32_bytes(&a.iter().map(|v| *v as u32).collect::<Vec<_>>())).unwrap();
    let op = m.alloc(128).unwrap();
    let module = module();
    let k = module.kernel("mixed").unwrap();
    start(k, &m, 1, [32, 1, 1], &[Arg::U64(ap), Arg::U64(op), Arg::U32(40)], &Options::default()).unwrap();
    for (t, got) in download_f32(&m, op, 32).into_iter().enumerate() {
        let window: Vec<i32> = (0..8).map(|i| a[(t + i) % 40]).collect();
        let mut best = 0;
        for i in 0..8 {
            if window[(i * 5 + t) & 7] > window[best] {
                best = (i * 5 + t) & 7;
            }
        }
        let big = i64::from(window[best]) * 1_000_003 / (t as i64 + 1);
        let square = |x: f64| half_value(half_from_f64(x * x + 1.0));
        let root = ((t * t + 1) as f32).sqrt() / (t as f32 + 2.0);
        let low = if (big & 1023).pow(2) + 1 >= 65520 { f64::INFINITY } else { square((big & 1023) as f64) };
        let want = (low + square(t as f64)) as f32 + (best % 3) as f32 + root;
        assert_eq!(got, want, "thread {t}");
    }
}

#[test]
fn the_last_block_sums_what_others_left() {
    let mut noise = Noise(4);
    let x = noise.units(777);
    let module = module();
    let k = module.kernel("last_block_sums").unwrap();
    let mut results = vec![];
    for seed in 0..4 {
        let mut m = Memory::new();
        let xp = m.upload(&f32_bytes(&x)).unwrap();
        let (pp, cp, op) = (m.alloc(64).unwrap(), m.upload(&[0; 4]).unwrap(), m.alloc(4).unwrap());
        let args = [Arg::U64(xp), Arg::U64(pp), Arg::U64(cp), Arg::U64(op), Arg::U32(777)];
        let options = Options { seed, threads: 1, ..Options::default() };
        start(k, &m, 16, [32, 1, 1], &args, &options).unwrap();
        results.push(download_f32(&m, op, 1)[0]);
    }
    let want: f64 = x.iter().map(|v| f64::from(*v)).sum();
    assert!((f64::from(results[0]) - want).abs() < 1e-4);
    assert!(results.iter().all(|r| *r == results[0]), "the order of blocks must not matter: {results:?}");
}
