//! `aprbench kernels`.

use crate::args::KernelsArgs;
use crate::failure::Failure;
use aprgpu::bench::kernels::{Bench, KernelResult, Options, Shape, shapes, types};
use aprgpu::bench::{bandwidth, report};
use aprgpu::engine::BackendChoice;
use aprgpu::quant::TensorType;
use std::io::Write;

pub(crate) fn kernels(args: &KernelsArgs) -> Result<(), Failure> {
    let threads = args.threads.map(usize::from);
    let mut results = Vec::new();
    for name in &args.backend {
        let choice = BackendChoice::from_name(name)?;
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
                            results.push(bench.measure(op)?);
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
    let threads = threads.unwrap_or_else(aprgpu::backend::cpu::physical_cores);
    let size = if args.reduced { 1 << 20 } else { 512 << 20 };
    let ceiling = bandwidth::measure(threads, size, 6)?.best;
    writeln!(out, "read bandwidth of the CPU with {threads} threads: {ceiling:.1} GB/s\n")?;
    let row = |r: &KernelResult| {
        let percent = match r.backend.as_str() {
            "cpu" => format!("{:.0}", 100.0 * r.gb_per_s / ceiling),
            _ => "-".to_owned(),
        };
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
