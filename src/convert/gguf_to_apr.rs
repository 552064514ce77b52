//! GGUF to APR.

use super::plan::Plan;
use super::{Options, Progress, Report};
use crate::format::Error;
use crate::format::apr::Apr;
use crate::format::gguf::Gguf;
use crate::format::write::AtomicFile;
use std::io::Write;
use std::path::Path;

/// Converts the GGUF file `input` to the APR file `output`, which appears whole, read back and verified, or not at all.
pub fn gguf_to_apr(
    input: &Path,
    output: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    let gguf = Gguf::open(input)?;
    let file = AtomicFile::create(output, &[input])?;
    let (file, report) = write_apr(&gguf, file, output, options, progress)?;
    file.commit_if(|path| Apr::open(path).map(|_| ()))?;
    Ok(report)
}

/// Writes a GGUF file as APR to any stream. `path` is what errors call that stream.
pub fn write_apr<W: Write>(
    gguf: &Gguf,
    out: W,
    path: &Path,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<(W, Report), Error> {
    let mut report = Report::default();
    let mut plan = Plan::of_gguf(gguf)?;
    plan.rename(options);
    let out = plan.write_apr(out, path, options, &mut report, progress)?;
    Ok((out, report))
}
