//! A kernel's text as one function of `kernels/decode.ptx`, which has many in a row. The arithmetic stays word for word;
//! what changes is where a block finds its parameters and who it is:
//!
//! | the kernel says | the function says |
//! |---|---|
//! | `ld.param.T r, [name+n]` | `ld.shared.T r, [phase+place]`: the phase's record (`Phase` in `persistent.rs`) |
//! | `mov r, %ctaid.x` (`.y`, `.z`, `%tid.x`) | a load from the warp's slot, which says who its task is |
//! | `mov r, %ntid.x` | a load from the record |
//! | `bar.sync 0` | the barrier of the task's warps alone |
//! | `.shared` variables and `dynamic` | places in the task's slice of shared memory |
//! | `ret` | `bra TASK_DONE` |
//!
//! Names and labels need no change: the function stands in braces. A register that is first set under a predicate is
//! set to zero where it is declared. In a kernel of its own it has no value before; in a loop over functions it would
//! have that of the last turn, and the assembler would keep it for all functions.
//!
//! Whatever else a kernel might name that is not the same here is an error.

use super::modules::arguments;
use crate::backend::preprocess::Composed;
use std::collections::{BTreeMap, BTreeSet};

/// Where the parameters are in a phase's record; addresses of buffers come before, 8 bytes each.
pub(super) const PARAMS_AT: usize = 64;
/// Where the number of a task's threads is.
pub(super) const THREADS_AT: usize = 212;
/// Places in a warp's slot, and its size.
const FIRST_THREAD: usize = 12;
const SLICE: usize = 16;
const BARRIER: usize = 20;
const SLOT_BYTES: usize = 32;

/// A kernel as a function.
#[derive(Debug)]
pub(super) struct Body {
    /// The lines between its braces.
    pub(super) text: Composed,
    /// Shared memory that it declares, bytes; what a launch adds follows behind.
    pub(super) shared_bytes: u32,
}

/// Turns a kernel into a function.
pub(super) fn body(kernel: &Composed) -> Result<Body, String> {
    let lines: Vec<&str> = kernel.text.lines().collect();
    let no_kernel = || "it is no kernel in braces of their own lines".to_owned();
    let entry = lines.iter().position(|line| line.contains(".entry ")).ok_or_else(no_kernel)?;
    let is = |brace: &'static str| move |line: &&str| line.trim() == brace;
    let open =
        entry + lines.iter().skip(entry).position(|line| is("{")(&line.trim())).ok_or_else(no_kernel)?;
    let close = lines.iter().rposition(|line| is("}")(&line.trim())).ok_or_else(no_kernel)?;
    let buffers = arguments(&kernel.text).ok_or("its parameters are not buffers and a `params`")?;
    if 8 * buffers.len() > PARAMS_AT {
        return Err(format!("{} buffers: a phase has room for {}", buffers.len(), PARAMS_AT / 8));
    }
    let mut places: BTreeMap<&str, usize> =
        buffers.iter().enumerate().map(|(index, name)| (name.as_str(), 8 * index)).collect();
    places.insert("params", PARAMS_AT);
    let inside = lines.get(open + 1..close).unwrap_or_default();
    let mut shared = BTreeMap::new();
    let mut shared_bytes = 0;
    for (name, bytes) in inside.iter().filter_map(|line| shared_variable(code(line))) {
        shared.insert(name, shared_bytes);
        shared_bytes += bytes.next_multiple_of(16);
    }
    shared.insert("dynamic", shared_bytes);
    let rewrite = Rewrite {
        places,
        shared,
        guarded: inside.iter().flat_map(|line| set_under_a_predicate(code(line))).collect(),
    };
    let mut text = Composed::default();
    for (at, line) in inside.iter().enumerate() {
        let origin = kernel.origins.get(open + 1 + at).cloned().unwrap_or_default();
        let place = |what: String| format!("{}:{}: {what}", origin.0, origin.1);
        let (statement, comment) = (code(line), &line[code(line).len()..]);
        if shared_variable(statement).is_some() {
            continue;
        }
        let mut written = rewrite.statement(statement).map_err(place)? + comment + "\n";
        for name in rewrite.wants_a_value(statement) {
            written += &format!("    {name}\n");
        }
        for _ in written.lines() {
            text.origins.push(origin.clone());
        }
        text.text += &written;
    }
    Ok(Body { text, shared_bytes })
}

/// A line without its comment.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default().trim_end()
}

/// Name and bytes of `.shared .align 16 .b8 name[4096];`.
fn shared_variable(code: &str) -> Option<(&str, u32)> {
    let words: Vec<&str> = code.trim().strip_prefix(".shared ")?.trim_end_matches(';').split(' ').collect();
    let [.., width, name] = words[..] else { return None };
    let (name, count) = name.strip_suffix(']')?.split_once('[')?;
    let bits: u32 = width.strip_prefix(".b")?.parse().ok()?;
    Some((name, count.parse::<u32>().ok()? * bits / 8))
}

/// The registers that a statement under a predicate sets.
fn set_under_a_predicate(code: &str) -> Vec<&str> {
    let Some((_, statement)) = code.trim().strip_prefix('@').and_then(|rest| rest.split_once(' ')) else {
        return Vec::new();
    };
    let Some((op, operands)) = statement.split_once(' ') else { return Vec::new() };
    if ["bra", "st.", "red.", "bar.", "prefetch"].iter().any(|other| op.starts_with(other)) {
        return Vec::new();
    }
    let set = match operands.trim_start().strip_prefix('{') {
        Some(list) => list.split('}').next().unwrap_or_default(),
        None => operands.split(',').next().unwrap_or_default(),
    };
    set.split([',', '|']).map(str::trim).collect()
}

/// `%of_task` = the word at this place of the warp's slot, then `statements`. Volatile, so that it is not kept in a
/// register from one use to the next.
fn of_slot(at: usize, statements: &str) -> String {
    format!(
        "{{ .reg .b32 %task_slot, %of_task; mov.u32 %task_slot, %tid.x; shr.u32 %task_slot, %task_slot, 5; mov.u32 %of_task, slots; \
         mad.lo.u32 %task_slot, %task_slot, {SLOT_BYTES}, %of_task; ld.volatile.shared.u32 %of_task, [%task_slot+{at}]; \
         {statements} }}"
    )
}

struct Rewrite<'a> {
    /// Places of parameters in the record.
    places: BTreeMap<&'a str, usize>,
    /// Places of variables in the slice of shared memory.
    shared: BTreeMap<&'a str, u32>,
    guarded: BTreeSet<&'a str>,
}

impl Rewrite<'_> {
    /// A statement, without its comment.
    fn statement(&self, code: &str) -> Result<String, String> {
        let bare = code.trim();
        let indent = &code[..code.len() - code.trim_start().len()];
        let (guard, bare) = match bare.split_once(' ') {
            Some((guard, rest)) if guard.starts_with('@') => (format!("{guard} "), rest.trim_start()),
            _ => (String::new(), bare),
        };
        if bare.matches(';').count() > 1 {
            return Err("two statements in a line".to_owned());
        }
        let (op, operands) = bare.trim_end_matches(';').split_once(' ').unwrap_or((bare, ""));
        let moved = operands.split_once(", ").filter(|_| op == "mov.u32");
        let written = match (op, moved) {
            ("ret;", _) => "bra TASK_DONE;".to_owned(),
            ("bar.sync", _) if operands == "0" && guard.is_empty() => of_slot(
                BARRIER,
                &format!("ld.shared.u32 %task_slot, [phase+{THREADS_AT}]; bar.sync %of_task, %task_slot;"),
            ),
            (_, Some((to, "%ntid.x"))) => format!("ld.shared.u32 {to}, [phase+{THREADS_AT}];"),
            (_, Some((to, "%tid.x"))) => {
                let lane = "mov.u32 %task_slot, %tid.x; and.b32 %task_slot, %task_slot, 31;";
                of_slot(FIRST_THREAD, &format!("{lane} add.u32 {to}, %of_task, %task_slot;"))
            }
            (_, Some((to, axis @ ("%ctaid.x" | "%ctaid.y" | "%ctaid.z")))) => {
                let at = match axis {
                    "%ctaid.x" => 0,
                    "%ctaid.y" => 4,
                    _ => 8,
                };
                of_slot(at, &format!("mov.u32 {to}, %of_task;"))
            }
            (_, Some((to, name))) if self.shared.contains_key(name) => {
                let place = self.shared.get(name).unwrap_or(&0);
                of_slot(SLICE, &format!("add.u32 {to}, %of_task, {place};"))
            }
            _ if op.starts_with("ld.param.") => self.parameter(op, operands)?,
            _ => self.checked(bare)?,
        };
        Ok(format!("{indent}{guard}{written}"))
    }

    /// A load of a parameter.
    fn parameter(&self, op: &str, operands: &str) -> Result<String, String> {
        let parsed = || {
            let (to, address) = operands.split_once(", ")?;
            let address = address.strip_prefix('[')?.strip_suffix(']')?;
            let (name, at) = address.split_once('+').unwrap_or((address, "0"));
            let place = self.places.get(name)? + at.parse::<usize>().ok()?;
            Some(format!("{} {to}, [phase+{place}];", op.replace("ld.param", "ld.shared")))
        };
        parsed().ok_or_else(|| format!("`{op} {operands}` is no load of a parameter that it declares"))
    }

    /// Any other statement: nothing in it may mean something else here.
    fn checked(&self, statement: &str) -> Result<String, String> {
        let words = |text: &str| -> Vec<String> {
            text.split(|c: char| !(c.is_alphanumeric() || "_%.".contains(c))).map(str::to_owned).collect()
        };
        let known = |word: &String| {
            ["%task_slot", "%of_task", "TASK_DONE", "phase", "slots"].iter().any(|name| word == name)
        };
        if let Some(word) = words(statement).iter().find(|word| known(word)) {
            return Err(format!("{word} is a name of kernels/decode.ptx"));
        }
        let foreign = |word: &String| {
            let special = ["%tid", "%ntid", "%ctaid", "%nctaid", "%laneid", "%warpid", "%smid", "%grid"];
            let op = ["bar.", "barrier", "griddepcontrol", "call", "exit", "ld.param", ".local", ".shared"];
            special.iter().chain(&op).any(|other| word.starts_with(other) && !word.starts_with("bar.warp"))
                || self.shared.contains_key(word.as_str())
        };
        match words(statement).iter().find(|word| foreign(word)) {
            Some(word) => Err(format!("`{statement}`: {word} is not known in a function")),
            None => Ok(statement.to_owned()),
        }
    }

    /// Statements that give a value to what `code` declares and some statement sets under a predicate only.
    fn wants_a_value(&self, code: &str) -> Vec<String> {
        let Some(declared) = code.trim().strip_prefix(".reg ") else { return Vec::new() };
        let Some((file, names)) = declared.trim_end_matches(';').split_once(' ') else { return Vec::new() };
        let each = |name: &str| match name.strip_suffix('>').and_then(|name| name.split_once('<')) {
            Some((name, count)) => {
                (0..count.parse().unwrap_or(0)).map(|i: u32| format!("{name}{i}")).collect()
            }
            None => vec![name.to_owned()],
        };
        let all = names.split(',').flat_map(|name| each(name.trim()));
        let value = |name: String| match file {
            ".pred" => format!("setp.ne.u32 {name}, 0, 0;"),
            ".f32" => format!("mov.f32 {name}, 0f00000000;"),
            _ => format!("mov{file} {name}, 0;"),
        };
        all.filter(|name| self.guarded.contains(name.as_str())).map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(inside: &str) -> Composed {
        let text = format!(
            ".visible .entry k(\n.param .u64 a,\n.param .u64 b,\n.param .align 4 .b8 params[144]\n)\n{{\n{inside}\n}}\n"
        );
        let origins = (0..text.lines().count()).map(|line| ("k.ptx".to_owned(), line + 1)).collect();
        Composed { text, origins }
    }

    fn of(inside: &str) -> Result<String, String> {
        body(&kernel(inside)).map(|body| body.text.text)
    }

    #[test]
    fn what_a_block_is_comes_from_the_task() {
        let found = of("@%p ld.param.u32 %n, [params+4];\nld.param.u64 %a, [b];\nret;").unwrap();
        assert_eq!(
            found,
            "@%p ld.shared.u32 %n, [phase+68];\nld.shared.u64 %a, [phase+8];\nbra TASK_DONE;\n"
        );
        assert_eq!(of("mov.u32 %n, %ntid.x;").unwrap(), "ld.shared.u32 %n, [phase+212];\n");
        for (line, end) in [
            ("mov.u32 %n, %ctaid.z; // row", "[%task_slot+8]; mov.u32 %n, %of_task; } // row\n"),
            (
                "mov.u32 %n, %tid.x;",
                "and.b32 %task_slot, %task_slot, 31; add.u32 %n, %of_task, %task_slot; }\n",
            ),
            (
                "bar.sync 0;",
                "[%task_slot+20]; ld.shared.u32 %task_slot, [phase+212]; bar.sync %of_task, %task_slot; }\n",
            ),
        ] {
            let found = of(line).unwrap();
            assert!(found.starts_with("{ .reg .b32 %task_slot") && found.ends_with(end), "{found}");
        }
    }

    #[test]
    fn shared_variables_lie_in_the_slice() {
        let inside = ".shared .align 4 .b8 parts[60];\n.shared .align 16 .b32 more[4];\nmov.u32 %n, parts;\nmov.u32 %n, more;\nmov.u32 %n, dynamic;";
        let found = body(&kernel(inside)).unwrap();
        assert_eq!(found.shared_bytes, 80);
        let places = ["%of_task, 0; }", "%of_task, 64; }", "%of_task, 80; }"];
        assert!(found.text.text.lines().zip(places).all(|(line, place)| line.ends_with(place)));
        assert_eq!(found.text.origin(1), "k.ptx:9");
    }

    #[test]
    fn registers_set_under_a_predicate_begin_with_a_value() {
        let inside = ".reg .b32 %n, %q<2>;\n.reg .f32 %f;\n@%p ld.global.v2.b32 {%q1, %n}, [%a];\n@!%p mov.f32 %f, %g;\n@%p st.global.u32 [%a], %m;";
        let found = of(inside).unwrap();
        let head = ".reg .b32 %n, %q<2>;\n    mov.b32 %n, 0;\n    mov.b32 %q1, 0;\n.reg .f32 %f;\n    mov.f32 %f, 0f00000000;\n";
        assert!(found.starts_with(head), "{found}");
    }

    #[test]
    fn what_a_function_cannot_say_is_an_error_with_its_line() {
        for (inside, word) in [
            ("mov.u32 %n, %nctaid.x;", "%nctaid"),
            ("add.u32 %n, %ntid.x, 1;", "%ntid"),
            ("bar.sync 1, 64;", "bar.sync"),
            ("@%p bar.sync 0;", "bar.sync"),
            ("griddepcontrol.wait;", "griddepcontrol"),
            ("ld.param.u32 %n, [c];", "[c]"),
            (".shared .align 4 .b8 parts[60];\nld.shared.u32 %n, [parts];", "parts"),
            ("mov.u32 %task_slot, 0;", "decode.ptx"),
            ("mad.lo.u32 %n, %ctaid.z, 8, %n;", "%ctaid"),
            ("mov.u32 %n, 0; mov.u32 %m, 0;", "two statements"),
        ] {
            let error = of(inside).unwrap_err();
            assert!(error.contains(word) && error.starts_with("k.ptx:"), "{inside}: {error}");
        }
        assert!(body(&Composed::default()).unwrap_err().contains("no kernel"));
    }
}
