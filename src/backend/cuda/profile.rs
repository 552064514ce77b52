//! How long each kernel takes, by events before and after it.
//!
//! Events keep kernels from overlapping, and a profiled pass is not a captured one: it is slower than the sum of a plain
//! one's parts.

use super::driver::{Context, DriverError, Event, Stream};
use crate::backend::KernelTime;
use crate::backend::gpu::profile::{Place, by_kernel};
use std::collections::BTreeMap;
use std::sync::Arc;

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
        by_kernel(std::mem::take(&mut self.found), describe)
    }
}
