//! Where each format keeps a model's chat template. An empty text is none, as in llama.cpp.

use std::path::Path;

use serde_json::Value;

use crate::format::apr::Apr;
use crate::format::gguf::Metadata;
use crate::format::{Error, Map};

/// The template of a GGUF file.
///
/// # Errors
/// The key is there but is no string.
pub fn from_gguf(metadata: &Metadata) -> Result<Option<String>, Error> {
    let template = metadata.string("tokenizer.chat_template")?;
    Ok(template.filter(|template| !template.is_empty()).map(str::to_owned))
}

/// The template of an APR file.
///
/// # Errors
/// The key is there but is no string.
pub fn from_apr(apr: &Apr) -> Result<Option<String>, Error> {
    let own = match apr.string("chat_template")? {
        Some(template) => Some(template),
        None => apr.string("tokenizer.chat_template")?,
    };
    Ok(own.filter(|template| !template.is_empty()).map(str::to_owned))
}

/// The template of a Hugging Face folder: `chat_template.jinja`, or else the one in `tokenizer_config.json`; of several
/// with names, the one named `default`.
///
/// # Errors
/// Files that cannot be read, are no JSON or no UTF-8, or have templates of which none is the default.
pub fn from_hugging_face(folder: &Path) -> Result<Option<String>, Error> {
    let file = folder.join("chat_template.jinja");
    if file.is_file() {
        let map = Map::open(&file)?;
        let text = std::str::from_utf8(map.bytes()).map(str::to_owned);
        return text.map(Some).map_err(|error| {
            let offset = u64::try_from(error.valid_up_to()).unwrap_or(u64::MAX);
            Error::Bytes { path: file, offset, what: "the template is not UTF-8".to_owned() }
        });
    }
    let file = folder.join("tokenizer_config.json");
    if !file.is_file() {
        return Ok(None);
    }
    let config: Value = serde_json::from_slice(Map::open(&file)?.bytes()).map_err(|error| Error::Bytes {
        path: file.clone(),
        offset: 0,
        what: error.to_string(),
    })?;
    match &config["chat_template"] {
        Value::Null => Ok(None),
        Value::String(template) if template.is_empty() => Ok(None),
        Value::String(template) => Ok(Some(template.clone())),
        several => {
            let mut named = several.as_array().into_iter().flatten();
            let default = named.find(|template| template["name"] == "default");
            match default.and_then(|template| template["template"].as_str()) {
                Some(template) => Ok(Some(template.to_owned())),
                None => Err(Error::Key {
                    path: file,
                    key: "chat_template".to_owned(),
                    what: "expected a string, or a list with a template named \"default\"".to_owned(),
                }),
            }
        }
    }
}
