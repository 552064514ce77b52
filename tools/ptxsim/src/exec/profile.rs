//! Counts per line of the PTX.

use super::block::Block;
use super::lanes::V64;
use crate::ir::{Inst, Space};
use crate::report::LineProfile;

impl Block<'_> {
    fn line(&mut self, inst: &Inst) -> &mut LineProfile {
        self.report.lines.entry(inst.line).or_default()
    }

    #[cold]
    pub(super) fn profile_execution(&mut self, inst: &Inst, m: u32) {
        let line = self.line(inst);
        line.executions += 1;
        line.lanes += u64::from(m.count_ones());
    }

    /// Sectors of a global request, bank conflicts of a shared one, `len` bytes a lane.
    #[cold]
    pub(super) fn profile_access(&mut self, inst: &Inst, space: Space, addresses: &V64, m: u32, len: usize) {
        match space {
            Space::Global => {
                let lanes = (0..32).filter(|i| m >> i & 1 == 1);
                let mut sectors: Vec<u64> = lanes.map(|i| addresses[i] / 32).collect();
                sectors.sort_unstable();
                sectors.dedup();
                let bytes = u64::from(m.count_ones()) * len as u64;
                let line = self.line(inst);
                line.requests += 1;
                line.sectors += sectors.len() as u64;
                line.ideal_sectors += bytes.div_ceil(32);
            }
            Space::Shared => {
                let conflicts = bank_conflicts(addresses, m, len);
                self.line(inst).bank_conflicts += conflicts;
            }
            _ => {}
        }
    }
}

/// Passes beyond the first: 32 banks of 4 bytes; 8-byte accesses go by halves of the warp, 16-byte ones by quarters.
fn bank_conflicts(addresses: &V64, m: u32, len: usize) -> u64 {
    let words_each = len.max(4) / 4;
    let lanes_each = 32 / words_each;
    let mut extra = 0;
    for part in 0..words_each {
        let lanes = (part * lanes_each..(part + 1) * lanes_each).filter(|i| m >> i & 1 == 1);
        let mut words: Vec<u64> =
            lanes.flat_map(|i| (0..words_each as u64).map(move |k| addresses[i] / 4 + k)).collect();
        words.sort_unstable();
        words.dedup();
        let mut banks = [0u64; 32];
        for word in words {
            banks[(word % 32) as usize] += 1;
        }
        extra += banks.iter().max().map_or(0, |n| n.saturating_sub(1));
    }
    extra
}
