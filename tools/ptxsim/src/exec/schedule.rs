//! Which lanes of a warp run: groups of lanes at one instruction, merged where they meet again.
//!
//! The group at the lowest instruction runs first, which brings lanes together after branches and loops without
//! any analysis of the program. An instruction that names lanes waits until they have come.

use super::block::{Block, Step};
use super::warp::{Group, Warp};
use crate::error::FaultKind;
use crate::ir::{Inst, Op};

/// What an instruction did to the flow of its group.
enum Flow {
    Next,
    /// The groups have changed: choose again.
    Choose,
    /// The warp waits at a barrier.
    Stop,
}

impl Block<'_> {
    /// Runs a warp for about `slice` instructions. False if all it did was to wait.
    pub(super) fn run_slice(&mut self, w: &mut Warp, slice: u64) -> Step<bool> {
        let grid = self.grid;
        let code: &[Inst] = &grid.kernel.code;
        let end = self.report.warp_instructions + slice;
        loop {
            if w.yields || self.report.warp_instructions >= end {
                w.rotate = true;
                return Ok(!w.yields);
            }
            if w.groups.is_empty() {
                w.alive = 0;
                return Ok(true);
            }
            let Some(at) = self.choose(w) else { return self.blocked(w) };
            let Some(Group { mut pc, mask, .. }) = w.groups.get(at).cloned() else { return Ok(true) };
            let alone = w.groups.len() == 1;
            let meet = if at > 0 { w.groups.get(at - 1).map_or(u32::MAX, |g| g.pc) } else { u32::MAX };
            loop {
                let Some(inst) = code.get(pc as usize) else { return Ok(true) };
                let m = match inst.guard {
                    None => mask,
                    Some(p) => mask & self.get_pred(w, inst, p, mask)?,
                };
                self.report.warp_instructions += 1;
                self.report.lane_instructions += u64::from(m.count_ones());
                if grid.options.profile {
                    self.profile_execution(inst, m);
                }
                if let Op::Branch { to } = inst.op {
                    if m == 0 {
                        pc += 1;
                    } else if m == mask {
                        let back = to <= pc;
                        pc = to;
                        if back && !alone {
                            Self::move_group(w, at, pc);
                            break;
                        }
                    } else {
                        w.groups.remove(at);
                        w.insert(pc + 1, mask & !m);
                        w.insert(to, m);
                        break;
                    }
                } else if m == 0 {
                    pc += 1;
                } else {
                    match self.flow(w, inst, at, pc, mask, m)? {
                        Flow::Next => pc += 1,
                        Flow::Choose => break,
                        Flow::Stop => return Ok(true),
                    }
                }
                if pc >= meet {
                    Self::move_group(w, at, pc);
                    break;
                }
                if w.yields || self.report.warp_instructions >= end {
                    Self::move_group(w, at, pc);
                    break;
                }
            }
        }
    }

    fn move_group(w: &mut Warp, at: usize, pc: u32) {
        let group = w.groups.remove(at);
        w.insert(pc, group.mask);
    }

    /// The group to run: the lowest that is not blocked, or after a spin the highest.
    fn choose(&self, w: &mut Warp) -> Option<usize> {
        let free = |g: &Group| !g.blocked;
        if std::mem::take(&mut w.rotate) {
            w.groups.iter().position(free)
        } else {
            w.groups.iter().rposition(free)
        }
    }

    /// Every group waits for lanes that stand elsewhere.
    fn blocked<T>(&self, w: &Warp) -> Step<T> {
        let code = &self.grid.kernel.code;
        let at = |g: &Group| code.get(g.pc as usize);
        let barrier = w
            .groups
            .iter()
            .filter_map(|g| Some((g, at(g)?)))
            .find(|(_, i)| matches!(i.op, Op::Barrier { .. }));
        let lines: Vec<u32> = w.groups.iter().filter_map(|g| Some(at(g)?.line)).collect();
        if let Some((group, inst)) = barrier {
            let message =
                format!("only some lanes of the warp stand at this barrier; groups wait at lines {lines:?}");
            return self.fault(w, inst, group.mask, FaultKind::DivergentBarrier, message);
        }
        match w.groups.last().and_then(|g| Some((g, at(g)?))) {
            Some((group, inst)) => {
                let message = format!("lanes wait for each other at different instructions, lines {lines:?}");
                self.fault(w, inst, group.mask, FaultKind::Deadlock, message)
            }
            None => self.fault_without_line(w),
        }
    }

    fn fault_without_line<T>(&self, w: &Warp) -> Step<T> {
        let end = Inst { op: Op::Return, guard: None, line: 0, contractible: false };
        self.fault(w, &end, w.alive, FaultKind::Deadlock, "lanes wait for each other")
    }

    /// An instruction other than a branch, for the lanes `m` of a group of `mask`.
    fn flow(&mut self, w: &mut Warp, inst: &Inst, at: usize, pc: u32, mask: u32, m: u32) -> Step<Flow> {
        match &inst.op {
            Op::Return => {
                if self.grid.options.dependent && !w.waited {
                    let message = "a dependent launch returns without griddepcontrol.wait: whoever waits for it does not \
                                   wait for the launch before it";
                    return self.fault(w, inst, m, FaultKind::DependentLaunch, message);
                }
                w.alive &= !m;
                w.copies.retain(|c| m >> c.lane & 1 == 0);
                w.groups.remove(at);
                for g in &mut w.groups {
                    g.blocked = false;
                }
                if mask & !m != 0 {
                    w.insert(pc + 1, mask & !m);
                }
                Ok(Flow::Choose)
            }
            Op::Barrier { id, threads, wait } => {
                if w.alive != mask {
                    return Ok(Self::block(w, at, pc));
                }
                if m != mask {
                    let message = "a barrier under a predicate that differs between the lanes of a warp";
                    return self.fault(w, inst, m, FaultKind::DivergentBarrier, message);
                }
                self.arrive(w, inst, pc, m, (*id, *threads, *wait))?;
                if !wait {
                    return Ok(Flow::Next);
                }
                if let Some(g) = w.groups.get_mut(at) {
                    g.pc = pc + 1;
                }
                Ok(Flow::Stop)
            }
            Op::Warp { op, mask: named } => {
                if self.lanes_are_missing(w, inst, *named, mask, m)? {
                    return Ok(Self::block(w, at, pc));
                }
                self.collective(w, inst, op, m)?;
                Ok(Flow::Next)
            }
            Op::Matrix(_) | Op::MatrixLoad(_) if w.alive != mask => Ok(Self::block(w, at, pc)),
            _ => {
                self.step(w, inst, pc, m)?;
                Ok(Flow::Next)
            }
        }
    }

    fn block(w: &mut Warp, at: usize, pc: u32) -> Flow {
        if let Some(g) = w.groups.get_mut(at) {
            g.pc = pc;
            g.blocked = true;
        }
        // it may stand now where another group stands
        let group = w.groups.remove(at);
        match w.groups.iter_mut().find(|g| g.pc == pc) {
            Some(other) => {
                other.mask |= group.mask;
                other.blocked = false;
            }
            None => {
                let place = w.groups.iter().position(|g| g.pc < pc).unwrap_or(w.groups.len());
                w.groups.insert(place, group);
            }
        }
        Flow::Choose
    }
}
