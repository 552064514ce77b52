//! Branches, barriers of a block, and instructions that only steer.

use super::modifiers::Modifiers;
use super::{Branch, Lowering, full_name};
use crate::error::ParseResult;
use crate::ir::{Op, Ty, WarpOp};
use crate::text::ast::{Instruction, Operand};

impl Lowering<'_> {
    pub(super) fn control(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Option<Op>> {
        let op = match i.op.as_str() {
            "bra" => {
                m.take("uni");
                let Some(Operand::Name(label)) = i.args.first() else {
                    return self.fail("bra takes a label");
                };
                self.arity(i, 1..=1)?;
                let (at, braces) = (self.kernel.code.len(), self.braces.clone());
                self.branches.push(Branch { at, label: label.clone(), braces });
                Op::Branch { to: 0 }
            }
            "ret" | "exit" => {
                m.take("uni");
                self.arity(i, 0..=0)?;
                Op::Return
            }
            "bar" | "barrier" => self.barrier(i, m)?,
            "griddepcontrol" => {
                self.arity(i, 0..=0)?;
                match m.one_of(&[("wait", true), ("launch_dependents", false)]) {
                    Some(true) => Op::GridWait,
                    Some(false) => Op::Nop,
                    None => return self.fail("griddepcontrol takes .wait or .launch_dependents"),
                }
            }
            "nanosleep" => {
                m.types();
                Op::Yield
            }
            "trap" | "brkpt" => Op::Trap,
            "pmevent" => Op::Nop,
            "call" => return self.fail("calls are not simulated: write a kernel without functions"),
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    fn barrier(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        m.take("cta");
        if m.take("warp") {
            if !m.take("sync") {
                return self.fail(format!("'{}' is not simulated", full_name(i)));
            }
            self.arity(i, 1..=1)?;
            let mask = self.src(&i.args[0], Ty::B32)?;
            return Ok(Op::Warp { op: Box::new(WarpOp::Barrier), mask });
        }
        m.take("aligned");
        let Some(wait) = m.one_of(&[("sync", true), ("arrive", false)]) else {
            return self.fail(format!("'{}' is not simulated", full_name(i)));
        };
        self.arity(i, 2 - usize::from(wait)..=2)?;
        let id = self.src(&i.args[0], Ty::U32)?;
        let threads = match i.args.get(1) {
            Some(n) => Some(self.src(n, Ty::U32)?),
            None => None,
        };
        Ok(Op::Barrier { id, threads, wait })
    }
}
