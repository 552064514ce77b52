//! One instruction for the lanes of a mask: operands fetched and checked, the operation done, the result written.

use super::block::{Block, Step};
use super::lanes::{V32, V64};
use super::load_store::store_element;
use super::warp::Warp;
use super::{approx, convert, half, lanes, wide};
use crate::error::FaultKind;
use crate::ir::{BoolOp, CompareTy, Dst, Inst, Op, Pred, Reg, Setp, Special, Src};

impl<'a> Block<'a> {
    /// A 32-bit source for lanes `m`.
    #[inline(always)]
    pub(super) fn get32(&self, w: &Warp, inst: &Inst, s: Src, m: u32) -> Step<V32> {
        match s {
            Src::Reg(r) => {
                let set = w.narrow_set[r as usize];
                if set & m != m && self.grid.options.checks.initialized {
                    return self.unset(w, inst, &self.grid.kernel.narrow_names, r, m & !set);
                }
                Ok(w.narrow[r as usize])
            }
            Src::Imm(v) => Ok([v as u32; 32]),
            Src::Special(s) => Ok(self.special(w, s)),
        }
    }

    /// The same without a copy: an immediate is spread into `spare`.
    #[inline(always)]
    fn look32<'w>(&self, w: &'w Warp, inst: &Inst, s: Src, m: u32, spare: &'w mut V32) -> Step<&'w V32> {
        match s {
            Src::Reg(r) if w.narrow_set[r as usize] & m == m || !self.grid.options.checks.initialized => {
                Ok(&w.narrow[r as usize])
            }
            other => {
                *spare = self.get32(w, inst, other, m)?;
                Ok(spare)
            }
        }
    }

    #[inline(always)]
    fn look64<'w>(&self, w: &'w Warp, inst: &Inst, s: Src, m: u32, spare: &'w mut V64) -> Step<&'w V64> {
        match s {
            Src::Reg(r) if w.wide_set[r as usize] & m == m || !self.grid.options.checks.initialized => {
                Ok(&w.wide[r as usize])
            }
            other => {
                *spare = self.get64(w, inst, other, m)?;
                Ok(spare)
            }
        }
    }

    /// A 64-bit source.
    #[inline(always)]
    pub(super) fn get64(&self, w: &Warp, inst: &Inst, s: Src, m: u32) -> Step<V64> {
        match s {
            Src::Reg(r) => {
                let set = w.wide_set[r as usize];
                if set & m != m && self.grid.options.checks.initialized {
                    return self.unset(w, inst, &self.grid.kernel.wide_names, r, m & !set);
                }
                Ok(w.wide[r as usize])
            }
            Src::Imm(v) => Ok([v; 32]),
            Src::Special(s) => Ok(self.special(w, s).map(u64::from)),
        }
    }

    /// A predicate, negated where asked.
    #[inline(always)]
    pub(super) fn get_pred(&self, w: &Warp, inst: &Inst, p: Pred, m: u32) -> Step<u32> {
        let set = w.pred_set[p.reg as usize];
        if set & m != m && self.grid.options.checks.initialized {
            return self.unset(w, inst, &self.grid.kernel.pred_names, p.reg, m & !set);
        }
        let v = w.preds[p.reg as usize];
        Ok(if p.negated { !v } else { v })
    }

    #[cold]
    fn unset<T>(&self, w: &Warp, inst: &Inst, names: &[String], r: Reg, lanes: u32) -> Step<T> {
        let name = names.get(r as usize).map_or("?", |n| n.as_str());
        let message = format!("register {name} is read before it is written");
        self.fault(w, inst, lanes, FaultKind::UninitializedRegister, message)
    }

    fn special(&self, w: &Warp, s: Special) -> V32 {
        let g = self.grid;
        let [x, y, _] = g.block;
        let axis = |v: [u32; 3], k: u8| v[usize::from(k).min(2)];
        std::array::from_fn(|lane| {
            let lane = lane as u32;
            let thread = w.id * 32 + lane;
            match s {
                Special::Tid(k) => axis([thread % x, thread / x % y, thread / x / y], k),
                Special::Ntid(k) => axis(g.block, k),
                Special::Ctaid(k) => axis(self.position, k),
                Special::Nctaid(k) => axis(g.grid, k),
                Special::Lane => lane,
                Special::Warp => w.id,
                Special::Warps => g.warps,
                Special::LaneMaskEq => 1 << lane,
                Special::LaneMaskLt => (1 << lane) - 1,
                Special::LaneMaskLe => u32::MAX >> (31 - lane),
                Special::LaneMaskGt => !(u32::MAX >> (31 - lane)),
                Special::LaneMaskGe => !((1 << lane) - 1),
                Special::Clock => self.report.warp_instructions as u32,
                Special::Sm => self.index % g.options.multiprocessors.max(1),
                Special::Sms => g.options.multiprocessors,
                Special::Grid => 0,
                Special::DynamicShared => g.dynamic_shared as u32,
                Special::TotalShared => (g.kernel.shared + g.dynamic_shared) as u32,
            }
        })
    }

    /// Any instruction but branches, barriers and those of named lanes. `m` is not empty.
    pub(super) fn step(&mut self, w: &mut Warp, inst: &Inst, pc: u32, m: u32) -> Step<()> {
        if inst.contractible && self.grid.options.checks.contraction {
            let message = "no rounding modifier: an assembler may fuse this with its neighbour; write .rn";
            return self.fault(w, inst, m, FaultKind::Contraction, message);
        }
        match &inst.op {
            Op::Alu { f, d, a, b, c, args, post } => {
                let [mut x, mut y, mut z] = [[0; 32]; 3];
                let a = self.look32(w, inst, *a, m, &mut x)?;
                let b = if *args > 1 { self.look32(w, inst, *b, m, &mut y)? } else { &y };
                let c = if *args > 2 { self.look32(w, inst, *c, m, &mut z)? } else { &z };
                let mut out = [0; 32];
                lanes::alu(self.grid.vector, *f, *post, a, b, c, &mut out);
                w.set32(*d, &out, m);
            }
            Op::Alu64 { f, d, a, b, c, args } => {
                let [mut x, mut y, mut z] = [[0; 32]; 3];
                let a = self.look64(w, inst, *a, m, &mut x)?;
                let b = if *args > 1 { self.look64(w, inst, *b, m, &mut y)? } else { &y };
                let c = if *args > 2 { self.look64(w, inst, *c, m, &mut z)? } else { &z };
                let out = wide::alu64(*f, a, b, c);
                w.set64(*d, &out, m);
            }
            Op::Load(load) => self.load(w, inst, pc, load, m)?,
            Op::Store(store) => self.store(w, inst, store, m)?,
            Op::Setp(s) => self.setp(w, inst, s, m)?,
            _ => self.step_rare(w, inst, pc, m)?,
        }
        Ok(())
    }

    /// The instructions that are not the bulk of any kernel; apart, so that the others keep a small frame.
    #[inline(never)]
    fn step_rare(&mut self, w: &mut Warp, inst: &Inst, pc: u32, m: u32) -> Step<()> {
        match &inst.op {
            Op::Half { f, format, packed, ftz, d, a, b, c } => {
                let [a, b, c] =
                    [self.get32(w, inst, *a, m)?, self.get32(w, inst, *b, m)?, self.get32(w, inst, *c, m)?];
                w.set32(*d, &half::half(*f, *format, *packed, *ftz, &a, &b, &c), m);
            }
            Op::Directed { f, round, post, d, a, b, c } => {
                let [a, b, c] =
                    [self.get32(w, inst, *a, m)?, self.get32(w, inst, *b, m)?, self.get32(w, inst, *c, m)?];
                w.set32(*d, &half::directed(*f, *round, *post, &a, &b, &c), m);
            }
            Op::Approx { f, ftz, d, a, b } => {
                let (a, b) = (self.get32(w, inst, *a, m)?, self.get32(w, inst, *b, m)?);
                w.set32(*d, &approx::single(*f, *ftz, self.grid.options.perturb, &a, &b), m);
            }
            Op::ApproxHalf { f, format, packed, d, a } => {
                let a = self.get32(w, inst, *a, m)?;
                w.set32(*d, &approx::half(*f, *format, *packed, &a), m);
            }
            Op::Shift64 { f, d, a, b } => {
                let (a, b) = (self.get64(w, inst, *a, m)?, self.get32(w, inst, *b, m)?);
                w.set64(*d, &wide::shift64(*f, &a, &b), m);
            }
            Op::Count64 { f, d, a } => {
                let a = self.get64(w, inst, *a, m)?;
                w.set32(*d, &wide::count64(*f, &a), m);
            }
            Op::Bfe64 { signed, d, a, pos, len } => {
                let a = self.get64(w, inst, *a, m)?;
                let (pos, len) = (self.get32(w, inst, *pos, m)?, self.get32(w, inst, *len, m)?);
                let field = |i: usize| lanes::bit_field(a[i], pos[i], len[i], 64, *signed);
                w.set64(*d, &std::array::from_fn(field), m);
            }
            Op::Bfi { d, a, b, pos, len } => {
                let (pos, len) = (self.get32(w, inst, *pos, m)?, self.get32(w, inst, *len, m)?);
                let (a, b, width) = match d {
                    Dst::Wide(_) => (self.get64(w, inst, *a, m)?, self.get64(w, inst, *b, m)?, 64),
                    Dst::Narrow(..) => {
                        let (a, b) = (self.get32(w, inst, *a, m)?, self.get32(w, inst, *b, m)?);
                        (a.map(u64::from), b.map(u64::from), 32)
                    }
                };
                store_element(w, *d, m, |i| wide::insert_bits(a[i], b[i], pos[i], len[i], width));
            }
            Op::Wide { signed, d, a, b, c } => {
                let (a, b) = (self.get32(w, inst, *a, m)?, self.get32(w, inst, *b, m)?);
                let c = match c {
                    Some(c) => self.get64(w, inst, *c, m)?,
                    None => [0; 32],
                };
                w.set64(*d, &wide::multiply_wide(*signed, &a, &b, &c), m);
            }
            Op::Select { d, a, b, p } => {
                let p = self.get_pred(w, inst, *p, m)?;
                match d {
                    Dst::Narrow(d, _) => {
                        // only the operand that is chosen has to be written
                        let (a, b) = (self.get32(w, inst, *a, m & p)?, self.get32(w, inst, *b, m & !p)?);
                        let pick = |i: usize| if p >> i & 1 == 1 { a[i] } else { b[i] };
                        w.set32(*d, &std::array::from_fn(pick), m);
                    }
                    Dst::Wide(d) => {
                        let (a, b) = (self.get64(w, inst, *a, m & p)?, self.get64(w, inst, *b, m & !p)?);
                        let pick = |i: usize| if p >> i & 1 == 1 { a[i] } else { b[i] };
                        w.set64(*d, &std::array::from_fn(pick), m);
                    }
                }
            }
            Op::Bool { f, d, a, b } => {
                let (a, b) = (self.get_pred(w, inst, *a, m)?, self.get_pred(w, inst, *b, m)?);
                w.set_pred(*d, boolean(*f, a, b), m);
            }
            Op::BoolConst { d, value } => w.set_pred(*d, if *value { !0 } else { 0 }, m),
            Op::Pack { d, parts, bits } => {
                let mut out = [0u64; 32];
                for (k, p) in parts.iter().enumerate() {
                    let v = self.get32(w, inst, *p, m)?;
                    let keep = u64::MAX >> (64 - bits);
                    (0..32).for_each(|i| out[i] |= (u64::from(v[i]) & keep) << (bits * k as u32));
                }
                store_element(w, *d, m, |i| out[i]);
            }
            Op::Unpack { d, a, wide, bits } => {
                let v = self.get_either(w, inst, *a, *wide, m)?;
                for (k, d) in d.iter().enumerate() {
                    if let Some(d) = d {
                        let part = |x: u64| ((x >> (bits * k as u32)) & (u64::MAX >> (64 - bits))) as u32;
                        w.set32(*d, &v.map(part), m);
                    }
                }
            }
            Op::Convert(c) => {
                let source = self.get_either(w, inst, c.a, c.a_wide, m)?;
                let out = convert::convert(c, &source);
                store_element(w, c.d, m, |i| out[i]);
            }
            Op::ConvertPair { format, round, relu, d, high, low } => {
                let (high, low) = (self.get32(w, inst, *high, m)?, self.get32(w, inst, *low, m)?);
                w.set32(*d, &convert::pair(*format, *round, *relu, &high, &low), m);
            }
            Op::ConvertPack { signed, d, a, b, c } => {
                let [a, b, c] =
                    [self.get32(w, inst, *a, m)?, self.get32(w, inst, *b, m)?, self.get32(w, inst, *c, m)?];
                w.set32(*d, &convert::pack_bytes(*signed, &a, &b, &c), m);
            }
            Op::Atomic(a) => self.atomic(w, inst, pc, a, m)?,
            Op::ActiveMask { d } => w.set32(*d, &[m; 32], m),
            Op::AsyncCopy(copy) => self.async_copy(w, inst, copy, m)?,
            Op::AsyncCommit => Self::async_commit(w, m),
            Op::AsyncWait { pending } => self.async_wait(w, inst, m, *pending)?,
            Op::Matrix(t) => self.matrix(w, inst, t, m)?,
            Op::MatrixLoad(l) => self.matrix_load(w, inst, l, m)?,
            Op::Fence { device } => self.fence(w, *device),
            Op::GridWait => {
                w.waited = true;
                self.grid.waited.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            Op::Yield => w.yields = true,
            Op::Trap => return self.fault(w, inst, m, FaultKind::Trap, "trap"),
            // the rest is done by the caller
            _ => {}
        }
        Ok(())
    }

    /// A source in either file, zero-extended.
    fn get_either(&self, w: &Warp, inst: &Inst, s: Src, wide: bool, m: u32) -> Step<V64> {
        if wide { self.get64(w, inst, s, m) } else { Ok(self.get32(w, inst, s, m)?.map(u64::from)) }
    }

    #[inline(never)]
    fn setp(&mut self, w: &mut Warp, inst: &Inst, s: &Setp, m: u32) -> Step<()> {
        let holds = match s.ty {
            CompareTy::U64 | CompareTy::S64 | CompareTy::F64 => {
                let (a, b) = (self.get64(w, inst, s.a, m)?, self.get64(w, inst, s.b, m)?);
                match s.ty {
                    CompareTy::F64 => lanes::compare_float(s.compare, s.unordered, &a, &b, f64::from_bits),
                    CompareTy::S64 => lanes::compare_int(s.compare, &a, &b, |x| x as i64),
                    _ => lanes::compare_int(s.compare, &a, &b, |x| x),
                }
            }
            ty => {
                let (mut a, mut b) = (self.get32(w, inst, s.a, m)?, self.get32(w, inst, s.b, m)?);
                if s.ftz {
                    a = a.map(lanes::flush);
                    b = b.map(lanes::flush);
                }
                lanes::compare32(s.compare, s.unordered, ty, &a, &b)
            }
        };
        let (mut p, mut q) = (holds, !holds);
        if let Some((f, c)) = s.combine {
            let c = self.get_pred(w, inst, c, m)?;
            p = boolean(f, p, c);
            q = boolean(f, q, c);
        }
        if let Some(d) = s.d {
            w.set_pred(d, p, m);
        }
        if let Some(d) = s.q {
            w.set_pred(d, q, m);
        }
        Ok(())
    }
}

fn boolean(f: BoolOp, a: u32, b: u32) -> u32 {
    match f {
        BoolOp::And => a & b,
        BoolOp::Or => a | b,
        BoolOp::Xor => a ^ b,
    }
}
