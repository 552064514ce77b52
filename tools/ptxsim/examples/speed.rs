//! Prints how fast a Q4_K matrix-vector product runs in the simulator.
//!
//! `cargo run --release -p ptxsim --example speed`

#[path = "../tests/common/mod.rs"]
mod common;

use common::q4k::Product;
use ptxsim::{Checks, Options};
use std::time::Instant;

fn main() {
    let product = Product::new(1024, 4096, 1);
    let races = Checks { global_races: false, ..Checks::default() };
    let cases = [
        ("no checks, 1 thread", Options { threads: 1, ..Options::fast() }),
        ("no checks, 2 threads", Options { threads: 2, ..Options::fast() }),
        ("all but global races, 1 thread", Options { threads: 1, checks: races, ..Options::default() }),
        ("all checks, 1 thread", Options { threads: 1, ..Options::strict() }),
        ("all checks, 2 threads", Options { threads: 2, ..Options::strict() }),
        ("all checks and profile, 1 thread", Options { threads: 1, profile: true, ..Options::strict() }),
    ];
    for (name, options) in cases {
        let start = Instant::now();
        match product.run(&options) {
            Ok(report) => {
                let s = start.elapsed().as_secs_f64();
                let weights = (product.rows * product.supers * 256) as f64;
                println!(
                    "{name}: {:.0} M weights/s, {:.1} M warp instructions/s, {:.2} lane instructions a weight",
                    weights / s / 1e6,
                    report.warp_instructions as f64 / s / 1e6,
                    report.lane_instructions as f64 / weights
                );
            }
            Err(fault) => println!("{name}: {fault}"),
        }
    }
}
