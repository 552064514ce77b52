//! `atom` and `red`.

use super::access::Use;
use super::block::{Block, Step};
use super::warp::Warp;
use crate::error::FaultKind;
use crate::float::{F32_NAN, Round, two_sum};
use crate::ir::{Atomic, AtomicOp, Inst, Space, Ty};
use std::sync::atomic::Ordering::Relaxed;

/// The new value at the address.
fn update(op: AtomicOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let signed = |v: u64| if ty.wide() { v as i64 } else { i64::from(v as u32 as i32) };
    let new = match op {
        AtomicOp::Add => match ty {
            Ty::F32 => {
                let sum = f32::from_bits(old as u32) + f32::from_bits(b as u32);
                u64::from(if sum.is_nan() { F32_NAN } else { sum.to_bits() })
            }
            Ty::F64 => (f64::from_bits(old) + f64::from_bits(b)).to_bits(),
            Ty::F16x2 | Ty::Bf16x2 => {
                let one = |shift: u32| match ty.half() {
                    Some(format) => {
                        let (hi, lo) =
                            two_sum(format.widen((old >> shift) as u16), format.widen((b >> shift) as u16));
                        u64::from(format.narrow(hi, lo, Round::Nearest)) << shift
                    }
                    None => 0,
                };
                one(0) | one(16)
            }
            _ => old.wrapping_add(b),
        },
        AtomicOp::Min if ty.signed() => signed(old).min(signed(b)) as u64,
        AtomicOp::Max if ty.signed() => signed(old).max(signed(b)) as u64,
        AtomicOp::Min => old.min(b),
        AtomicOp::Max => old.max(b),
        AtomicOp::And => old & b,
        AtomicOp::Or => old | b,
        AtomicOp::Xor => old ^ b,
        AtomicOp::Exchange => b,
        AtomicOp::CompareExchange if old == b => c,
        AtomicOp::CompareExchange => old,
        AtomicOp::Increment => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomicOp::Decrement => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
    };
    if ty.wide() { new } else { new & 0xffff_ffff }
}

impl Block<'_> {
    pub(super) fn atomic(&mut self, w: &mut Warp, inst: &Inst, pc: u32, a: &Atomic, m: u32) -> Step<()> {
        let len = a.ty.size();
        let mut addresses = self.addresses(w, inst, a.address, m)?;
        self.check_alignment(w, inst, &addresses, m, len)?;
        let operand = |s, me: &Self, w: &Warp| {
            if a.ty.wide() { me.get64(w, inst, s, m) } else { Ok(me.get32(w, inst, s, m)?.map(u64::from)) }
        };
        let b = operand(a.b, self, w)?;
        let c = match a.c {
            Some(c) => operand(c, self, w)?,
            None => [0; 32],
        };
        self.before_strong(w, a.order);
        let mut old = [0u64; 32];
        let grid = self.grid;
        for (space, lanes) in self.by_space(a.address.space, &mut addresses, m) {
            if lanes == 0 {
                continue;
            }
            if grid.options.profile {
                self.profile_access(inst, space, &addresses, lanes, len);
            }
            // before the value can be seen by another thread
            for i in (0..32).filter(|i| lanes >> i & 1 == 1) {
                self.publish(w, addresses[i]);
            }
            match space {
                Space::Global => {
                    self.each_global(
                        w,
                        inst,
                        &addresses,
                        lanes,
                        (len, Use::Update, true),
                        |_, i, memory, offset| {
                            old[i] = match memory.words(offset, len) {
                                [word] => {
                                    let new =
                                        |v: u32| Some(update(a.op, a.ty, u64::from(v), b[i], c[i]) as u32);
                                    u64::from(word.fetch_update(Relaxed, Relaxed, new).unwrap_or_else(|v| v))
                                }
                                [low, high] => {
                                    let _guard = grid.wide_atomics.lock().unwrap_or_else(|e| e.into_inner());
                                    let v =
                                        u64::from(low.load(Relaxed)) | (u64::from(high.load(Relaxed)) << 32);
                                    let new = update(a.op, a.ty, v, b[i], c[i]);
                                    low.store(new as u32, Relaxed);
                                    high.store((new >> 32) as u32, Relaxed);
                                    v
                                }
                                _ => 0,
                            };
                            memory.mark_written(offset, len);
                        },
                    )?;
                }
                Space::Shared => {
                    for i in (0..32).filter(|i| lanes >> i & 1 == 1) {
                        let size = self.shared.bytes.len();
                        let range = (addresses[i], len);
                        let at = self.check_range(w, inst, i, range, ("the block's shared memory", size))?;
                        self.check_shared(w, inst, i, (at, len), false, true)?;
                        let mut words = [0; 8];
                        self.shared.load(at, len, &mut words);
                        old[i] = u64::from(words[0]) | (u64::from(words[1]) << 32);
                        let new = update(a.op, a.ty, old[i], b[i], c[i]);
                        words[0] = new as u32;
                        words[1] = (new >> 32) as u32;
                        self.shared.store(at, len, &words);
                    }
                }
                _ => {
                    let message = "an atomic outside global and shared memory";
                    return self.fault(w, inst, lanes, FaultKind::OutOfBounds, message);
                }
            }
            for i in (0..32).filter(|i| lanes >> i & 1 == 1) {
                self.receive(w, addresses[i]);
            }
        }
        if let Some(d) = a.d {
            if a.ty.wide() {
                w.set64(d, &old, m);
            } else {
                w.set32(d, &old.map(|v| v as u32), m);
            }
            let hash = (0..32).filter(|i| m >> i & 1 == 1).fold(0u64, |h, i| h.rotate_left(5) ^ old[i]);
            self.after_strong(w, pc, a.order, hash);
        }
        Ok(())
    }
}
