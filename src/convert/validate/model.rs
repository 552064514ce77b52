//! Rules about the configuration and the weights.

use super::Outcome;
use crate::model::{Model, Source};
use crate::quant::finite_scales;
use std::sync::{Mutex, PoisonError};

/// Problems of one rule that are listed one by one.
const LISTED: usize = 8;

pub(super) fn config(source: &Source) -> Outcome {
    Outcome::of_result(source.config())
}

pub(super) fn stated(source: &Source) -> Outcome {
    let Ok((_, defaults)) = source.config() else { return Outcome::NotReached };
    let matters = |key: &str| ["freq_base", "rope_theta", "eps"].iter().any(|part| key.contains(part));
    let taken = defaults.iter().filter(|default| matters(&default.key));
    Outcome::of(
        taken
            .map(|d| format!("{} is not stated: readers take {} or another value", d.key, d.value))
            .collect(),
    )
}

pub(super) fn tensors(source: &Source) -> Outcome {
    if source.config().is_err() {
        return Outcome::NotReached;
    }
    match Model::from_source(source.clone()) {
        Ok(model) => Outcome::of(model.weights.warnings().to_vec()),
        Err(error) => Outcome::Failed(vec![error.to_string()]),
    }
}

/// Looks at every byte of the file, on all cores.
pub(super) fn finite(source: &Source) -> Outcome {
    let tensors = Mutex::new(source.tensors().iter().enumerate());
    let work = || {
        let mut found = Vec::new();
        loop {
            let next = tensors.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((at, tensor)) = next else { return found };
            // A type that nothing here decodes is the business of another rule.
            if let Err(error @ crate::quant::Error::NotFinite { .. }) =
                finite_scales(tensor.tensor_type, tensor.bytes())
            {
                found.push((at, format!("{}: {error}", tensor.name)));
            }
            tensor.map.release(tensor.range.clone());
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut found = std::thread::scope(|scope| {
        let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
        let others: Vec<_> = (1..threads).filter_map(spawn).collect();
        let mut found = work();
        for other in others {
            found.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        found
    });
    found.sort();
    listed(found.into_iter().map(|(_, problem)| problem))
}

/// The first problems, and how many more there are.
pub(super) fn listed(problems: impl Iterator<Item = String>) -> Outcome {
    let mut problems: Vec<String> = problems.collect();
    let more = problems.len().saturating_sub(LISTED);
    if more > 0 {
        problems.truncate(LISTED);
        problems.push(format!("and {more} more"));
    }
    Outcome::of(problems)
}
