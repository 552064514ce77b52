//! What an importance matrix (one weight per column: how much the model's activations there matter) does to the weights
//! of a search for scales.

use super::Error;

/// The weight of each value of a row in Q4_0, Q4_1, Q5_0 and Q5_1: its column's importance times
/// `sqrt(mean of the row's squares + its own square)`.
pub(crate) fn weigh(x: &[f32], importance: &[f32]) -> Vec<f32> {
    let sigma2 = x.iter().fold(0.0, |sum, x| sum + x * x) / x.len() as f32;
    x.iter().zip(importance).map(|(x, importance)| importance * (sigma2 + x * x).sqrt()).collect()
}

/// Checks that there is one weight per column and that each is finite and not negative.
pub(crate) fn check(importance: &[f32], cols: usize) -> Result<(), Error> {
    if importance.len() != cols {
        return Err(Error::ImportanceLength { expected: cols, found: importance.len() });
    }
    match importance.iter().position(|w| !(w.is_finite() && *w >= 0.0)) {
        Some(index) => Err(Error::ImportanceValue { index, value: importance[index] }),
        None => Ok(()),
    }
}
