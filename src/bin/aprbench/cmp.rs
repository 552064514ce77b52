//! `aprbench cmp`.

use crate::args::CmpArgs;
use crate::failure::Failure;
use aprgpu::bench::compare_records::{compare_records, render};
use aprgpu::bench::stats::Verdict;
use std::io::Write;

pub(crate) fn cmp(args: &CmpArgs) -> Result<(), Failure> {
    let lines = compare_records(&args.old, &args.new)?;
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!(lines))?;
    } else {
        write!(out, "{}", render(&lines))?;
    }
    let bad =
        lines.iter().filter(|line| matches!(line.verdict, Verdict::Slower | Verdict::Incomplete)).count();
    match args.fail && (bad > 0 || lines.is_empty()) {
        true => Err(Failure::Incomplete(format!("{bad} of {} tests are slower or incomplete", lines.len()))),
        false => Ok(()),
    }
}
