//! A GGUF or APR file as a Hugging Face folder: weights in safetensors under Hugging Face's names and in its order of
//! rows, a config.json that says all that shapes the forward pass, the tokenizer and the chat template.

use super::plan::Plan;
use super::reencode::{Output, write_all};
use super::{Options, Progress, Report, names};
use crate::format::Error as FormatError;
use crate::format::TensorSpec;
use crate::format::huggingface::HuggingFace;
use crate::format::safetensors::SafetensorsWriter;
use crate::format::write::AtomicFolder;
use crate::model::tokenizer::TokenizerSpec;
use crate::model::{Error, Model, ModelConfig, RopePairing, Source};
use crate::quant::TensorType;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Writes `source` as the Hugging Face folder `target`, which appears whole or not at all. `dtype` is the type of
/// matrices, F32, F16 or BF16; `None` takes the source's own float type, and F16 where it is quantized. Vectors have it
/// too where it holds them exactly, and F32 otherwise.
///
/// # Errors
/// The source is not a model that is known, has something that `config.json` or `tokenizer.json` cannot say, or the
/// folder cannot be written.
pub fn export_hugging_face(
    source: &Source,
    target: &Path,
    dtype: Option<TensorType>,
    options: &Options,
    progress: &mut dyn FnMut(Progress),
) -> Result<Report, Error> {
    if let Source::HuggingFace(folder) = source {
        let what = "the source is a Hugging Face folder already".to_owned();
        return Err(
            FormatError::Key { path: folder.path().to_owned(), key: "output".to_owned(), what }.into()
        );
    }
    let mut report = Report::default();
    let (config, defaults) = source.config()?;
    for default in defaults {
        report.notes.push(format!("default taken: {} = {}: {}", default.key, default.value, default.why));
    }
    let spec = source.tokenizer_spec()?;
    report.notes.extend(spec.notes.iter().cloned());
    let folder = AtomicFolder::create(target)?;
    let plan = Plan::of(source, options, &mut report)?;
    let dtype = dtype.unwrap_or_else(|| own_type(&plan.outputs));
    let outputs = outputs(plan, &config, dtype)?;

    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).map_err(|source| FormatError::Io { path, source })
    };
    let write_json = |name: &str, value: &Value| {
        let text = serde_json::to_vec_pretty(value).map_err(|cause| FormatError::Key {
            path: target.join(name),
            key: name.to_owned(),
            what: cause.to_string(),
        });
        write(name, &text?)
    };
    let keys = config_keys(&config, &spec, dtype, &target.join("config.json"))?;
    write_json("config.json", &Value::Object(keys))?;
    let tokenizer_json = spec
        .to_tokenizer_json()
        .map_err(|error| Error::Tokenizer { path: source.path().to_owned(), source: error })?;
    write_json("tokenizer.json", &tokenizer_json)?;
    write_json("tokenizer_config.json", &tokenizer_config(&spec))?;
    write_json("generation_config.json", &generation_config(source, &spec)?)?;
    if let Some(template) = source.chat_template_text()? {
        write("chat_template.jinja", template.as_bytes())?;
    }

    let path = folder.path().join("model.safetensors");
    let io = |source: std::io::Error| FormatError::Io { path: path.clone(), source };
    let specs: Vec<TensorSpec> = outputs.iter().map(|output| output.spec.clone()).collect();
    let out = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(io)?);
    let mut writer = SafetensorsWriter::new(out, &path, &specs)?;
    write_all(&outputs, options.threads(), &mut report, progress, &mut |bytes| writer.write(bytes))?;
    writer.finish()?.flush().map_err(io)?;
    // What was written must be a model, with the same configuration and a tokenizer.
    let written = Model::from_source(Source::HuggingFace(HuggingFace::open(folder.path())?))?;
    written.tokenizer()?;
    folder.commit()?;
    Ok(report)
}

/// The float type of the source's matrices; F16 where they are quantized.
fn own_type(outputs: &[Output]) -> TensorType {
    let matrices = || outputs.iter().filter(|output| output.spec.shape.len() > 1);
    let first = matrices().map(|output| output.source.tensor_type).next();
    first
        .filter(|first| first.is_float() && matrices().all(|output| output.source.tensor_type == *first))
        .unwrap_or(TensorType::F16)
}

/// The tensors under Hugging Face's names, wider types first, then by name.
fn outputs(plan: Plan, config: &ModelConfig, dtype: TensorType) -> Result<Vec<Output>, Error> {
    let permuted = config.architecture.row().rope_pairing == RopePairing::Norm;
    let mut outputs = Vec::with_capacity(plan.outputs.len());
    for mut output in plan.outputs {
        if output.spec.name == "rope_freqs.weight" {
            continue;
        }
        let gguf = output.spec.name.clone();
        let name = names::hugging_face_name(&gguf).ok_or_else(|| FormatError::Key {
            path: plan.path.clone(),
            key: gguf.clone(),
            what: "Hugging Face's models have no such tensor".to_owned(),
        })?;
        if permuted {
            match gguf.rsplit('.').nth(1) {
                Some("attn_q") => output = output.unpermuted(config.num_heads)?,
                Some("attn_k") => output = output.unpermuted(config.num_kv_heads)?,
                _ => {}
            }
        }
        let vector = output.spec.shape.len() <= 1;
        let to = if vector && !output.is_exact_in(dtype)? { TensorType::F32 } else { dtype };
        outputs.push(output.named(&name).encoded(to, None)?);
    }
    outputs.sort_by_key(|output| {
        (std::cmp::Reverse(output.spec.tensor_type.block_bytes()), output.spec.name.clone())
    });
    Ok(outputs)
}

fn config_keys(
    config: &ModelConfig,
    spec: &TokenizerSpec,
    dtype: TensorType,
    path: &Path,
) -> Result<Map<String, Value>, Error> {
    let mut keys = config.to_hf(path)?;
    let dtype = match dtype {
        TensorType::F32 => "float32",
        TensorType::BF16 => "bfloat16",
        _ => "float16",
    };
    keys.insert("torch_dtype".to_owned(), dtype.into());
    for (key, id) in [
        ("bos_token_id", spec.special.bos),
        ("eos_token_id", spec.special.eos),
        ("pad_token_id", spec.special.pad),
    ] {
        keys.insert(key.to_owned(), id.map_or(Value::Null, Value::from));
    }
    keys.insert("use_cache".to_owned(), true.into());
    Ok(keys)
}

fn tokenizer_config(spec: &TokenizerSpec) -> Value {
    let text = |id: Option<u32>| id.and_then(|id| spec.tokens.get(id as usize)).map(String::as_str);
    let mut config = Map::new();
    config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
    config.insert("clean_up_tokenization_spaces".to_owned(), false.into());
    config.insert("add_bos_token".to_owned(), spec.add_bos.into());
    config.insert("add_eos_token".to_owned(), spec.add_eos.into());
    for (key, id) in [
        ("bos_token", spec.special.bos),
        ("eos_token", spec.special.eos),
        ("unk_token", spec.special.unk),
        ("pad_token", spec.special.pad),
    ] {
        if let Some(token) = text(id) {
            config.insert(key.to_owned(), token.into());
        }
    }
    Value::Object(config)
}

/// Which tokens begin and end a text: every one that ends a generation here.
fn generation_config(source: &Source, spec: &TokenizerSpec) -> Result<Value, Error> {
    let mut ends: Vec<u32> = spec.special.eos.into_iter().collect();
    ends.extend(
        source.tokenizer()?.end_of_generation().into_iter().filter(|id| Some(*id) != spec.special.eos),
    );
    let mut config = Map::new();
    if let Some(bos) = spec.special.bos {
        config.insert("bos_token_id".to_owned(), bos.into());
    }
    match ends.as_slice() {
        [] => {}
        [only] => {
            config.insert("eos_token_id".to_owned(), (*only).into());
        }
        several => {
            config.insert("eos_token_id".to_owned(), json!(several));
        }
    }
    if let Some(pad) = spec.special.pad {
        config.insert("pad_token_id".to_owned(), pad.into());
    }
    Ok(Value::Object(config))
}
