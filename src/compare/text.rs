//! Logits over a text: perplexity, divergence from a base, best tokens.
//!
//! Perplexity as llama.cpp computes it: the text in windows, each from an empty cache; the second half of a window counts,
//! so every prediction has seen at least half a window.

use super::Error;
use super::metric::{kl_divergence, log_softmax, mean_and_deviation, top_token};
use crate::engine::Device;
use serde::Serialize;
use std::io::{Read, Write};
use std::path::Path;

/// Two devices over the same text, position by position.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Agreement {
    /// Positions compared.
    pub positions: usize,
    /// At how many the best token is the same.
    pub same_top: usize,
    /// The first position where it is not.
    pub first_difference: Option<usize>,
    /// Mean KL divergence from the truth, in nats.
    pub mean_kl: f64,
    /// Its standard error.
    pub kl_error: f64,
    /// The largest.
    pub max_kl: f64,
}

impl Agreement {
    /// Share of positions with the same best token; 1 for none.
    pub fn same_top_rate(&self) -> f64 {
        if self.positions == 0 { 1.0 } else { self.same_top as f64 / self.positions as f64 }
    }
}

/// Collects an [`Agreement`].
#[derive(Default)]
struct Collector {
    agreement: Agreement,
    divergences: Vec<f64>,
}

impl Collector {
    fn add(&mut self, truth: &[f64], found: &[f64]) {
        let top = |row: &[f64]| top_token(&row.iter().map(|&x| x as f32).collect::<Vec<_>>());
        if top(truth) == top(found) {
            self.agreement.same_top += 1;
        } else {
            self.agreement.first_difference.get_or_insert(self.agreement.positions);
        }
        self.agreement.positions += 1;
        self.divergences.push(kl_divergence(truth, found));
    }

    fn finish(mut self) -> Agreement {
        let (mean, deviation) = mean_and_deviation(&self.divergences);
        self.agreement.mean_kl = mean;
        self.agreement.kl_error = deviation / (self.divergences.len().max(1) as f64).sqrt();
        self.agreement.max_kl = self.divergences.iter().copied().fold(0.0, f64::max);
        self.agreement
    }
}

/// Runs `tokens` in windows of `window` on both, each fed the text itself (teacher-forced), and compares every position.
///
/// # Errors
/// A device that fails.
pub fn agreement(
    truth: &mut Device,
    found: &mut Device,
    tokens: &[u32],
    window: usize,
) -> Result<Agreement, Error> {
    let vocab = truth.decoder().shape().vocab_size;
    let mut collector = Collector::default();
    for tokens in tokens.chunks(window.clamp(1, truth.context().min(found.context()))) {
        let (a, b) = (truth.logits(tokens, true)?, found.logits(tokens, true)?);
        for (a, b) in a.chunks(vocab).zip(b.chunks(vocab)) {
            collector.add(&log_softmax(a), &log_softmax(b));
        }
    }
    Ok(collector.finish())
}

/// Perplexity of a text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// `exp` of the mean negative log-likelihood.
    pub perplexity: f64,
    /// Its standard error, by the deviation of the log-likelihoods.
    pub error: f64,
    /// Tokens that were predicted.
    pub positions: usize,
    /// Tokens per window.
    pub window: usize,
    /// Against a base run, where there was one.
    pub base: Option<Agreement>,
}

/// Computes perplexity; writes the base file `save`, compares with the base file `base`.
///
/// # Errors
/// A text of less than one window, a base of another text, vocabulary or window, files that cannot be read or written, a
/// device that fails.
pub fn perplexity(
    device: &mut Device,
    tokens: &[u32],
    window: usize,
    (save, base): (Option<&Path>, Option<&Path>),
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Perplexity, Error> {
    let vocab = device.decoder().shape().vocab_size;
    let windows = tokens.len() / window.max(1);
    if windows == 0 || window < 4 || window > device.context() {
        let (found, context) = (tokens.len(), device.context());
        return Err(Error::Usage(format!(
            "windows of {window} tokens: expected at least 4, at most the context of {context}, and one whole window \
             of text (it has {found} tokens)"
        )));
    }
    let header = Header { vocab, window, tokens: tokens[..windows * window].to_vec() };
    let mut writer = save.map(|path| BaseWriter::new(path, &header)).transpose()?;
    let mut reader = base.map(|path| BaseReader::new(path, &header)).transpose()?;
    let mut collector = reader.is_some().then(Collector::default);
    let mut losses = Vec::new();
    for (index, tokens) in tokens.chunks_exact(window).enumerate() {
        let logits = device.logits(tokens, true)?;
        let rows = logits.chunks_exact(vocab).zip(tokens.iter().skip(1)).skip(window / 2);
        for (row, &next) in rows {
            let row = log_softmax(row);
            losses.push(-row.get(next as usize).copied().unwrap_or(f64::NEG_INFINITY));
            if let Some(writer) = &mut writer {
                writer.row(&row)?;
            }
            if let (Some(reader), Some(collector)) = (&mut reader, &mut collector) {
                collector.add(&reader.row()?, &row);
            }
        }
        progress(index as u64 + 1, windows as u64);
    }
    if let Some(writer) = writer {
        writer.finish()?;
    }
    let (mean, deviation) = mean_and_deviation(&losses);
    let perplexity = mean.exp();
    let error = perplexity * deviation / (losses.len().max(1) as f64).sqrt();
    let base = collector.map(Collector::finish);
    Ok(Perplexity { perplexity, error, positions: losses.len(), window, base })
}

/// What a base file must share with the run that it is compared with.
struct Header {
    vocab: usize,
    window: usize,
    tokens: Vec<u32>,
}

impl Header {
    /// "APRK", version, vocabulary, window, number of tokens, tokens: all u32, little-endian. Rows follow: the largest
    /// log-probability and the step as f32, then a u16 per token, how many steps it lies below the largest.
    fn bytes(&self) -> Vec<u8> {
        let numbers = [1, self.vocab as u32, self.window as u32, self.tokens.len() as u32];
        let words = numbers.iter().chain(&self.tokens).flat_map(|word| word.to_le_bytes());
        b"APRK".iter().copied().chain(words).collect()
    }
}

/// Log-probabilities further below the largest are stored as this far: e^-24 of probability is nothing.
const RANGE: f64 = 24.0;

struct BaseWriter {
    out: crate::format::write::AtomicFile,
}

impl BaseWriter {
    fn new(path: &Path, header: &Header) -> Result<Self, Error> {
        let mut out = crate::format::write::AtomicFile::create(path, &[])
            .map_err(|error| Error::Model(error.into()))?;
        out.write_all(&header.bytes()).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        Ok(Self { out })
    }

    fn row(&mut self, row: &[f64]) -> Result<(), Error> {
        let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max) as f32;
        let step = (RANGE / f64::from(u16::MAX)) as f32;
        let mut bytes = [max.to_le_bytes(), step.to_le_bytes()].concat();
        let below = |&x: &f64| ((f64::from(max) - x) / f64::from(step)).round().clamp(0.0, 65535.0) as u16;
        bytes.extend(row.iter().map(below).flat_map(u16::to_le_bytes));
        let path = self.out.target().to_owned();
        self.out.write_all(&bytes).map_err(|source| Error::Io { path, source })
    }

    fn finish(self) -> Result<(), Error> {
        self.out.commit().map_err(|error| Error::Model(error.into()))
    }
}

struct BaseReader {
    input: std::io::BufReader<std::fs::File>,
    path: std::path::PathBuf,
    vocab: usize,
}

impl BaseReader {
    fn new(path: &Path, header: &Header) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut input = std::io::BufReader::new(std::fs::File::open(path).map_err(io)?);
        let expected = header.bytes();
        let mut found = vec![0; expected.len()];
        input.read_exact(&mut found).map_err(io)?;
        if found != expected {
            let what =
                "expected the base run of the same text, vocabulary and window (--ctx); found another one";
            return Err(Error::File { path: path.to_owned(), what: what.to_owned() });
        }
        Ok(Self { input, path: path.to_owned(), vocab: header.vocab })
    }

    fn row(&mut self) -> Result<Vec<f64>, Error> {
        let mut bytes = vec![0; 8 + 2 * self.vocab];
        self.input.read_exact(&mut bytes).map_err(|source| Error::Io { path: self.path.clone(), source })?;
        let (head, steps) = bytes.split_at(8);
        let float = |at: usize| {
            head.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0.0, |b| f32::from_le_bytes(*b))
        };
        let (max, step) = (f64::from(float(0)), f64::from(float(4)));
        let values = steps.as_chunks::<2>().0.iter().map(|b| max - step * f64::from(u16::from_le_bytes(*b)));
        let row: Vec<f32> = values.map(|x| x as f32).collect();
        Ok(log_softmax(&row))
    }
}
