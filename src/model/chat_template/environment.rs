//! minijinja set up to render what jinja2 renders as transformers sets it up.
//!
//! Where the two engines differ, Python's way is put in: how values are printed (`True`, `None`, `['a']`), which
//! values count as sequences and iterables (strings and mappings do), filters that take anything (`length` of an
//! undefined value, `int` of a word), string methods that count characters.
//!
//! Known differences that no known template of a chat model touches: a tuple is a list and prints as one; `~` prints
//! what is neither string nor number in minijinja's way; a loop over `none` runs zero times.

use std::fmt::Write as _;

use chrono::format::{Item, StrftimeItems};
use chrono::{Local, NaiveDateTime};
use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat;

use super::python::{JsonStyle, to_str, write_json, write_str};

/// Instructions that one rendering may take; a conversation of a thousand messages takes about a hundred thousand.
const FUEL: u64 = 20_000_000;

/// The error behind `raise_exception`.
#[derive(Debug)]
pub(super) struct Refusal(pub(super) String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// `now` is what `strftime_now` tells; `None` is the clock.
pub(super) fn environment(now: Option<NaiveDateTime>) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_trim_blocks(true);
    env.set_lstrip_blocks(true);
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_fuel(Some(FUEL));
    env.set_formatter(|out, _, value| {
        let mut text = String::new();
        write_str(value, &mut text);
        out.write_str(&text).map_err(Error::from)
    });
    env.set_unknown_method_callback(method);

    env.add_function("raise_exception", |message: Value| -> Result<Value, Error> {
        let text = to_str(&message);
        Err(Error::new(ErrorKind::InvalidOperation, text.clone()).with_source(Refusal(text)))
    });
    env.add_function("strftime_now", move |format: &str| {
        strftime(now.unwrap_or_else(|| Local::now().naive_local()), format)
    });

    env.add_filter("tojson", tojson);
    env.add_filter("string", |value: Value| to_str(&value));
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("join", join);
    env.add_filter("int", |value: Value, default: Option<i64>| int(&value, default.unwrap_or(0)));
    env.add_filter("float", |value: Value, default: Option<f64>| {
        f64::try_from(value.clone())
            .ok()
            .or_else(|| value.as_str()?.trim().parse().ok())
            .or(default)
            .unwrap_or(0.0)
    });
    env.add_filter("trim", |value: Value, chars: Option<String>| {
        let text = to_str(&value);
        match chars {
            Some(chars) => text.trim_matches(|c| chars.contains(c)).to_owned(),
            None => text.trim_matches(is_python_space).to_owned(),
        }
    });
    env.add_filter("wordcount", |value: Value| {
        to_str(&value)
            .split(|c: char| !(c.is_alphanumeric() || c == '_'))
            .filter(|word| !word.is_empty())
            .count()
    });

    env.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    env.add_test("iterable", |value: &Value| {
        is_sequence(value) || matches!(value.kind(), ValueKind::Iterable)
    });
    env.add_test("sequence", |value: &Value| {
        is_sequence(value) || matches!(value.kind(), ValueKind::Iterable)
    });
    env.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    env
}

fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
}

/// `datetime.strftime`, with glibc's `%-d`.
fn strftime(now: NaiveDateTime, format: &str) -> Result<String, Error> {
    let bad = || Error::new(ErrorKind::InvalidOperation, format!("strftime_now cannot write {format:?}"));
    let items: Vec<Item<'_>> = StrftimeItems::new(format).collect();
    if items.contains(&Item::Error) {
        return Err(bad());
    }
    let mut text = String::new();
    write!(text, "{}", now.format_with_items(items.iter())).map_err(|_| bad())?;
    Ok(text)
}

/// transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(value: &Value, ensure_ascii: Option<bool>, options: Kwargs) -> Result<String, Error> {
    let ensure_ascii = options.get::<Option<bool>>("ensure_ascii")?.or(ensure_ascii).unwrap_or(false);
    let indent = options.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none());
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let indent = match indent {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(i64::try_from(indent)?).unwrap_or(0).min(64)),
        }),
    };
    let default = [if indent.is_some() { "," } else { ", " }, ": "];
    let [item_separator, key_separator] = match separators.as_deref() {
        None => default.map(str::to_owned),
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators must be two strings"));
        }
    };
    let mut out = String::new();
    let style = JsonStyle { ensure_ascii, indent, item_separator, key_separator, sort_keys };
    write_json(value, &style, 0, &mut out)?;
    Ok(out)
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        ValueKind::Iterable => Ok(value.try_iter()?.count()),
        kind => value.len().ok_or_else(|| {
            Error::new(ErrorKind::InvalidOperation, format!("a value of kind {kind} has no length"))
        }),
    }
}

fn join(value: &Value, separator: Option<Value>, options: Kwargs) -> Result<String, Error> {
    let separator = separator.or(options.get::<Option<Value>>("d")?).map(|text| to_str(&text));
    let attribute = options.get::<Option<String>>("attribute")?;
    options.assert_all_used()?;
    let mut out = String::new();
    for (i, item) in items(value)?.into_iter().enumerate() {
        if i > 0 {
            out.push_str(separator.as_deref().unwrap_or_default());
        }
        match &attribute {
            Some(name) => write_str(&item.get_attr(name)?, &mut out),
            None => write_str(&item, &mut out),
        }
    }
    Ok(out)
}

/// What a `for` loop in Python would see; the characters of a string.
fn items(value: &Value) -> Result<Vec<Value>, Error> {
    match value.as_str() {
        Some(text) => Ok(text.chars().map(|c| Value::from(c.to_string())).collect()),
        None => Ok(value.try_iter()?.collect()),
    }
}

fn int(value: &Value, default: i64) -> Value {
    if value.is_integer() {
        return value.clone();
    }
    let number = match value.as_str() {
        Some(text) => {
            let text = text.trim();
            text.parse::<i64>().ok().or_else(|| text.parse::<f64>().ok().and_then(truncate))
        }
        None if value.kind() == ValueKind::Bool => Some(i64::from(value.is_true())),
        None => f64::try_from(value.clone()).ok().and_then(truncate),
    };
    Value::from(number.unwrap_or(default))
}

fn truncate(float: f64) -> Option<i64> {
    float.is_finite().then_some(float as i64)
}

/// What Python strips: Unicode's white space and the four separators of ASCII.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1C}'..='\u{1F}')
}

/// Python's methods: those of minijinja's `pycompat`, but for the ones that it lacks, or that count bytes or end never.
fn method(state: &State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return pycompat::unknown_method_callback(state, value, name, args);
    };
    let set = |args: &[Value]| -> Result<Option<Vec<char>>, Error> {
        let (chars,): (Option<&str>,) = from_args(args)?;
        Ok(chars.map(|chars| chars.chars().collect()))
    };
    let all = |test: fn(char) -> bool| Value::from(!text.is_empty() && text.chars().all(test));
    Ok(match name {
        "strip" => Value::from(match set(args)? {
            Some(chars) => text.trim_matches(&chars[..]),
            None => text.trim_matches(is_python_space),
        }),
        "lstrip" => Value::from(match set(args)? {
            Some(chars) => text.trim_start_matches(&chars[..]),
            None => text.trim_start_matches(is_python_space),
        }),
        "rstrip" => Value::from(match set(args)? {
            Some(chars) => text.trim_end_matches(&chars[..]),
            None => text.trim_end_matches(is_python_space),
        }),
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let byte = if name.starts_with('r') { text.rfind(what) } else { text.find(what) };
            match byte.and_then(|byte| text.get(..byte)) {
                Some(before) => Value::from(before.chars().count()),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
        "count" => {
            let (what,): (&str,) = from_args(args)?;
            Value::from(text.matches(what).count())
        }
        "split" => {
            let (separator, limit) = split_args(args)?;
            split(text, separator.as_ref(), limit, false)?
        }
        "rsplit" => {
            let (separator, limit) = split_args(args)?;
            split(text, separator.as_ref(), limit, true)?
        }
        "partition" | "rpartition" => {
            let (what,): (&str,) = from_args(args)?;
            let found = if name == "partition" { text.split_once(what) } else { text.rsplit_once(what) };
            let parts = match found {
                Some((before, after)) => [before, what, after],
                None if name == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            parts.into_iter().map(Value::from).collect()
        }
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            let mut parts = Vec::new();
            for item in items(values)? {
                match item.as_str() {
                    Some(part) => parts.push(part.to_owned()),
                    None => {
                        let what = format!("str.join takes strings, not {}", item.kind());
                        return Err(Error::new(ErrorKind::InvalidOperation, what));
                    }
                }
            }
            Value::from(parts.join(text))
        }
        "isdigit" | "isnumeric" | "isdecimal" => all(char::is_numeric),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isspace" => all(is_python_space),
        "islower" => {
            Value::from(text.chars().any(char::is_lowercase) && !text.chars().any(char::is_uppercase))
        }
        "isupper" => {
            Value::from(text.chars().any(char::is_uppercase) && !text.chars().any(char::is_lowercase))
        }
        _ => return pycompat::unknown_method_callback(state, value, name, args),
    })
}

/// The separator and the limit (`maxsplit`), each `None` if not given.
fn split_args(args: &[Value]) -> Result<(Option<Value>, Option<usize>), Error> {
    let (separator, limit, options): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(options.get("sep")?).filter(|separator| !separator.is_none());
    let limit = limit.or(options.get("maxsplit")?);
    options.assert_all_used()?;
    Ok((separator, limit.and_then(|limit| usize::try_from(limit).ok())))
}

/// `str.split` and `str.rsplit`.
fn split(text: &str, separator: Option<&Value>, limit: Option<usize>, right: bool) -> Result<Value, Error> {
    let limit = limit.unwrap_or(usize::MAX).saturating_add(1);
    let mut parts: Vec<&str> = Vec::new();
    match separator.map(|value| value.as_str()) {
        Some(Some("")) => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(None) => return Err(Error::new(ErrorKind::InvalidOperation, "the separator must be a string")),
        Some(Some(separator)) if right => parts.extend(text.rsplitn(limit, separator)),
        Some(Some(separator)) => parts.extend(text.splitn(limit, separator)),
        None => {
            let mut rest = text.trim_matches(is_python_space);
            while !rest.is_empty() {
                let cut = if right { rest.rfind(is_python_space) } else { rest.find(is_python_space) };
                let Some(at) = cut.filter(|_| parts.len() + 1 < limit) else { break };
                let space = rest.get(at..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8);
                let (before, after) = (rest.get(..at), rest.get(at + space..));
                let (part, remaining) = if right { (after, before) } else { (before, after) };
                parts.extend(part);
                let remaining = remaining.unwrap_or_default();
                rest = if right {
                    remaining.trim_end_matches(is_python_space)
                } else {
                    remaining.trim_start_matches(is_python_space)
                };
            }
            if !rest.is_empty() {
                parts.push(rest);
            }
        }
    }
    if right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}
