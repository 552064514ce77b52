//! Chat templates: a conversation to the prompt that the model was trained on.
//!
//! Models ship a Jinja template that transformers renders with Python's jinja2. Here minijinja renders it, set up so
//! that both give the same text (`environment`). Templates are part of a file and not trusted: how long they are, how
//! long they run and how much they print is limited, and they have a stack of their own. What they hold in memory is not.

mod environment;
mod error;
mod python;
pub mod source;

use std::io;

use chrono::NaiveDateTime;
use minijinja::Environment;
use minijinja::value::Value;
use regex::Regex;
use serde_json::{Map, Value as Json};

pub use error::Error;

use super::tokenizer::Tokenizer;
use environment::{Refusal, environment};

/// ChatML, for models that know its tokens and have no template.
pub const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] \
    + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// What a template may print, in bytes.
const OUTPUT_LIMIT: usize = 64 << 20;

/// How long a template may be, in bytes; published ones have some ten thousand.
const SOURCE_LIMIT: usize = 128 << 10;

/// The stack that a template is compiled and rendered on, in bytes. The engine recurses along chains of operators and
/// into values: a few hundred bytes for each operator of a hostile template, and less for each level of a list that it
/// nests in itself until its fuel is spent. Only what is used of it takes memory.
const STACK: usize = 256 << 20;

/// Names under which a message's reasoning is passed; templates read the first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Where a template came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateOrigin {
    /// From the model's file.
    Model,
    /// From the user.
    User,
    /// The model has none; its vocabulary has ChatML's tokens.
    ChatMl,
}

/// A compiled chat template.
#[derive(Debug)]
pub struct ChatTemplate {
    source: String,
    origin: TemplateOrigin,
    bos: Option<String>,
    eos: Option<String>,
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts that it sees as `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`Error::Syntax`] with the line.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<Self, Error> {
        if source.len() > SOURCE_LIMIT {
            let what = format!("expected at most {SOURCE_LIMIT} bytes, found {}", source.len());
            return Err(Error::Syntax { line: 1, what });
        }
        let template = Self {
            source: prepare(source),
            origin: TemplateOrigin::Model,
            bos: bos.map(str::to_owned),
            eos: eos.map(str::to_owned),
            environment: environment(None),
        };
        on_deep_stack(|| template.compile().map(drop))?;
        Ok(template)
    }

    /// The template that the model's file has, or ChatML if it has none ([`ChatTemplate::chatml_if_supported`]). Tell
    /// the user when [`ChatTemplate::origin`] is [`TemplateOrigin::ChatMl`].
    ///
    /// # Errors
    /// [`Error::Syntax`], [`Error::NoTemplate`].
    pub fn for_model(source: Option<&str>, tokenizer: &Tokenizer) -> Result<Self, Error> {
        match source {
            Some(source) => Self::new(source, tokenizer.bos_text(), tokenizer.eos_text()),
            None => Self::chatml_if_supported(tokenizer),
        }
    }

    /// ChatML, if the vocabulary has `<|im_start|>` and `<|im_end|>`.
    ///
    /// # Errors
    /// [`Error::NoTemplate`] if it has not.
    pub fn chatml_if_supported(tokenizer: &Tokenizer) -> Result<Self, Error> {
        if tokenizer.id("<|im_start|>").is_none() || tokenizer.id("<|im_end|>").is_none() {
            return Err(Error::NoTemplate);
        }
        let template = Self::new(CHATML, tokenizer.bos_text(), tokenizer.eos_text())?;
        Ok(Self { origin: TemplateOrigin::ChatMl, ..template })
    }

    /// Notes that the user gave the template.
    #[must_use]
    pub fn from_user(self) -> Self {
        Self { origin: TemplateOrigin::User, ..self }
    }

    /// `strftime_now` tells this time, not the clock's.
    #[must_use]
    pub fn with_now(self, now: NaiveDateTime) -> Self {
        Self { environment: environment(Some(now)), ..self }
    }

    /// Where the template came from.
    pub fn origin(&self) -> TemplateOrigin {
        self.origin
    }

    /// Renders a conversation: each message an object with `role` and `content`, and whatever else the template
    /// reads. `add_generation_prompt` ends with the beginning of the assistant's turn. `extra` holds more variables,
    /// such as `tools` or `enable_thinking`. The result has its special tokens written out, the bos token too if the
    /// template wants one: encode it with `add_special` off and `parse_special` on.
    ///
    /// # Errors
    /// [`Error::Message`], [`Error::Refused`], [`Error::Render`].
    pub fn render(
        &self,
        messages: &[Json],
        add_generation_prompt: bool,
        extra: &Map<String, Json>,
    ) -> Result<String, Error> {
        let mut conversation = Vec::with_capacity(messages.len());
        for (index, message) in messages.iter().enumerate() {
            let Json::Object(message) = message else {
                return Err(Error::Message { index, found: kind(message) });
            };
            conversation.push(Json::Object(name_reasoning(message)));
        }
        let mut context = Map::new();
        for name in ["tools", "documents"] {
            context.insert(name.to_owned(), Json::Null);
        }
        for (name, text) in [("bos_token", &self.bos), ("eos_token", &self.eos)] {
            if let Some(text) = text {
                context.insert(name.to_owned(), text.clone().into());
            }
        }
        context.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
        context.insert("messages".to_owned(), conversation.into());
        context.insert("add_generation_prompt".to_owned(), add_generation_prompt.into());

        let output = on_deep_stack(|| {
            let mut output = Limited(Vec::new());
            self.compile()?
                .render_captured_to(Value::from_serialize(context), &mut output)
                .map_err(render_error)?;
            Ok(output)
        })?;
        String::from_utf8(output.0).map_err(|error| Error::Render { line: 0, what: error.to_string() })
    }

    fn compile(&self) -> Result<minijinja::Template<'_, '_>, Error> {
        self.environment
            .template_from_named_str("chat_template", &self.source)
            .map_err(|error| Error::Syntax { line: error.line().unwrap_or(0), what: describe(&error) })
    }
}

/// Runs `work` on a thread with a stack of [`STACK`] bytes.
fn on_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let failed = |what: String| Error::Render { line: 0, what };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        let thread = thread.map_err(|error| failed(format!("no thread to render it on: {error}")))?;
        thread.join().unwrap_or_else(|_| Err(failed("the template engine failed".to_owned())))
    })
}

/// jinja2 reads every end of line as `\n`. transformers' `{% generation %}` marks what the assistant said, for
/// training; it prints its body, as an empty `with` does.
fn prepare(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    match Regex::new(r"\{%([-+]?\s*)(end)?generation(\s*[-+]?)%\}") {
        Ok(tags) => tags.replace_all(&source, "{%$1 ${2}with $3%}").into_owned(),
        Err(_) => source,
    }
}

/// Passes reasoning on under every name that templates read, as transformers does.
fn name_reasoning(message: &Map<String, Json>) -> Map<String, Json> {
    let reasoning = REASONING.iter().find_map(|&name| message.get(name).filter(|value| !value.is_null()));
    let Some(reasoning) = reasoning else { return message.clone() };
    let mut named = Map::new();
    named.insert("thinking".to_owned(), reasoning.clone());
    named.extend(message.iter().map(|(name, value)| (name.clone(), value.clone())));
    named.insert("reasoning_content".to_owned(), reasoning.clone());
    named
}

fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

fn describe(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    }
}

fn render_error(error: minijinja::Error) -> Error {
    let line = error.line().unwrap_or(0);
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        if let Some(Refusal(message)) = current.downcast_ref() {
            return Error::Refused { line, message: message.clone() };
        }
        cause = current.source();
    }
    Error::Render { line, what: describe(&error) }
}

/// A buffer that takes no more than [`OUTPUT_LIMIT`] bytes.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_LIMIT {
            return Err(io::Error::other("the template prints more than 64 MiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
