//! The text side of a model: its tokenizer and chat template, from whatever file it came in.

use super::chat_template::{self, ChatTemplate};
use super::tokenizer::{Tokenizer, TokenizerSpec};
use super::{Error, Model, Source};

impl Source {
    /// The tokenizer in the file.
    ///
    /// # Errors
    /// There is none, or it contradicts itself.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let named = |source| Error::Tokenizer { path: self.path().to_owned(), source };
        Tokenizer::new(self.tokenizer_spec()?).map_err(named)
    }

    /// The vocabulary in the file, as data.
    ///
    /// # Errors
    /// There is none, or it is of a kind that is not known.
    pub fn tokenizer_spec(&self) -> Result<TokenizerSpec, Error> {
        let spec = match self {
            Self::Gguf(gguf) => TokenizerSpec::from_gguf(gguf.typed_metadata()),
            Self::Apr(apr) => TokenizerSpec::from_apr(apr),
            Self::HuggingFace(folder) => TokenizerSpec::from_hugging_face(folder.path()),
        };
        spec.map_err(|source| Error::Tokenizer { path: self.path().to_owned(), source })
    }

    /// The text of the chat template in the file, if there is one.
    ///
    /// # Errors
    /// It is no string, or its file cannot be read.
    pub fn chat_template_text(&self) -> Result<Option<String>, Error> {
        Ok(match self {
            Self::Gguf(gguf) => chat_template::source::from_gguf(gguf.typed_metadata()),
            Self::Apr(apr) => chat_template::source::from_apr(apr),
            Self::HuggingFace(folder) => chat_template::source::from_hugging_face(folder.path()),
        }?)
    }

    /// The chat template in the file, or ChatML where the vocabulary has its tokens; [`ChatTemplate::origin`] tells.
    ///
    /// # Errors
    /// There is neither, or the template cannot be compiled.
    pub fn chat_template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate, Error> {
        let named = |source| Error::ChatTemplate { path: self.path().to_owned(), source };
        ChatTemplate::for_model(self.chat_template_text()?.as_deref(), tokenizer).map_err(named)
    }
}

impl Model {
    /// See [`Source::tokenizer`]; its vocabulary must not be larger than the embedding.
    ///
    /// # Errors
    /// As there.
    pub fn tokenizer(&self) -> Result<Tokenizer, Error> {
        let tokenizer = self.source.tokenizer()?;
        let (tokens, rows) = (tokenizer.vocab_size(), self.config.vocab_size);
        if tokens > rows {
            let what = format!("{tokens} tokens, but the embedding has only {rows} rows");
            return Err(Error::invalid(&self.path, "the vocabulary", what));
        }
        Ok(tokenizer)
    }

    /// See [`Source::chat_template`].
    ///
    /// # Errors
    /// As there.
    pub fn chat_template(&self, tokenizer: &Tokenizer) -> Result<ChatTemplate, Error> {
        self.source.chat_template(tokenizer)
    }
}
