//! Instructions that lanes of a warp execute together: shuffles, votes, reductions, matrix tiles.

use super::Lowering;
use super::modifiers::Modifiers;
use crate::error::ParseResult;
use crate::ir::{
    AtomicOp, Matrix, MatrixLoad, MatrixTy, Op, Shuffle, ShuffleMode, Space, Ty, VoteMode, WarpOp,
};
use crate::text::ast::{Instruction, Operand};

impl Lowering<'_> {
    pub(super) fn warp(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Option<Op>> {
        let op = match i.op.as_str() {
            "activemask" => {
                self.one_type(i, m)?;
                self.arity(i, 1..=1)?;
                Op::ActiveMask { d: self.dst(&i.args[0], Ty::B32)? }
            }
            "shfl" | "vote" | "redux" | "elect" => {
                if !m.take("sync") {
                    return self.fail(format!("{} is simulated with .sync only", i.op));
                }
                match i.op.as_str() {
                    "shfl" => self.shuffle(i, m)?,
                    "vote" => self.vote(i, m)?,
                    "redux" => self.reduce(i, m)?,
                    _ => self.elect(i)?,
                }
            }
            "mma" => self.matrix(i, m)?,
            "ldmatrix" => self.matrix_load(i, m)?,
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    fn shuffle(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let mode = m.one_of(&[
            ("up", ShuffleMode::Up),
            ("down", ShuffleMode::Down),
            ("bfly", ShuffleMode::Butterfly),
            ("idx", ShuffleMode::Index),
        ]);
        let (Some(mode), Ty::B32) = (mode, self.one_type(i, m)?) else { return self.no_type(i) };
        self.arity(i, 5..=5)?;
        let (d, p) = match &i.args[0] {
            Operand::Pair(d, p) => {
                let d = self.dst(&Operand::Name(d.clone()), Ty::B32)?;
                (d, if p == "_" { None } else { Some(self.symbols.pred(p, i.line)?) })
            }
            one => (self.dst(one, Ty::B32)?, None),
        };
        let (a, b, c) =
            (self.src(&i.args[1], Ty::B32)?, self.src(&i.args[2], Ty::B32)?, self.src(&i.args[3], Ty::B32)?);
        let mask = self.src(&i.args[4], Ty::B32)?;
        Ok(Op::Warp { op: Box::new(WarpOp::Shuffle(Shuffle { mode, d, p, a, b, c })), mask })
    }

    fn vote(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let mode = m.one_of(&[
            ("all", VoteMode::All),
            ("any", VoteMode::Any),
            ("uni", VoteMode::Uniform),
            ("ballot", VoteMode::Ballot),
        ]);
        let ty = self.one_type(i, m)?;
        self.arity(i, 3..=3)?;
        let d = match (mode, ty) {
            (Some(VoteMode::Ballot), Ty::B32) => self.dst(&i.args[0], Ty::B32)?,
            (Some(VoteMode::Ballot) | None, _) => return self.no_type(i),
            (_, Ty::Pred) => self.pred_dst(&i.args[0])?,
            _ => return self.no_type(i),
        };
        let p = self.pred(&i.args[1])?;
        let mask = self.src(&i.args[2], Ty::B32)?;
        let Some(mode) = mode else { return self.no_type(i) };
        Ok(Op::Warp { op: Box::new(WarpOp::Vote { mode, d, p }), mask })
    }

    fn reduce(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let op = m.one_of(&[
            ("add", AtomicOp::Add),
            ("min", AtomicOp::Min),
            ("max", AtomicOp::Max),
            ("and", AtomicOp::And),
            ("or", AtomicOp::Or),
            ("xor", AtomicOp::Xor),
        ]);
        let ty = self.one_type(i, m)?;
        self.arity(i, 3..=3)?;
        let Some(op) = op else { return self.no_type(i) };
        let bits = matches!(op, AtomicOp::And | AtomicOp::Or | AtomicOp::Xor);
        if bits != (ty == Ty::B32) || !matches!(ty, Ty::B32 | Ty::U32 | Ty::S32) {
            return self.no_type(i);
        }
        let (d, a) = (self.dst(&i.args[0], ty)?, self.src(&i.args[1], ty)?);
        let mask = self.src(&i.args[2], Ty::B32)?;
        Ok(Op::Warp { op: Box::new(WarpOp::Reduce { op, signed: ty.signed(), d, a }), mask })
    }

    fn elect(&mut self, i: &Instruction) -> ParseResult<Op> {
        self.arity(i, 2..=2)?;
        let Operand::Pair(d, p) = &i.args[0] else { return self.fail("elect.sync writes d|p") };
        let d = if d == "_" { None } else { Some(self.dst(&Operand::Name(d.clone()), Ty::B32)?) };
        let p = self.symbols.pred(p, i.line)?;
        let mask = self.src(&i.args[1], Ty::B32)?;
        Ok(Op::Warp { op: Box::new(WarpOp::Elect { d, p }), mask })
    }

    fn matrix(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let fixed = ["sync", "aligned", "row", "col"].map(|w| m.take(w));
        let k = m.one_of(&[("m16n8k8", 8), ("m16n8k16", 16), ("m16n8k32", 32)]);
        let types = m.types();
        let (Some(k), true) = (k, fixed.iter().all(|f| *f)) else { return self.no_type(i) };
        let ty = match (&types[..], k) {
            ([Ty::F32, Ty::F16, Ty::F16, Ty::F32], 8 | 16) => MatrixTy::F16,
            ([Ty::F32, Ty::Bf16, Ty::Bf16, Ty::F32], 8 | 16) => MatrixTy::Bf16,
            ([Ty::S32, a @ (Ty::S8 | Ty::U8), b @ (Ty::S8 | Ty::U8), Ty::S32], 16 | 32) => {
                MatrixTy::Int { a_signed: a.signed(), b_signed: b.signed() }
            }
            _ => return self.no_type(i),
        };
        self.arity(i, 4..=4)?;
        let bytes = if matches!(ty, MatrixTy::Int { .. }) { k } else { 2 * k };
        // a has 16 rows, b 8 columns, 32 lanes hold 4 bytes a register
        let want = [4, 16 * bytes / 128, 8 * bytes / 128, 4];
        for (at, want) in want.iter().enumerate() {
            let have = self.elements(&i.args[at]).len();
            if have != *want {
                return self.fail(format!("mma: operand {at} has {have} registers, expected {want}"));
            }
        }
        let accumulator = if matches!(ty, MatrixTy::Int { .. }) { Ty::S32 } else { Ty::F32 };
        let d =
            self.elements(&i.args[0]).iter().map(|r| self.dst(r, accumulator)).collect::<ParseResult<_>>()?;
        let a = self.elements(&i.args[1]).iter().map(|r| self.src(r, Ty::B32)).collect::<ParseResult<_>>()?;
        let b = self.elements(&i.args[2]).iter().map(|r| self.src(r, Ty::B32)).collect::<ParseResult<_>>()?;
        let c =
            self.elements(&i.args[3]).iter().map(|r| self.src(r, accumulator)).collect::<ParseResult<_>>()?;
        Ok(Op::Matrix(Box::new(Matrix { ty, k, d, a, b, c })))
    }

    fn matrix_load(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let fixed = ["sync", "aligned", "m8n8"].map(|w| m.take(w)).iter().all(|f| *f);
        let count = m.one_of(&[("x1", 1), ("x2", 2), ("x4", 4)]);
        let transposed = m.take("trans");
        let shared = m.one_of(&[("shared", ()), ("shared::cta", ())]).is_some();
        let (Ty::B16, true, true, Some(count)) = (self.one_type(i, m)?, fixed, shared, count) else {
            return self.no_type(i);
        };
        self.arity(i, 2..=2)?;
        let parts = self.elements(&i.args[0]);
        if parts.len() != count {
            return self.fail(format!("ldmatrix.x{count} writes {count} registers, found {}", parts.len()));
        }
        let d = parts.iter().map(|r| self.dst(r, Ty::B32)).collect::<ParseResult<_>>()?;
        let address = self.address(&i.args[1], Space::Shared)?;
        Ok(Op::MatrixLoad(Box::new(MatrixLoad { transposed, d, address })))
    }
}
