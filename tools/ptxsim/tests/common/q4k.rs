//! A Q4_K product in the layout of `kernels/q4k_dp4a.ptx`, and what it must give, bit for bit.

use super::{Noise, f32_bytes};
use ptxsim::{Arg, Fault, Kernel, Memory, Module, Options, Report, launch};

/// Weights and activations on the device.
pub struct Product {
    pub memory: Memory,
    pub rows: usize,
    pub supers: usize,
    kernel: Kernel,
    params: Vec<u8>,
    out: u64,
    pub want: Vec<f32>,
}

impl Product {
    pub fn new(rows: usize, cols: usize, seed: u64) -> Self {
        let mut noise = Noise(seed);
        let supers = cols / 256;
        let blocks = rows * supers * 8;
        let quants = noise.bytes(blocks * 16);
        let scales: Vec<u8> = noise.bytes(blocks * 2).into_iter().map(|b| b & 63).collect();
        // d near 2^-6, dmin near 2^-7: halves with a random fraction
        let dm: Vec<u8> = (0..rows * supers)
            .flat_map(|_| [0x2400 | (noise.next() & 1023) as u16, 0x2000 | (noise.next() & 1023) as u16])
            .flat_map(u16::to_le_bytes)
            .collect();
        let x: Vec<i8> = (0..cols).map(|_| ((noise.next() % 255) as i32 - 127) as i8).collect();
        let ds: Vec<f32> = x
            .chunks(32)
            .flat_map(|b| {
                let d = (noise.unit() + 1.5) / 100.0;
                [d, d * b.iter().map(|v| f32::from(*v)).sum::<f32>()]
            })
            .collect();
        let want = (0..rows).map(|r| row(r, supers, &quants, &scales, &dm, &x, &ds)).collect();
        let mut memory = Memory::new();
        let x: Vec<u8> = x.iter().map(|v| *v as u8).collect();
        let planes = [&quants, &scales, &dm, &x, &f32_bytes(&ds)].map(|b| memory.upload(b).unwrap());
        let out = memory.alloc(rows * 4).unwrap();
        let module = Module::parse(include_str!("../kernels/q4k_dp4a.ptx")).unwrap();
        let kernel = module.kernels()[0].clone();
        let mut args: Vec<Arg> = planes.into_iter().chain([out]).map(Arg::U64).collect();
        args.extend([Arg::U32(supers as u32), Arg::U32(rows as u32)]);
        let params = kernel.pack(&args).unwrap();
        Product { memory, rows, supers, kernel, params, out, want }
    }

    pub fn run(&self, options: &Options) -> Result<Report, Fault> {
        let grid = [self.rows.div_ceil(4) as u32, 1, 1];
        launch(&self.kernel, &self.memory, grid, [128, 1, 1], 0, &self.params, options)
    }

    pub fn result(&self) -> Vec<f32> {
        super::download_f32(&self.memory, self.out, self.rows)
    }
}

fn half(b: &[u8]) -> f32 {
    let h = u16::from_le_bytes([b[0], b[1]]);
    (1.0 + f32::from(h & 1023) / 1024.0) * 2f32.powi(i32::from(h >> 10) - 15)
}

/// The kernel's arithmetic in its order.
fn row(r: usize, supers: usize, quants: &[u8], scales: &[u8], dm: &[u8], x: &[i8], ds: &[f32]) -> f32 {
    let mut lanes: Vec<f32> = (0..32)
        .map(|lane: usize| {
            let mut sum = 0f32;
            for s in (lane / 8..supers).step_by(4) {
                let (column, block) = (s * 8 + lane % 8, (r * supers + s) * 8 + lane % 8);
                let q = &quants[block * 16..][..16];
                let xs = &x[column * 32..][..32];
                let dot: i32 = (0..16)
                    .map(|k| {
                        i32::from(q[k] & 15) * i32::from(xs[k]) + i32::from(q[k] >> 4) * i32::from(xs[16 + k])
                    })
                    .sum();
                let (scale, min) = (scales[block * 2], scales[block * 2 + 1]);
                let at = (r * supers + s) * 4;
                let (d, dmin) = (half(&dm[at..]), half(&dm[at + 2..]));
                let low = dmin * f32::from(min) * ds[column * 2 + 1];
                sum = ((dot * i32::from(scale)) as f32).mul_add(d * ds[column * 2], sum) - low;
            }
            sum
        })
        .collect();
    for by in [16, 8, 4, 2, 1] {
        lanes = (0..32).map(|i: usize| lanes[i] + lanes[i ^ by]).collect();
    }
    lanes[0]
}
