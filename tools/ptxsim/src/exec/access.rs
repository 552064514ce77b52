//! Loads and stores: addresses, spaces, and the checks on each lane.

use super::block::{Block, Step};
use super::lanes::V64;
use super::shared::{load_words, store_words};
use super::warp::Warp;
use crate::error::FaultKind;
use crate::ir::{
    Address, Base, CONST_WINDOW, Dst, Inst, LOCAL_WINDOW, Load, Order, PARAM_WINDOW, SHARED_WINDOW, Space,
    Store, WINDOW_SIZE,
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
            Base::Wide(r) => self.get64(w, inst, crate::ir::Src::Reg(r), m)?.map(|v| v.wrapping_add(offset)),
            Base::Narrow(r) => {
                self.get32(w, inst, crate::ir::Src::Reg(r), m)?.map(|v| u64::from(v).wrapping_add(offset))
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

    #[inline(never)]
    pub(super) fn load(&mut self, w: &mut Warp, inst: &Inst, pc: u32, load: &Load, m: u32) -> Step<()> {
        let len = load.size * load.d.len();
        let mut addresses = self.addresses(w, inst, load.address, m)?;
        self.check_alignment(w, inst, &addresses, m, len)?;
        let strong = load.order != Order::Weak;
        if strong {
            self.before_strong(w, load.order);
        }
        let mut out = [[0u32; 8]; 32];
        for (space, lanes) in self.by_space(load.address.space, &mut addresses, m) {
            if lanes == 0 {
                continue;
            }
            if self.grid.options.profile {
                self.profile_access(inst, space, &addresses, lanes, len);
            }
            if space == Space::Global {
                let how = if load.non_coherent { Use::ReadNonCoherent } else { Use::Read };
                self.each_global(w, inst, &addresses, lanes, (len, how, strong), |_, i, a, offset| {
                    a.load(offset, len, &mut out[i]);
                })?;
            } else {
                for i in (0..32).filter(|i| lanes >> i & 1 == 1) {
                    self.load_lane(w, inst, i, space, (addresses[i], len), strong, &mut out[i])?;
                }
            }
            if strong {
                for i in (0..32).filter(|i| lanes >> i & 1 == 1) {
                    self.receive(w, addresses[i]);
                }
            }
        }
        for (k, d) in load.d.iter().enumerate() {
            if let Some(d) = d {
                let (d, size, signed) = (*d, load.size, load.signed);
                store_element(w, d, m, |i| element(&out[i], k, size, signed));
            }
        }
        if strong {
            let values = (0..32).filter(|i| m >> i & 1 == 1);
            let hash = values
                .fold(0u64, |h, i| h.rotate_left(5) ^ u64::from(out[i][0]) ^ (u64::from(out[i][1]) << 32));
            self.after_strong(w, pc, load.order, hash);
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one lane's access has that many sides")]
    fn load_lane(
        &mut self,
        w: &Warp,
        inst: &Inst,
        lane: usize,
        space: Space,
        (address, len): (u64, usize),
        strong: bool,
        out: &mut [u32; 8],
    ) -> Step<()> {
        match space {
            Space::Shared => {
                let size = self.shared.bytes.len();
                let at =
                    self.check_range(w, inst, lane, (address, len), ("the block's shared memory", size))?;
                self.check_shared(w, inst, lane, (at, len), false, strong)?;
                self.shared.load(at, len, out);
            }
            Space::Local => {
                let size = self.grid.kernel.local;
                let at =
                    self.check_range(w, inst, lane, (address, len), ("local memory", size))? + lane * size;
                let written = w.local_set.get(at..at + len).is_some_and(|s| s.iter().all(|b| *b));
                if self.grid.options.checks.initialized && !written {
                    let message = format!("local memory at {address:#x} is read before it is written");
                    return self.fault(w, inst, 1 << lane, FaultKind::UninitializedMemory, message);
                }
                load_words(&w.local, at, len, out);
            }
            Space::Const => {
                let constants = self.grid.kernel.constants.clone();
                let at =
                    self.check_range(w, inst, lane, (address, len), ("constant memory", constants.len()))?;
                load_words(&constants, at, len, out);
            }
            _ => {
                let params = self.grid.params;
                let at =
                    self.check_range(w, inst, lane, (address, len), ("the parameter block", params.len()))?;
                load_words(params, at, len, out);
            }
        }
        Ok(())
    }

    #[inline(never)]
    pub(super) fn store(&mut self, w: &mut Warp, inst: &Inst, store: &Store, m: u32) -> Step<()> {
        let len = store.size * store.s.len();
        let mut addresses = self.addresses(w, inst, store.address, m)?;
        self.check_alignment(w, inst, &addresses, m, len)?;
        let mut value = [[0u32; 8]; 32];
        for (k, (s, wide)) in store.s.iter().enumerate() {
            if *wide {
                let v = self.get64(w, inst, *s, m)?;
                (0..32).for_each(|i| put_element(&mut value[i], k, store.size, v[i]));
            } else {
                let v = self.get32(w, inst, *s, m)?;
                (0..32).for_each(|i| put_element(&mut value[i], k, store.size, u64::from(v[i])));
            }
        }
        let strong = store.order != Order::Weak;
        if strong {
            self.before_strong(w, store.order);
        }
        for (space, lanes) in self.by_space(store.address.space, &mut addresses, m) {
            if lanes == 0 {
                continue;
            }
            if self.grid.options.profile {
                self.profile_access(inst, space, &addresses, lanes, len);
            }
            if space == Space::Global {
                self.each_global(
                    w,
                    inst,
                    &addresses,
                    lanes,
                    (len, Use::Write, strong),
                    |_, i, a, offset| {
                        a.store(offset, len, &value[i]);
                    },
                )?;
            } else {
                for i in (0..32).filter(|i| lanes >> i & 1 == 1) {
                    self.store_lane(w, inst, i, space, (addresses[i], len), strong, &value[i])?;
                }
            }
            if strong {
                for i in (0..32).filter(|i| lanes >> i & 1 == 1) {
                    self.publish(w, addresses[i]);
                }
            }
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one lane's access has that many sides")]
    fn store_lane(
        &mut self,
        w: &mut Warp,
        inst: &Inst,
        lane: usize,
        space: Space,
        (address, len): (u64, usize),
        strong: bool,
        value: &[u32; 8],
    ) -> Step<()> {
        match space {
            Space::Shared => {
                let size = self.shared.bytes.len();
                let at =
                    self.check_range(w, inst, lane, (address, len), ("the block's shared memory", size))?;
                self.check_shared(w, inst, lane, (at, len), true, strong)?;
                self.shared.store(at, len, value);
                Ok(())
            }
            Space::Local => {
                let size = self.grid.kernel.local;
                let at =
                    self.check_range(w, inst, lane, (address, len), ("local memory", size))? + lane * size;
                store_words(&mut w.local, at, len, value);
                if let Some(set) = w.local_set.get_mut(at..at + len) {
                    set.fill(true);
                }
                Ok(())
            }
            _ => {
                let message = format!("a write to {address:#x} in constants or parameters");
                self.fault(w, inst, 1 << lane, FaultKind::ReadOnly, message)
            }
        }
    }
}

/// Element `k` of `size` bytes among packed words.
#[inline(always)]
fn element(words: &[u32; 8], k: usize, size: usize, signed: bool) -> u64 {
    match size {
        4 if signed => words[k & 7] as i32 as u64,
        4 => u64::from(words[k & 7]),
        8 => u64::from(words[(2 * k) & 7]) | (u64::from(words[(2 * k + 1) & 7]) << 32),
        _ => {
            let at = k * size;
            let v = words[(at / 4) & 7] >> (8 * (at % 4));
            match (size, signed) {
                (1, true) => v as i8 as u64,
                (1, false) => u64::from(v as u8),
                (_, true) => v as i16 as u64,
                (_, false) => u64::from(v as u16),
            }
        }
    }
}

#[inline(always)]
fn put_element(words: &mut [u32; 8], k: usize, size: usize, v: u64) {
    match size {
        4 => words[k & 7] = v as u32,
        8 => {
            words[(2 * k) & 7] = v as u32;
            words[(2 * k + 1) & 7] = (v >> 32) as u32;
        }
        _ => {
            let at = k * size;
            words[(at / 4) & 7] |= (v as u32 & (u32::MAX >> (32 - 8 * size))) << (8 * (at % 4));
        }
    }
}

/// Writes a value that is extended to 64 bits into a register of any width.
#[inline(always)]
pub(super) fn store_element(w: &mut Warp, d: Dst, m: u32, value: impl Fn(usize) -> u64) {
    match d {
        Dst::Narrow(d, bits) => {
            let keep = u32::MAX >> (32 - u32::from(bits));
            let mut out = [0; 32];
            for i in 0..32 {
                out[i] = value(i) as u32 & keep;
            }
            w.set32(d, &out, m);
        }
        Dst::Wide(d) => {
            let mut out = [0; 32];
            for i in 0..32 {
                out[i] = value(i);
            }
            w.set64(d, &out, m);
        }
    }
}
