//! Addresses, spaces, and the checks on each lane's access.

use super::block::{Block, Step};
use super::lanes::V64;
use super::warp::Warp;
use crate::error::FaultKind;
use crate::ir::{
    Address, Base, CONST_WINDOW, Inst, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Space, Src, WINDOW_SIZE,
};
use crate::memory::{Allocation, Conflict};

/// What kind of access it is, for the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Read,
    ReadNonCoherent,
    Write,
    /// Reads and writes in one.
    Update,
}

impl Use {
    pub(super) fn writes(self) -> bool {
        matches!(self, Use::Write | Use::Update)
    }
}

/// The space an address belongs to, and the address within it.
fn locate(space: Space, address: u64) -> (Space, u64) {
    let windows = [
        (Space::Shared, SHARED_WINDOW),
        (Space::Local, LOCAL_WINDOW),
        (Space::Const, CONST_WINDOW),
        (Space::Param, PARAM_WINDOW),
    ];
    match space {
        Space::Generic | Space::Global | Space::Const => {
            let inside = windows.iter().find(|(_, start)| address.wrapping_sub(*start) < WINDOW_SIZE);
            match inside {
                Some((found, start)) if space == Space::Generic || *found == Space::Const => {
                    (*found, address - start)
                }
                _ if space == Space::Generic => (Space::Global, address),
                _ => (space, address),
            }
        }
        _ => (space, address),
    }
}

impl<'a> Block<'a> {
    /// The address of each lane.
    #[inline(always)]
    pub(super) fn addresses(&self, w: &Warp, inst: &Inst, a: Address, m: u32) -> Step<V64> {
        let offset = a.offset as u64;
        Ok(match a.base {
            Base::None => [offset; 32],
            Base::Wide(r) => self.get64(w, inst, Src::Reg(r), m)?.map(|v| v.wrapping_add(offset)),
            Base::Narrow(r) => {
                self.get32(w, inst, Src::Reg(r), m)?.map(|v| u64::from(v).wrapping_add(offset))
            }
        })
    }

    /// Lanes by the space they address, most often all in one; spaces that nobody addresses have no lanes.
    /// The addresses become those within each space.
    pub(super) fn by_space(&self, space: Space, addresses: &mut V64, m: u32) -> [(Space, u32); 5] {
        let spaces = [Space::Global, Space::Shared, Space::Local, Space::Const, Space::Param];
        let mut out = spaces.map(|s| (s, if s == space { m } else { 0 }));
        let windows = SHARED_WINDOW..PARAM_WINDOW + WINDOW_SIZE;
        let plain = !addresses.iter().any(|a| windows.contains(a));
        if matches!(space, Space::Shared | Space::Local | Space::Param) || (space == Space::Global && plain) {
            return out;
        }
        out = spaces.map(|s| (s, 0));
        for i in (0..32).filter(|i| m >> i & 1 == 1) {
            let (found, address) = locate(space, addresses[i]);
            addresses[i] = address;
            if let Some((_, lanes)) = out.iter_mut().find(|(s, _)| *s == found) {
                *lanes |= 1 << i;
            }
        }
        out
    }

    /// Faults if an address is not a multiple of `len`, a power of two.
    #[inline(always)]
    pub(super) fn check_alignment(
        &self,
        w: &Warp,
        inst: &Inst,
        addresses: &V64,
        m: u32,
        len: usize,
    ) -> Step<()> {
        let mut bad = 0;
        for i in 0..32 {
            bad |= u32::from(addresses[i] & (len as u64 - 1) != 0) << i;
        }
        if bad & m == 0 {
            return Ok(());
        }
        let first = addresses[(bad & m).trailing_zeros() as usize & 31];
        let message = format!("{first:#x} is not a multiple of {len}, the size of the access");
        self.fault(w, inst, bad & m, FaultKind::Misaligned, message)
    }

    /// Calls `f` with the allocation and offset of each lane's global access, after all checks.
    #[inline(always)]
    pub(super) fn each_global(
        &mut self,
        w: &mut Warp,
        inst: &Inst,
        addresses: &V64,
        m: u32,
        (len, how, strong): (usize, Use, bool),
        mut f: impl FnMut(&mut Self, usize, &Allocation, usize),
    ) -> Step<()> {
        let checks = self.grid.options.checks;
        let memory = self.grid.memory;
        let mut current = memory.allocation(w.last_allocation);
        let mut lanes = m;
        while lanes != 0 {
            let i = lanes.trailing_zeros() as usize;
            lanes &= lanes - 1;
            let address = addresses[i];
            let a = match current {
                Some(a) if a.contains(address) => a,
                _ => match memory.find(address) {
                    Some((at, a)) => {
                        w.last_allocation = at;
                        current = Some(a);
                        a
                    }
                    None => return self.outside(w, inst, i, address),
                },
            };
            let offset = (address - a.base) as usize;
            if a.len - (offset as u64) < len as u64 {
                let message = format!(
                    "{len} bytes at {address:#x} reach past the end of an allocation of {} bytes at {:#x}",
                    a.len, a.base
                );
                return self.fault(w, inst, 1 << i, FaultKind::OutOfBounds, message);
            }
            if how.writes() && a.is_read_only() {
                let message = format!("a write to {address:#x}, which is declared read only");
                return self.fault(w, inst, 1 << i, FaultKind::ReadOnly, message);
            }
            if checks.initialized && how != Use::Write && !a.is_written(offset, len) {
                let message = format!(
                    "global memory at {address:#x} (offset {offset:#x}) is read before it is written"
                );
                return self.fault(w, inst, 1 << i, FaultKind::UninitializedMemory, message);
            }
            if checks.global_races {
                let me = self.observer(w, strong);
                let noted = match how {
                    Use::Read => a.note_read(offset, len, &me),
                    Use::ReadNonCoherent => a.note_non_coherent(offset, len, &me),
                    Use::Write | Use::Update => a.note_write(offset, len, &me),
                };
                if let Err(conflict) = noted {
                    return self.conflict(w, inst, i, address, how, conflict);
                }
            }
            f(self, i, a, offset);
        }
        Ok(())
    }

    #[cold]
    fn outside<T>(&self, w: &Warp, inst: &Inst, lane: usize, address: u64) -> Step<T> {
        if self.grid.memory.was_freed(address) {
            let message = format!("{address:#x} lies in an allocation that was freed");
            return self.fault(w, inst, 1 << lane, FaultKind::UseAfterFree, message);
        }
        let message = format!("{address:#x} lies in no allocation");
        self.fault(w, inst, 1 << lane, FaultKind::OutOfBounds, message)
    }

    #[cold]
    fn conflict<T>(
        &self,
        w: &Warp,
        inst: &Inst,
        lane: usize,
        address: u64,
        how: Use,
        conflict: Conflict,
    ) -> Step<T> {
        let now = if how.writes() { "written" } else { "read" };
        let warps = u64::from(self.grid.warps);
        let (kind, message) = match conflict {
            Conflict::Writer(t) | Conflict::Reader(t) => {
                let before = if matches!(conflict, Conflict::Writer(_)) { "written" } else { "read" };
                let (block, warp) = (t.warp() / warps, t.warp() % warps);
                let message = format!(
                    "{address:#x} is {now} here and was {before} by block {block} (linear) warp {warp}, \
                     with nothing that orders the two"
                );
                (FaultKind::GlobalRace, message)
            }
            Conflict::NonCoherent => {
                let message = format!(
                    "{address:#x} (or its 32-byte sector) is {now} here; this launch also reads it through ld.global.nc, or wrote it before"
                );
                (FaultKind::NonCoherent, message)
            }
            Conflict::EarlierLaunch => {
                let message = format!(
                    "{address:#x} is {now} here before griddepcontrol.wait; an earlier launch that may still run touches it"
                );
                (FaultKind::DependentLaunch, message)
            }
            Conflict::NonCoherentOverlap => {
                let message = format!(
                    "{address:#x} is read here through ld.global.nc; an earlier launch that this one may overlap wrote it, and \
                     the assembler may move such a load in front of griddepcontrol.wait: read it through ld.global"
                );
                (FaultKind::DependentLaunch, message)
            }
        };
        self.fault(w, inst, 1 << lane, kind, message)
    }

    /// Checks the range of a lane's access to a space of known size.
    #[inline(always)]
    pub(super) fn check_range(
        &self,
        w: &Warp,
        inst: &Inst,
        lane: usize,
        (address, len): (u64, usize),
        (name, size): (&str, usize),
    ) -> Step<usize> {
        if address.checked_add(len as u64).is_some_and(|end| end <= size as u64) {
            return Ok(address as usize);
        }
        let message = format!("{len} bytes at {address:#x}: {name} has {size} bytes");
        self.fault(w, inst, 1 << lane, FaultKind::OutOfBounds, message)
    }
}
