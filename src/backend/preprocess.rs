//! Composes a shader or kernel from its parts.
//!
//! ```text
//! #include "weights/q4_k.wgsl" T=a_     the file, in which (and in whose includes) ${T} stands for a_
//! #define NAME value                    from here on, past the end of this file too
//! #ifdef NAME / #ifdef NAME=value / #ifndef ... / #if EXPRESSION / #else / #endif
//! #for I in 0..${COUNT} / #endfor       the lines between, once for each I
//! ${NAME}                               the value of a define
//! ${4*I+2}                              the value of an expression of integers and defines
//! ${U}                                  a number of its own for each include and each turn of a #for: labels need it
//! ```
//!
//! Expressions have `+ - * / %`, comparisons (1 or 0) and parentheses, over 64-bit integers.
//!
//! The build script composes and checks every WGSL variant with this; PTX is composed when a kernel is asked for. Each
//! line of the result knows where it came from, so that a compiler's complaint names the file that a person can open.

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
            None => format!("line {line} of the composed text"),
        }
    }
}

/// Includes within includes: more than this is a file that includes itself.
const DEEPEST: usize = 8;
/// A longer text is a mistake in a loop.
const MOST_LINES: usize = 200_000;

/// Gives a file's text by its path.
pub(crate) type Read<'a> = dyn Fn(&str) -> Result<String, String> + 'a;

/// Composes `file`; `read` gives a file's text by its path under `root`, which messages put in front of it.
pub(crate) fn compose(
    root: &str,
    file: &str,
    defines: &Defines,
    read: &Read<'_>,
) -> Result<Composed, String> {
    let mut composer =
        Composer { root, read, defines: defines.clone(), composed: Composed::default(), unique: 0 };
    composer.include(file, 0)?;
    Ok(composer.composed)
}

struct Composer<'a> {
    root: &'a str,
    read: &'a Read<'a>,
    defines: Defines,
    composed: Composed,
    /// Last value of `${U}`.
    unique: usize,
}

/// The lines of one file, from the first of a part of it.
#[derive(Clone, Copy)]
struct Part<'a> {
    file: &'a str,
    lines: &'a [&'a str],
    first: usize,
    depth: usize,
}

impl<'a> Part<'a> {
    fn slice(self, from: usize, to: usize) -> Part<'a> {
        let lines = self.lines.get(from..to).unwrap_or_default();
        Part { lines, first: self.first + from, ..self }
    }
}

/// A line's directive and what follows it; no directive: an empty word.
fn directive(line: &str) -> (&str, &str) {
    match line.trim_start().strip_prefix('#') {
        Some(directive) => {
            directive.split_once(' ').map_or((directive, ""), |(word, rest)| (word, rest.trim()))
        }
        None => ("", line),
    }
}

impl Composer<'_> {
    fn place(&self, part: Part<'_>, line: usize) -> String {
        format!("{}/{}:{}", self.root, part.file, part.first + line + 1)
    }

    /// Runs `body` with a `${U}` of its own and, afterwards, without the names it was given.
    fn scoped(
        &mut self,
        names: Vec<(String, String)>,
        body: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        self.unique += 1;
        let unique = ("U".to_owned(), self.unique.to_string());
        let before: Vec<(String, Option<String>)> = names
            .into_iter()
            .chain([unique])
            .map(|(name, value)| (name.clone(), self.defines.insert(name, value)))
            .collect();
        body(self)?;
        for (name, value) in before.into_iter().rev() {
            match value {
                Some(value) => self.defines.insert(name, value),
                None => self.defines.remove(&name),
            };
        }
        Ok(())
    }

    fn include(&mut self, file: &str, depth: usize) -> Result<(), String> {
        if depth > DEEPEST {
            return Err(format!("{}/{file}: includes are more than {DEEPEST} deep", self.root));
        }
        let text = (self.read)(file)?;
        let lines: Vec<&str> = text.lines().collect();
        self.lines(Part { file, lines: &lines, first: 0, depth })
    }

    fn lines(&mut self, part: Part<'_>) -> Result<(), String> {
        let mut at = 0;
        while let Some(&line) = part.lines.get(at) {
            let (word, rest) = directive(line);
            let place = || self.place(part, at);
            match word {
                "" => {
                    let text = substitute(line, &self.defines, &place)?;
                    if self.composed.origins.len() >= MOST_LINES {
                        return Err(format!("{}: more than {MOST_LINES} lines", place()));
                    }
                    self.composed.text += &text;
                    self.composed.text.push('\n');
                    let origin = (format!("{}/{}", self.root, part.file), part.first + at + 1);
                    self.composed.origins.push(origin);
                }
                "ifdef" | "ifndef" | "if" => {
                    let chosen = match word {
                        "ifdef" => holds(rest, &self.defines),
                        "ifndef" => !holds(rest, &self.defines),
                        _ => evaluate(&substitute(rest, &self.defines, &place)?, &self.defines, &place)? != 0,
                    };
                    let (middle, end) = self.matching(part, at, "endif")?;
                    match (chosen, middle) {
                        (true, middle) => self.lines(part.slice(at + 1, middle.unwrap_or(end)))?,
                        (false, Some(middle)) => self.lines(part.slice(middle + 1, end))?,
                        (false, None) => {}
                    }
                    at = end;
                }
                "for" => {
                    let (_, end) = self.matching(part, at, "endfor")?;
                    let rest = substitute(rest, &self.defines, &place)?;
                    let range = rest.split_once(" in ").and_then(|(name, range)| {
                        let (from, to) = range.split_once("..")?;
                        Some((name.trim().to_owned(), from.to_owned(), to.to_owned()))
                    });
                    let Some((name, from, to)) = range else {
                        return Err(format!("{}: expected `#for NAME in FROM..TO`", place()));
                    };
                    let from = evaluate(&from, &self.defines, &place)?;
                    let to = evaluate(&to, &self.defines, &place)?;
                    for i in from..to {
                        let names = vec![(name.clone(), i.to_string())];
                        self.scoped(names, |composer| composer.lines(part.slice(at + 1, end)))?;
                    }
                    at = end;
                }
                "define" => {
                    let rest = substitute(rest, &self.defines, &place)?;
                    let (name, value) = rest.split_once(' ').unwrap_or((&rest, ""));
                    self.defines.insert(name.to_owned(), value.trim().to_owned());
                }
                "include" => {
                    let rest = substitute(rest, &self.defines, &place)?;
                    let (path, arguments) = rest
                        .trim()
                        .strip_prefix('"')
                        .and_then(|rest| rest.split_once('"'))
                        .ok_or_else(|| format!("{}: #include wants a path in quotes", place()))?;
                    let names = arguments
                        .split_whitespace()
                        .map(|argument| argument.split_once('=').unwrap_or((argument, "")))
                        .map(|(name, value)| (name.to_owned(), value.to_owned()))
                        .collect();
                    let place = place();
                    self.scoped(names, |composer| composer.include(path, part.depth + 1))
                        .map_err(|error| format!("{error}\n  included at {place}"))?;
                }
                "else" => return Err(format!("{}: #else without #ifdef", place())),
                "endif" => return Err(format!("{}: #endif without #ifdef", place())),
                "endfor" => return Err(format!("{}: #endfor without #for", place())),
                unknown => return Err(format!("{}: unknown directive #{unknown}", place())),
            }
            at += 1;
        }
        Ok(())
    }

    /// Where what line `start` opens ends, and its `#else`.
    fn matching(&self, part: Part<'_>, start: usize, end: &str) -> Result<(Option<usize>, usize), String> {
        let (mut open, mut middle) = (Vec::new(), None);
        for (at, line) in part.lines.iter().enumerate().skip(start + 1) {
            match directive(line).0 {
                "ifdef" | "ifndef" | "if" => open.push("endif"),
                "for" => open.push("endfor"),
                "else" if open.is_empty() && end == "endif" => match middle {
                    None => middle = Some(at),
                    Some(_) => return Err(format!("{}: a second #else", self.place(part, at))),
                },
                word @ ("endif" | "endfor") => match open.pop() {
                    None if word == end => return Ok((middle, at)),
                    Some(expected) if word == expected => {}
                    _ => return Err(format!("{}: #{word} does not match", self.place(part, at))),
                },
                _ => {}
            }
        }
        let word = directive(part.lines.get(start).copied().unwrap_or_default()).0;
        Err(format!("{}: #{word} without #{end}", self.place(part, start)))
    }
}

fn holds(condition: &str, defines: &Defines) -> bool {
    match condition.trim().split_once('=') {
        Some((name, value)) => defines.get(name).is_some_and(|found| found == value),
        None => defines.contains_key(condition.trim()),
    }
}

fn substitute(line: &str, defines: &Defines, place: &dyn Fn() -> String) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("${") {
        let (name, tail) =
            after.split_once('}').ok_or_else(|| format!("{}: `${{` without its closing brace", place()))?;
        out += before;
        let plain = name.chars().all(|c| c.is_alphanumeric() || c == '_');
        match defines.get(name) {
            Some(value) => out += value,
            None if plain => return Err(format!("{}: {name} is not defined", place())),
            None => out += &evaluate(name, defines, place)?.to_string(),
        }
        rest = tail;
    }
    Ok(out + rest)
}

fn evaluate(expression: &str, defines: &Defines, place: &dyn Fn() -> String) -> Result<i64, String> {
    let mut parser = Expression { rest: expression.trim(), defines };
    let value = parser.comparison(0);
    match value {
        Some(value) if parser.rest.is_empty() => Ok(value),
        _ => Err(format!("{}: `{expression}` is no expression of integers and defines", place())),
    }
}

/// A recursive descent over an expression; `None` where it is none.
struct Expression<'a> {
    rest: &'a str,
    defines: &'a Defines,
}

impl Expression<'_> {
    fn eat(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest.trim_start();
        true
    }

    fn comparison(&mut self, depth: usize) -> Option<i64> {
        let left = self.sum(depth)?;
        for (token, compare) in [
            ("==", i64::eq as fn(&i64, &i64) -> bool),
            ("!=", i64::ne),
            ("<=", i64::le),
            (">=", i64::ge),
            ("<", i64::lt),
            (">", i64::gt),
        ] {
            if self.eat(token) {
                return Some(i64::from(compare(&left, &self.sum(depth)?)));
            }
        }
        Some(left)
    }

    fn sum(&mut self, depth: usize) -> Option<i64> {
        let mut value = self.product(depth)?;
        loop {
            value = match () {
                () if self.eat("+") => value.checked_add(self.product(depth)?)?,
                () if self.eat("-") => value.checked_sub(self.product(depth)?)?,
                () => return Some(value),
            };
        }
    }

    fn product(&mut self, depth: usize) -> Option<i64> {
        let mut value = self.atom(depth)?;
        loop {
            value = match () {
                () if self.eat("*") => value.checked_mul(self.atom(depth)?)?,
                () if self.eat("/") => value.checked_div(self.atom(depth)?)?,
                () if self.eat("%") => value.checked_rem(self.atom(depth)?)?,
                () => return Some(value),
            };
        }
    }

    fn atom(&mut self, depth: usize) -> Option<i64> {
        if depth > DEEPEST {
            return None;
        }
        if self.eat("(") {
            let value = self.comparison(depth + 1)?;
            return self.eat(")").then_some(value);
        }
        let end = self.rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        word.parse().ok().or_else(|| self.defines.get(word)?.parse().ok())
    }
}

/// One line of `variants`: ops and their sets of defines, `down attn_out: A={q4_k,q5_k} X={q8,f32}`, multiplied out.
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
