//! How well a model predicts a text, and how far it is from a base run that was kept.
//!
//! As llama.cpp computes it: the text in windows, each from an empty cache; the second half of a window counts, so every
//! prediction has seen at least half a window. Where the vocabulary begins texts with a token of its own, each window does.

use super::Error;
use super::metric::{log_softmax, mean_and_deviation};
use super::text::{Agreement, Collector};
use crate::engine::Device;
use crate::format::write::AtomicFile;
use serde::Serialize;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};

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

/// A text and how it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// Its ids.
    pub tokens: &'a [u32],
    /// Tokens per window.
    pub window: usize,
    /// The token that takes the first place of each window, where the model wants one.
    pub bos: Option<u32>,
}

/// Computes perplexity; writes the base file `save`, compares with the base file `base`.
///
/// # Errors
/// A text of less than one window, a base of another text, vocabulary or window, files that cannot be read or written, a
/// device that fails.
pub fn perplexity(
    device: &mut Device,
    Text { tokens, window, bos }: Text<'_>,
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
        let mut fed = tokens.to_vec();
        if let (Some(bos), Some(first)) = (bos, fed.first_mut()) {
            *first = bos;
        }
        let logits = device.logits(&fed, true)?;
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
    out: AtomicFile,
}

impl BaseWriter {
    fn new(path: &Path, header: &Header) -> Result<Self, Error> {
        let mut out = AtomicFile::create(path, &[])?;
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
        Ok(self.out.commit()?)
    }
}

/// An error of reading a base run; one that ends too early is a bad file.
fn cut_off(path: &Path, source: std::io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            let what = "expected a base run as --save-base writes it, but the file ends too early";
            Error::File { path, what: what.to_owned() }
        }
        _ => Error::Io { path, source },
    }
}

struct BaseReader {
    input: BufReader<File>,
    path: PathBuf,
    vocab: usize,
}

impl BaseReader {
    fn new(path: &Path, header: &Header) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        let mut input = BufReader::new(File::open(path).map_err(io)?);
        let expected = header.bytes();
        let mut found = vec![0; expected.len()];
        input.read_exact(&mut found).map_err(|source| cut_off(path, source))?;
        if found != expected {
            let what =
                "expected the base run of the same text, vocabulary and window (--window); found another one";
            return Err(Error::File { path: path.to_owned(), what: what.to_owned() });
        }
        Ok(Self { input, path: path.to_owned(), vocab: header.vocab })
    }

    fn row(&mut self) -> Result<Vec<f64>, Error> {
        let mut bytes = vec![0; 8 + 2 * self.vocab];
        self.input.read_exact(&mut bytes).map_err(|source| cut_off(&self.path, source))?;
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
