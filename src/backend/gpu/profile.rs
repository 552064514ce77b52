//! From the times of single kernels of a graph to those of kernels of one kind.

use crate::backend::KernelTime;
use std::collections::BTreeMap;

/// A graph, and which of its kernels.
pub(in crate::backend) type Place = (usize, usize);

/// Adds up runs and nanoseconds by kernel, the longest first. `describe` gives a place's kernel, op and bytes of weights.
pub(in crate::backend) fn by_kernel(
    found: BTreeMap<Place, (u64, f64)>,
    describe: &dyn Fn(Place) -> Option<(String, &'static str, u64)>,
) -> Vec<KernelTime> {
    let mut kernels: BTreeMap<(&str, String), KernelTime> = BTreeMap::new();
    for (place, (runs, nanoseconds)) in found {
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
