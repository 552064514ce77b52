//! Records as a table, JSON, JSON lines, CSV or Markdown.

use super::Error;
use super::record::Record;
use crate::compare;
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;

/// How records are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For people at a terminal.
    #[default]
    Table,
    /// One JSON list, as `llama-bench -o json`.
    Json,
    /// One JSON object per line.
    Jsonl,
    /// Comma-separated, with a header.
    Csv,
    /// A Markdown table, with llama-bench's columns first.
    Markdown,
}

impl Format {
    /// Every format, by the name that `-o` takes.
    pub const ALL: [(&str, Self); 5] = [
        ("table", Self::Table),
        ("json", Self::Json),
        ("jsonl", Self::Jsonl),
        ("csv", Self::Csv),
        ("md", Self::Markdown),
    ];

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, format)| format)
    }
}

const COLUMNS: [&str; 14] = [
    "model",
    "size",
    "backend",
    "threads",
    "test",
    "t/s",
    "us/token",
    "GB/s",
    "% of read",
    "GFLOP/s",
    "launches",
    "submits",
    "ttft ms",
    "checked",
];

fn cells(record: &Record) -> [String; 14] {
    let percent = record.bandwidth_percent.map_or("-".to_owned(), |percent| format!("{percent:.0}"));
    [
        record.model_type.clone(),
        format!("{:.2} GiB", record.model_size as f64 / (1u64 << 30) as f64),
        record.backends.clone(),
        record.n_threads.to_string(),
        record.test(),
        format!("{:.2} ± {:.2}", record.avg_ts, record.stddev_ts),
        format!("{:.1}", record.us_per_token),
        format!("{:.2}", record.gb_per_s),
        percent,
        format!("{:.1}", record.gflops),
        format!("{:.1}", record.launches_per_token),
        format!("{:.2}", record.submits_per_token),
        record.ttft_ms.map_or("-".to_owned(), |ms| format!("{ms:.1}")),
        record.checked.clone(),
    ]
}

/// Records as text that ends in a newline.
///
/// # Errors
/// None that records can cause.
pub fn render(records: &[Record], format: Format) -> Result<String, Error> {
    let json = |record: &Record| {
        serde_json::to_value(record)
            .map_err(|error| compare::Error::Usage(format!("a record is no JSON: {error}")))
    };
    let values = records.iter().map(json).collect::<Result<Vec<Value>, _>>()?;
    Ok(match format {
        Format::Table => {
            let mut table = comfy_table::Table::new();
            table.load_preset(comfy_table::presets::NOTHING).set_header(COLUMNS);
            for record in records {
                table.add_row(cells(record));
            }
            format!("{table}\n")
        }
        Format::Json => format!("{:#}\n", Value::Array(values)),
        Format::Jsonl => values.iter().fold(String::new(), |text, value| format!("{text}{value}\n")),
        Format::Csv => csv(&values),
        Format::Markdown => {
            markdown(&COLUMNS, &records.iter().map(|r| cells(r).to_vec()).collect::<Vec<_>>())
        }
    })
}

/// A Markdown table.
pub fn markdown(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut text = format!("| {} |\n|{}\n", header.join(" | "), " --- |".repeat(header.len()));
    for row in rows {
        let row: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

fn csv(values: &[Value]) -> String {
    let Some(Value::Object(first)) = values.first() else { return String::new() };
    let quoted = |value: &Value| match value {
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        Value::Array(items) => {
            format!("\"{}\"", items.iter().map(Value::to_string).collect::<Vec<_>>().join(" "))
        }
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut text = first.keys().cloned().collect::<Vec<_>>().join(",") + "\n";
    for value in values {
        let cells: Vec<String> =
            first.keys().map(|key| quoted(value.get(key).unwrap_or(&Value::Null))).collect();
        text.push_str(&cells.join(","));
        text.push('\n');
    }
    text
}

/// Reads JSON records: one list, or one object per line. Fields that a record lacks are empty or 0, so that llama-bench's
/// output can be read too.
///
/// # Errors
/// A file that cannot be read or is neither.
pub fn read(path: &Path) -> Result<Vec<Record>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| compare::Error::Io { path: path.to_owned(), source })?;
    Ok(parse(&text).map_err(|what| compare::Error::File { path: path.to_owned(), what })?)
}

/// The same from text.
///
/// # Errors
/// What was expected.
pub fn parse(text: &str) -> Result<Vec<Record>, String> {
    let wrong =
        |error: serde_json::Error| format!("expected a JSON list of records, or one per line: {error}");
    if text.trim_start().starts_with('[') {
        return serde_json::from_str(text).map_err(wrong);
    }
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| serde_json::from_str(line).map_err(wrong))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let record = Record {
            backends: "cpu".to_owned(),
            model_type: "a \"b\", c".to_owned(),
            n_gen: 128,
            n_depth: 512,
            avg_ts: 1.5,
            ..Record::default()
        };
        for format in [Format::Json, Format::Jsonl] {
            let text = render(&[record.clone(), record.clone()], format).unwrap();
            assert_eq!(parse(&text).unwrap(), [record.clone(), record.clone()]);
        }
        let csv = render(std::slice::from_ref(&record), Format::Csv).unwrap();
        assert!(csv.contains("\"a \"\"b\"\", c\"") && csv.lines().count() == 2, "{csv}");
        let md = render(&[record], Format::Markdown).unwrap();
        assert!(md.contains("| tg128 @ d512 |"), "{md}");
    }

    #[test]
    fn llama_benchs_output_is_read() {
        let text = r#"[{"model_type": "qwen2 1.5B Q4_K - Medium", "n_prompt": 512, "n_gen": 0, "n_depth": 0,
            "avg_ns": 100, "avg_ts": 5.0, "stddev_ts": 0.1, "samples_ns": [100], "samples_ts": [5.0], "n_threads": 2}]"#;
        let records = parse(text).unwrap();
        assert_eq!((records[0].test(), records[0].avg_ts), ("pp512".to_owned(), 5.0));
    }
}
