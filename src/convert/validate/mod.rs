//! Rules that a model file must hold: is it whole and sound, does it say all that a forward pass needs, does its tokenizer
//! go with it, and will llama.cpp load it, or the GGUF file that it becomes?
//!
//! A rule has an id, a sentence, and a check that returns what is wrong. Rules come in stages: where the container cannot be
//! read nothing else can be looked at, and where the model cannot be put into GGUF's terms llama.cpp's rules cannot be
//! asked. What could not be looked at is listed as such and is no success.

mod llama;
mod model;
mod tokenizer;

use super::plan::Plan;
use super::{Options, Report};
use crate::format::gguf::Metadata;
use crate::format::{Error as FormatError, TensorSpec};
use crate::model::{Error, Source};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// One thing that must hold.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name, for programs and for talking about it.
    pub id: &'static str,
    /// What it demands.
    pub demands: &'static str,
    check: Check,
}

#[derive(Clone, Copy, Debug)]
enum Check {
    /// Decided by opening the file.
    Opening,
    /// Looks at the open file.
    Source(fn(&Source) -> Outcome),
    /// Looks at the GGUF file that the source is, or would become.
    Gguf(fn(&Planned) -> Outcome),
    /// Decided by making that file's plan.
    Planning,
}

/// What came of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "problems")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not; each string is a problem.
    Failed(Vec<String>),
    /// It is about something that this file does not have.
    NotApplicable,
    /// An earlier failure left nothing to look at.
    NotReached,
}

impl Outcome {
    /// Passed where there are no problems.
    fn of(problems: Vec<String>) -> Self {
        if problems.is_empty() { Self::Passed } else { Self::Failed(problems) }
    }

    fn of_result<T, E: std::fmt::Display>(result: Result<T, E>) -> Self {
        result.map_or_else(|error| Self::Failed(vec![error.to_string()]), |_| Self::Passed)
    }
}

/// A rule and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The rule's id.
    pub rule: &'static str,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// All rules over one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Validation {
    /// The path that was opened.
    pub file: PathBuf,
    /// The format's name, where it could be read.
    pub format: Option<&'static str>,
    /// One per rule, in the order of [`RULES`].
    pub findings: Vec<Finding>,
}

impl Validation {
    /// Whether no rule failed, and all could be looked at.
    pub fn passed(&self) -> bool {
        !self.findings.iter().any(|f| matches!(f.outcome, Outcome::Failed(_) | Outcome::NotReached))
    }

    /// The rules that failed.
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = |f: &&Finding| matches!(f.outcome, Outcome::Failed(_));
        self.findings.iter().filter(failed).map(|f| f.rule).collect()
    }
}

macro_rules! rules {
    ($($id:literal $check:expr, $demands:literal;)*) => {
        /// All rules, in the order in which they are looked at.
        pub const RULES: &[Rule] = &[$(Rule { id: $id, demands: $demands, check: $check }),*];
    };
}

rules! {
    "container" Check::Opening,
        "the file's structure is whole: magic, version, counts, names, offsets, sizes; nothing overlaps or is left over";
    "checksum" Check::Opening,
        "the checksums of an APR file are those of its bytes";
    "config" Check::Source(model::config),
        "the architecture is known, and every key that shapes the forward pass is there and makes sense";
    "rope-and-epsilon-stated" Check::Source(model::stated),
        "the RoPE base and the epsilon of the norms are stated, not left to each reader's default";
    "tensors" Check::Source(model::tensors),
        "every tensor that the model needs is there in the right shape and a type with kernels, and no other";
    "finite" Check::Source(model::finite),
        "every scale, minimum and float is finite";
    "tokenizer" Check::Source(tokenizer::builds),
        "there is a tokenizer, and it can be built";
    "tokenizer-size" Check::Source(tokenizer::size),
        "the vocabulary has no more tokens than the embedding has rows";
    "tokenizer-distinct" Check::Source(tokenizer::distinct),
        "no two tokens have the same text";
    "tokenizer-merges" Check::Source(tokenizer::merges),
        "both sides of every merge and what they make are tokens";
    "tokenizer-bytes" Check::Source(tokenizer::bytes),
        "every byte has a token, so that any text can be written";
    "tokenizer-end" Check::Source(tokenizer::end),
        "ids of special tokens are ids of tokens, and one of them ends a text";
    "chat-template" Check::Source(tokenizer::chat_template),
        "the chat template, where there is one, compiles and renders a chat";
    "gguf-export" Check::Planning,
        "the model can be put into a GGUF file";
    "llama.cpp-keys" Check::Gguf(llama::keys),
        "llama.cpp finds the keys that it cannot do without, in the very types that it demands";
    "llama.cpp-tensors" Check::Gguf(llama::tensors),
        "llama.cpp finds each of its tensors in the right shape, and none that it does not know";
    "llama.cpp-vectors" Check::Gguf(llama::vectors),
        "norms and biases are F32";
    "llama.cpp-rope" Check::Gguf(llama::rope),
        "RoPE's dimensions, scaling and frequency factors are ones that llama.cpp knows";
    "llama.cpp-vocabulary" Check::Gguf(llama::vocabulary),
        "the vocabulary is of a known kind, with as many distinct tokens as the embedding has rows";
    "llama.cpp-merges" Check::Gguf(llama::merges),
        "byte-level BPE has merges, each of two parts";
    "llama.cpp-pre" Check::Gguf(llama::pre),
        "byte-level BPE names a pre-tokenizer that llama.cpp knows";
    "llama.cpp-token-types" Check::Gguf(llama::token_types),
        "token types are i32, one per token";
    "llama.cpp-scores" Check::Gguf(llama::scores),
        "a SentencePiece vocabulary has a finite score per token";
    "llama.cpp-special-ids" Check::Gguf(llama::special_ids),
        "special ids are u32 within the vocabulary, and the end of a text is stated";
}

/// A GGUF file in its parts.
#[derive(Debug)]
pub(super) struct Planned {
    architecture: String,
    metadata: Metadata,
    specs: Vec<TensorSpec>,
}

impl Planned {
    fn of(source: &Source) -> Result<Self, Error> {
        let plan = Plan::of(source, &Options::default(), &mut Report::default())?;
        let specs = plan.outputs.into_iter().map(|output| output.spec).collect();
        let metadata = Metadata::new(&plan.path, plan.metadata)?;
        let architecture = metadata.string("general.architecture")?.unwrap_or_default().to_owned();
        Ok(Self { architecture, metadata, specs })
    }
}

/// The type that llama.cpp demands of a key, if it is one that it reads.
pub(super) fn gguf_type(architecture: &str, key: &str) -> Option<&'static str> {
    llama::type_of(architecture, key)
}

/// Holds the file or folder at `path` to every rule.
///
/// # Errors
/// There is no such file, or the system refuses to read it. Whatever is wrong with its content is a finding.
pub fn validate(path: &Path) -> Result<Validation, Error> {
    let source = match Source::open(path) {
        Ok(source) => source,
        Err(Error::Format(error @ (FormatError::Missing { .. } | FormatError::Io { .. })))
            if !path.is_dir() =>
        {
            return Err(error.into());
        }
        Err(error) => return Ok(unreadable(path, &error)),
    };
    let planned = Planned::of(&source);
    let is_apr = matches!(source, Source::Apr(_));
    let is_gguf = matches!(source, Source::Gguf(_));
    let outcome = |rule: &Rule| match rule.check {
        Check::Opening if rule.id == "checksum" && !is_apr => Outcome::NotApplicable,
        Check::Opening => Outcome::Passed,
        Check::Source(check) => check(&source),
        Check::Planning if is_gguf && planned.is_ok() => Outcome::NotApplicable,
        Check::Planning => Outcome::of_result(planned.as_ref()),
        Check::Gguf(check) => planned.as_ref().map_or(Outcome::NotReached, check),
    };
    let findings = RULES.iter().map(|rule| Finding { rule: rule.id, outcome: outcome(rule) }).collect();
    Ok(Validation { file: path.to_owned(), format: Some(source.format()), findings })
}

/// What is left to say of a file that cannot be opened.
fn unreadable(path: &Path, error: &Error) -> Validation {
    let failed = match error {
        Error::Format(FormatError::Checksum { .. }) => "checksum",
        _ => "container",
    };
    let outcome = |rule: &Rule| match rule.id {
        id if id == failed => Outcome::Failed(vec![error.to_string()]),
        _ => Outcome::NotReached,
    };
    let findings = RULES.iter().map(|rule| Finding { rule: rule.id, outcome: outcome(rule) }).collect();
    Validation { file: path.to_owned(), format: None, findings }
}
