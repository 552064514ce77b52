//! `aprgpu template`: the prompt that a chat becomes, exactly.

use crate::args::TemplateArgs;
use crate::failure::{Failure, read_text};
use crate::opened;
use aprgpu::model::{ChatTemplate, Source};
use serde_json::{Map, Value};
use std::io::Write;

pub(crate) fn template(args: &TemplateArgs) -> Result<(), Failure> {
    let messages: Vec<Value> =
        json(&read_text(&args.messages)?, "--messages: expected a JSON list of messages")?;
    let variables: Map<String, Value> = match &args.variables {
        Some(text) => json(text, "--variables: expected a JSON object")?,
        None => Map::new(),
    };
    let template = match (&args.file, &args.model) {
        (Some(file), _) => ChatTemplate::new(&read_text(file)?, None, None)?.from_user(),
        (None, Some(path)) => {
            let source = Source::open(path)?;
            opened::chat_template(&source, &source.tokenizer()?)?
        }
        (None, None) => return Err(Failure::Usage("a model or --file is needed".to_owned())),
    };
    let text = template.render(&messages, !args.no_generation_prompt, &variables)?;
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

fn json<T: serde::de::DeserializeOwned>(text: &str, expected: &str) -> Result<T, Failure> {
    serde_json::from_str(text).map_err(|error| Failure::Usage(format!("{expected}: {error}")))
}
