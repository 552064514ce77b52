//! What a launch did: counts, and a profile per line.

use std::collections::BTreeMap;

/// Counts of one line of the PTX.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LineProfile {
    /// Warp instructions executed.
    pub executions: u64,
    /// Lanes that took part, summed.
    pub lanes: u64,
    /// Warp requests to global memory.
    pub requests: u64,
    /// 32-byte sectors that these requests touched.
    pub sectors: u64,
    /// The fewest sectors that could have held the bytes asked for.
    pub ideal_sectors: u64,
    /// Shared-memory passes beyond the first of each request, because lanes met in a bank.
    pub bank_conflicts: u64,
}

impl LineProfile {
    fn add(&mut self, other: &LineProfile) {
        self.executions += other.executions;
        self.lanes += other.lanes;
        self.requests += other.requests;
        self.sectors += other.sectors;
        self.ideal_sectors += other.ideal_sectors;
        self.bank_conflicts += other.bank_conflicts;
    }
}

/// What a launch did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Blocks that ran.
    pub blocks: u64,
    /// Instructions, counted once for a warp.
    pub warp_instructions: u64,
    /// Instructions, counted once for each lane that took part.
    pub lane_instructions: u64,
    /// By line of the PTX; empty without [`crate::Options::profile`].
    pub lines: BTreeMap<u32, LineProfile>,
}

impl Report {
    pub(crate) fn add(&mut self, other: &Report) {
        self.blocks += other.blocks;
        self.warp_instructions += other.warp_instructions;
        self.lane_instructions += other.lane_instructions;
        for (line, profile) in &other.lines {
            self.lines.entry(*line).or_default().add(profile);
        }
    }
}
