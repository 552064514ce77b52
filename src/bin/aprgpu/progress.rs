//! Long work: progress bars (on terminals only, and only where there is something to wait for), what it took, and what an
//! interrupt leaves behind: nothing.

use crate::failure::Failure;
use aprgpu::format::write::remove_unfinished;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// Work below this many bytes is over before a bar could be read.
const WORTH_SHOWING: u64 = 64 << 20;

/// A bar that appears with the first call, if `total` is worth it and stderr is a terminal.
pub(crate) fn bar(what: &'static str) -> impl FnMut(u64, u64) {
    let mut bar: Option<ProgressBar> = None;
    move |done, total| {
        if total < WORTH_SHOWING || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}");
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(what);
            bar
        });
        bar.set_position(done);
        if done >= total {
            bar.finish_and_clear();
        }
    }
}

/// Makes Ctrl-C remove what is half written before it ends the process.
pub(crate) fn clean_up_on_interrupt() -> Result<(), Failure> {
    let handler = || {
        remove_unfinished();
        std::process::exit(130);
    };
    ctrlc::set_handler(handler).map_err(|error| Failure::Usage(format!("cannot catch Ctrl-C: {error}")))
}

/// The most memory that this process had at a time, files that are mapped included, where the system tells.
pub(crate) fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.map_or_else(String::new, |kilobytes| {
        format!(", {:.0} MB of memory at most", kilobytes * 1024.0 / 1e6)
    })
}
