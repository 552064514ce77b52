//! Is a model file ready to be published? All rules of [`validate`], then what only running shows: the tokenizer gives text
//! back, a forward pass gives numbers that tell tokens apart, and decoding token by token agrees with the scalar twin.

use super::Error;
use super::metric::{nmse, top_token};
use crate::backend::Sampling;
use crate::convert::validate::{Validation, validate};
use crate::engine::{self, BackendChoice, Device, Scheduler, Settings};
use crate::model::{Model, Source, Tokenizer};
use crate::plan::Activations;
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;

/// Tokens of the prompt that is run: the twin is slow.
const PROMPT_TOKENS: usize = 12;
/// Tokens that are decoded behind it.
const DECODED: usize = 8;
/// Positions that both devices have room for.
const CONTEXT: usize = 64;
/// How far below the twin's best logit a decoded token's may lie, in standard deviations of its logits: two that are this
/// close may change places by rounding alone.
const TIE: f64 = 0.02;

/// Texts that must come back from the tokenizer as they went in.
const TEXTS: &[&str] = &[
    "The quick brown fox jumps over the lazy dog.",
    "def add(a, b):\n    return a + b\n\n\n# done",
    "  two  spaces,\ta tab, 1234567890 and 3.14",
    "na\u{ef}ve caf\u{e9} \u{fc}ber \u{e6}sir",
    "\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442} \u{4f60}\u{597d} \u{645}\u{631}\u{62d}\u{628}\u{627} \u{1f980}\u{2615}",
];

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trial {
    /// What was tried.
    pub trial: &'static str,
    /// Whether it went well.
    pub passed: bool,
    /// What was found.
    pub found: String,
}

/// A model, tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Preflight {
    /// Every rule.
    pub validation: Validation,
    /// What ran: nothing, where a rule failed already.
    pub trials: Vec<Trial>,
}

impl Preflight {
    /// Whether the model is ready to be published.
    pub fn is_ready(&self) -> bool {
        self.validation.passed() && !self.trials.is_empty() && self.trials.iter().all(|trial| trial.passed)
    }
}

/// Holds the model at `path` to every rule and, if it holds them, runs it on the backend of `settings` and on the twin.
///
/// # Errors
/// There is no such file, or the backend cannot be set up. What is wrong with the model is in the result.
pub fn preflight(path: &Path, settings: &Settings) -> Result<Preflight, Error> {
    let validation = validate(path)?;
    if !validation.passed() {
        return Ok(Preflight { validation, trials: Vec::new() });
    }
    let model = Arc::new(Model::open(path)?);
    let tokenizer = model.tokenizer()?;
    let mut trials = vec![card(&model.source)?, round_trip(&tokenizer)];
    let settings = Settings { context: Some(CONTEXT), slots: 1, ..settings.clone() };
    let (found, report) = engine::load(&model, &settings, &mut |_, _| {})?;
    let twin = Settings { backend: BackendChoice::Twin, ..settings };
    let (mut twin, _) = engine::load(&model, &twin, &mut |_, _| {})?;
    let mut prompt = tokenizer.encode(TEXTS.first().copied().unwrap_or_default(), true, true);
    prompt.truncate(PROMPT_TOKENS);
    let mut scheduler = Scheduler::new(found);
    trials.push(forward(scheduler.device_mut(), &prompt, &report.backend)?);
    trials.push(decode(&mut scheduler, &mut twin, &prompt)?);
    Ok(Preflight { validation, trials })
}

/// A name and a licence: nobody may use a model without the second.
fn card(source: &Source) -> Result<Trial, Error> {
    let stated = |text: Option<&str>| text.is_some_and(|text| !text.trim().is_empty());
    let (name, license) = match source {
        Source::Gguf(gguf) => (stated(gguf.string("general.name")?), stated(gguf.string("general.license")?)),
        Source::Apr(apr) => (stated(apr.string("name")?), stated(apr.string("license")?)),
        Source::HuggingFace(folder) => {
            let file = |name: &str| folder.file(name).is_some();
            (true, ["LICENSE", "LICENSE.txt", "LICENSE.md", "README.md"].into_iter().any(file))
        }
    };
    let (licence, remedy) = match source {
        Source::HuggingFace(_) => ("a LICENSE file or README.md", ""),
        Source::Gguf(_) | Source::Apr(_) => ("a licence", "; `aprgpu stamp` adds it"),
    };
    let missing: Vec<_> = [(name, "a name"), (license, licence)]
        .into_iter()
        .filter_map(|(there, what)| (!there).then_some(what))
        .collect();
    let found = if missing.is_empty() {
        "name and licence are stated".to_owned()
    } else {
        format!("{} is missing{remedy}", missing.join(" and "))
    };
    Ok(Trial { trial: "model card", passed: missing.is_empty(), found })
}

fn round_trip(tokenizer: &Tokenizer) -> Trial {
    let trip = |text: &&str| {
        let ids = tokenizer.encode(text, false, false);
        let back = tokenizer.decode(&ids);
        (back != **text).then(|| format!("{text:?} came back as {back:?}"))
    };
    let broken: Vec<String> = TEXTS.iter().filter_map(trip).collect();
    let found = match broken.as_slice() {
        [] => format!("{} texts came back", TEXTS.len()),
        broken => broken.join("; "),
    };
    Trial { trial: "tokenizer round trip", passed: broken.is_empty(), found }
}

fn spread(logits: &[f32]) -> f64 {
    let values: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    super::metric::mean_and_deviation(&values).1
}

fn forward(device: &mut Device, prompt: &[u32], backend: &str) -> Result<Trial, Error> {
    let trial = |passed, found| Trial { trial: "forward pass", passed, found };
    let logits = match device.logits(prompt, false) {
        Ok(logits) => logits,
        Err(engine::Error::Backend(error @ crate::backend::Error::NotFinite { .. })) => {
            return Ok(trial(false, error.to_string()));
        }
        Err(error) => return Err(error.into()),
    };
    let deviation = spread(&logits);
    let passed = deviation.is_finite() && deviation > 0.0;
    let says = if passed { "tell tokens apart" } else { "are all the same" };
    let found =
        format!("{} tokens on {backend}: logits {says}, standard deviation {deviation:.3}", prompt.len());
    Ok(trial(passed, found))
}

/// Decodes token by token and asks the twin for the logits of the same text.
fn decode(scheduler: &mut Scheduler, twin: &mut Device, prompt: &[u32]) -> Result<Trial, Error> {
    let Some(id) = scheduler.open() else {
        return Err(Error::Usage("no slot is free".to_owned()));
    };
    scheduler.start(id, prompt, &Sampling::default())?;
    while scheduler.tokens(id).len() < prompt.len() + DECODED {
        scheduler.step()?;
    }
    let text = scheduler.tokens(id).to_vec();
    scheduler.close(id);
    let seen = text.get(..text.len() - 1).unwrap_or_default();
    let (truth, found) = (twin.logits(seen, true)?, scheduler.device_mut().logits(seen, true)?);
    let vocab = twin.decoder().shape().vocab_size;
    let limit = if twin.numerics().activations == Activations::F32 { 1e-6 } else { 1e-3 };
    let rows = truth.chunks_exact(vocab).zip(found.chunks_exact(vocab));
    let worst = rows.map(|(truth, found)| nmse(found, truth)).fold(0.0, f64::max);
    let is_best = |position: usize, row: &[f32]| {
        let chosen = text.get(position + 1).and_then(|&token| row.get(token as usize)).copied();
        let best = row.get(top_token(row) as usize).copied().unwrap_or(f32::NAN);
        chosen.is_some_and(|chosen| f64::from(best) - f64::from(chosen) <= TIE * spread(row))
    };
    let decoded = truth.chunks_exact(vocab).enumerate().skip(prompt.len() - 1);
    let agreed = decoded.filter(|(position, row)| is_best(*position, row)).count();
    let passed = agreed == DECODED && worst <= limit;
    let found = format!(
        "{agreed} of {DECODED} decoded tokens are the twin's, logits differ by NMSE {worst:.1e} at most ({limit:.0e} allowed)"
    );
    Ok(Trial { trial: "decode against the twin", passed, found })
}
