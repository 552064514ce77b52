//! Models as large as a test wants them.

use aprgpu::convert::{self, Options};
use aprgpu::format::gguf::{Gguf, GgufWriter, Value};
use aprgpu::format::{Map, TensorSpec, apr::Apr};
use aprgpu::quant::TensorType;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes a qwen2 model with tiny-coder's 4096 tokens, heads of 64 and a feed-forward layer of `4 * hidden` as GGUF;
/// returns the file's size. `type_of` gives each matrix its type by its role: F16 holds values that an encoder has work
/// with, all other types zeros.
pub(crate) fn write_qwen2(
    path: &Path,
    hidden: usize,
    layers: usize,
    type_of: impl Fn(&str) -> TensorType,
) -> u64 {
    let apr = Apr::open(&super::repository("tests/models/tiny-coder.apr")).unwrap();
    let options = Options::default();
    let bytes = convert::write_gguf(&apr, Vec::new(), Path::new("m.gguf"), &options, &mut |_| {}).unwrap().0;
    let small = Gguf::from_map(Map::from_bytes(Path::new("m.gguf"), bytes)).unwrap();
    let sizes = [
        ("qwen2.embedding_length", hidden),
        ("qwen2.feed_forward_length", 4 * hidden),
        ("qwen2.block_count", layers),
        ("qwen2.attention.head_count", hidden / 64),
        ("qwen2.attention.head_count_kv", hidden / 64),
    ];
    let metadata: Vec<(String, Value)> = small
        .metadata()
        .iter()
        .map(|(key, value)| match sizes.iter().find(|(name, _)| name == key) {
            Some((_, size)) => (key.clone(), Value::U32(*size as u32)),
            None => (key.clone(), value.clone()),
        })
        .collect();
    let matrix = |prefix: &str, role: &str, rows, cols| {
        TensorSpec::new(&format!("{prefix}{role}.weight"), type_of(role), &[rows, cols]).unwrap()
    };
    let vector = |prefix: &str, role: &str| {
        TensorSpec::new(&format!("{prefix}{role}"), TensorType::F32, &[hidden]).unwrap()
    };
    let mut tensors = vec![matrix("", "token_embd", 4096, hidden), vector("", "output_norm.weight")];
    for layer in 0..layers {
        let layer = format!("blk.{layer}.");
        tensors.extend(
            ["attn_q", "attn_k", "attn_v", "attn_output"].map(|role| matrix(&layer, role, hidden, hidden)),
        );
        tensors.extend(["attn_q.bias", "attn_k.bias", "attn_v.bias"].map(|role| vector(&layer, role)));
        tensors.extend(["attn_norm.weight", "ffn_norm.weight"].map(|role| vector(&layer, role)));
        tensors.extend(["ffn_gate", "ffn_up"].map(|role| matrix(&layer, role, 4 * hidden, hidden)));
        tensors.push(matrix(&layer, "ffn_down", hidden, 4 * hidden));
    }
    let pattern = |i: usize| (((i * 2_654_435_761) >> 7) as u16 & 0x83ff) | 0x2400;
    let halves: Vec<u8> = (0..1 << 20).flat_map(|i| pattern(i).to_le_bytes()).collect();
    let ones = 1.0_f32.to_le_bytes().repeat(1024);
    let zeros = vec![0; 1 << 20];
    let out = BufWriter::new(std::fs::File::create(path).unwrap());
    let mut writer = GgufWriter::new(out, path, 3, &metadata, &tensors).unwrap();
    for tensor in &tensors {
        let values = match tensor.tensor_type {
            TensorType::F32 => &ones,
            TensorType::F16 => &halves,
            _ => &zeros,
        };
        let mut left = tensor.bytes;
        while left > 0 {
            let piece = left.min(values.len());
            writer.write(&values[..piece]).unwrap();
            left -= piece;
        }
    }
    writer.finish(None).unwrap().flush().unwrap();
    std::fs::metadata(path).unwrap().len()
}
