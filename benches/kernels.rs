//! The cases of `aprbench kernels` under criterion: `cargo bench --bench kernels -- q4_k`.
//!
//! Inputs rotate over layers that together are larger than any cache, and each case is held against the twin before it is
//! timed. `APRGPU_BENCH_BACKEND` names the backend (auto), `APRGPU_BENCH_ROWS` the rows (1).

#![allow(missing_docs, reason = "criterion's macros write functions without")]
#![allow(clippy::panic, reason = "a benchmark that cannot be set up has nothing to say")]

use aprgpu::bench::kernels::{Bench, Options, shapes, types};
use aprgpu::engine::BackendChoice;
use criterion::{Criterion, criterion_group, criterion_main};

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn kernels(criterion: &mut Criterion) {
    let backend = BackendChoice::from_name(&variable("APRGPU_BENCH_BACKEND", "auto"));
    let backend = backend.unwrap_or_else(|error| panic!("{error}"));
    let rows = variable("APRGPU_BENCH_ROWS", "1").parse().unwrap_or(1);
    for shape in shapes() {
        for tensor_type in types(&shape) {
            let options = Options { rows, runs: (1, 1, 0.0), ..Options::default() };
            let mut group =
                criterion.benchmark_group(format!("{}/{}", shape.name, tensor_type.name().to_lowercase()));
            let mut bench: Option<Bench> = None;
            for op in aprgpu::plan::OpKind::ALL {
                if op == aprgpu::plan::OpKind::Sample {
                    continue;
                }
                group.bench_function(op.name(), |bencher| {
                    // Set up by the first case that the filter lets through.
                    let bench = bench.get_or_insert_with(|| {
                        Bench::new(shape, tensor_type, (backend.clone(), None), options)
                            .unwrap_or_else(|error| panic!("{error}"))
                    });
                    bench.check(op).unwrap_or_else(|error| panic!("{error}"));
                    let mut run = 0;
                    bencher.iter(|| {
                        run += 1;
                        bench.run(op, run)
                    });
                });
            }
            group.finish();
        }
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
