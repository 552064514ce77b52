//! The cases of `aprbench kernels` under criterion: `cargo bench --bench kernels -- q4_k`. And what a pass pays beside
//! its kernels: `cargo bench --bench kernels -- pool`.
//!
//! Inputs rotate over layers that together are larger than any cache, and each case is held against the twin before it is
//! timed. `APRGPU_BENCH_BACKEND` names the backend (auto), `APRGPU_BENCH_ROWS` the rows (1).

#![allow(missing_docs, reason = "criterion's macros write functions without")]
#![allow(clippy::panic, reason = "a benchmark that cannot be set up has nothing to say")]

use aprgpu::backend::cpu::pool::Pool;
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

/// Waking the threads for a pass, and their barriers.
fn pool(criterion: &mut Criterion) {
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    let mut group = criterion.benchmark_group("pool");
    for threads in (0..).map(|power| 1 << power).take_while(|&threads| threads <= all) {
        let pool = Pool::new(threads).unwrap_or_else(|error| panic!("{error}"));
        group.bench_function(format!("run/{threads}"), |bencher| bencher.iter(|| pool.run(|_, _| ())));
        group.bench_function(format!("100 barriers/{threads}"), |bencher| {
            bencher.iter(|| pool.run(|_, barrier| (0..100).for_each(|_| barrier.wait())));
        });
    }
    group.finish();
}

criterion_group!(benches, kernels, pool);
criterion_main!(benches);
