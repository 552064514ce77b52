//! How a next token is chosen: the same on every backend, given equal logits.

/// Parameters of the `Sample` op, for one sequence.
///
/// Order: repetition penalty over the last `repeat_window` tokens, then top-k, top-p, min-p, temperature, then one
/// draw by Philox4x32-10 keyed by (`seed`, `sequence`, position). A temperature of 0 takes the largest logit; ties go
/// to the lower id.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of most likely tokens whose probabilities add up to this; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this likely, relative to the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Positive logits of recent tokens are divided by this, negative ones multiplied; 1 changes nothing.
    pub repeat_penalty: f32,
    /// How many recent tokens the penalty looks at.
    pub repeat_window: usize,
    /// Key of the random numbers.
    pub seed: u64,
    /// Distinguishes sequences that share a seed.
    pub sequence: u32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repeat_penalty: 1.0,
            repeat_window: 64,
            seed: 0,
            sequence: 0,
        }
    }
}
