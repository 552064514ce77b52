//! The README's table, generated from the records: nobody types a figure.

use super::Error;
use super::record::Record;
use super::report::{markdown, read};
use crate::compare;
use crate::compare::metric::quantile;
use serde_json::Value;
use std::path::Path;

const BEGIN: &str = "<!-- records -->\n";
const END: &str = "<!-- end of records -->";

/// A CPU's or GPU's name as a folder's: letters, digits and dashes.
pub fn folder_name(device: &str) -> String {
    let plain: String =
        device.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    plain.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-")
}

/// One table over all folders of `records`: our own figures, and the pairs with another program where there are some.
///
/// # Errors
/// Files that cannot be read.
pub fn from_records(records: &Path) -> Result<String, Error> {
    let io = |source| compare::Error::Io { path: records.to_owned(), source };
    let mut folders: Vec<_> = std::fs::read_dir(records)
        .map_err(io)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.join("aprbench.jsonl").is_file())
        .collect();
    folders.sort();
    let mut rows = Vec::new();
    for folder in folders {
        let versus = std::fs::read_to_string(folder.join("versus.jsonl")).unwrap_or_default();
        let versus: Vec<Value> = versus.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        for record in read(&folder.join("aprbench.jsonl"))? {
            rows.push(row(&record, &versus));
        }
    }
    let header = [
        "CPU, threads",
        "model",
        "test",
        "tokens/s",
        "spread",
        "GB/s (% of read)",
        "same minutes: ours",
        "llama.cpp",
        "ratio (pairs)",
        "load",
        "commit",
    ];
    Ok(markdown(&header, &rows))
}

fn row(record: &Record, versus: &[Value]) -> Vec<String> {
    let is_same = |run: &&Value| run.get("file_hash").and_then(Value::as_str) == record.file_hash.as_deref();
    let threads = record.n_threads.to_string();
    let with_threads = |run: &&Value| {
        let commands = run.get("a").and_then(|a| a.get("commands")).and_then(Value::as_array);
        let mut words = commands.into_iter().flatten().filter_map(Value::as_array);
        words.any(|words| words.windows(2).any(|pair| pair[0] == "-t" && pair[1] == threads.as_str()))
    };
    let tests = versus
        .iter()
        .filter(is_same)
        .filter(with_threads)
        .filter_map(|run| run.get("tests")?.as_array())
        .flatten();
    let test =
        tests.into_iter().find(|test| test.get("test").and_then(Value::as_str) == Some(&record.test()));
    let median = |key: &str| {
        let values: Vec<f64> = test?.get(key)?.as_array()?.iter().filter_map(Value::as_f64).collect();
        (!values.is_empty()).then(|| format!("{:.1}", quantile(&values, 0.5)))
    };
    let dash = || "-".to_owned();
    let ratio = || {
        let ratios = test?.get("ratios")?;
        let number = |value: Option<&Value>| value.and_then(Value::as_f64);
        let (low, high) = (number(ratios.get("range")?.get(0))?, number(ratios.get("range")?.get(1))?);
        let incomplete = test?.get("verdict")?.as_str()? == "INCOMPLETE";
        let mark = if incomplete { "INCOMPLETE " } else { "" };
        Some(format!("{mark}{:.2} ({low:.2} to {high:.2})", number(ratios.get("geometric_mean"))?))
    };
    let percent = record.bandwidth_percent.map_or(String::new(), |percent| format!(" ({percent:.0} %)"));
    let bandwidth = match record.n_gen {
        0 => dash(),
        _ => format!("{:.1}{percent}", record.gb_per_s),
    };
    vec![
        format!("{}, {}", record.cpu_info, record.n_threads),
        // The file says more than llama-bench's name for the type: "qwen2 1B Q4_K" is a model of 0.5B.
        Path::new(&record.model_filename)
            .file_stem()
            .map_or_else(|| record.model_type.clone(), |stem| stem.to_string_lossy().into()),
        record.test(),
        format!("{:.1}", record.median_ts),
        format!("± {:.0} %", 100.0 * record.spread()),
        bandwidth,
        median("a").unwrap_or_else(dash),
        median("b").unwrap_or_else(dash),
        ratio().unwrap_or_else(dash),
        record.load_average.first().map_or_else(dash, |load| format!("{load:.1}")),
        record.build_commit.clone(),
    ]
}

/// The text with the table between its two marks; `None` where it has no marks.
pub fn replace(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_what_is_between_the_marks_changes() {
        let text = "a\n<!-- records -->\nold\n<!-- end of records -->\nb\n";
        let new = super::replace(text, "| new |\n").unwrap();
        assert_eq!(new, "a\n<!-- records -->\n| new |\n<!-- end of records -->\nb\n");
        assert_eq!(super::replace("nothing", "x"), None);
    }

    #[test]
    fn names_become_folders() {
        assert_eq!(super::folder_name("AMD EPYC (TM) 9B14"), "amd-epyc-tm-9b14");
    }
}
