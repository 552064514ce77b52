//! The kernels: which variants there are, and the PTX of each, composed from the files under `kernels/` when it is asked
//! for. They are part of the binary, so that it needs no file beside it.

use super::body::{Body, body};
use crate::backend::preprocess::{Composed, Defines, compose, expand, key};
use std::collections::BTreeMap;
use std::sync::OnceLock;
use thiserror::Error;

/// A kernel that is not there, or a file of it that does not compose: a fault of this program.
#[derive(Clone, Debug, Error, PartialEq)]
#[error("kernel `{variant}`: {what}")]
pub struct SourceError {
    /// The variant that was asked for.
    pub variant: String,
    /// What is wrong with it.
    pub what: String,
}

/// The oldest architecture that a text is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Ampere and Ada, and everything after.
    Sm80,
    /// Hopper and after: the kernel may start before the one before it has ended (programmatic dependent launch). It
    /// fetches its first weights, then waits.
    Sm90,
}

impl Target {
    /// The name that `.target` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sm80 => "sm_80",
            Self::Sm90 => "sm_90",
        }
    }
}

/// A kernel that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Variant {
    /// Its op, then its defines in the order of their names: `down A=q4_k M=1 X=q8`.
    pub key: String,
    /// The op, which is also the name of its file.
    pub op: String,
    /// The targets that it has a text for.
    pub targets: Vec<Target>,
    defines: Defines,
}

impl Variant {
    /// The value of a define.
    pub fn define(&self, name: &str) -> Option<&str> {
        self.defines.get(name).map(String::as_str)
    }
}

macro_rules! files {
    ($($path:literal)*) => { &[$(($path, include_str!(concat!("../../../kernels/", $path)))),*] };
}

/// Every file under `kernels/` that a text may include.
const FILES: &[(&str, &str)] = files! {
    "attention.ptx"
    "attention_join.ptx"
    "attention_tile.ptx"
    "attn_out.ptx"
    "decode.ptx"
    "down.ptx"
    "embed.ptx"
    "gate_up.ptx"
    "head.ptx"
    "head_norm.ptx"
    "qkv_rope.ptx"
    "quantize.ptx"
    "sample.ptx"
    "shared/accumulate.ptx"
    "shared/accumulate_k.ptx"
    "shared/add_two.ptx"
    "shared/add_value.ptx"
    "shared/best_of_warp.ptx"
    "shared/block.ptx"
    "shared/block_k.ptx"
    "shared/block_sum.ptx"
    "shared/decode_column.ptx"
    "shared/divide.ptx"
    "shared/exp.ptx"
    "shared/extreme.ptx"
    "shared/fence_loads.ptx"
    "shared/gate.ptx"
    "shared/join_parts.ptx"
    "shared/largest.ptx"
    "shared/largest_of_warps.ptx"
    "shared/linear.ptx"
    "shared/logit.ptx"
    "shared/matvec.ptx"
    "shared/module.ptx"
    "shared/next_row.ptx"
    "shared/nibble.ptx"
    "shared/params.ptx"
    "shared/passes.ptx"
    "shared/penalized_logit.ptx"
    "shared/philox.ptx"
    "shared/prefetch_part.ptx"
    "shared/recent_token.ptx"
    "shared/registers.ptx"
    "shared/rope_append.ptx"
    "shared/row_span.ptx"
    "shared/score.ptx"
    "shared/split.ptx"
    "shared/state.ptx"
    "shared/sum_of_warps.ptx"
    "shared/super_block.ptx"
    "shared/tile.ptx"
    "shared/tile_mma.ptx"
    "shared/tile_row.ptx"
    "shared/times_two.ptx"
    "shared/token_weight.ptx"
    "shared/warp_squares.ptx"
    "shared/which_matrix.ptx"
    "shared/write_ggml_record.ptx"
    "shared/write_record.ptx"
    "weights/affine.ptx"
    "weights/bf16.ptx"
    "weights/f16.ptx"
    "weights/f32.ptx"
    "weights/k_affine.ptx"
    "weights/k_scales.ptx"
    "weights/nibbles.ptx"
    "weights/offset.ptx"
    "weights/q4_0.ptx"
    "weights/q4_1.ptx"
    "weights/q4_k.ptx"
    "weights/q5_0.ptx"
    "weights/q5_1.ptx"
    "weights/q5_k.ptx"
    "weights/q6_k.ptx"
    "weights/q8_0.ptx"
    "weights/scale_half.ptx"
    "weights/scale_pair.ptx"
    "weights/tile_affine.ptx"
    "weights/tile_nibbles.ptx"
    "weights/tile_offset.ptx"
};

const VARIANTS: &str = include_str!("../../../kernels/variants");

struct Table {
    variants: Vec<Variant>,
    places: BTreeMap<String, usize>,
}

fn table() -> &'static Result<Table, String> {
    static TABLE: OnceLock<Result<Table, String>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table = Table { variants: Vec::new(), places: BTreeMap::new() };
        for line in VARIANTS.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            for (op, mut defines) in expand(line)? {
                let target = if defines.remove("PDL").is_some() { Target::Sm90 } else { Target::Sm80 };
                let key = key(&op, &defines);
                let place = *table.places.entry(key.clone()).or_insert(table.variants.len());
                match table.variants.get_mut(place) {
                    Some(variant) if variant.targets.contains(&target) => {
                        return Err(format!("`{key}` is listed twice for {}", target.name()));
                    }
                    Some(variant) => variant.targets.push(target),
                    None => table.variants.push(Variant { key, op, targets: vec![target], defines }),
                }
            }
        }
        Ok(table)
    })
}

/// All variants.
pub fn variants() -> impl Iterator<Item = &'static Variant> {
    table().as_ref().map_or(&[][..], |table| &table.variants).iter()
}

/// The variant with this key.
pub fn find(key: &str) -> Option<&'static Variant> {
    let table = table().as_ref().ok()?;
    table.variants.get(*table.places.get(key)?)
}

/// What the key of a kernel that runs a whole pass begins with; the keys of its functions follow.
const DECODE: &str = "decode: ";
const BETWEEN_FUNCTIONS: &str = " | ";

/// The key of the kernel that has the kernels of these keys as its functions, for [`Target::Sm80`]: a whole pass in one
/// launch (`kernels/decode.ptx`).
pub fn decode_key(functions: &[&str]) -> String {
    DECODE.to_owned() + &functions.join(BETWEEN_FUNCTIONS)
}

/// Such kernels of usual models, to be read and assembled: name and key. Decoding 1 to 8 rows of a file of the kind
/// Q4_K_M, with six query heads to a key head, then with eight and head norms.
pub fn usual_decodes() -> Vec<(String, String)> {
    let of = |group: u32, rows: u32| {
        let product = |op: &str, types: &str| format!("{op} A={types} M={rows} X=q8");
        let mut functions = vec![
            "embed A=q6_k".to_owned(),
            product("qkv_rope", "q4_k"),
            product("qkv_rope", "q4_k B=q6_k"),
            format!("attention GROUP={group} KV=f16"),
            "attention_join".to_owned(),
            product("attn_out", "q4_k"),
            product("gate_up", "q4_k"),
            product("down", "q4_k"),
            product("down", "q6_k"),
            product("head", "q6_k"),
        ];
        let mut name = "decode_q4_k_m".to_owned();
        if group == 8 {
            functions.push("head_norm KV=f16".to_owned());
            name += "_group8";
        }
        let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
        (format!("{name}_m{rows}"), decode_key(&functions))
    };
    [6, 8].into_iter().flat_map(|group| (1..=8).map(move |rows| of(group, rows))).collect()
}

/// Shared memory that a kernel's text declares, bytes, as a function of the kernel of a whole pass.
pub(super) fn function_shared_bytes(key: &str) -> Result<u32, SourceError> {
    let error = |what: String| SourceError { variant: key.to_owned(), what };
    function(key).map(|function| function.shared_bytes).map_err(error)
}

fn function(key: &str) -> Result<Body, String> {
    let kernel = composed(key, Target::Sm80).map_err(|error| error.to_string())?;
    body(&kernel).map_err(|error| format!("{key}: {error}"))
}

/// The text of a whole pass: `decode.ptx`, and each function where a line names its number.
fn composed_decode(functions: &[&str]) -> Result<Composed, String> {
    let bodies = functions.iter().map(|key| function(key)).collect::<Result<Vec<Body>, String>>()?;
    let defines = [("ENTRY", "decode"), ("TARGET", Target::Sm80.name())];
    let mut defines: Defines = defines.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    defines.insert("FUNCTIONS".to_owned(), bodies.len().to_string());
    let frame = compose("kernels", "decode.ptx", &defines, &read)?;
    let mut whole = Composed::default();
    for (line, origin) in frame.text.lines().zip(frame.origins) {
        let number = line.strip_prefix("//@function ").and_then(|number| number.parse::<usize>().ok());
        match number.and_then(|number| Some((bodies.get(number)?, functions.get(number)?))) {
            Some((body, key)) => {
                whole.text += &format!("// {key}\n{}", body.text.text);
                whole.origins.push(origin);
                whole.origins.extend_from_slice(&body.text.origins);
            }
            None => {
                whole.text += line;
                whole.text.push('\n');
                whole.origins.push(origin);
            }
        }
    }
    Ok(whole)
}

/// A file under `kernels/`.
fn read(file: &str) -> Result<String, String> {
    let found = FILES.iter().find(|(path, _)| *path == file);
    found.map(|(_, text)| (*text).to_owned()).ok_or_else(|| format!("kernels/{file} is not there"))
}

/// The name of a kernel's entry: `gate_up A=q4_k M=1 X=q8` is `gate_up_q4_k_q8_m1`; for [`Target::Sm90`] with `_pdl`.
pub fn entry_name(key: &str, target: Target) -> String {
    if key.starts_with(DECODE) {
        return "decode".to_owned();
    }
    let mut words = key.split_whitespace();
    let mut name = words.next().unwrap_or_default().to_owned();
    // Types come first, numbers last.
    let defines: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
    let is_number = |value: &str| value.bytes().all(|byte| byte.is_ascii_digit());
    for (_, value) in defines.iter().filter(|(_, value)| !is_number(value)) {
        name = name + "_" + value;
    }
    for (define, value) in defines.iter().filter(|(_, value)| is_number(value)) {
        match *define {
            "TILE" => name += "_tile",
            define => name = name + "_" + &define.to_lowercase() + value,
        }
    }
    if target == Target::Sm90 { name + "_pdl" } else { name }
}

/// The PTX of a variant, as it goes to the driver.
///
/// # Errors
/// There is no such variant for this target, or its files do not compose.
pub fn source(key: &str, target: Target) -> Result<String, SourceError> {
    composed(key, target).map(|composed| composed.text)
}

/// The PTX of a variant with `#line` directives that lead back to the files: for the simulator.
///
/// # Errors
/// As [`source`].
pub fn source_with_lines(key: &str, target: Target) -> Result<String, SourceError> {
    let composed = composed(key, target)?;
    let mut text = String::with_capacity(composed.text.len() * 2);
    let mut expected = None;
    for (line, (file, number)) in composed.text.lines().zip(&composed.origins) {
        if expected != Some((file, *number)) {
            text += &format!("#line {number} \"{file}\"\n");
        }
        text += line;
        text.push('\n');
        expected = Some((file, number + 1));
    }
    Ok(text)
}

/// `file:line` of a line (from 1) of [`source`]'s text.
pub fn origin(key: &str, target: Target, line: usize) -> Option<String> {
    composed(key, target).ok().map(|composed| composed.origin(line))
}

fn composed(key: &str, target: Target) -> Result<Composed, SourceError> {
    let error = |what: String| SourceError { variant: key.to_owned(), what };
    if let Err(what) = table() {
        return Err(error(format!("kernels/variants: {what}")));
    }
    if let Some(functions) = key.strip_prefix(DECODE) {
        let functions: Vec<&str> = functions.split(BETWEEN_FUNCTIONS).collect();
        return composed_decode(&functions).map_err(error);
    }
    let variant = find(key).ok_or_else(|| error("there is no such kernel; see kernels/variants".into()))?;
    if !variant.targets.contains(&target) {
        return Err(error(format!("there is no text for {}", target.name())));
    }
    let mut defines = variant.defines.clone();
    defines.insert("ENTRY".into(), entry_name(key, target));
    defines.insert("TARGET".into(), target.name().into());
    if target == Target::Sm90 {
        defines.insert("PDL".into(), "1".into());
    }
    compose("kernels", &format!("{}.ptx", variant.op), &defines, &read).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_variant_composes_under_a_name_of_its_own() {
        let mut names = BTreeSet::new();
        assert_eq!(table().as_ref().err(), None);
        for variant in variants() {
            for &target in &variant.targets {
                let name = entry_name(&variant.key, target);
                let text = source(&variant.key, target).unwrap();
                assert!(text.contains(&format!(".entry {name}(")), "{name}");
                assert!(names.insert(name));
            }
        }
        assert!(names.len() > 10);
    }

    /// The assembler moves a load through `.nc` over the wait in either direction: weights would not be fetched early, and
    /// what an earlier launch wrote might be.
    #[test]
    fn dependent_launches_wait_and_fetch_weights_before() {
        for variant in variants().filter(|variant| variant.targets.contains(&Target::Sm90)) {
            let text = source(&variant.key, Target::Sm90).unwrap();
            let code: String =
                text.lines().map(|line| line.split("//").next().unwrap().to_owned() + "\n").collect();
            let (before, _) =
                code.split_once("griddepcontrol.wait;").unwrap_or_else(|| panic!("{}", variant.key));
            assert!(!before.contains("ld.global.nc"), "{}", variant.key);
            let product = variant.define("M").is_some() && variant.define("X") != Some("q8_k");
            assert!(!product || before.contains("ld.global."), "{}", variant.key);
            assert_eq!(
                code.contains("griddepcontrol.launch_dependents;"),
                variant.op != "sample",
                "{}",
                variant.key
            );
        }
        let of_pass = variants().filter(|variant| !variant.targets.contains(&Target::Sm90));
        assert!(of_pass.map(|variant| &variant.op).all(|op| op == "embed"));
    }

    #[test]
    fn every_decode_kernel_can_be_a_function() {
        let of_prompts =
            |variant: &Variant| variant.define("TILE").is_some() || variant.op == "attention_tile";
        for variant in variants().filter(|variant| !of_prompts(variant) && variant.op != "sample") {
            let bytes = function_shared_bytes(&variant.key);
            assert!(bytes.as_ref().is_ok_and(|&bytes| bytes <= 16 << 10), "{bytes:?}");
        }
        for (name, key) in usual_decodes() {
            let text = source(&key, Target::Sm80).unwrap();
            assert_eq!(text.matches("// down A=").count(), 2, "{name}");
            assert!(text.contains(".entry decode(") && !text.contains("//@function"), "{name}");
            let head = text.lines().position(|line| line.starts_with("// head A=")).unwrap() + 3;
            assert!(origin(&key, Target::Sm80, head).is_some_and(|place| place.contains(".ptx:")), "{name}");
        }
        let error = source(&decode_key(&["down A=q9"]), Target::Sm80).unwrap_err();
        assert!(error.to_string().contains("no such kernel"), "{error}");
    }

    #[test]
    fn every_file_is_in_the_binary() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/kernels");
        let mut folders = vec![std::path::PathBuf::from(root)];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                    continue;
                }
                let file = path.strip_prefix(root).unwrap().to_str().unwrap();
                let known = FILES.iter().any(|(path, _)| *path == file);
                assert!(known || !file.ends_with(".ptx"), "kernels/{file} is not in FILES");
            }
        }
    }

    #[test]
    fn what_is_not_there_is_named() {
        let error = source("down A=q9 M=1 X=q8", Target::Sm80).unwrap_err();
        assert!(error.to_string().contains("no such kernel"), "{error}");
        assert_eq!(
            entry_name("qkv_rope A=q4_k B=q6_k M=8 X=q8", Target::Sm90),
            "qkv_rope_q4_k_q6_k_q8_m8_pdl"
        );
        assert_eq!(entry_name("down A=q4_k TILE=1 X=q8_k", Target::Sm80), "down_q4_k_q8_k_tile");
    }
}
