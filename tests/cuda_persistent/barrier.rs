//! The kernel by itself in the simulator: two phases, of which the second reads what other blocks wrote in the first.
//! Each part of its barriers, taken out, must be caught; so must a load through `.nc` of what a phase wrote.

use aprgpu::backend::cuda::sources::{self, Target};
use ptxsim::{Arg, FaultKind, Kernel, Memory, Module, Options};

const KEY: &str = "quantize X=q8";
/// Rows of 256 columns; a row of records has 8 times 176 bytes, so that rows of floats over it are other blocks' rows.
const ROWS: u32 = 8;
const RECORD_ROW: u64 = 8 * 176;
const BLOCKS: u32 = 3;
/// State of a run: only its number of rows matters here.
const STATE: [u32; 8] = [ROWS, 0, 0, 0, 0, 0, 0, 0];
const SLICE: usize = 64;

/// Buffers of the two phases: what is quantized, into what, into what again.
struct Buffers {
    memory: Memory,
    vectors: u64,
    state: u64,
    x: u64,
    first: u64,
    second: u64,
}

fn bytes(words: impl IntoIterator<Item = u32>) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn buffers() -> Buffers {
    let mut memory = Memory::new();
    let values = (0..ROWS * 256).map(|i| ((i * 37 % 101) as f32 - 50.0).to_bits());
    let records = vec![0; (u64::from(ROWS) * RECORD_ROW) as usize];
    Buffers {
        vectors: memory.upload(&bytes([0; 4])).unwrap(),
        state: memory.upload(&bytes(STATE)).unwrap(),
        x: memory.upload(&bytes(values)).unwrap(),
        first: memory.upload(&records).unwrap(),
        second: memory.upload(&records).unwrap(),
        memory,
    }
}

/// The parameters of `quantize`: `records`, `norm` (none), `columns`.
fn params() -> Vec<u8> {
    let mut words = [0; 36];
    (words[0], words[15], words[32]) = (8, u32::MAX, 256);
    bytes(words)
}

/// A phase's record, as `kernels/decode.ptx` says: addresses, parameters, function, threads, 65536 / warps, groups, tasks,
/// their grid, bytes of shared memory, then nothing to fetch ahead, its number, and whether it is the last.
fn phase(number: u32, buffers: [u64; 4]) -> Vec<u8> {
    let mut record: Vec<u8> = buffers.into_iter().chain([0; 4]).flat_map(u64::to_le_bytes).collect();
    record.extend(params());
    record.extend(bytes([0, 256, 65536 / 8, 2, ROWS, 1, ROWS, SLICE as u32]));
    record.resize(320, 0);
    record.extend(bytes([number, number, 0, 0]));
    record
}

fn kernel(text: &str, name: &str) -> Kernel {
    Module::parse(text).unwrap_or_else(|error| panic!("{error}")).kernel(name).unwrap().clone()
}

/// Both phases as launches of their own.
fn one_by_one() -> Vec<u8> {
    let b = buffers();
    let kernel = kernel(&sources::source(KEY, Target::Sm80).unwrap(), "quantize_q8");
    for (from, to) in [(b.x, b.first), (b.first, b.second)] {
        let args = [b.vectors, from, b.state, to].map(Arg::U64);
        let params = kernel.pack(&[&args[..], &[Arg::Bytes(params())]].concat()).unwrap();
        ptxsim::launch(&kernel, &b.memory, [1, ROWS, 1], [256, 1, 1], 0, &params, &Options::strict())
            .unwrap();
    }
    b.memory.download(b.second, (u64::from(ROWS) * RECORD_ROW) as usize).unwrap()
}

/// Both phases in one kernel of this text, twice, so that the barrier is used again.
fn together(text: &str, seed: u64) -> Result<Vec<u8>, ptxsim::Fault> {
    let mut b = buffers();
    let table =
        [phase(0, [b.vectors, b.x, b.state, b.first]), phase(1, [b.vectors, b.first, b.state, b.second])];
    let phases = b.memory.upload(&table.concat()).unwrap();
    let arrivals = b.memory.upload(&bytes([0])).unwrap();
    let kernel = kernel(text, "decode");
    let args = [Arg::U64(phases), Arg::U64(arrivals), Arg::Bytes(vec![0; 144])];
    let params = kernel.pack(&args).unwrap();
    let options = Options { cooperative: true, seed, ..Options::strict() };
    for _ in 0..2 {
        ptxsim::launch(&kernel, &b.memory, [BLOCKS, 1, 1], [512, 1, 1], 2 * SLICE, &params, &options)?;
    }
    Ok(b.memory.download(b.second, (u64::from(ROWS) * RECORD_ROW) as usize).unwrap())
}

fn text() -> String {
    sources::source_with_lines(&sources::decode_key(&[KEY]), Target::Sm80).unwrap()
}

#[test]
fn two_phases_give_what_two_launches_give() {
    let expected = one_by_one();
    for seed in [0, 1, 77] {
        let found = together(&text(), seed).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
        assert!(found == expected, "seed {seed}");
    }
}

#[test]
fn a_barrier_that_lacks_a_part_is_caught() {
    let whole = text();
    let without = |from: &str, to: &str| {
        assert_eq!(whole.matches(from).count(), 1, "{from}");
        whole.replace(from, to)
    };
    for (what, text, kind) in [
        ("arriving without release", without("atom.release.gpu", "atom.relaxed.gpu"), FaultKind::GlobalRace),
        ("waiting without acquire", without("ld.acquire.gpu", "ld.relaxed.gpu"), FaultKind::GlobalRace),
        ("not waiting", without("@%waits bra WAIT;", ""), FaultKind::GlobalRace),
        ("one arrival too few", without("0x80000001", "0x80000000"), FaultKind::Deadlock),
    ] {
        let caught = [0, 1, 77, 1234].into_iter().find_map(|seed| together(&text, seed).err());
        let fault = caught.unwrap_or_else(|| panic!("{what} was not caught"));
        assert_eq!(fault.kind, kind, "{what}: {fault}");
    }
}

#[test]
fn a_load_that_may_be_stale_is_caught_at_its_line() {
    let load = "@%there ld.global.f32 %value, [%place];";
    let whole = text();
    assert_eq!(whole.matches(load).count(), 1);
    let stale = together(&whole.replace(load, "@%there ld.global.nc.f32 %value, [%place];"), 0);
    let fault = stale.err().unwrap_or_else(|| panic!("it was not caught"));
    assert!(fault.to_string().contains("kernels/quantize.ptx"), "{fault}");
}
