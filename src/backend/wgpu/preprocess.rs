//! Composes a shader from its parts: `#include`, `#ifdef`, and `${NAME}`.
//!
//! ```text
//! #include "weights/q4_k.wgsl" T=a_     the file, in which ${T} stands for a_ (besides what stood here)
//! #ifdef NAME / #ifdef NAME=value / #ifndef ... / #else / #endif
//! ${NAME}                               the value of a define
//! ```
//!
//! The build script composes and checks every variant with this; nothing is composed at run time. Each line of the
//! result knows where it came from, so that a compiler's complaint names the file that a person can open.

use std::collections::BTreeMap;

/// Names and what stands for them.
pub(crate) type Defines = BTreeMap<String, String>;

/// A composed shader.
#[derive(Debug, Default)]
pub(crate) struct Composed {
    /// The text.
    pub(crate) text: String,
    /// File and line (from 1) of each line of the text.
    pub(crate) origins: Vec<(String, usize)>,
}

impl Composed {
    /// `file:line` of a line (from 1) of the text.
    pub(crate) fn origin(&self, line: usize) -> String {
        match self.origins.get(line.wrapping_sub(1)) {
            Some((file, line)) => format!("{file}:{line}"),
            None => format!("line {line} of the composed shader"),
        }
    }
}

/// Includes within includes: more than this is a file that includes itself.
const DEEPEST: usize = 8;

/// Composes `file`; `read` gives a file's text by its path under `shaders/`.
pub(crate) fn compose(
    file: &str,
    defines: &Defines,
    read: &dyn Fn(&str) -> Result<String, String>,
) -> Result<Composed, String> {
    let mut composed = Composed::default();
    include(file, defines, read, 0, &mut composed)?;
    Ok(composed)
}

fn include(
    file: &str,
    defines: &Defines,
    read: &dyn Fn(&str) -> Result<String, String>,
    depth: usize,
    into: &mut Composed,
) -> Result<(), String> {
    if depth > DEEPEST {
        return Err(format!("shaders/{file}: includes are more than {DEEPEST} deep"));
    }
    let text = read(file)?;
    // Whether each open condition holds.
    let mut conditions: Vec<bool> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let place = format!("shaders/{file}:{}", index + 1);
        let active = conditions.iter().all(|&holds| holds);
        let (word, rest) = match line.trim_start().strip_prefix('#') {
            Some(directive) => directive.split_once(' ').unwrap_or((directive, "")),
            None => ("", line),
        };
        match word {
            "ifdef" => conditions.push(holds(rest, defines)),
            "ifndef" => conditions.push(!holds(rest, defines)),
            "else" => match conditions.last_mut() {
                Some(holds) => *holds = !*holds,
                None => return Err(format!("{place}: #else without #ifdef")),
            },
            "endif" => {
                conditions.pop().ok_or_else(|| format!("{place}: #endif without #ifdef"))?;
            }
            "include" if active => {
                let rest = substitute(rest, defines, &place)?;
                let (path, arguments) = rest
                    .trim()
                    .strip_prefix('"')
                    .and_then(|rest| rest.split_once('"'))
                    .ok_or_else(|| format!("{place}: #include wants a path in quotes"))?;
                let mut inner = defines.clone();
                for argument in arguments.split_whitespace() {
                    let (name, value) = argument.split_once('=').unwrap_or((argument, ""));
                    inner.insert(name.to_owned(), value.to_owned());
                }
                include(path, &inner, read, depth + 1, into)
                    .map_err(|error| format!("{error}\n  included at {place}"))?;
            }
            "" if active => {
                into.text += &substitute(line, defines, &place)?;
                into.text.push('\n');
                into.origins.push((format!("shaders/{file}"), index + 1));
            }
            "include" | "" => {}
            unknown => return Err(format!("{place}: unknown directive #{unknown}")),
        }
    }
    match conditions.len() {
        0 => Ok(()),
        open => Err(format!("shaders/{file}: {open} #ifdef without #endif")),
    }
}

fn holds(condition: &str, defines: &Defines) -> bool {
    match condition.trim().split_once('=') {
        Some((name, value)) => defines.get(name).is_some_and(|found| found == value),
        None => defines.contains_key(condition.trim()),
    }
}

fn substitute(line: &str, defines: &Defines, place: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) =
            after.split_once('}').ok_or_else(|| format!("{place}: `${{` without its closing brace"))?;
        let value = defines.get(name).ok_or_else(|| format!("{place}: {name} is not defined"))?;
        out += before;
        out += value;
        rest = tail;
    }
    Ok(out + rest)
}

/// One line of `shaders/variants`: ops and their sets of defines, `down attn_out: A={q4_k,q5_k} X={q8,f32}`, multiplied
/// out.
pub(crate) fn expand(line: &str) -> Result<Vec<(String, Defines)>, String> {
    let (ops, rest) =
        line.split_once(':').ok_or_else(|| format!("`{line}`: expected `op: NAME=value ...`"))?;
    let mut variants = vec![Defines::new()];
    for part in rest.split_whitespace() {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let values = value.strip_prefix('{').and_then(|v| v.strip_suffix('}')).unwrap_or(value);
        let mut next = Vec::new();
        for variant in &variants {
            for value in values.split(',') {
                let mut variant = variant.clone();
                // `-` leaves the name undefined.
                if value != "-" {
                    variant.insert(name.to_owned(), value.to_owned());
                }
                next.push(variant);
            }
        }
        variants = next;
    }
    let of = |op: &str| variants.iter().map(|variant| (op.to_owned(), variant.clone())).collect::<Vec<_>>();
    Ok(ops.split_whitespace().flat_map(of).collect())
}

/// The name of a variant: the op, then its defines in the order of their names.
pub(crate) fn key(op: &str, defines: &Defines) -> String {
    defines.iter().fold(op.to_owned(), |key, (name, value)| match value.as_str() {
        "" => key + " " + name,
        _ => key + " " + name + "=" + value,
    })
}
