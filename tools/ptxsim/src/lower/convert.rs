//! Moves, conversions, comparisons and selections.

use super::Lowering;
use super::modifiers::Modifiers;
use super::operand::Width;
use crate::error::ParseResult;
use crate::float::{Half, Round};
use crate::ir::{Alu, Alu64, BoolOp, Compare, CompareTy, Convert, Dst, Op, Post, Setp, Space, Src, Ty};
use crate::text::ast::{Instruction, Operand};

impl Lowering<'_> {
    pub(super) fn convert(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Option<Op>> {
        let op = match i.op.as_str() {
            "mov" => self.mov(i, m)?,
            "cvt" => self.cvt(i, m)?,
            "cvta" => self.cvta(i, m)?,
            "setp" => self.setp(i, m)?,
            "selp" => {
                let ty = self.one_type(i, m)?;
                self.arity(i, 4..=4)?;
                let d = self.dst(&i.args[0], ty)?;
                let d = if ty.wide() { Dst::Wide(d) } else { Dst::Narrow(d, ty.size() as u8 * 8) };
                let (a, b) = (self.src(&i.args[1], ty)?, self.src(&i.args[2], ty)?);
                Op::Select { d, a, b, p: self.pred(&i.args[3])? }
            }
            _ => return Ok(None),
        };
        Ok(Some(op))
    }

    fn mov(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let ty = self.one_type(i, m)?;
        self.arity(i, 2..=2)?;
        let (to, from) = (&i.args[0], &i.args[1]);
        if ty == Ty::Pred {
            let d = self.pred_dst(to)?;
            return Ok(match from {
                Operand::Int(v) => Op::BoolConst { d, value: *v != 0 },
                other => {
                    let a = self.pred(other)?;
                    Op::Bool { f: BoolOp::And, d, a, b: a }
                }
            });
        }
        let part = |n: usize| match (ty.size() / n.max(1), ty.size() % n.max(1)) {
            (4, 0) => Some(Ty::B32),
            (2, 0) => Some(Ty::B16),
            (1, 0) => Some(Ty::B8),
            _ => None,
        };
        match (to, from) {
            (Operand::Vector(parts), from) => {
                let Some(each) = part(parts.len()) else { return self.no_type(i) };
                let mut d = Vec::new();
                for p in parts {
                    d.push(if *p == Operand::Sink { None } else { Some(self.dst(p, each)?) });
                }
                let a = self.src(from, ty)?;
                Ok(Op::Unpack { d, a, wide: ty.wide(), bits: each.size() as u32 * 8 })
            }
            (to, Operand::Vector(parts)) => {
                let Some(each) = part(parts.len()) else { return self.no_type(i) };
                let d = self.dst_of_width(to, ty, Width::Exact)?;
                let parts = parts.iter().map(|p| self.src(p, each)).collect::<ParseResult<_>>()?;
                Ok(Op::Pack { d, parts, bits: each.size() as u32 * 8 })
            }
            _ => {
                let (d, a) = (self.dst(to, ty)?, self.src(from, ty)?);
                Ok(move_op(ty.wide(), d, a))
            }
        }
    }

    /// Generic addresses are the device's own; the other spaces have a window each.
    fn cvta(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let to = m.take("to");
        let space = m.one_of(&[
            ("global", Space::Global),
            ("const", Space::Const),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("local", Space::Local),
            ("param", Space::Param),
        ]);
        let (Some(space), Ty::U64) = (space, self.one_type(i, m)?) else { return self.no_type(i) };
        self.arity(i, 2..=2)?;
        let (d, a) = (self.dst(&i.args[0], Ty::U64)?, self.src(&i.args[1], Ty::U64)?);
        let window = Self::window(space);
        if window == 0 {
            return Ok(move_op(true, d, a));
        }
        let f = if to { Alu64::Sub } else { Alu64::Add };
        Ok(Op::Alu64 { f, d, a, b: Src::Imm(window), c: Src::Imm(0), args: 2 })
    }

    fn cvt(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let (integral, round) = (m.integral(), m.round());
        let (ftz, saturate, relu) = (m.take("ftz"), m.take("sat"), m.take("relu"));
        let pack = m.take("pack");
        let types = m.types();
        if pack {
            return self.cvt_pack(i, saturate, &types);
        }
        let [to, from] = types[..] else { return self.fail("cvt takes two types") };
        if to.packed() || to == Ty::Tf32 || from == Ty::Tf32 {
            return self.cvt_special(i, to, from, round, relu);
        }
        self.arity(i, 2..=2)?;
        let d = self.dst_of_width(&i.args[0], to, Width::AtLeast)?;
        let (a, a_wide) = self.src_of_width(&i.args[1], from, Width::AtLeast)?;
        let (to_float, from_float) = (to.float(), from.float());
        let smaller = to.size() < from.size() || (to.size() == 2 && to.half() != from.half());
        let narrowing = to_float && from_float && smaller;
        let problem = match (to_float, from_float) {
            (false, false) if round.or(integral).is_some() || relu => Some("integers take no rounding"),
            (false, true) if integral.is_none() => Some("float to integer needs .rni .rzi .rmi or .rpi"),
            (true, false) if round.is_none() => Some("integer to float needs .rn .rz .rm or .rp"),
            (true, true) if narrowing && round.is_none() => Some("a narrower float needs .rn .rz .rm or .rp"),
            (true, true) if narrowing && integral.is_some() => Some("a narrower float takes no .rni"),
            (true, true) if !narrowing && round.is_some() => {
                Some("a float that is not narrower takes no rounding")
            }
            _ if relu && !(to_float && to.size() == 2) => Some(".relu belongs to half results"),
            _ if [to, from].contains(&Ty::Pred) || from.packed() => Some("no conversion of this type"),
            _ if round == Some(Round::NearestAway) => Some(".rna belongs to .tf32"),
            _ => None,
        };
        if let Some(problem) = problem {
            return self.fail(format!("cvt: {problem}"));
        }
        if let (Dst::Narrow(reg, 32), false) = (d, saturate || ftz || relu || a_wide)
            && let Some(f) = fast_conversion(to, from, round, integral)
        {
            let c = Src::Imm(0);
            return Ok(Op::Alu { f, d: reg, a, b: c, c, args: 1, post: Post::default() });
        }
        if let (Dst::Narrow(reg, 16), Ty::F16 | Ty::Bf16, Ty::F32, Some(Round::Nearest), false) =
            (d, to, from, round, saturate || ftz || relu || a_wide)
        {
            let f = if to == Ty::F16 { Alu::F16FromF32 } else { Alu::Bf16FromF32 };
            let c = Src::Imm(0);
            return Ok(Op::Alu { f, d: reg, a, b: c, c, args: 1, post: Post::default() });
        }
        let round = round.unwrap_or(Round::Nearest);
        Ok(Op::Convert(Box::new(Convert { from, to, d, a, a_wide, integral, round, saturate, relu, ftz })))
    }

    /// Packed halves from two singles, and `.tf32`.
    fn cvt_special(
        &mut self,
        i: &Instruction,
        to: Ty,
        from: Ty,
        round: Option<Round>,
        relu: bool,
    ) -> ParseResult<Op> {
        match (to, from, round) {
            (Ty::F16x2 | Ty::Bf16x2, Ty::F32, Some(round @ (Round::Nearest | Round::Zero))) => {
                self.arity(i, 3..=3)?;
                let d = self.dst(&i.args[0], Ty::B32)?;
                let (high, low) = (self.src(&i.args[1], Ty::F32)?, self.src(&i.args[2], Ty::F32)?);
                let format = if to == Ty::F16x2 { Half::F16 } else { Half::Bf16 };
                Ok(Op::ConvertPair { format, round, relu, d, high, low })
            }
            (Ty::Tf32, Ty::F32, Some(round @ (Round::Nearest | Round::NearestAway | Round::Zero)))
                if !relu =>
            {
                self.arity(i, 2..=2)?;
                let d = Dst::Narrow(self.dst(&i.args[0], Ty::B32)?, 32);
                let a = self.src(&i.args[1], Ty::F32)?;
                let (integral, saturate, ftz, a_wide) = (None, false, false, false);
                Ok(Op::Convert(Box::new(Convert {
                    from,
                    to,
                    d,
                    a,
                    a_wide,
                    integral,
                    round,
                    saturate,
                    relu,
                    ftz,
                })))
            }
            _ => self.no_type(i),
        }
    }

    fn cvt_pack(&mut self, i: &Instruction, saturate: bool, types: &[Ty]) -> ParseResult<Op> {
        let signed = match (saturate, types) {
            (true, [Ty::S8, Ty::S32, Ty::B32]) => true,
            (true, [Ty::U8, Ty::S32, Ty::B32]) => false,
            _ => return self.no_type(i),
        };
        self.arity(i, 4..=4)?;
        let d = self.dst(&i.args[0], Ty::B32)?;
        let [a, b, c] = [1, 2, 3].map(|at| self.src(&i.args[at], Ty::B32));
        Ok(Op::ConvertPack { signed, d, a: a?, b: b?, c: c? })
    }

    fn setp(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let compare = m.one_of(&[
            ("eq", (Compare::Eq, false, ' ')),
            ("ne", (Compare::Ne, false, ' ')),
            ("lt", (Compare::Lt, false, ' ')),
            ("le", (Compare::Le, false, ' ')),
            ("gt", (Compare::Gt, false, ' ')),
            ("ge", (Compare::Ge, false, ' ')),
            ("lo", (Compare::Lt, false, 'u')),
            ("ls", (Compare::Le, false, 'u')),
            ("hi", (Compare::Gt, false, 'u')),
            ("hs", (Compare::Ge, false, 'u')),
            ("equ", (Compare::Eq, true, 'f')),
            ("neu", (Compare::Ne, true, 'f')),
            ("ltu", (Compare::Lt, true, 'f')),
            ("leu", (Compare::Le, true, 'f')),
            ("gtu", (Compare::Gt, true, 'f')),
            ("geu", (Compare::Ge, true, 'f')),
            ("num", (Compare::Num, false, 'f')),
            ("nan", (Compare::Nan, false, 'f')),
        ]);
        let Some((compare, unordered, class)) = compare else {
            return self.fail("setp needs a comparison such as .lt");
        };
        let combine = m.one_of(&[("and", BoolOp::And), ("or", BoolOp::Or), ("xor", BoolOp::Xor)]);
        let ftz = m.take("ftz");
        let ty = self.one_type(i, m)?;
        let compare_ty = match ty {
            Ty::U16 | Ty::B16 => CompareTy::U16,
            Ty::S16 => CompareTy::S16,
            Ty::U32 | Ty::B32 => CompareTy::U32,
            Ty::S32 => CompareTy::S32,
            Ty::U64 | Ty::B64 => CompareTy::U64,
            Ty::S64 => CompareTy::S64,
            Ty::F32 => CompareTy::F32,
            Ty::F64 => CompareTy::F64,
            Ty::F16 => CompareTy::Half(Half::F16),
            Ty::Bf16 => CompareTy::Half(Half::Bf16),
            _ => return self.no_type(i),
        };
        let bits = matches!(ty, Ty::B16 | Ty::B32 | Ty::B64) && !matches!(compare, Compare::Eq | Compare::Ne);
        if bits || (class == 'f' && !ty.float()) || (class == 'u' && (ty.float() || ty.signed())) {
            return self.no_type(i);
        }
        let args = 3 + usize::from(combine.is_some());
        self.arity(i, args..=args)?;
        let (d, q) = match &i.args[0] {
            Operand::Pair(d, q) => {
                let mut reg =
                    |n: &String| if n == "_" { Ok(None) } else { self.symbols.pred(n, self.line).map(Some) };
                (reg(d)?, reg(q)?)
            }
            one => (Some(self.pred_dst(one)?), None),
        };
        let (a, b) = (self.src(&i.args[1], ty)?, self.src(&i.args[2], ty)?);
        let combine = match combine {
            Some(f) => Some((f, self.pred(&i.args[3])?)),
            None => None,
        };
        Ok(Op::Setp(Box::new(Setp { compare, unordered, ty: compare_ty, ftz, d, q, a, b, combine })))
    }
}

fn move_op(wide: bool, d: u16, a: Src) -> Op {
    let zero = Src::Imm(0);
    if wide {
        return Op::Alu64 { f: Alu64::Mov, d, a, b: zero, c: zero, args: 1 };
    }
    Op::Alu { f: Alu::Mov, d, a, b: zero, c: zero, args: 1, post: Post::default() }
}

/// Conversions into a 32-bit register that need no general code.
fn fast_conversion(to: Ty, from: Ty, round: Option<Round>, integral: Option<Round>) -> Option<Alu> {
    Some(match (to, from, round, integral) {
        (Ty::F32, Ty::S32, Some(Round::Nearest), _) => Alu::F32FromS32,
        (Ty::F32, Ty::U32, Some(Round::Nearest), _) => Alu::F32FromU32,
        (Ty::F32, Ty::F16, None, None) => Alu::F32FromF16,
        (Ty::F32, Ty::Bf16, None, None) => Alu::F32FromBf16,
        (Ty::S32, Ty::F32, None, Some(Round::Nearest)) => Alu::S32FromF32Nearest,
        (Ty::S32, Ty::F32, None, Some(Round::Zero)) => Alu::S32FromF32Zero,
        (Ty::U32 | Ty::S32 | Ty::B32, Ty::U8, None, None) => Alu::ZeroExtend(8),
        (Ty::U32 | Ty::S32 | Ty::B32, Ty::U16, None, None) => Alu::ZeroExtend(16),
        (Ty::U32 | Ty::S32 | Ty::B32, Ty::S8, None, None) => Alu::SignExtend(8),
        (Ty::U32 | Ty::S32 | Ty::B32, Ty::S16, None, None) => Alu::SignExtend(16),
        _ => return None,
    })
}
