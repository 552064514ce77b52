//! The files of a Hugging Face folder beside its weights: config.json, the tokenizer, the chat template.

use crate::format::Error as FormatError;
use crate::model::tokenizer::TokenizerSpec;
use crate::model::{Error, ModelConfig, Source};
use crate::quant::TensorType;
use serde_json::{Map, Value, json};
use std::path::Path;

/// Writes them into `folder`, which is to become `target`. `dtype` is the type of most weights.
pub(super) fn write(
    source: &Source,
    config: &ModelConfig,
    spec: &TokenizerSpec,
    dtype: TensorType,
    folder: &Path,
    target: &Path,
) -> Result<(), Error> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).map_err(|source| FormatError::Io { path: target.join(name), source })
    };
    let write_json = |name: &str, value: &Value| write(name, &pretty(value, &target.join(name))?);
    let keys = config_keys(config, spec, dtype, &target.join("config.json"))?;
    write_json("config.json", &Value::Object(keys))?;
    let tokenizer_json = spec
        .to_tokenizer_json()
        .map_err(|error| Error::Tokenizer { path: source.path().to_owned(), source: error })?;
    write_json("tokenizer.json", &tokenizer_json)?;
    write_json("tokenizer_config.json", &tokenizer_config(spec))?;
    write_json("generation_config.json", &generation_config(source, spec)?)?;
    if let Some(template) = source.chat_template_text()? {
        write("chat_template.jinja", template.as_bytes())?;
    }
    Ok(())
}

/// JSON for people.
pub(super) fn pretty(value: &Value, path: &Path) -> Result<Vec<u8>, FormatError> {
    serde_json::to_vec_pretty(value).map_err(|cause| FormatError::Key {
        path: path.to_owned(),
        key: "json".to_owned(),
        what: cause.to_string(),
    })
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
