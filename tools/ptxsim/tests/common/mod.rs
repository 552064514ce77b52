//! Shared by the tests: device buffers, small kernels from a body, random numbers.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::unwrap_used,
    clippy::panic,
    reason = "test code; each test file uses its own part, and the speed example some of it"
)]

pub mod q4k;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Mutex;

use ptxsim::{Arg, Fault, FaultKind, Kernel, Memory, Module, Options, Report, launch};

/// Deterministic noise (xorshift).
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32) as u32
    }

    /// In -1..1.
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 23) as f32 - 1.0
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    pub fn units(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.unit()).collect()
    }
}

pub fn f32_bytes(v: &[f32]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub fn u32_bytes(v: &[u32]) -> Vec<u8> {
    v.iter().flat_map(|x| x.to_le_bytes()).collect()
}

pub fn download_f32(m: &Memory, at: u64, n: usize) -> Vec<f32> {
    download_u32(m, at, n).into_iter().map(f32::from_bits).collect()
}

pub fn download_u32(m: &Memory, at: u64, n: usize) -> Vec<u32> {
    let bytes = m.download(at, n * 4).unwrap();
    bytes.chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
}

/// A kernel `k(in, out)` around a body that has `%r0..63`, `%rd0..15`, `%f0..31`, `%h0..15`, `%p0..7`, `%d0..7`,
/// the pointers in `%rd1` and `%rd2`, the thread in `%r1`, its byte offset of 4 each in `%r2` and both pointers
/// moved by it in `%rd3` and `%rd4`, and 256 bytes of shared memory `sm`.
pub fn wrap(body: &str) -> String {
    format!(
        "\
.version 8.0
.target sm_90
.address_size 64
.visible .entry k(.param .u64 p_in, .param .u64 p_out)
{{
.reg .pred %p<8>;
.reg .b16 %h<16>;
.reg .b32 %r<64>;
.reg .f32 %f<32>;
.reg .b64 %rd<16>;
.reg .f64 %d<8>;
.shared .align 16 .b8 sm[1024];
ld.param.u64 %rd1, [p_in];
ld.param.u64 %rd2, [p_out];
mov.u32 %r1, %tid.x;
shl.b32 %r2, %r1, 2;
cvt.u64.u32 %rd3, %r2;
add.s64 %rd4, %rd2, %rd3;
add.s64 %rd3, %rd1, %rd3;
{body}
ret;
}}
"
    )
}

/// Line of [`wrap`]'s text that the body starts at.
pub const BODY_LINE: u32 = 20;

/// With `PTXAS` set, NVIDIA's assembler must take whatever the tests run.
fn assemble(text: &str) {
    static DONE: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let Ok(ptxas) = std::env::var("PTXAS") else { return };
    let number = {
        let mut done = DONE.lock().unwrap();
        if !done.insert(text.to_owned()) {
            return;
        }
        done.len()
    };
    let file = std::env::temp_dir().join(format!("ptxsim-{}-{number}.ptx", std::process::id()));
    // a line directive would name files that are not there
    std::fs::write(&file, text.replace("\n#line", "\n// #line")).unwrap();
    let arch = if text.contains(".target sm_90") { "sm_90" } else { "sm_80" };
    let mut command = Command::new(ptxas);
    let output = command.arg(format!("-arch={arch}")).arg(&file).args(["-o", "/dev/null"]).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

pub fn kernel(text: &str) -> Kernel {
    assemble(text);
    Module::parse(text).unwrap_or_else(|e| panic!("{e}\n{text}")).kernels()[0].clone()
}

/// Runs a wrapped body over `input` words; the buffer behind `out` has `out_words`, not initialized.
pub fn run_with(
    body: &str,
    input: &[u32],
    out_words: usize,
    (grid, block): (u32, u32),
    options: &Options,
) -> Result<(Vec<u32>, Report), Fault> {
    let k = kernel(&wrap(body));
    let mut memory = Memory::new();
    let a = memory.upload(&u32_bytes(input)).unwrap();
    let b = memory.alloc(out_words * 4).unwrap();
    let params = k.pack(&[Arg::U64(a), Arg::U64(b)])?;
    let report = launch(&k, &memory, [grid, 1, 1], [block, 1, 1], 0, &params, options)?;
    Ok((download_u32(&memory, b, out_words), report))
}

/// One warp, one result word a lane, every check.
pub fn run(body: &str, input: &[u32]) -> Vec<u32> {
    let body = format!("{body}\nst.global.u32 [%rd4], %r10;");
    let options = Options { threads: 1, ..Options::default() };
    run_with(&body, input, 32, (1, 32), &options).unwrap_or_else(|f| panic!("{f}\n{}", wrap(&body))).0
}

/// The fault of a body that must have one.
pub fn fault(body: &str, shape: (u32, u32)) -> Fault {
    let options = Options { threads: 1, ..Options::default() };
    match run_with(body, &[7; 256], 256, shape, &options) {
        Err(fault) => fault,
        Ok(_) => panic!("ran without a fault:\n{}", wrap(body)),
    }
}

/// `bad` must have a fault of that kind, `good` must run.
pub fn proves(kind: FaultKind, shape: (u32, u32), bad: &str, good: &str) -> Fault {
    let found = fault(bad, shape);
    assert_eq!(found.kind, kind, "{found}");
    let options = Options { threads: 1, ..Options::default() };
    if let Err(f) = run_with(good, &[7; 256], 256, shape, &options) {
        panic!("the kernel that is right has a fault: {f}\n{}", wrap(good));
    }
    found
}
