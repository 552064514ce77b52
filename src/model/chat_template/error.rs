//! What can go wrong with a chat template.

/// A chat template that is missing, cannot be read, or refuses the conversation. Lines count from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model came without a chat template and its vocabulary is not made for ChatML.
    #[error(
        "the model has no chat template, and ChatML cannot be used because its vocabulary lacks <|im_start|> or <|im_end|>; use a raw prompt instead of a chat, or a template of your own"
    )]
    NoTemplate,
    /// Not a template.
    #[error("chat template, line {line}: {what}")]
    Syntax {
        /// Line of the template.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// The template called `raise_exception`: it does not take this conversation.
    #[error("the chat template refuses the conversation (line {line}): {message}")]
    Refused {
        /// Line of the template.
        line: usize,
        /// The template's own words.
        message: String,
    },
    /// The template failed on this conversation.
    #[error("chat template, line {line}: {what}")]
    Render {
        /// Line of the template.
        line: usize,
        /// What went wrong there.
        what: String,
    },
    /// A message is no JSON object.
    #[error("message {index} is not an object with \"role\" and \"content\", but {found}")]
    Message {
        /// Position in the conversation, from 0.
        index: usize,
        /// The kind of JSON value found.
        found: &'static str,
    },
}
