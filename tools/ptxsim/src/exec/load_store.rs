//! `ld` and `st`: values between registers and each space.

use super::access::Use;
use super::block::{Block, Step};
use super::shared::{load_words, store_words};
use super::warp::Warp;
use crate::error::FaultKind;
use crate::ir::{Dst, Inst, Load, Order, Space, Store};

impl Block<'_> {
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
            // before the value can be seen by another thread
            if strong {
                for i in (0..32).filter(|i| lanes >> i & 1 == 1) {
                    self.publish(w, addresses[i]);
                }
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
