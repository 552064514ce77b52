//! `aprbench kernels`.

use crate::args::KernelsArgs;
use crate::failure::Failure;
use crate::subject::{self, read_bandwidth};
use aprgpu::bench::kernels::{Bench, KernelResult, Options, Shape, shapes, types};
use aprgpu::bench::{bandwidth, report};
use aprgpu::engine::BackendChoice;
use aprgpu::plan::OpKind;
use aprgpu::quant::TensorType;
use std::io::Write;

pub(crate) fn kernels(args: &KernelsArgs) -> Result<(), Failure> {
    let threads = args.threads.map(usize::from);
    refuse_unknown_ops(&args.op)?;
    let mut results = Vec::new();
    for name in &args.backend {
        let choice = subject::backend(name, &args.adapter)?;
        let mut ceiling = args.bandwidth;
        for shape in chosen_shapes(args)? {
            for tensor_type in chosen_types(args, &shape)? {
                for &rows in &args.rows {
                    let (depth, rows) = (args.depth as usize, usize::from(rows));
                    let options = match args.reduced {
                        true => Options { rows, depth: 4, at_least: 0, runs: (0, 1, 0.0) },
                        false => Options { rows, depth, runs: (3, 20, args.seconds), ..Options::default() },
                    };
                    let mut bench = Bench::new(shape, tensor_type, (choice.clone(), threads), options)?;
                    for op in bench.ops() {
                        if args.op.is_empty() || args.op.iter().any(|name| name == op.name()) {
                            let result = bench.measure(op)?;
                            let ceiling = match ceiling {
                                Some(known) => known,
                                None => {
                                    *ceiling.insert(read(&choice, threads, bench.describe().0, args.reduced)?)
                                }
                            };
                            let bandwidth_percent = Some(100.0 * result.gb_per_s / ceiling);
                            results.push(KernelResult { bandwidth_percent, ..result });
                        }
                    }
                }
            }
        }
    }
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", serde_json::json!(results))?;
        return Ok(());
    }
    let row = |r: &KernelResult| {
        let percent = r.bandwidth_percent.map_or("-".to_owned(), |percent| format!("{percent:.0}"));
        vec![
            r.backend.clone(),
            r.op.to_owned(),
            r.tensor_type.to_owned(),
            r.shape.to_owned(),
            r.rows.to_string(),
            format!("{:.1}", r.us),
            format!("{:.2}", r.gb_per_s),
            percent,
            format!("{:.1}", r.gflops),
            format!("{:.0e}", r.nmse),
        ]
    };
    let header = ["backend", "op", "type", "shape", "rows", "us", "GB/s", "% of read", "GFLOP/s", "NMSE"];
    write!(out, "{}", report::markdown(&header, &results.iter().map(row).collect::<Vec<_>>()))?;
    Ok(())
}

/// An op that is not there would measure nothing, and say nothing of it.
fn refuse_unknown_ops(wanted: &[String]) -> Result<(), Failure> {
    let names = || OpKind::ALL.iter().filter(|op| **op != OpKind::Sample).map(|op| op.name());
    match wanted.iter().find(|wanted| names().all(|name| name != wanted.as_str())) {
        None => Ok(()),
        Some(op) => {
            let known: Vec<_> = names().collect();
            Err(Failure::usage(format!("--op {op}: there are {}", known.join(", "))))
        }
    }
}

/// The device's read bandwidth.
fn read(
    choice: &BackendChoice,
    threads: Option<usize>,
    backend: &str,
    reduced: bool,
) -> Result<f64, Failure> {
    match reduced {
        true => Ok(bandwidth::measure(1, 1 << 20, 2)?.best),
        false => read_bandwidth(choice, threads, backend),
    }
}

fn chosen_shapes(args: &KernelsArgs) -> Result<Vec<Shape>, Failure> {
    let wanted = |shape: &Shape| args.shape.is_empty() || args.shape.iter().any(|name| name == shape.name);
    let chosen: Vec<Shape> = shapes().into_iter().filter(wanted).collect();
    if chosen.is_empty() {
        return Err(Failure::usage(format!("--shape {}: there are 1.5B and 0.5B", args.shape.join(","))));
    }
    let reduce = |shape: Shape| match args.reduced {
        true => Shape { preset: shape.preset.reduced(), ..shape },
        false => shape,
    };
    Ok(chosen.into_iter().map(reduce).collect())
}

fn chosen_types(args: &KernelsArgs, shape: &Shape) -> Result<Vec<TensorType>, Failure> {
    let known = types(shape);
    if args.types.is_empty() {
        return Ok(known);
    }
    let find = |name: &String| {
        let found = TensorType::from_name(name).filter(|found| found.is_weight_type());
        found.ok_or_else(|| Failure::usage(format!("--type {name}: no kernel has this type of weights")))
    };
    let wanted = args.types.iter().map(find).collect::<Result<Vec<_>, _>>()?;
    Ok(wanted.into_iter().filter(|tensor_type| known.contains(tensor_type)).collect())
}
