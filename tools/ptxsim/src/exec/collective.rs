//! Instructions that a named set of lanes executes together.

use super::block::{Block, Step};
use super::warp::Warp;
use crate::error::FaultKind;
use crate::ir::{AtomicOp, Inst, Shuffle, ShuffleMode, Src, VoteMode, WarpOp};

impl Block<'_> {
    /// Checks the member mask of lanes `m` in a group of `group`. True if named lanes are still to come.
    pub(super) fn lanes_are_missing(
        &self,
        w: &Warp,
        inst: &Inst,
        named: Src,
        group: u32,
        m: u32,
    ) -> Step<bool> {
        let kind = FaultKind::MemberMask;
        let masks = self.get32(w, inst, named, m)?;
        let named = masks[m.trailing_zeros() as usize & 31];
        if (0..32).any(|i| m >> i & 1 == 1 && masks[i] != named) {
            return self.fault(w, inst, m, kind, "lanes that execute together name different member masks");
        }
        if m & !named != 0 {
            let message = format!("member mask {named:#010x} does not name lanes that execute this");
            return self.fault(w, inst, m & !named, kind, message);
        }
        let named = named & w.launched;
        if named & !w.alive != 0 {
            let message = format!("member mask {named:#010x} names lanes that have returned");
            return self.fault(w, inst, named & !w.alive, kind, message);
        }
        if named & group & !m != 0 {
            let message = format!("member mask {named:#010x} names lanes whose predicate is false here");
            return self.fault(w, inst, named & group & !m, kind, message);
        }
        Ok(named & !m != 0)
    }

    pub(super) fn collective(&mut self, w: &mut Warp, inst: &Inst, op: &WarpOp, m: u32) -> Step<()> {
        match op {
            WarpOp::Barrier => Self::tick(w),
            WarpOp::Shuffle(s) => self.shuffle(w, inst, s, m)?,
            WarpOp::Vote { mode, d, p } => {
                let yes = self.get_pred(w, inst, *p, m)? & m;
                let all = |b: bool| if b { !0 } else { 0 };
                match mode {
                    VoteMode::All => w.set_pred(*d, all(yes == m), m),
                    VoteMode::Any => w.set_pred(*d, all(yes != 0), m),
                    VoteMode::Uniform => w.set_pred(*d, all(yes == 0 || yes == m), m),
                    VoteMode::Ballot => w.set32(*d, &[yes; 32], m),
                }
            }
            WarpOp::Reduce { op, signed, d, a } => {
                let a = self.get32(w, inst, *a, m)?;
                let values = (0..32).filter(|i| m >> i & 1 == 1).map(|i| a[i]);
                let result = values.reduce(|x, y| match (op, signed) {
                    (AtomicOp::Add, _) => x.wrapping_add(y),
                    (AtomicOp::Min, true) => (x as i32).min(y as i32) as u32,
                    (AtomicOp::Max, true) => (x as i32).max(y as i32) as u32,
                    (AtomicOp::Min, false) => x.min(y),
                    (AtomicOp::Max, false) => x.max(y),
                    (AtomicOp::And, _) => x & y,
                    (AtomicOp::Or, _) => x | y,
                    _ => x ^ y,
                });
                w.set32(*d, &[result.unwrap_or(0); 32], m);
            }
            WarpOp::Elect { d, p } => {
                let lead = m.trailing_zeros();
                if let Some(d) = d {
                    w.set32(*d, &[lead; 32], m);
                }
                w.set_pred(*p, 1 << (lead & 31), m);
            }
        }
        Ok(())
    }

    /// `shfl.sync`; the operand `c` holds a clamp in bits 0..5 and a segment mask in bits 8..13.
    fn shuffle(&self, w: &mut Warp, inst: &Inst, s: &Shuffle, m: u32) -> Step<()> {
        let a = self.get32(w, inst, s.a, m)?;
        let b = self.get32(w, inst, s.b, m)?;
        let c = self.get32(w, inst, s.c, m)?;
        let mut out = [0; 32];
        let mut in_range = 0;
        for i in 0..32usize {
            if m >> i & 1 == 0 {
                continue;
            }
            let (lane, by) = (i as i32, (b[i] & 31) as i32);
            let (clamp, segment) = ((c[i] & 31) as i32, ((c[i] >> 8) & 31) as i32);
            let highest = (lane & segment) | (clamp & !segment);
            let lowest = lane & segment;
            let (from, inside) = match s.mode {
                ShuffleMode::Up => (lane - by, lane - by >= highest),
                ShuffleMode::Down => (lane + by, lane + by <= highest),
                ShuffleMode::Butterfly => (lane ^ by, (lane ^ by) <= highest),
                ShuffleMode::Index => {
                    let from = lowest | (by & !segment);
                    (from, from <= highest)
                }
            };
            let from = if inside { from as usize & 31 } else { i };
            if m >> from & 1 == 0 {
                let message = format!("lane {i} reads lane {from}, which does not take part in the shuffle");
                return self.fault(w, inst, 1 << i, FaultKind::MemberMask, message);
            }
            out[i] = a[from];
            in_range |= u32::from(inside) << i;
        }
        w.set32(s.d, &out, m);
        if let Some(p) = s.p {
            w.set_pred(p, in_range, m);
        }
        Ok(())
    }
}
