//! Integer and bit instructions.

use super::Lowering;
use super::modifiers::Modifiers;
use crate::error::ParseResult;
use crate::ir::{Alu, Alu64, BoolOp, Count, Dst, Op, Post, PrmtMode, Shift, Src, Ty};
use crate::text::ast::Instruction;

/// Which of two operations, by the sign of the type.
fn by_sign<T>(ty: Ty, signed: T, unsigned: T) -> T {
    if ty.signed() { signed } else { unsigned }
}

impl Lowering<'_> {
    pub(super) fn integer(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Option<Op>> {
        let ty = m.last_type();
        if ty.is_some_and(Ty::float) {
            return Ok(None);
        }
        if ty == Some(Ty::Pred) {
            return self.predicate(i, m);
        }
        let op = match i.op.as_str() {
            "add" | "sub" | "min" | "max" | "div" | "rem" | "and" | "or" | "xor" | "sad" => {
                self.plain(i, m)?
            }
            "mul" | "mad" => self.multiply(i, m)?,
            "mul24" | "mad24" => self.multiply24(i, m)?,
            "abs" | "neg" | "not" | "cnot" | "brev" => self.plain(i, m)?,
            "popc" | "clz" | "bfind" => self.count(i, m)?,
            "shl" | "shr" => self.shift(i, m)?,
            "shf" => {
                let left = m.one_of(&[("l", true), ("r", false)]);
                let wrap = m.one_of(&[("wrap", true), ("clamp", false)]);
                match (left, wrap) {
                    (Some(true), Some(wrap)) => self.bits(i, m, Alu::FunnelL { wrap })?,
                    (Some(false), Some(wrap)) => self.bits(i, m, Alu::FunnelR { wrap })?,
                    _ => return self.fail("shf takes .l or .r and .wrap or .clamp"),
                }
            }
            "prmt" => {
                let mode = m.one_of(&[
                    ("f4e", PrmtMode::Forward4),
                    ("b4e", PrmtMode::Backward4),
                    ("rc8", PrmtMode::Replicate8),
                    ("ecl", PrmtMode::EdgeLeft),
                    ("ecr", PrmtMode::EdgeRight),
                    ("rc16", PrmtMode::Replicate16),
                ]);
                self.bits(i, m, Alu::Prmt(mode.unwrap_or(PrmtMode::Index)))?
            }
            "lop3" => {
                self.arity(i, 5..=5)?;
                let table = self.immediate(i, 4)?;
                let Ok(table) = u8::try_from(table) else {
                    return self.fail("lop3's table has 8 bits");
                };
                self.bits(i, m, Alu::Lop3(table))?
            }
            "bfe" => self.bit_field_extract(i, m)?,
            "bfi" => self.bit_field_insert(i, m)?,
            "dp4a" | "dp2a" => self.dot(i, m)?,
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    fn predicate(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Option<Op>> {
        let f = match i.op.as_str() {
            "and" => BoolOp::And,
            "or" => BoolOp::Or,
            "xor" => BoolOp::Xor,
            "not" => {
                self.arity(i, 2..=2)?;
                m.types();
                let (d, mut a) = (self.pred_dst(&i.args[0])?, self.pred(&i.args[1])?);
                a.negated = !a.negated;
                return Ok(Some(Op::Bool { f: BoolOp::And, d, a, b: a }));
            }
            _ => return Ok(None),
        };
        self.arity(i, 3..=3)?;
        m.types();
        let (d, a, b) = (self.pred_dst(&i.args[0])?, self.pred(&i.args[1])?, self.pred(&i.args[2])?);
        Ok(Some(Op::Bool { f, d, a, b }))
    }

    /// An operation whose operands all have the instruction's type.
    fn plain(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let saturate = m.take("sat");
        let ty = self.one_type(i, m)?;
        if saturate && ty != Ty::S32 {
            return self.no_type(i);
        }
        let bits_only = matches!(i.op.as_str(), "and" | "or" | "xor" | "not" | "cnot" | "brev");
        if ty.size() == 1 || bits_only != matches!(ty, Ty::B16 | Ty::B32 | Ty::B64) {
            return self.no_type(i);
        }
        if ty.wide() {
            let f = match i.op.as_str() {
                "add" => Alu64::Add,
                "sub" => Alu64::Sub,
                "min" => by_sign(ty, Alu64::MinS, Alu64::MinU),
                "max" => by_sign(ty, Alu64::MaxS, Alu64::MaxU),
                "div" => by_sign(ty, Alu64::DivS, Alu64::DivU),
                "rem" => by_sign(ty, Alu64::RemS, Alu64::RemU),
                "and" => Alu64::And,
                "or" => Alu64::Or,
                "xor" => Alu64::Xor,
                "not" => Alu64::Not,
                "cnot" => Alu64::Cnot,
                "brev" => Alu64::Brev,
                "neg" if ty.signed() => Alu64::Neg,
                "abs" if ty.signed() => Alu64::Abs,
                _ => return self.no_type(i),
            };
            return self.alu64(i, f, ty);
        }
        let f = match i.op.as_str() {
            "add" if saturate => Alu::AddSat,
            "sub" if saturate => Alu::SubSat,
            "add" => Alu::Add,
            "sub" => Alu::Sub,
            "min" => by_sign(ty, Alu::MinS, Alu::MinU),
            "max" => by_sign(ty, Alu::MaxS, Alu::MaxU),
            "div" => by_sign(ty, Alu::DivS, Alu::DivU),
            "rem" => by_sign(ty, Alu::RemS, Alu::RemU),
            "sad" => by_sign(ty, Alu::SadS, Alu::SadU),
            "and" => Alu::And,
            "or" => Alu::Or,
            "xor" => Alu::Xor,
            "not" => Alu::Not,
            "cnot" => Alu::Cnot,
            "brev" if ty == Ty::B32 => Alu::Brev,
            "neg" if ty.signed() => Alu::Neg,
            "abs" if ty.signed() => Alu::AbsS,
            _ => return self.no_type(i),
        };
        self.alu(i, f, ty, post16(ty))
    }

    fn multiply(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let add = i.op == "mad";
        let part = m.one_of(&[("lo", 'l'), ("hi", 'h'), ("wide", 'w')]);
        let ty = self.one_type(i, m)?;
        if matches!(ty, Ty::B8 | Ty::B16 | Ty::B32 | Ty::B64 | Ty::U8 | Ty::S8) {
            return self.no_type(i);
        }
        match (part, ty.size()) {
            (Some('w'), 4) => {
                self.arity(i, 3 + usize::from(add)..=3 + usize::from(add))?;
                let d = self.dst(&i.args[0], Ty::U64)?;
                let (a, b) = (self.src(&i.args[1], ty)?, self.src(&i.args[2], ty)?);
                let c = if add { Some(self.src(&i.args[3], Ty::U64)?) } else { None };
                Ok(Op::Wide { signed: ty.signed(), d, a, b, c })
            }
            (Some('w'), 2) => {
                self.arity(i, 3 + usize::from(add)..=3 + usize::from(add))?;
                let d = self.dst(&i.args[0], Ty::U32)?;
                let (a, b) = (self.src(&i.args[1], ty)?, self.src(&i.args[2], ty)?);
                let c = if add { self.src(&i.args[3], Ty::U32)? } else { Src::Imm(0) };
                let post = Post { extend16: if ty.signed() { 3 } else { 0 }, ..Post::default() };
                Ok(Op::Alu {
                    f: if add { Alu::Mad } else { Alu::Mul },
                    d,
                    a,
                    b,
                    c,
                    args: 2 + u8::from(add),
                    post,
                })
            }
            (Some('l'), 8) => self.alu64(i, if add { Alu64::Mad } else { Alu64::Mul }, ty),
            (Some('h'), 8) if !add => self.alu64(i, by_sign(ty, Alu64::MulHiS, Alu64::MulHiU), ty),
            (Some('l'), 2 | 4) => self.alu(i, if add { Alu::Mad } else { Alu::Mul }, ty, post16(ty)),
            (Some('h'), 4) if add => self.alu(i, by_sign(ty, Alu::MadHiS, Alu::MadHiU), ty, Post::default()),
            (Some('h'), 4) => self.alu(i, by_sign(ty, Alu::MulHiS, Alu::MulHiU), ty, Post::default()),
            (Some('h'), 2) if !add => self.alu(i, Alu::MulHi16, ty, post16(ty)),
            _ => self.no_type(i),
        }
    }

    fn multiply24(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        if !m.take("lo") || i.op == "mad24" {
            return self.fail("only mul24.lo is simulated");
        }
        match self.one_type(i, m)? {
            Ty::S32 => self.alu(i, Alu::Mul24S, Ty::S32, Post::default()),
            Ty::U32 => self.alu(i, Alu::Mul24U, Ty::U32, Post::default()),
            _ => self.no_type(i),
        }
    }

    fn count(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let ty = self.one_type(i, m)?;
        let f = match (i.op.as_str(), ty) {
            ("popc", Ty::B32 | Ty::B64) => Count::Popc,
            ("clz", Ty::B32 | Ty::B64) => Count::Clz,
            ("bfind", Ty::U32 | Ty::U64) => Count::FindU,
            ("bfind", Ty::S32 | Ty::S64) => Count::FindS,
            _ => return self.no_type(i),
        };
        self.arity(i, 2..=2)?;
        let (d, a) = (self.dst(&i.args[0], Ty::U32)?, self.src(&i.args[1], ty)?);
        if ty.wide() {
            return Ok(Op::Count64 { f, d, a });
        }
        let f = match f {
            Count::Popc => Alu::Popc,
            Count::Clz => Alu::Clz,
            Count::FindU => Alu::FindU,
            Count::FindS => Alu::FindS,
        };
        Ok(Op::Alu { f, d, a, b: Src::Imm(0), c: Src::Imm(0), args: 1, post: Post::default() })
    }

    fn shift(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let ty = self.one_type(i, m)?;
        self.arity(i, 3..=3)?;
        let left = i.op == "shl";
        if ty.size() == 1 || (left && !matches!(ty, Ty::B16 | Ty::B32 | Ty::B64)) {
            return self.no_type(i);
        }
        let (d, a) = (self.dst(&i.args[0], ty)?, self.src(&i.args[1], ty)?);
        let b = self.src(&i.args[2], Ty::U32)?;
        if ty.wide() {
            let f = if left { Shift::Left } else { by_sign(ty, Shift::RightS, Shift::RightU) };
            return Ok(Op::Shift64 { f, d, a, b });
        }
        let f = if left { Alu::Shl } else { by_sign(ty, Alu::ShrS, Alu::ShrU) };
        let extend16 = u8::from(ty == Ty::S16);
        let post = Post { extend16, keep16: ty.size() == 2, ..Post::default() };
        Ok(Op::Alu { f, d, a, b, c: Src::Imm(0), args: 2, post })
    }

    /// Three operands of `.b32`; a fourth, where there is one, is known already.
    fn bits(&mut self, i: &Instruction, m: &Modifiers<'_>, f: Alu) -> ParseResult<Op> {
        if self.one_type(i, m)? != Ty::B32 {
            return self.no_type(i);
        }
        let operands = 4 + usize::from(matches!(f, Alu::Lop3(_)));
        self.arity(i, operands..=operands)?;
        let d = self.dst(&i.args[0], Ty::B32)?;
        let [a, b, c] = [1, 2, 3].map(|at| self.src(&i.args[at], Ty::B32));
        Ok(Op::Alu { f, d, a: a?, b: b?, c: c?, args: 3, post: Post::default() })
    }

    fn bit_field_extract(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let ty = self.one_type(i, m)?;
        self.arity(i, 4..=4)?;
        let signed = ty.signed();
        if !matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) {
            return self.no_type(i);
        }
        let (d, a) = (self.dst(&i.args[0], ty)?, self.src(&i.args[1], ty)?);
        let (b, c) = (self.src(&i.args[2], Ty::U32)?, self.src(&i.args[3], Ty::U32)?);
        Ok(if ty.wide() {
            Op::Bfe64 { signed, d, a, pos: b, len: c }
        } else {
            let f = if signed { Alu::BfeS } else { Alu::BfeU };
            Op::Alu { f, d, a, b, c, args: 3, post: Post::default() }
        })
    }

    fn bit_field_insert(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let ty = self.one_type(i, m)?;
        self.arity(i, 5..=5)?;
        if !matches!(ty, Ty::B32 | Ty::B64) {
            return self.no_type(i);
        }
        let d = self.dst(&i.args[0], ty)?;
        let d = if ty.wide() { Dst::Wide(d) } else { Dst::Narrow(d, 32) };
        let (a, b) = (self.src(&i.args[1], ty)?, self.src(&i.args[2], ty)?);
        let (pos, len) = (self.src(&i.args[3], Ty::U32)?, self.src(&i.args[4], Ty::U32)?);
        Ok(Op::Bfi { d, a, b, pos, len })
    }

    fn dot(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        self.arity(i, 4..=4)?;
        let high = if i.op == "dp2a" { m.one_of(&[("hi", true), ("lo", false)]) } else { Some(false) };
        let (a_signed, b_signed) = match m.types()[..] {
            [a @ (Ty::U32 | Ty::S32), b @ (Ty::U32 | Ty::S32)] => (a.signed(), b.signed()),
            _ => return self.fail(format!("{} takes two types, .u32 or .s32", i.op)),
        };
        let f = match (i.op.as_str(), high) {
            ("dp4a", _) => Alu::Dp4a { a_signed, b_signed },
            (_, Some(high)) => Alu::Dp2a { a_signed, b_signed, high },
            _ => return self.fail("dp2a takes .lo or .hi"),
        };
        let d = self.dst(&i.args[0], Ty::B32)?;
        let [a, b, c] = [1, 2, 3].map(|at| self.src(&i.args[at], Ty::B32));
        Ok(Op::Alu { f, d, a: a?, b: b?, c: c?, args: 3, post: Post::default() })
    }

    /// A 32-bit lane operation with as many operands as are written, all of type `ty`.
    pub(super) fn alu(&mut self, i: &Instruction, f: Alu, ty: Ty, post: Post) -> ParseResult<Op> {
        let want = match f {
            Alu::Neg | Alu::AbsS | Alu::Not | Alu::Cnot | Alu::Brev => 2,
            Alu::FNeg | Alu::FAbs | Alu::FSqrt | Alu::FRcp => 2,
            Alu::Mad | Alu::MadHiS | Alu::MadHiU | Alu::SadS | Alu::SadU | Alu::FFma => 4,
            _ => 3,
        };
        self.arity(i, want..=want)?;
        let d = self.dst(&i.args[0], ty)?;
        let [a, b, c] = self.sources(i, ty)?;
        Ok(Op::Alu { f, d, a, b, c, args: want as u8 - 1, post })
    }

    /// The same for 64 bits.
    pub(super) fn alu64(&mut self, i: &Instruction, f: Alu64, ty: Ty) -> ParseResult<Op> {
        let want = match f {
            Alu64::Mad | Alu64::FFma => 4,
            Alu64::Neg | Alu64::Abs | Alu64::Not | Alu64::Cnot | Alu64::Brev => 2,
            Alu64::FNeg | Alu64::FAbs | Alu64::FSqrt | Alu64::FRcp => 2,
            _ => 3,
        };
        self.arity(i, want..=want)?;
        let d = self.dst(&i.args[0], ty)?;
        let [a, b, c] = self.sources(i, ty)?;
        Ok(Op::Alu64 { f, d, a, b, c, args: want as u8 - 1 })
    }

    /// The sources of an instruction, zero where there are fewer than three.
    pub(super) fn sources(&mut self, i: &Instruction, ty: Ty) -> ParseResult<[Src; 3]> {
        let mut out = [Src::Imm(0); 3];
        for (slot, arg) in out.iter_mut().zip(i.args.iter().skip(1)) {
            *slot = self.src(arg, ty)?;
        }
        Ok(out)
    }
}

/// How a 16-bit integer operation runs in 32 bits.
fn post16(ty: Ty) -> Post {
    if ty.size() != 2 {
        return Post::default();
    }
    Post { extend16: if ty.signed() { 7 } else { 0 }, keep16: true, ..Post::default() }
}
