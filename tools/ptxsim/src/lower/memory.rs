//! Loads, stores, atomics, asynchronous copies, fences.

use super::modifiers::Modifiers;
use super::operand::Width;
use super::{Lowering, full_name};
use crate::error::ParseResult;
use crate::ir::{AsyncCopy, Atomic, AtomicOp, Load, Op, Order, Space, Src, Store, Ty};
use crate::text::ast::{Instruction, Operand};

impl Lowering<'_> {
    pub(super) fn memory(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Option<Op>> {
        let op = match i.op.as_str() {
            "ld" | "ldu" => self.load(i, m)?,
            "st" => self.store(i, m)?,
            "atom" | "red" => self.atomic(i, m)?,
            "cp" => self.async_copy(i, m)?,
            "prefetch" | "prefetchu" => {
                let space = space(m);
                m.one_of(&[("L1", ()), ("L2", ()), ("L2::evict_last", ()), ("L2::evict_normal", ())]);
                self.arity(i, 1..=1)?;
                // A prefetch has no effect on values, and one of a bad address is ignored by the machine.
                self.address(&i.args[0], space)?;
                Op::Nop
            }
            "createpolicy" => self.create_policy(i, m)?,
            "fence" | "membar" => self.fence(i, m)?,
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    /// Hints that change speed and nothing else. True if the instruction carries a cache policy operand.
    fn cache_hints(m: &Modifiers<'_>) -> bool {
        m.take_all(|w| {
            let level = ["L1::", "L2::evict_"].iter().any(|p| w.starts_with(p));
            let size = matches!(w, "L2::64B" | "L2::128B" | "L2::256B");
            let legacy = matches!(w, "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt");
            level || size || legacy
        });
        m.take("L2::cache_hint")
    }

    fn policy(&mut self, i: &Instruction, hinted: bool, at: usize) -> ParseResult<()> {
        match (hinted, i.args.get(at)) {
            (true, Some(policy)) => self.src(policy, Ty::B64).map(|_| ()),
            (true, None) => self.fail(format!("'{}' needs a cache policy operand", full_name(i))),
            (false, _) => Ok(()),
        }
    }

    fn order(&self, m: &Modifiers<'_>, sides: &[(&str, Order)]) -> ParseResult<Order> {
        let order = m.one_of(sides);
        let scope = m.scope();
        match (order, scope) {
            (None, None) => Ok(Order::Weak),
            (None, Some(_)) => self.fail("a scope without .relaxed, .acquire or .release"),
            (Some(order), _) => Ok(order),
        }
    }

    fn load(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let order = self.order(
            m,
            &[
                ("weak", Order::Weak),
                ("volatile", Order::Relaxed),
                ("relaxed", Order::Relaxed),
                ("acquire", Order::Acquire),
            ],
        )?;
        let space = space(m);
        let non_coherent = m.take("nc");
        let hinted = Self::cache_hints(m);
        let count = vector(m);
        let ty = self.one_type(i, m)?;
        self.arity(i, 2 + usize::from(hinted)..=2 + usize::from(hinted))?;
        self.policy(i, hinted, 2)?;
        if non_coherent && space != Space::Global {
            return self.fail(".nc belongs to ld.global");
        }
        let parts = self.vector_operand(i, &i.args[0], count, ty)?;
        let mut d = Vec::new();
        for part in parts {
            d.push(match part {
                Operand::Sink => None,
                part => Some(self.dst_of_width(part, ty, Width::AtLeast)?),
            });
        }
        let address = self.address(&i.args[1], space)?;
        Ok(Op::Load(Box::new(Load { address, size: ty.size(), signed: ty.signed(), d, non_coherent, order })))
    }

    fn store(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let order = self.order(
            m,
            &[
                ("weak", Order::Weak),
                ("volatile", Order::Relaxed),
                ("relaxed", Order::Relaxed),
                ("release", Order::Release),
            ],
        )?;
        let space = space(m);
        let hinted = Self::cache_hints(m);
        let count = vector(m);
        let ty = self.one_type(i, m)?;
        self.arity(i, 2 + usize::from(hinted)..=2 + usize::from(hinted))?;
        self.policy(i, hinted, 2)?;
        let parts = self.vector_operand(i, &i.args[1], count, ty)?;
        let s = parts.iter().map(|p| self.src_of_width(p, ty, Width::AtLeast)).collect::<ParseResult<_>>()?;
        let address = self.address(&i.args[0], space)?;
        Ok(Op::Store(Box::new(Store { address, size: ty.size(), s, order })))
    }

    fn vector_operand<'o>(
        &self,
        i: &Instruction,
        operand: &'o Operand,
        count: usize,
        ty: Ty,
    ) -> ParseResult<&'o [Operand]> {
        let parts = self.elements(operand);
        if ty.size() == 0 || ty.packed() && count > 4 || count * ty.size() > 32 {
            return self.no_type(i);
        }
        if parts.len() != count {
            return self.fail(format!("'{}' moves {count} elements, found {}", full_name(i), parts.len()));
        }
        Ok(parts)
    }

    fn atomic(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let returns = i.op == "atom";
        let order = m.one_of(&[
            ("relaxed", Order::Relaxed),
            ("acquire", Order::Acquire),
            ("release", Order::Release),
            ("acq_rel", Order::AcquireRelease),
        ]);
        m.scope();
        let space = space(m);
        let hinted = Self::cache_hints(m);
        m.take("noftz");
        let op = m.one_of(&[
            ("add", AtomicOp::Add),
            ("min", AtomicOp::Min),
            ("max", AtomicOp::Max),
            ("and", AtomicOp::And),
            ("or", AtomicOp::Or),
            ("xor", AtomicOp::Xor),
            ("exch", AtomicOp::Exchange),
            ("cas", AtomicOp::CompareExchange),
            ("inc", AtomicOp::Increment),
            ("dec", AtomicOp::Decrement),
        ]);
        let Some(op) = op else { return self.fail(format!("'{}' names no operation", full_name(i))) };
        let ty = self.one_type(i, m)?;
        let known = match op {
            AtomicOp::Add => {
                matches!(
                    ty,
                    Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64 | Ty::F32 | Ty::F64 | Ty::F16x2 | Ty::Bf16x2
                )
            }
            AtomicOp::Min | AtomicOp::Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
            AtomicOp::Increment | AtomicOp::Decrement => ty == Ty::U32,
            _ => matches!(ty, Ty::B32 | Ty::B64),
        };
        if !known || !matches!(space, Space::Global | Space::Shared | Space::Generic) {
            return self.no_type(i);
        }
        let first = usize::from(returns);
        let operands = 2 + usize::from(op == AtomicOp::CompareExchange) + usize::from(hinted);
        self.arity(i, first + operands..=first + operands)?;
        let d = match i.args.first() {
            Some(Operand::Sink) => None,
            Some(d) if returns => Some(self.dst(d, ty)?),
            _ => None,
        };
        let address = self.address(&i.args[first], space)?;
        let b = self.src(&i.args[first + 1], ty)?;
        let c = if op == AtomicOp::CompareExchange { Some(self.src(&i.args[first + 2], ty)?) } else { None };
        let order = order.unwrap_or(Order::Relaxed);
        Ok(Op::Atomic(Box::new(Atomic { op, ty, address, d, b, c, order })))
    }

    fn async_copy(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        if !m.take("async") {
            return self.fail(format!("'{}' is not simulated", full_name(i)));
        }
        if m.take("commit_group") {
            self.arity(i, 0..=0)?;
            return Ok(Op::AsyncCommit);
        }
        if m.take("wait_all") {
            self.arity(i, 0..=0)?;
            return Ok(Op::AsyncWait { pending: None });
        }
        if m.take("wait_group") {
            self.arity(i, 1..=1)?;
            return Ok(Op::AsyncWait { pending: Some(self.immediate(i, 0)?) });
        }
        let l2_only = m.take("cg");
        let all = m.take("ca");
        let shared = m.one_of(&[("shared", ()), ("shared::cta", ())]);
        let global = m.take("global");
        let hinted = Self::cache_hints(m);
        let last = i.args.len().saturating_sub(usize::from(hinted));
        self.arity(i, 3 + usize::from(hinted)..=4 + usize::from(hinted))?;
        self.policy(i, hinted, last)?;
        let size = self.immediate(i, 2)? as usize;
        let allowed = if l2_only { size == 16 } else { all && matches!(size, 4 | 8 | 16) };
        if !allowed || shared.is_none() || !global {
            return self
                .fail(format!("'{}' of {size} bytes: expected .ca (4, 8, 16) or .cg (16)", full_name(i)));
        }
        let to = self.address(&i.args[0], Space::Shared)?;
        let from = self.address(&i.args[1], Space::Global)?;
        let source_size = if last == 4 { Some(self.src(&i.args[3], Ty::U32)?) } else { None };
        Ok(Op::AsyncCopy(Box::new(AsyncCopy { to, from, size, source_size })))
    }

    /// A policy is an opaque value here: hints do not change what is loaded.
    fn create_policy(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        if !m.take("fractional") {
            return self.fail("only createpolicy.fractional is simulated");
        }
        m.take_all(|w| w.starts_with("L2::evict_"));
        if self.one_type(i, m)? != Ty::B64 {
            return self.no_type(i);
        }
        self.arity(i, 1..=2)?;
        let (d, zero) = (self.dst(&i.args[0], Ty::B64)?, Src::Imm(0));
        Ok(Op::Alu64 { f: crate::ir::Alu64::Mov, d, a: zero, b: zero, c: zero, args: 1 })
    }

    fn fence(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        self.arity(i, 0..=0)?;
        let legacy = m.one_of(&[("gl", true)]);
        let _ = m.one_of(&[("sc", ()), ("acq_rel", ())]);
        let Some(device) = m.scope().or(legacy) else {
            return self.fail(format!("'{}' needs a scope: .cta, .gpu or .sys", full_name(i)));
        };
        Ok(Op::Fence { device })
    }
}

fn space(m: &Modifiers<'_>) -> Space {
    m.one_of(&[
        ("global", Space::Global),
        ("shared", Space::Shared),
        ("shared::cta", Space::Shared),
        ("local", Space::Local),
        ("param", Space::Param),
        ("param::entry", Space::Param),
        ("const", Space::Const),
    ])
    .unwrap_or(Space::Generic)
}

fn vector(m: &Modifiers<'_>) -> usize {
    m.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
}
