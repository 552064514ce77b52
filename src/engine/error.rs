//! Why no tokens come out.

use crate::{backend, model, plan};

/// Anything that can go wrong between a model and its tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model does not fit its plan.
    #[error("{0}")]
    Plan(#[from] plan::PlanError),
    /// The backend failed.
    #[error("{0}")]
    Backend(#[from] backend::Error),
    /// The model's tokenizer or template failed.
    #[error("{0}")]
    Model(#[from] model::Error),
    /// The text is longer than the context.
    #[error(
        "the prompt has {tokens} tokens, the context has room for {context}; shorten the prompt or raise --ctx \
         (the model was trained for {trained})"
    )]
    ContextFull {
        /// Tokens of the prompt.
        tokens: usize,
        /// Positions of the cache.
        context: usize,
        /// Positions that the model was trained for.
        trained: usize,
    },
    /// Something was asked for that makes no sense.
    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// The program's exit code, see `aprgpu --help`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Model(error) => error.exit_code(),
            Self::Plan(_) => 6,
            Self::Backend(error) => match error {
                backend::Error::Unavailable { .. } => 14,
                backend::Error::OutOfMemory { .. } => 6,
                backend::Error::BadWeight { .. } => 5,
                _ => 8,
            },
            Self::ContextFull { .. } => 8,
        }
    }
}
