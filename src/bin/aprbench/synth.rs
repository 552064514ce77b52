//! `aprbench synth`.

use crate::args::SynthArgs;
use crate::failure::Failure;
use crate::subject::preset;
use aprgpu::bench::synth;
use std::time::Instant;

pub(crate) fn synth(args: &SynthArgs) -> Result<(), Failure> {
    let clock = Instant::now();
    let bytes = synth::write(&preset(&args.preset, args.reduced)?, &args.output, &mut |_, _| {})?;
    let seconds = clock.elapsed().as_secs_f64();
    eprintln!("{}: {:.1} MB of weights in {seconds:.1} s", args.output.display(), bytes as f64 / 1e6);
    Ok(())
}
