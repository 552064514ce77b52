//! What NVIDIA's assembler makes of every kernel: it must take each for its own target and all above it, spill nothing, and use no
//! more registers and shared memory than `kernels/registers.md` says; and loads that are to be under way early must stay so.
//!
//! `PTXAS=fetch cargo test --release --test cuda_registers` fetches the assembler (PyPI `nvidia-cuda-nvcc`, with pip) into
//! `target/tmp/ptxas` and checks; `PTXAS=/path/to/ptxas` takes one that is there; without `PTXAS` the check is skipped. It takes some
//! twenty minutes of one core. With `APRGPU_BLESS=1` it writes the table anew; `APRGPU_KERNELS=down` takes only rows of the table
//! with this in their name.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

mod support;

use aprgpu::backend::cuda::sources::{self, Target};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const ARCHITECTURES: [u32; 7] = [80, 86, 89, 90, 100, 120, 121];
/// Kernels per run of the assembler.
const PER_FILE: usize = 24;
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/registers.md");

/// What the table begins with.
const HEAD: &str = "# Registers and shared memory of every kernel

What ptxas reports, for each architecture: registers per thread, of a decode kernel for M = 1 to 8; after `+` the bytes of
static shared memory, where there are any. Nothing is spilled. Written by
`APRGPU_BLESS=1 PTXAS=fetch cargo test --release --test cuda_registers`; without `APRGPU_BLESS` the same command fails where
a number has grown.

| kernel | 80 | 86 | 89 | 90 | 100 | 120 | 121 |
|---|---|---|---|---|---|---|---|
";

/// Registers and bytes of shared memory of a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Used {
    registers: u32,
    shared: u32,
}

/// By kernel and architecture.
type Use = BTreeMap<(String, u32), Used>;

/// What a `-v` run says, and what is wrong.
fn parse(output: &str, architecture: u32) -> (Use, Vec<String>) {
    let (mut found, mut faults, mut name) = (Use::new(), Vec::new(), String::new());
    let number_before = |line: &str, what: &str| -> u32 {
        let end = line.find(what).unwrap_or(0);
        line[..end].rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
    };
    for line in output.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            name = rest.split('\'').next().unwrap_or_default().to_owned();
        } else if line.contains("bytes spill stores") {
            let spilled =
                number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
            if spilled > 0 {
                faults.push(format!("{name} for sm_{architecture}:{line}"));
            }
        } else if line.contains(" registers") {
            let registers = number_before(line, " registers");
            let used = Used { registers, shared: number_before(line, " bytes smem") };
            found.insert((name.clone(), architecture), used);
        }
    }
    (found, faults)
}

fn assemble(ptxas: &Path, architecture: u32, texts: &[(String, String)]) -> (Use, Vec<String>) {
    // One module of many entries: the first text's head, then all entries.
    let mut module = String::new();
    for (_, text) in texts {
        let entry = text.find(".visible .entry").unwrap_or(0);
        module += if module.is_empty() { text } else { &text[entry..] };
    }
    let number = std::process::id();
    let file = std::env::temp_dir().join(format!("aprgpu-{number}-{architecture}-{}.ptx", texts[0].0));
    std::fs::write(&file, module).unwrap();
    let output = Command::new(ptxas)
        .args(["-v", "-o", "/dev/null", &format!("-arch=sm_{architecture}")])
        .arg(&file)
        .output()
        .unwrap();
    std::fs::remove_file(&file).unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let (found, mut faults) = parse(&said, architecture);
    if !output.status.success() {
        let errors: Vec<&str> = said.lines().filter(|line| line.contains("error")).take(5).collect();
        faults.push(format!("{} ... for sm_{architecture}: {}", texts[0].0, errors.join("\n")));
    } else if found.len() != texts.len() {
        faults.push(format!("{} ... for sm_{architecture}: {} of {}", texts[0].0, found.len(), texts.len()));
    }
    (found, faults)
}

/// The table's row: the kernels that differ only in M share one. `name` and the column in the row.
fn row_of(name: &str) -> (String, String) {
    let (name, pdl) = name.strip_suffix("_pdl").map_or((name, ""), |name| (name, " pdl"));
    match name.rsplit_once("_m") {
        Some((family, m)) if m.parse::<u32>().is_ok() => (format!("{family}{pdl}"), m.to_owned()),
        _ => (format!("{name}{pdl}"), "1".to_owned()),
    }
}

fn table(found: &Use) -> String {
    let mut rows: BTreeMap<String, BTreeMap<u32, BTreeMap<String, Used>>> = BTreeMap::new();
    for ((name, architecture), used) in found {
        let (row, column) = row_of(name);
        rows.entry(row).or_default().entry(*architecture).or_default().insert(column, *used);
    }
    let mut text = HEAD.to_owned();
    for (row, cells) in &rows {
        text += &format!("| {row} |");
        for architecture in ARCHITECTURES {
            let cell = cells.get(&architecture).map_or(String::new(), |columns| {
                let registers: Vec<String> =
                    columns.values().map(|used| used.registers.to_string()).collect();
                let shared = columns.values().map(|used| used.shared).max().unwrap_or(0);
                registers.join(" ") + &if shared > 0 { format!(" +{shared}") } else { String::new() }
            });
            text += &format!(" {cell} |");
        }
        text.push('\n');
    }
    text
}

/// The rows of a table, by name.
fn rows(table: &str) -> BTreeMap<String, String> {
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(1);
    let name = |line: &str| line.split('|').nth(1).unwrap_or_default().trim().to_owned();
    rows.map(|line| (name(line), format!("{line}\n"))).collect()
}

/// The numbers of a table, by row and column, so that two tables can be compared.
fn numbers(table: &str) -> BTreeMap<(String, usize, usize), u32> {
    let mut out = BTreeMap::new();
    for line in table.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        for (column, cell) in cells.iter().enumerate().skip(1) {
            for (index, word) in cell.split_whitespace().enumerate() {
                let number = word.trim_start_matches('+').parse().unwrap();
                out.insert((cells[0].to_owned(), column, index), number);
            }
        }
    }
    out
}

#[test]
fn every_kernel_assembles_and_has_not_grown() {
    let Some(ptxas) = support::ptxas::asked_for() else { return };
    let only = std::env::var("APRGPU_KERNELS").ok();
    let mut jobs = Vec::new();
    for target in [Target::Sm80, Target::Sm90] {
        let mut texts: Vec<(String, String)> = sources::variants()
            .filter(|variant| variant.targets.contains(&target))
            .map(|variant| {
                (sources::entry_name(&variant.key, target), sources::source(&variant.key, target).unwrap())
            })
            .collect();
        if target == Target::Sm80 {
            texts.extend(sources::usual_decodes().into_iter().map(|(name, key)| {
                let text = sources::source(&key, target).unwrap();
                let named = text.replacen(".entry decode(", &format!(".entry {name}("), 1);
                (name, named)
            }));
        }
        texts.retain(|(name, _)| only.as_ref().is_none_or(|only| row_of(name).0.contains(only)));
        for texts in texts.chunks(PER_FILE) {
            let first = if target == Target::Sm90 { 90 } else { 80 };
            for architecture in ARCHITECTURES.into_iter().filter(|&a| a >= first) {
                jobs.push((architecture, texts.to_vec()));
            }
        }
    }
    let (next, all) = (AtomicUsize::new(0), Mutex::new((Use::new(), Vec::new())));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some((architecture, texts)) = jobs.get(next.fetch_add(1, Relaxed)) {
                    let (found, faults) = assemble(&ptxas, *architecture, texts);
                    let mut all = all.lock().unwrap();
                    all.0.extend(found);
                    all.1.extend(faults);
                }
            });
        }
    });
    let (found, faults) = all.into_inner().unwrap();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    if std::env::var_os("APRGPU_BLESS").is_some() {
        let old = std::fs::read_to_string(TABLE).unwrap_or_default();
        let rows = match only {
            Some(_) => rows(&old).into_iter().chain(rows(&table(&found))).collect(),
            None => rows(&table(&found)),
        };
        std::fs::write(TABLE, HEAD.to_owned() + &rows.into_values().collect::<String>()).unwrap();
    }
    let known = numbers(&std::fs::read_to_string(TABLE).unwrap_or_default());
    let grown: Vec<String> = numbers(&table(&found))
        .into_iter()
        .filter(|(place, number)| known.get(place).is_none_or(|known| number > known))
        .map(|(place, number)| format!("{place:?}: {number}, was {:?}", known.get(&place)))
        .collect();
    assert!(grown.is_empty(), "{} have grown:\n{}", grown.len(), grown.join("\n"));
}

const LOAD: u64 = 0x981;
const WAIT: u64 = 0x82e;
const FUSED_PRODUCT: u64 = 0x223;

/// The opcodes of a text's kernels, as they are assembled.
fn machine_code(ptxas: &Path, architecture: u32, text: &str) -> BTreeMap<String, Vec<u64>> {
    let folder = tempfile::tempdir().unwrap();
    let (source, cubin) = (folder.path().join("kernels.ptx"), folder.path().join("kernels.cubin"));
    std::fs::write(&source, text).unwrap();
    let mut assembler = Command::new(ptxas);
    assembler.arg(format!("-arch=sm_{architecture}")).arg(&source).arg("-o").arg(&cubin);
    assert!(assembler.status().unwrap().success());
    opcodes(&std::fs::read(&cubin).unwrap())
}

/// The opcodes of a cubin's kernels, by name: the low twelve bits of each instruction of 16 bytes.
fn opcodes(cubin: &[u8]) -> BTreeMap<String, Vec<u64>> {
    let number = |at: usize, bytes: usize| {
        cubin[at..at + bytes].iter().rev().fold(0, |number, &byte| (number << 8) | usize::from(byte))
    };
    // ELF64: where the table of sections is, the size of an entry, how many, and which has their names.
    let section = |index: usize| number(0x28, 8) + index * number(0x3a, 2);
    let names = number(section(number(0x3e, 2)) + 24, 8);
    let code = |index: usize| {
        let name = &cubin[names + number(section(index), 4)..];
        let name = String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap()).into_owned();
        let (at, size) = (number(section(index) + 24, 8), number(section(index) + 32, 8));
        let kernel = name.strip_prefix(".text.")?.to_owned();
        Some((kernel, (at..at + size).step_by(16).map(|at| number(at, 8) as u64 & 0xfff).collect()))
    };
    (0..number(0x3c, 2)).filter_map(code).collect()
}

/// The first weights of a dependent launch are asked for before it waits, also in machine code: ptxas may move loads.
#[test]
fn weights_are_on_their_way_before_a_dependent_launch_waits() {
    let Some(ptxas) = support::ptxas::asked_for() else { return };
    let is_asked = |variant: &&sources::Variant| {
        let rows = variant.define("M");
        matches!(&variant.op[..], "down" | "gate_up")
            && variant.define("B").is_none()
            && (rows == Some("1") || rows == Some("8"))
            && variant.define("X") != Some("q8_k")
    };
    let mut module = String::new();
    let mut loads = BTreeMap::new();
    for variant in sources::variants().filter(is_asked) {
        let source = sources::source(&variant.key, Target::Sm90).unwrap();
        let entry = source.find(".visible .entry").unwrap();
        let (before, _) = source.split_once("griddepcontrol.wait;").unwrap();
        let first = before.matches(" ld.global.").count();
        loads.insert(sources::entry_name(&variant.key, Target::Sm90), first);
        module += if module.is_empty() { &source } else { &source[entry..] };
    }
    assert!(loads.len() > 30 && loads.values().all(|&first| first > 0), "{loads:?}");
    for architecture in ARCHITECTURES.into_iter().filter(|&a| a >= 90) {
        let code = machine_code(&ptxas, architecture, &module);
        for (kernel, first) in &loads {
            let code = &code[kernel];
            let wait = code.iter().position(|&opcode| opcode == WAIT).unwrap();
            let asked = code[..wait].iter().filter(|&&opcode| opcode == LOAD).count();
            assert!(
                asked >= *first,
                "{kernel} for sm_{architecture}: {asked} of {first} loads before the wait"
            );
        }
    }
}

/// Pieces of keys are asked for together, not each before its own products: arithmetic parts few groups of loads from each other.
#[test]
fn the_keys_of_a_tile_are_under_way_together() {
    let Some(ptxas) = support::ptxas::asked_for() else { return };
    for (key, most) in [("GROUP=6 KV=f16 ROWS=4", 3), ("GROUP=8 KV=f16 ROWS=4", 4)] {
        let source = sources::source(&format!("attention_tile {key}"), Target::Sm80).unwrap();
        for architecture in ARCHITECTURES {
            let code = machine_code(&ptxas, architecture, &source).into_values().next().unwrap();
            let told = code.into_iter().filter(|&op| op == LOAD || op == FUSED_PRODUCT);
            let told: Vec<bool> = told.map(|op| op == LOAD).collect();
            let groups = told.chunk_by(|a, b| a == b).filter(|group| group[0]).count();
            assert!((2..=most).contains(&groups), "{key} for sm_{architecture}: {groups} groups of loads");
        }
    }
}

#[test]
fn tables_are_read_back() {
    let mut found = Use::new();
    found.insert(("down_q4_k_q8_m1".into(), 80), Used { registers: 40, ..Used::default() });
    found.insert(("down_q4_k_q8_m2".into(), 80), Used { registers: 48, shared: 64 });
    let read = numbers(&table(&found));
    assert_eq!(read.values().copied().collect::<Vec<_>>(), [40, 48, 64]);
}

#[test]
fn a_spill_is_a_fault() {
    let said = |spilled: u32| {
        format!(
            "ptxas info    : Compiling entry function 'down_q4_k_q8_m3' for 'sm_80'\n    8 bytes stack frame, \
             {spilled} bytes spill stores, 0 bytes spill loads\nptxas info    : Used 40 registers, 8 bytes smem"
        )
    };
    let (found, faults) = parse(&said(4), 80);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(found[&("down_q4_k_q8_m3".to_owned(), 80)], Used { registers: 40, shared: 8 });
    assert!(parse(&said(0), 80).1.is_empty());
}
