//! What NVIDIA's assembler makes of whole passes: every architecture takes them, with no spills and no more registers than
//! let a block of 512 threads onto a multiprocessor. `PTXAS=/path/to/ptxas` or `PTXAS=fetch` checks; with
//! `APRGPU_FULL=1` all weight types, forms and numbers of rows on three architectures as well.
//!
//! Eight heads in a group are the most that attention takes at a time, and the most registers: all passes here have them.
//! Those of usual models are in `kernels/registers.md`.

use aprgpu::backend::cuda::sources::{self, Target};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const ARCHITECTURES: [u32; 7] = [80, 86, 89, 90, 100, 120, 121];
/// A pass over a model whose products take these types and this form.
fn pass(types: [&str; 2], x: &str, rows: u32) -> (String, String) {
    let [a, b] = types;
    let kv = if x == "f32" { "f32" } else { "f16" };
    let product = |op: &str, types: &str| format!("{op} A={types} M={rows} X={x}");
    let mut functions = vec![
        format!("embed A={b}"),
        product("qkv_rope", a),
        format!("head_norm KV={kv}"),
        format!("attention GROUP=8 KV={kv}"),
        if x == "q8_k" { "attention_join X=q8_k" } else { "attention_join" }.to_owned(),
        product("attn_out", a),
        product("gate_up", a),
        product("down", a),
        product("head", b),
    ];
    if a != b {
        functions.extend([product("qkv_rope", &format!("{a} B={b}")), product("down", b)]);
    }
    if x == "q8_k" {
        functions.extend(["quantize X=q8_k".to_owned(), "quantize X=q8_0".to_owned()]);
    }
    let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
    (format!("{a} {b} {x} M={rows}"), sources::decode_key(&functions))
}

/// What is wrong with a pass on an architecture.
fn fault(ptxas: &Path, architecture: u32, (name, key): &(String, String), number: usize) -> Option<String> {
    let file = std::env::temp_dir().join(format!("aprgpu-decode-{}-{number}.ptx", std::process::id()));
    std::fs::write(&file, sources::source(key, Target::Sm80).unwrap()).unwrap();
    let arch = format!("-arch=sm_{architecture}");
    let output = Command::new(ptxas).args(["-v", "-o", "/dev/null", &arch]).arg(&file).output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let registers =
        said.split_once("Used ").and_then(|(_, rest)| rest.split(' ').next()?.parse::<u32>().ok());
    println!("{name} sm_{architecture}: {registers:?} registers");
    let spills =
        said.contains("bytes spill stores") && !said.contains(" 0 bytes spill stores, 0 bytes spill loads");
    let fits = registers.is_some_and(|registers| registers <= 128);
    let bad = !output.status.success() || spills || !fits;
    let line = said.lines().find(|line| line.contains("error") || line.contains("spill")).unwrap_or(&said);
    bad.then(|| format!("{name} sm_{architecture}, {registers:?} registers: {line}"))
}

#[test]
fn every_architecture_takes_a_pass_without_spills() {
    let Some(ptxas) = crate::support::ptxas::asked_for() else { return };
    let mut jobs = Vec::new();
    for x in ["q8", "f32", "q8_k"] {
        for rows in [1, 2, 8] {
            let pass = pass(["q4_k", "q6_k"], x, rows);
            jobs.extend(ARCHITECTURES.map(|architecture| (architecture, pass.clone())));
        }
    }
    if std::env::var_os("APRGPU_FULL").is_some() {
        for a in ["q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "f16", "bf16", "f32"] {
            let forms: &[&str] = match a {
                "f16" | "bf16" | "f32" => &["f32"],
                "q4_k" | "q5_k" | "q6_k" => &["q8", "q8_k", "f32"],
                _ => &["q8", "f32"],
            };
            for (architecture, rows) in
                [89, 90, 120].into_iter().flat_map(|a| (1..=8).map(move |rows| (a, rows)))
            {
                jobs.extend(forms.iter().map(|x| (architecture, pass([a, a], x, rows))));
            }
        }
    }
    let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Relaxed);
                    let Some((architecture, pass)) = jobs.get(number) else { break };
                    let found = fault(&ptxas, *architecture, pass, number);
                    faults.lock().unwrap().extend(found);
                }
            });
        }
    });
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), jobs.len(), faults.join("\n"));
}
