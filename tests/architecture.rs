//! The shape of the tree: imports point one way, every op has a home wherever ops live, `unsafe` stays in its fence,
//! and files keep to one subject.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Which folders of `src/` each folder may import.
const ALLOWED: &[(&str, &[&str])] = &[
    ("quant", &[]),
    ("format", &["quant"]),
    ("model", &["format", "quant"]),
    ("plan", &["model", "quant"]),
    ("backend", &["plan", "quant"]),
    ("engine", &["backend", "model", "plan", "quant"]),
    ("convert", &["format", "model", "quant"]),
    ("compare", &["backend", "convert", "engine", "format", "model", "plan", "quant"]),
    ("bench", &["backend", "compare", "convert", "engine", "format", "model", "plan", "quant"]),
];

/// The only places where `unsafe` may be written, each for the reason that its own comment gives.
const UNSAFE: &[&str] = &[
    "src/format/map.rs",
    "src/backend/cpu/pool.rs",
    "src/backend/cpu/phases.rs",
    "src/backend/cpu/simd/",
    "src/backend/cuda/driver/",
    "src/backend/wgpu/trusted.rs",
];

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// Code without comments and without unit tests (which may look anywhere).
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules of this crate that a file names after `crate::`, also inside `use crate::{a, b}`.
fn imported(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => modules.extend([std::mem::take(&mut name)]),
                    _ if depth == 0 => name.push(c),
                    _ => {}
                }
            }
            modules.insert(name);
        } else {
            modules.insert(rest.to_owned());
        }
    }
    let first_word = |path: &String| {
        path.trim().split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned)
    };
    modules.iter().filter_map(first_word).filter(|name| !name.is_empty()).collect()
}

#[test]
fn imports_point_one_way() {
    let mut wrong = Vec::new();
    for (folder, allowed) in ALLOWED {
        for path in rust_files(&Path::new(ROOT).join("src").join(folder)) {
            for module in imported(&code(&path)) {
                if module != *folder && !allowed.contains(&module.as_str()) {
                    wrong.push(format!(
                        "{} imports `{module}`; {folder} may import {allowed:?}",
                        path.display()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let folders: BTreeSet<_> =
        fs::read_dir(Path::new(ROOT).join("src")).unwrap().map(|e| e.unwrap().path()).collect();
    for folder in folders.iter().filter(|path| path.is_dir() && !path.ends_with("bin")) {
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(
            ALLOWED.iter().any(|(known, _)| *known == name),
            "src/{name} is not in the table of allowed imports"
        );
    }
}

#[test]
fn the_import_scan_sees_every_spelling() {
    let found =
        imported("use crate::plan::Row; use crate::{quant::{A, B}, format};\n let x = crate::model::M;");
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["format", "model", "plan", "quant"]);
}

#[test]
fn every_op_has_a_home_in_every_place() {
    for op in aprgpu::plan::OpKind::ALL {
        let home = format!("src/backend/cpu/twin/{}.rs", op.name());
        assert!(Path::new(ROOT).join(&home).exists(), "{home} is missing");
        let home = format!("shaders/{}.wgsl", op.name());
        assert!(Path::new(ROOT).join(&home).exists(), "{home} is missing");
        let home = format!("kernels/{}.ptx", op.name());
        assert!(Path::new(ROOT).join(&home).exists(), "{home} is missing");
        let tests = fs::read_to_string(Path::new(ROOT).join("tests/ops.rs")).unwrap();
        assert!(tests.contains(&format!("OpKind::{op:?}")), "tests/ops.rs has no case for {op:?}");
    }
}

#[test]
fn unsafe_stays_in_its_fence() {
    for path in rust_files(&Path::new(ROOT).join("src")) {
        let relative = path.strip_prefix(ROOT).unwrap().to_str().unwrap();
        let fenced = UNSAFE.iter().any(|fence| relative.starts_with(fence));
        let words = code(&path);
        let mut words = words.split(|c: char| !c.is_alphanumeric() && c != '_');
        assert!(
            fenced || !words.any(|word| word == "unsafe"),
            "{relative} has `unsafe` outside of the fence"
        );
    }
}

#[test]
fn files_keep_to_one_subject() {
    for folder in ["src", "tests", "benches", "tools"] {
        for path in rust_files(&Path::new(ROOT).join(folder)) {
            let lines = fs::read_to_string(&path).unwrap().lines().count();
            assert!(lines <= 800, "{} has {lines} lines: split it by subject", path.display());
        }
    }
}
