//! Random weights of true shapes, in no time and almost no memory.
//!
//! Encoding gigabytes takes minutes, so that only a strip of random blocks is encoded for each type and row length, and
//! every row of every matrix is a window of its strip, at a place that depends on the tensor and the row. Speed does not
//! depend on the values; results do, and stay finite: values are scaled by the square root of the row length.

use super::Error;
use super::preset::Preset;
use crate::compare::{self, Random};
use crate::convert;
use crate::format::TensorSpec;
use crate::format::gguf::{Array, GgufWriter, Strings, Value};
use crate::format::write::AtomicFile;
use crate::model::Architecture;
use crate::plan::{Decoder, Weight, WeightId, WeightSource};
use crate::quant::{TensorType, encode_row};
use std::collections::BTreeMap;
use std::path::Path;

/// Rows that a strip could hold side by side: windows overlap, but few are equal.
const STRIP_ROWS: usize = 24;

/// Weights by decoder id, as windows of strips.
#[derive(Debug)]
pub struct SynthWeights {
    strips: BTreeMap<(TensorType, usize), Vec<u8>>,
    weights: Vec<Weight>,
}

impl SynthWeights {
    /// Random weights for a list of matrices and vectors.
    ///
    /// # Errors
    /// A type that cannot be encoded.
    pub fn new(weights: &[Weight]) -> Result<Self, Error> {
        let mut strips = BTreeMap::new();
        for weight in weights {
            let key = (weight.tensor_type, weight.cols);
            if let std::collections::btree_map::Entry::Vacant(entry) = strips.entry(key) {
                entry.insert(strip(weight.tensor_type, weight.cols, weight.is_vector())?);
            }
        }
        Ok(Self { strips, weights: weights.to_vec() })
    }

    /// Random weights for a decoder.
    ///
    /// # Errors
    /// A type that cannot be encoded.
    pub fn of(decoder: &Decoder) -> Result<Self, Error> {
        Self::new(decoder.weights())
    }

    /// Row `row` of weight `index`.
    fn window(&self, index: usize, row: usize) -> &[u8] {
        let Some(weight) = self.weights.get(index) else { return &[] };
        let strip = self.strips.get(&(weight.tensor_type, weight.cols)).map_or(&[][..], Vec::as_slice);
        let (block, bytes) =
            (weight.tensor_type.block_bytes(), weight.tensor_type.row_bytes(weight.cols).unwrap_or(0));
        let places = strip.len().saturating_sub(bytes) / block.max(1) + 1;
        // Vectors of one kind are all alike; rows of matrices are spread over the strip.
        let place = if weight.is_vector() { 0 } else { spread(index, row) % places };
        strip.get(place * block..place * block + bytes).unwrap_or_default()
    }
}

/// A number that looks random, for a row of a weight (the finalizer of SplitMix64).
fn spread(index: usize, row: usize) -> usize {
    let mut x = (index as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ (row as u64);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (x >> 33) as usize
}

impl WeightSource for SynthWeights {
    fn row(&self, id: WeightId, row: usize) -> &[u8] {
        self.window(id.0 as usize, row)
    }

    fn release(&self, _: WeightId) {}
}

fn strip(tensor_type: TensorType, cols: usize, is_vector: bool) -> Result<Vec<u8>, Error> {
    let mut random = Random::new(cols as u64 + 31);
    let rows = if is_vector { 1 } else { STRIP_ROWS };
    let scale = 1.0 / (cols as f32).sqrt();
    let mut bytes = Vec::new();
    for _ in 0..rows {
        let value = |random: &mut Random| match is_vector {
            true => 1.0 + 0.1 * random.value(),
            false => scale * random.value(),
        };
        let values: Vec<f32> = (0..cols).map(|_| value(&mut random)).collect();
        let mut row = vec![0; tensor_type.row_bytes(cols).unwrap_or(0)];
        encode_row(tensor_type, &values, None, &mut row)?;
        bytes.extend(row);
    }
    Ok(bytes)
}

/// Writes a preset as a GGUF file that llama.cpp loads too, or as APR where the name ends so.
///
/// # Errors
/// A file that cannot be written.
pub fn write(preset: &Preset, output: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<u64, Error> {
    match output.extension().and_then(|extension| extension.to_str()) {
        Some("gguf") => write_gguf(preset, output, progress),
        Some("apr") => {
            let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
            let io = |source| compare::Error::Io { path: output.to_owned(), source };
            let builder = &mut tempfile::Builder::new();
            let builder = builder.prefix(".aprbench-").suffix(".gguf");
            let temporary = builder.tempfile_in(folder.unwrap_or(Path::new("."))).map_err(io)?;
            write_gguf(preset, temporary.path(), progress)?;
            let mut done = |p: convert::Progress| progress(p.done, p.total);
            let report =
                convert::gguf_to_apr(temporary.path(), output, &convert::Options::default(), &mut done)?;
            Ok(report.bytes_written)
        }
        _ => Err(compare::Error::Usage(format!(
            "{}: expected a name that ends in .gguf or .apr",
            output.display()
        ))
        .into()),
    }
}

fn write_gguf(preset: &Preset, output: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<u64, Error> {
    let decoder = preset.decoder()?;
    let source = SynthWeights::of(&decoder)?;
    let mut specs = Vec::new();
    for weight in decoder.weights() {
        let matrix = [weight.rows, weight.cols];
        let shape = if weight.is_vector() { &matrix[1..] } else { &matrix[..] };
        let overflow = || compare::Error::Usage(format!("{}: its size overflows", weight.name));
        specs.push(TensorSpec::new(&weight.name, weight.tensor_type, shape).ok_or_else(overflow)?);
    }
    let factors = preset.rope_factors();
    if let Some(factors) = &factors {
        specs.extend(TensorSpec::new("rope_freqs.weight", TensorType::F32, &[factors.len()]));
    }
    let total: u64 = specs.iter().map(|spec| spec.bytes as u64).sum();
    let file = AtomicFile::create(output, &[])?;
    let mut writer = GgufWriter::new(file, output, 3, &metadata(preset), &specs)?;
    let mut done = 0;
    for (index, weight) in decoder.weights().iter().enumerate() {
        for row in 0..weight.rows {
            writer.write(source.window(index, row))?;
        }
        done += weight.bytes();
        progress(done, total);
    }
    for factor in factors.iter().flatten() {
        writer.write(&factor.to_le_bytes())?;
    }
    writer.finish(None)?.commit()?;
    Ok(total)
}

/// The keys that llama.cpp and this program need, with a vocabulary that is valid and says nothing: the 256 bytes, one
/// merge, an end token, and numbered tokens up to the size.
fn metadata(preset: &Preset) -> Vec<(String, Value)> {
    let (name, pre) = match preset.architecture {
        Architecture::Llama => ("llama", "llama-bpe"),
        Architecture::Qwen2 => ("qwen2", "qwen2"),
        Architecture::Qwen3 => ("qwen3", "qwen2"),
    };
    let key = |suffix: &str| format!("{name}.{suffix}");
    let number = |value: usize| Value::U32(value as u32);
    let text = |value: &str| Value::String(value.into());
    let (tokens, types) = vocabulary(preset.vocab_size);
    let end = number(257.min(preset.vocab_size.saturating_sub(1)));
    let strings = |list: &[String]| Value::Array(Box::new(Array::String(list.iter().collect::<Strings>())));
    vec![
        ("general.architecture".to_owned(), text(name)),
        ("general.name".to_owned(), text(&format!("{} (random weights)", preset.name))),
        ("general.file_type".to_owned(), Value::U32(15)),
        ("general.quantization_version".to_owned(), Value::U32(2)),
        (key("block_count"), number(preset.num_layers)),
        (key("context_length"), number(preset.context_length)),
        (key("embedding_length"), number(preset.hidden_size)),
        (key("feed_forward_length"), number(preset.intermediate_size)),
        (key("attention.head_count"), number(preset.num_heads)),
        (key("attention.head_count_kv"), number(preset.num_kv_heads)),
        (key("attention.key_length"), number(preset.head_dim)),
        (key("attention.value_length"), number(preset.head_dim)),
        (key("attention.layer_norm_rms_epsilon"), Value::F32(preset.rms_norm_eps)),
        (key("rope.freq_base"), Value::F32(preset.rope_theta)),
        (key("rope.dimension_count"), number(preset.head_dim)),
        (key("vocab_size"), number(preset.vocab_size)),
        ("tokenizer.ggml.model".to_owned(), text("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), text(pre)),
        ("tokenizer.ggml.tokens".to_owned(), strings(&tokens)),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(Box::new(Array::I32(types)))),
        ("tokenizer.ggml.merges".to_owned(), strings(&["t h".to_owned()])),
        ("tokenizer.ggml.bos_token_id".to_owned(), end.clone()),
        ("tokenizer.ggml.eos_token_id".to_owned(), end),
    ]
}

/// Tokens and their kinds: 1 normal, 3 control, 5 unused.
fn vocabulary(size: usize) -> (Vec<String>, Vec<i32>) {
    // GPT-2's alphabet: printable bytes are themselves, the others follow from U+0100.
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0;
    let alphabet = (0..256u32).map(|byte| {
        let code = if printable(byte) {
            byte
        } else {
            others += 1;
            0xff + others
        };
        char::from_u32(code).map(String::from).unwrap_or_default()
    });
    let special = ["th".to_owned(), "<|endoftext|>".to_owned()];
    let padding = (258..size).map(|id| format!("<|unused_{id}|>"));
    let tokens: Vec<String> = alphabet.chain(special).chain(padding).take(size).collect();
    let kind = |id: usize| match id {
        257 => 3,
        258.. => 5,
        _ => 1,
    };
    let types = (0..tokens.len()).map(kind).collect();
    (tokens, types)
}
