//! Time, in nanoseconds, warm-up apart.

use std::time::Instant;

/// A stopwatch.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Nanoseconds since the start or the last lap.
    pub fn lap(&mut self) -> u64 {
        let now = Instant::now();
        let elapsed = now.duration_since(self.0);
        self.0 = now;
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Runs `work` a few times without counting, then at least `reps` times and until `seconds` have gone by (but at most a
/// hundred thousand times); the nanoseconds of each counted run. `work` gets the number of its run.
///
/// # Errors
/// Whatever `work` fails with.
pub fn measure<E>(
    (warmup, reps, seconds): (usize, usize, f64),
    mut work: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<f64>, E> {
    for run in 0..warmup {
        work(run)?;
    }
    let all = Instant::now();
    let mut samples = Vec::new();
    while samples.len() < reps || samples.len() < 100_000 && all.elapsed().as_secs_f64() < seconds {
        let mut clock = Clock::start();
        work(warmup + samples.len())?;
        samples.push(clock.lap() as f64);
    }
    Ok(samples)
}
