//! What must be reached, by device and model: `benches/targets.toml`.

use super::Error;
use super::record::Record;
use crate::compare;
use serde::Deserialize;
use std::path::Path;

/// One line of the file.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Part of the device's or the CPU's name; the first line that fits counts.
    pub device: String,
    /// The backend; any where it is not given.
    pub backend: Option<String>,
    /// A preset's name or part of a model's type or file name; any where it is not given.
    pub model: Option<String>,
    /// `decode` or `prefill`.
    pub test: String,
    /// The least tokens per second.
    pub tokens_per_s: Option<f64>,
    /// The least percentage of the measured read bandwidth.
    pub bandwidth_percent: Option<f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    target: Vec<Target>,
}

/// Reads a file of targets.
///
/// # Errors
/// A file that cannot be read or says something else.
pub fn read(path: &Path) -> Result<Vec<Target>, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| compare::Error::Io { path: path.to_owned(), source })?;
    let file: File = toml::from_str(&text)
        .map_err(|error| compare::Error::File { path: path.to_owned(), what: error.to_string() })?;
    Ok(file.target)
}

impl Target {
    fn fits(&self, record: &Record) -> bool {
        let test = if record.n_gen > 0 { "decode" } else { "prefill" };
        let device = [&record.cpu_info, &record.gpu_info, &record.device];
        let model = [&record.model_filename, &record.model_type];
        // Files are often named in capitals.
        let within = |part: &Option<String>, texts: [&String; 2]| {
            let part = part.as_ref().map(|part| part.to_lowercase());
            part.is_none_or(|part| texts.iter().any(|text| text.to_lowercase().contains(&part)))
        };
        self.test == test
            && device.iter().any(|text| text.contains(&self.device))
            && self.backend.as_ref().is_none_or(|backend| *backend == record.backends)
            && within(&self.model, model)
    }
}

/// Measured, target and ceiling of a record in one line.
///
/// # Errors
/// [`Error::BelowTarget`]; [`Error::Incomplete`] where a figure is missing; [`compare::Error::Usage`] where no line of the
/// file fits: a target that does not exist is not met.
pub fn assert_target(targets: &[Target], record: &Record) -> Result<String, Error> {
    let target = targets.iter().find(|target| target.fits(record)).ok_or_else(|| {
        let (cpu, device, test) = (&record.cpu_info, &record.device, record.test());
        compare::Error::Usage(format!("no target for {test} of {} on {cpu} ({device})", record.model_type))
    })?;
    let ceiling = record
        .bandwidth_gb_per_s
        .filter(|_| record.n_gen > 0 && record.bytes_per_step > 0)
        .map(|gb| record.n_sequences as f64 * gb * 1e9 / record.bytes_per_step as f64);
    let ceiling_text = ceiling.map_or("unknown".to_owned(), |ceiling| format!("{ceiling:.1} t/s"));
    let mut wanted = Vec::new();
    let mut met = true;
    let mut unknown = None;
    if let Some(least) = target.tokens_per_s {
        wanted.push(format!("{least:.1} t/s"));
        match record.median_ts > 0.0 {
            true => met &= record.median_ts >= least,
            false => unknown = Some("no tokens per second were measured"),
        }
    }
    if let Some(least) = target.bandwidth_percent {
        wanted.push(format!("{least:.0} % of read bandwidth"));
        match record.bandwidth_percent {
            Some(percent) => met &= percent >= least,
            None => unknown = Some("the device's read bandwidth is not known; give it with --bandwidth"),
        }
    }
    let percent = record.bandwidth_percent.map_or(String::new(), |percent| format!(" ({percent:.0} %)"));
    let line = format!(
        "{}: measured {:.1} t/s{percent}, target {}, ceiling {ceiling_text}",
        record.test(),
        record.median_ts,
        wanted.join(" and ")
    );
    match unknown {
        _ if wanted.is_empty() => Err(Error::Incomplete(format!("{line}: the target says nothing"))),
        Some(why) => Err(Error::Incomplete(format!("{line}: {why}"))),
        None if met => Ok(line),
        None => Err(Error::BelowTarget(line)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn below_fails_above_passes_and_unknown_is_no_pass() {
        let file: File = toml::from_str(
            "[[target]]\ndevice = \"EPYC\"\nmodel = \"qwen\"\ntest = \"decode\"\nbandwidth_percent = 60\ntokens_per_s = 10",
        )
        .unwrap();
        let record = |percent: Option<f64>, median_ts| Record {
            cpu_info: "AMD EPYC".to_owned(),
            model_type: "Qwen2 1.5B".to_owned(),
            n_gen: 8,
            n_sequences: 1,
            bytes_per_step: 1_000_000_000,
            bandwidth_gb_per_s: Some(20.0),
            bandwidth_percent: percent,
            median_ts,
            ..Record::default()
        };
        let line = assert_target(&file.target, &record(Some(61.0), 11.0)).unwrap();
        assert!(line.contains("ceiling 20.0 t/s") && line.contains("target 10.0 t/s"), "{line}");
        for (percent, ts) in [(Some(59.0), 11.0), (Some(61.0), 9.0)] {
            assert!(matches!(assert_target(&file.target, &record(percent, ts)), Err(Error::BelowTarget(_))));
        }
        for (percent, ts) in [(None, 11.0), (Some(61.0), 0.0)] {
            assert!(matches!(assert_target(&file.target, &record(percent, ts)), Err(Error::Incomplete(_))));
        }
        let other = Record { n_gen: 0, n_prompt: 8, ..record(Some(99.0), 99.0) };
        assert!(matches!(assert_target(&file.target, &other), Err(Error::Failed(compare::Error::Usage(_)))));
    }
}
