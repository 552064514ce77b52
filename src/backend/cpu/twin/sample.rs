//! `Sample`: the next token from a row of logits.
//!
//! Candidates are all tokens; each stage takes some away: repetition penalty, top-k, top-p, min-p. Probabilities of the
//! rest, after temperature, are laid end to end *in the order of their ids* and one uniform number points at the
//! token. The order of ids, not of likelihood, lets a GPU do it without a sort where nothing was cut. A random number
//! belongs to (seed, sequence, position), not to a stream: a batch, a replay or a retry draws the same.

use crate::backend::Sampling;
use std::cmp::Ordering;

/// Memory that sampling works in: kept, so that a token costs no allocation.
#[derive(Clone, Debug, Default)]
pub struct SampleScratch {
    /// Tokens that are penalized, each once.
    window: Vec<u32>,
    penalized: Vec<f32>,
    /// The likeliest logits.
    kept: Vec<f32>,
}

/// The next token. `logits` [vocab_size] must be finite; `recent` is the text so far, oldest first; `position` is the
/// position that the new token will take.
pub fn sample(logits: &[f32], sampling: &Sampling, recent: &[u32], position: u32) -> u32 {
    sample_in(&mut SampleScratch::default(), logits, sampling, recent, position)
}

/// [`sample`] in memory that is there already.
pub fn sample_in(
    scratch: &mut SampleScratch,
    logits: &[f32],
    sampling: &Sampling,
    recent: &[u32],
    position: u32,
) -> u32 {
    let SampleScratch { window, penalized, kept } = scratch;
    let logits = penalize(logits, sampling, recent, (window, penalized));
    if sampling.temperature <= 0.0 || sampling.top_k == 1 {
        return argmax(logits);
    }
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let floor = cut(logits, sampling, max, kept);
    let weight = |logit: f32| if logit >= floor { ((logit - max) / sampling.temperature).exp() } else { 0.0 };
    let total: f64 = logits.iter().map(|&logit| f64::from(weight(logit))).sum();
    let target = f64::from(uniform(sampling.seed, sampling.sequence, position)) * total;
    let mut sum = 0.0f64;
    let mut last = 0;
    for (id, &logit) in logits.iter().enumerate() {
        let w = weight(logit);
        if w > 0.0 {
            sum += f64::from(w);
            last = id;
            if sum > target {
                break;
            }
        }
    }
    last as u32
}

/// The index of the largest value; the lower one of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = 0;
    let mut max = f32::NEG_INFINITY;
    for (id, &logit) in logits.iter().enumerate() {
        if logit > max {
            max = logit;
            best = id;
        }
    }
    best as u32
}

/// Logits with recent tokens made less likely: a copy where anything changes.
fn penalize<'a>(
    logits: &'a [f32],
    sampling: &Sampling,
    recent: &[u32],
    (window, penalized): (&mut Vec<u32>, &'a mut Vec<f32>),
) -> &'a [f32] {
    if sampling.repeat_penalty == 1.0 || sampling.repeat_window == 0 || recent.is_empty() {
        return logits;
    }
    window.clear();
    window.extend_from_slice(&recent[recent.len().saturating_sub(sampling.repeat_window)..]);
    window.sort_unstable();
    window.dedup();
    penalized.clear();
    penalized.extend_from_slice(logits);
    for &mut id in window {
        if let Some(logit) = penalized.get_mut(id as usize) {
            *logit = if *logit > 0.0 {
                *logit / sampling.repeat_penalty
            } else {
                *logit * sampling.repeat_penalty
            };
        }
    }
    penalized
}

/// The smallest logit that survives top-k, top-p and min-p. Equal logits live or die together.
fn cut(logits: &[f32], sampling: &Sampling, max: f32, kept: &mut Vec<f32>) -> f32 {
    let mut floor = f32::NEG_INFINITY;
    kept.clear();
    if sampling.top_k > 0 && sampling.top_k < logits.len() {
        floor = keep_largest(logits, sampling.top_k, kept);
    }
    if sampling.top_p < 1.0 {
        if kept.is_empty() {
            kept.extend_from_slice(logits);
        }
        kept.sort_unstable_by(descending);
        let total: f64 = kept.iter().map(|&logit| f64::from((logit - max).exp())).sum();
        let mut sum = 0.0f64;
        for &logit in kept.iter() {
            sum += f64::from((logit - max).exp());
            floor = logit;
            if sum >= f64::from(sampling.top_p) * total {
                break;
            }
        }
    }
    if sampling.min_p > 0.0 {
        floor = floor.max(max + sampling.min_p.min(1.0).ln());
    }
    floor
}

fn descending(a: &f32, b: &f32) -> Ordering {
    b.total_cmp(a)
}

/// The `k` largest logits, in any order, and the smallest of them. Most logits are turned away by one comparison: only
/// what is above the smallest of the best so far is kept, and sorted out when enough has come together.
fn keep_largest(logits: &[f32], k: usize, kept: &mut Vec<f32>) -> f32 {
    let most = (4 * k).max(256);
    let mut floor = f32::NEG_INFINITY;
    let sort_out = |kept: &mut Vec<f32>| {
        let (_, &mut smallest, _) = kept.select_nth_unstable_by(k - 1, descending);
        kept.truncate(k);
        smallest
    };
    for chunk in logits.chunks(32) {
        // The maximum of a chunk takes a few instructions; a branch for each logit would take hundreds.
        if kept.len() >= k && chunk.iter().fold(f32::NEG_INFINITY, |max, &x| max.max(x)) <= floor {
            continue;
        }
        kept.extend(chunk.iter().filter(|&&logit| logit > floor));
        if kept.len() >= most {
            floor = sort_out(kept);
        }
    }
    sort_out(kept)
}

/// A number in [0, 1) with 24 random bits, from one round of [`philox`].
pub fn uniform(seed: u64, sequence: u32, position: u32) -> f32 {
    let key = [seed as u32, (seed >> 32) as u32];
    let [bits, ..] = philox([position, sequence, 0, 0], key);
    (bits >> 8) as f32 / (1u32 << 24) as f32
}

/// Philox4x32-10: a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
pub fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = 0xD251_1F53 * u64::from(counter[0]);
        let b = 0xCD9E_8D57 * u64::from(counter[2]);
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn philox_gives_the_published_numbers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    fn warm() -> Sampling {
        Sampling { temperature: 1.0, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_lower_id_of_equals() {
        assert_eq!(sample(&[1.0, 3.0, 3.0, 2.0], &Sampling::default(), &[], 0), 1);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let probabilities = [0.5f32, 0.2, 0.2, 0.1];
        let logits = probabilities.map(f32::ln);
        let mut counts = [0usize; 4];
        for position in 0..20_000 {
            counts[sample(&logits, &warm(), &[], position) as usize] += 1;
        }
        for (count, p) in counts.into_iter().zip(probabilities) {
            let share = count as f32 / 20_000.0;
            assert!((share - p).abs() < 0.015, "{counts:?}");
        }
    }

    fn reachable(logits: &[f32], sampling: &Sampling) -> Vec<u32> {
        let mut seen: Vec<u32> = (0..2_000).map(|position| sample(logits, sampling, &[], position)).collect();
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    #[test]
    fn each_cut_takes_the_unlikely_away() {
        let logits = [0.1f32, 0.4, 0.2, 0.3].map(f32::ln);
        assert_eq!(reachable(&logits, &warm()), [0, 1, 2, 3]);
        assert_eq!(reachable(&logits, &Sampling { top_k: 2, ..warm() }), [1, 3]);
        assert_eq!(reachable(&logits, &Sampling { top_p: 0.69, ..warm() }), [1, 3]);
        assert_eq!(reachable(&logits, &Sampling { top_p: 0.71, ..warm() }), [1, 2, 3]);
        assert_eq!(reachable(&logits, &Sampling { min_p: 0.6, ..warm() }), [1, 3]);
        assert_eq!(reachable(&logits, &Sampling { top_k: 3, top_p: 0.7, ..warm() }), [1, 3]);
    }

    #[test]
    fn the_largest_are_those_of_a_sort() {
        let scrambled = |i: usize| ((i * 7919) % 5003) as f32 * 0.25 - 300.0;
        let orders: [Vec<f32>; 4] = [
            (0..5003).map(scrambled).collect(),
            (0..5003).map(|i| i as f32).collect(),
            (0..5003).map(|i| -(i as f32)).collect(),
            (0..5003).map(|i| (i / 1000) as f32).collect(),
        ];
        for logits in orders {
            let mut sorted = logits.clone();
            sorted.sort_unstable_by(descending);
            for k in [1, 2, 40, 255, 256, 2000, 5002] {
                let mut kept = vec![];
                assert_eq!(keep_largest(&logits, k, &mut kept), sorted[k - 1], "{k}");
                kept.sort_unstable_by(descending);
                assert_eq!(kept, sorted[..k], "{k}");
            }
        }
    }

    #[test]
    fn the_penalty_looks_at_the_window_only() {
        let penalty = Sampling { repeat_penalty: 2.0, repeat_window: 2, ..Sampling::default() };
        assert_eq!(sample(&[2.0, 1.9, -1.0], &penalty, &[0, 2, 2], 0), 0);
        assert_eq!(sample(&[2.0, 1.9, -1.0], &penalty, &[2, 0, 2], 0), 1);
    }

    #[test]
    fn seed_sequence_and_position_each_change_the_draw() {
        let base = uniform(1, 2, 3);
        assert_eq!(base, uniform(1, 2, 3));
        for other in [uniform(2, 2, 3), uniform(1, 3, 3), uniform(1, 2, 4), uniform(1 << 32 | 1, 2, 3)] {
            assert_ne!(base, other);
        }
    }
}
