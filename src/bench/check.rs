//! Is what was timed also right? The logits of a few tokens are held against a slower, trusted backend.

use super::Error;
use super::subject::Subject;
use crate::compare::Random;
use crate::compare::metric::nmse;
use crate::compare::model_checks::affordable_tokens;
use crate::engine::{BackendChoice, Device, Settings};

/// What a result is held against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Oracle {
    /// The scalar twins: the specification, slow.
    #[default]
    Twin,
    /// The fast CPU path, itself held to the twins by the tests.
    Cpu,
    /// Nothing but the other repetitions; the record says so.
    None,
}

/// NMSE of logits that is far above what any order of sums explains, and far below what any fault leaves.
const LIMIT: f64 = 1e-3;

/// Compares the logits of a few random tokens; says what was done.
///
/// # Errors
/// [`Error::WrongResult`] where they differ; a device that fails.
pub fn check(
    subject: &Subject,
    device: &mut Device,
    settings: &Settings,
    oracle: Oracle,
) -> Result<String, Error> {
    let (choice, name) = match oracle {
        Oracle::None => return Ok("repetitions only".to_owned()),
        Oracle::Twin => (BackendChoice::Twin, "twin"),
        Oracle::Cpu => (BackendChoice::Cpu, "cpu"),
    };
    if device.describe().0 == name {
        return Ok(format!("repetitions only: this is the {name} itself"));
    }
    let count = affordable_tokens(subject.model_size).min(device.context()).min(8);
    let mut random = Random::new(11);
    let vocab = device.decoder().shape().vocab_size;
    let tokens: Vec<u32> = (0..count).map(|_| random.below(vocab) as u32).collect();
    let short = Settings { backend: choice, context: Some(count), slots: 1, ..settings.clone() };
    let (mut truth, _) = subject.start(&short)?;
    let error = nmse(&device.logits(&tokens, true)?, &truth.logits(&tokens, true)?);
    if error > LIMIT || error.is_nan() {
        let (found, _) = device.describe();
        return Err(Error::WrongResult(format!(
            "logits of {found} are {error:.1e} (NMSE) from {name} over {count} tokens, the limit is {LIMIT:e}; \
             `aprgpu compare` finds the step"
        )));
    }
    Ok(format!("{name}, {count} tokens, NMSE {error:.1e}"))
}
