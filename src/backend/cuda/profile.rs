//! How long each kernel takes, by events before and after it.
//!
//! Events keep kernels from overlapping, and a profiled pass is not a captured one: it is slower than the sum of a plain
//! one's parts.

use super::driver::{Context, DriverError, Event, Stream};
use crate::backend::KernelTime;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which launch of which graph.
type Place = (usize, usize);

/// Events under way, and what has been found so far.
#[derive(Default)]
pub(super) struct Profile {
    spare: Vec<(Event, Event)>,
    marks: Vec<(Place, Event, Event)>,
    /// Runs and nanoseconds by graph and launch.
    found: BTreeMap<Place, (u64, f64)>,
}

impl Profile {
    /// Queues what `launch` does between two events; whether it did anything.
    pub(super) fn time(
        &mut self,
        (context, stream): (&Arc<Context>, &Stream),
        place: Place,
        launch: impl FnOnce() -> Result<bool, DriverError>,
    ) -> Result<bool, DriverError> {
        let (begin, end) = match self.spare.pop() {
            Some(pair) => pair,
            None => (Event::new(context, true)?, Event::new(context, true)?),
        };
        begin.record(stream)?;
        let launched = launch()?;
        end.record(stream)?;
        if launched {
            self.marks.push((place, begin, end));
        } else {
            self.spare.push((begin, end));
        }
        Ok(launched)
    }

    /// Adds up the times of everything queued so far; waits for it.
    pub(super) fn collect(&mut self) -> Result<(), DriverError> {
        for (place, begin, end) in self.marks.drain(..) {
            end.wait()?;
            let (runs, nanoseconds) = self.found.entry(place).or_default();
            *runs += 1;
            *nanoseconds += end.since(&begin)?;
            self.spare.push((begin, end));
        }
        Ok(())
    }

    /// The times so far by kernel; the next begin from nothing.
    pub(super) fn take(
        &mut self,
        describe: &dyn Fn(Place) -> Option<(String, &'static str, u64)>,
    ) -> Vec<KernelTime> {
        let mut kernels: BTreeMap<(&str, String), KernelTime> = BTreeMap::new();
        for (place, (runs, nanoseconds)) in std::mem::take(&mut self.found) {
            let Some((kernel, op, weight_bytes)) = describe(place) else { continue };
            let time = kernels.entry((op, kernel.clone())).or_insert_with(|| KernelTime {
                kernel,
                op,
                runs: 0,
                nanoseconds: 0.0,
                weight_bytes: 0,
            });
            time.runs += runs;
            time.nanoseconds += nanoseconds;
            time.weight_bytes += weight_bytes * runs;
        }
        let mut kernels: Vec<KernelTime> = kernels.into_values().collect();
        kernels.sort_by(|a, b| b.nanoseconds.total_cmp(&a.nanoseconds));
        kernels
    }
}
