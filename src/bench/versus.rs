//! Two programs on the same file in the same minutes: A B, then B A, then A B and so on, so that what the machine does to
//! one it does to the other, and what drifts cancels out. Ratios are taken pair by pair.

use super::Error;
use super::environment::{Environment, load_average, now};
use super::record::Record;
use super::report::parse;
use super::stats::{Ratios, Verdict};
use crate::compare;
use crate::compare::metric::quantile;
use serde::Serialize;
use std::process::Command;

/// A program that prints records as `llama-bench -o json` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Contestant {
    /// For the report.
    pub name: String,
    /// One command line per test: program and arguments.
    pub commands: Vec<Vec<String>>,
    /// A command line that runs once before the pairs and holds results against the twin: speed of wrong results does not
    /// count. Empty for programs that cannot.
    pub check: Vec<String>,
}

/// One test of both, with all pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// As llama-bench writes it: `pp512`, `tg128`.
    pub test: String,
    /// Tokens per second of the first, run by run.
    pub a: Vec<f64>,
    /// Of the second.
    pub b: Vec<f64>,
    /// `a / b`, pair by pair.
    pub ratios: Ratios,
    /// Whether the first is faster, see [`Ratios::margin`].
    pub verdict: Verdict,
    /// Whether both wrote the same tokens, where both say which: two builds that differ compute differently.
    pub same_tokens: Option<bool>,
    /// Why it is incomplete, where it is.
    pub missing: Vec<String>,
}

/// A whole run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Versus {
    /// When it began.
    pub test_time: String,
    /// The first program.
    pub a: Contestant,
    /// The second.
    pub b: Contestant,
    /// What each ran on, in its own words.
    pub devices: [String; 2],
    /// What the results of each were held against.
    pub checked: [String; 2],
    /// The file.
    pub model: String,
    /// Its CRC-32.
    pub file_hash: Option<String>,
    /// Where.
    pub environment: Environment,
    /// Load averages when it ended.
    pub load_average_after: Vec<f64>,
    /// Order of the runs: `AB`, `BA`, ...
    pub order: Vec<String>,
    /// Test by test.
    pub tests: Vec<Comparison>,
}

/// Runs a command and reads its records.
///
/// # Errors
/// What happened, for the report: it did not start, it failed, it printed something else.
pub fn run(command: &[String]) -> Result<Vec<Record>, String> {
    let Some((program, arguments)) = command.split_first() else { return Err("no command".to_owned()) };
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program} does not start: {error}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last =
            stderr.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no message").to_owned();
        return Err(format!("{program}: {}: {last}", output.status));
    }
    parse(&String::from_utf8_lossy(&output.stdout)).map_err(|what| format!("{program}: {what}"))
}

/// What one program printed in one turn, or why there is nothing.
type Turn = Result<Vec<Record>, String>;

/// What results were held against, or why they do not count.
fn check(contestant: &Contestant, progress: &mut dyn FnMut(&str)) -> Result<String, String> {
    if contestant.check.is_empty() {
        return Ok("nothing".to_owned());
    }
    progress(&format!("checking {}", contestant.name));
    let records = run(&contestant.check)?;
    let first = records.first().map(|record| record.checked.clone());
    first.ok_or_else(|| format!("{}: the check printed nothing", contestant.name))
}

/// Runs `pairs` pairs after the check of each. `progress` is told what runs next.
pub fn versus(
    (a, b): (&Contestant, &Contestant),
    (model, file_hash): (&str, Option<String>),
    pairs: usize,
    progress: &mut dyn FnMut(&str),
) -> Versus {
    let (test_time, environment) = (now(), Environment::probe());
    let checks = [check(a, progress), check(b, progress)];
    let wrong = checks.iter().find_map(|check| check.as_ref().err()).cloned();
    let mut runs: Vec<[Turn; 2]> = wrong.iter().map(|why| [Err(why.clone()), Err(why.clone())]).collect();
    let mut order = Vec::new();
    for pair in 0..if wrong.is_none() { pairs } else { 0 } {
        let mut both = [Ok(Vec::new()), Ok(Vec::new())];
        let sequence = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        order.push(if pair % 2 == 0 { "AB" } else { "BA" }.to_owned());
        for which in sequence {
            let contestant = if which == 0 { a } else { b };
            progress(&format!("pair {} of {pairs}: {}", pair + 1, contestant.name));
            let mut records = Ok(Vec::new());
            for command in &contestant.commands {
                records = match (records, run(command)) {
                    (Ok(mut known), Ok(more)) => {
                        known.extend(more);
                        Ok(known)
                    }
                    (Err(first), _) => Err(first),
                    (_, Err(error)) => Err(error),
                };
            }
            if let Some(slot) = both.get_mut(which) {
                *slot = records;
            }
        }
        runs.push(both);
    }
    let device = |which: usize| -> String {
        let turns = runs.iter().filter_map(|both| both.get(which)?.as_ref().ok()?.first());
        let words = |r: &Record| {
            let own =
                if r.device.is_empty() { [&*r.cpu_info, &*r.gpu_info].join(" ") } else { r.device.clone() };
            format!("{}: {}", r.backends, own.trim())
        };
        turns.map(words).next().unwrap_or_default()
    };
    Versus {
        test_time,
        devices: [device(0), device(1)],
        checked: checks.map(|check| check.unwrap_or_else(|why| why)),
        a: a.clone(),
        b: b.clone(),
        model: model.to_owned(),
        file_hash,
        environment,
        load_average_after: load_average(),
        order,
        tests: compare(&runs),
    }
}

/// Test by test, in the order in which they appear.
fn compare(runs: &[[Turn; 2]]) -> Vec<Comparison> {
    let mut tests: Vec<String> = Vec::new();
    for record in runs.iter().flatten().flatten().flatten() {
        if !tests.contains(&record.test()) {
            tests.push(record.test());
        }
    }
    if tests.is_empty() {
        tests.push("none".to_owned());
    }
    let figure = |run: &Turn, test: &str| -> Result<f64, String> {
        let records = run.as_ref().map_err(Clone::clone)?;
        let record = records.iter().find(|record| record.test() == test && record.avg_ts > 0.0);
        record
            .map(|record| if record.median_ts > 0.0 { record.median_ts } else { record.avg_ts })
            .ok_or_else(|| format!("printed no figure for {test}"))
    };
    let of_test = |test: String| {
        let (mut a, mut b, mut pairs, mut missing) = (vec![], vec![], vec![], vec![]);
        for (index, [run_a, run_b]) in runs.iter().enumerate() {
            let (figure_a, figure_b) = (figure(run_a, &test), figure(run_b, &test));
            for (name, figure) in [("A", &figure_a), ("B", &figure_b)] {
                if let Err(why) = figure {
                    missing.push(format!("pair {}, {name}: {why}", index + 1));
                }
            }
            a.extend(figure_a.as_ref().ok());
            b.extend(figure_b.as_ref().ok());
            pairs.extend(figure_a.ok().zip(figure_b.ok()));
        }
        let ratios = Ratios::of(&pairs);
        if missing.is_empty() && pairs.len() < 2 {
            missing.push("one pair says nothing about the noise; use --pairs 2 or more".to_owned());
        }
        let verdict = if missing.is_empty() { ratios.verdict() } else { Verdict::Incomplete };
        let same_tokens = same_tokens(runs, &test);
        Comparison { test, a, b, ratios, verdict, same_tokens, missing }
    };
    tests.into_iter().map(of_test).collect()
}

/// Whether all checksums of a test are equal, where both programs print some.
fn same_tokens(runs: &[[Turn; 2]], test: &str) -> Option<bool> {
    let sums = |which: usize| -> Vec<&str> {
        let records = runs.iter().filter_map(|both| both.get(which)?.as_ref().ok()).flatten();
        let of_test = records.filter(|record| record.test() == test && !record.checksum.is_empty());
        of_test.map(|record| record.checksum.as_str()).collect()
    };
    let (a, b) = (sums(0), sums(1));
    let first = *a.first()?;
    (!b.is_empty()).then(|| a.iter().chain(&b).all(|sum| *sum == first))
}

impl Versus {
    /// Whether every pair of every test was measured.
    pub fn is_complete(&self) -> bool {
        self.tests.iter().all(|test| test.verdict != Verdict::Incomplete)
    }

    /// Conditions and a table.
    pub fn report(&self) -> String {
        let e = &self.environment;
        let hash = self.file_hash.as_deref().unwrap_or("no hash");
        let mut text = format!(
            "A = {} on {}, checked: {}\nB = {} on {}, checked: {}\n{} ({hash})\n{}, {} cores, kernel {}, load {:?} before and \
             {:?} after, commit {}, {}\norder {}\n\n",
            self.a.name,
            self.devices[0],
            self.checked[0],
            self.b.name,
            self.devices[1],
            self.checked[1],
            self.model,
            e.cpu_info,
            e.cores,
            e.kernel,
            e.load_average,
            self.load_average_after,
            e.build_commit,
            self.test_time,
            self.order.join(" ")
        );
        let median = |values: &[f64]| format!("{:.2}", quantile(values, 0.5));
        let row = |test: &Comparison| {
            let r = &test.ratios;
            vec![
                test.test.clone(),
                median(&test.a),
                median(&test.b),
                format!("{:.3}", r.geometric_mean),
                format!("{:.3} to {:.3}, sd {:.1} %", r.range.0, r.range.1, 100.0 * r.log_stddev),
                test.verdict.name().to_owned(),
                test.same_tokens.map_or("-", |same| if same { "same" } else { "OTHER" }).to_owned(),
            ]
        };
        let rows: Vec<Vec<String>> = self.tests.iter().map(row).collect();
        let header = ["test", "A t/s", "B t/s", "A / B", "pairs", "A is", "tokens"];
        text.push_str(&super::report::markdown(&header, &rows));
        for test in &self.tests {
            for missing in &test.missing {
                text.push_str(&format!("INCOMPLETE: {}: {missing}\n", test.test));
            }
        }
        let loads = e.load_average.iter().take(1).chain(self.load_average_after.iter().take(1));
        if loads.fold(0.0, |max: f64, load| max.max(*load)) > e.cores as f64 + 1.0 {
            text.push_str("note: the load is above the number of cores, so others were measured too\n");
        }
        text
    }

    /// The same with only the last part of each path, for records that others read.
    pub fn without_paths(mut self) -> Self {
        let short = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
        for contestant in [&mut self.a, &mut self.b] {
            contestant.name = contestant.name.split(' ').map(short).collect::<Vec<_>>().join(" ");
            for word in contestant.commands.iter_mut().flatten().chain(&mut contestant.check) {
                *word = short(word);
            }
        }
        self
    }

    /// Adds this run to a file of JSON lines.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn append(&self, path: &std::path::Path) -> Result<(), Error> {
        use std::io::Write;
        let io = |source| compare::Error::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(io)?;
        }
        let line = serde_json::to_string(self).map_err(|error| compare::Error::Usage(error.to_string()))?;
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).map_err(io)?;
        Ok(writeln!(file, "{line}").map_err(io)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(ts: f64) -> Record {
        Record { n_gen: 8, avg_ts: ts, ..Record::default() }
    }

    #[test]
    fn a_run_that_failed_is_incomplete_and_says_why() {
        let runs = [
            [Ok(vec![record(20.0)]), Ok(vec![record(10.0)])],
            [Ok(vec![record(20.0)]), Err("it crashed".to_owned())],
        ];
        let tests = compare(&runs);
        assert_eq!((tests.len(), tests[0].verdict), (1, Verdict::Incomplete));
        assert_eq!(tests[0].missing, ["pair 2, B: it crashed"]);
        assert_eq!(compare(&[])[0].verdict, Verdict::Incomplete);
    }

    #[test]
    fn a_ratio_within_its_spread_is_no_difference() {
        let pair = |a, b| [Ok(vec![record(a)]), Ok(vec![record(b)])];
        let noisy = compare(&[pair(10.0, 10.5), pair(10.5, 10.0), pair(10.0, 9.5)]);
        assert_eq!(noisy[0].verdict, Verdict::Same);
        let clear = compare(&[pair(20.0, 10.1), pair(20.2, 10.0), pair(20.1, 10.0), pair(20.0, 10.0)]);
        assert_eq!(clear[0].verdict, Verdict::Faster);
        assert!((clear[0].ratios.geometric_mean - 2.0).abs() < 0.02, "{:?}", clear[0].ratios);
        let single = compare(&[pair(20.0, 10.0)]);
        assert_eq!((single[0].verdict, single[0].missing.len()), (Verdict::Incomplete, 1));
    }

    #[test]
    fn builds_that_write_other_tokens_are_noticed() {
        let run = |sum: &str| Ok(vec![Record { checksum: sum.to_owned(), ..record(1.0) }]);
        let same = |a: &str, b: &str| compare(&[[run(a), run(b)], [run(a), run(a)]])[0].same_tokens;
        assert_eq!((same("x", "x"), same("x", "y"), same("", "y")), (Some(true), Some(false), None));
    }
}
