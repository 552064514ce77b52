//! `aprbench table`.

use crate::args::TableArgs;
use crate::failure::Failure;
use aprgpu::bench::table::{from_records, replace};
use aprgpu::compare;
use std::io::Write;

pub(crate) fn table(args: &TableArgs) -> Result<(), Failure> {
    let table = from_records(&args.records)?;
    let Some(path) = &args.write else {
        return Ok(std::io::stdout().lock().write_all(table.as_bytes())?);
    };
    let io = |source| compare::Error::Io { path: path.clone(), source };
    let text = std::fs::read_to_string(path).map_err(io)?;
    let what = "expected the marks `<!-- records -->` and `<!-- end of records -->`".to_owned();
    let text = replace(&text, &table).ok_or(compare::Error::File { path: path.clone(), what })?;
    Ok(std::fs::write(path, text).map_err(io)?)
}
