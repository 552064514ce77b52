//! Checks every WGSL variant with naga and turns it into a table of typed descriptions: name, text, bindings, shared
//! memory. A shader that does not compile fails the build with the file and line to open.

#[cfg(feature = "wgpu")]
#[path = "src/backend/preprocess.rs"]
mod preprocess;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "wgpu")]
    wgsl::build();
}

#[cfg(feature = "wgpu")]
mod wgsl {
    use super::preprocess::{Composed, Defines, compose, expand, key};
    use naga::valid::{Capabilities, ValidationFlags, Validator};
    use std::collections::BTreeSet;
    use std::fmt::Write as _;
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    /// A variant that was checked: its key, its text, the expression that describes it.
    struct Checked {
        key: String,
        text: String,
        description: String,
    }

    pub(super) fn build() {
        println!("cargo::rerun-if-changed=shaders");
        println!("cargo::rerun-if-changed=src/backend/preprocess.rs");
        let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default()).join("shaders");
        let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
        if let Err(error) = table(&root, &out) {
            eprintln!("\n{error}\n");
            std::process::exit(1);
        }
    }

    fn table(root: &Path, out: &Path) -> Result<(), String> {
        let path = root.join("variants");
        let list = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let lines = list.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
        let mut variants = Vec::new();
        for line in lines {
            variants.extend(expand(line).map_err(|error| format!("shaders/variants: {error}"))?);
        }
        // Half of the machine is enough to check them in a second or two.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let size = variants.len().div_ceil(threads).max(1);
        let results: Vec<Result<Vec<Checked>, String>> = std::thread::scope(|scope| {
            let check_all = |part: &[(String, Defines)]| {
                part.iter().map(|(op, defines)| check(root, op, defines)).collect::<Result<Vec<_>, _>>()
            };
            let workers: Vec<_> =
                variants.chunks(size).map(|part| scope.spawn(move || check_all(part))).collect();
            let failed = || Err("a shader made naga panic".to_owned());
            workers.into_iter().map(|worker| worker.join().unwrap_or_else(|_| failed())).collect()
        });
        let mut seen = BTreeSet::new();
        let mut source = String::from("pub(crate) static VARIANTS: &[Variant] = &[\n");
        let texts = out.join("wgsl");
        fs::create_dir_all(&texts).map_err(|error| error.to_string())?;
        for result in results {
            for variant in result? {
                if !seen.insert(variant.key.clone()) {
                    return Err(format!("shaders/variants: `{}` is listed twice", variant.key));
                }
                let file = texts.join(format!("{}.wgsl", variant.key.replace([' ', '='], "-")));
                fs::write(&file, &variant.text).map_err(|error| error.to_string())?;
                let _ = writeln!(
                    source,
                    "    Variant {{ key: {:?}, text: include_str!({:?}), {} }},",
                    variant.key,
                    file.display().to_string(),
                    variant.description
                );
            }
        }
        fs::write(out.join("shaders.rs"), source + "];\n").map_err(|error| error.to_string())
    }

    fn check(root: &Path, op: &str, defines: &Defines) -> Result<Checked, String> {
        let key = key(op, defines);
        let read = |file: &str| {
            fs::read_to_string(root.join(file)).map_err(|error| format!("shaders/{file}: {error}"))
        };
        let composed = compose("shaders", &format!("{op}.wgsl"), defines, &read)?;
        let description = describe(&composed, &key, defines)?;
        Ok(Checked { key, text: composed.text, description })
    }

    /// Parses and validates a shader; the fields of its `Variant`. No capability is granted but `unpack2x16float` and what
    /// the variant is for, so the others need nothing that a WebGPU device may lack.
    fn describe(composed: &Composed, key: &str, defines: &Defines) -> Result<String, String> {
        let place = |line: Option<u32>| match line {
            Some(line) => composed.origin(line as usize),
            None => "somewhere".to_owned(),
        };
        let module = naga::front::wgsl::parse_str(&composed.text).map_err(|error| {
            let line = error.location(&composed.text).map(|location| location.line_number);
            format!("{}: `{key}` does not parse\n{}", place(line), error.emit_to_string(&composed.text))
        })?;
        let subgroups = defines.contains_key("SUBGROUPS");
        let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
        capabilities.set(Capabilities::SUBGROUP, subgroups);
        Validator::new(ValidationFlags::all(), capabilities).validate(&module).map_err(|error| {
            let line = error.location(&composed.text).map(|location| location.line_number);
            format!("{}: `{key}` is not valid\n{}", place(line), error.emit_to_string(&composed.text))
        })?;
        let mut bindings = String::new();
        let mut shared = 0;
        for (_, variable) in module.global_variables.iter() {
            let kind = match variable.space {
                naga::AddressSpace::WorkGroup => {
                    shared += module.types[variable.ty].inner.size(module.to_ctx());
                    continue;
                }
                naga::AddressSpace::Uniform => "Uniform",
                naga::AddressSpace::Storage { access } if access.contains(naga::StorageAccess::STORE) => {
                    "Write"
                }
                naga::AddressSpace::Storage { .. } => "Read",
                _ => continue,
            };
            let (Some(binding), Some(name)) = (&variable.binding, &variable.name) else { continue };
            let _ = write!(
                bindings,
                "Binding {{ index: {}, name: {name:?}, kind: BindingKind::{kind} }}, ",
                binding.binding
            );
        }
        let [entry] = &module.entry_points[..] else {
            return Err(format!("{}: `{key}` has not exactly one entry point", place(Some(1))));
        };
        Ok(format!(
            "entry: {:?}, shared_bytes: {shared}, subgroups: {subgroups}, bindings: &[{bindings}]",
            entry.name
        ))
    }
}
