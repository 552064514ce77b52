//! Floating-point instructions.

use super::Lowering;
use super::modifiers::Modifiers;
use crate::error::ParseResult;
use crate::float::Round;
use crate::ir::{Alu, Alu64, ApproxOp, DirectedOp, HalfOp, Op, Post, Ty};
use crate::text::ast::Instruction;

impl Lowering<'_> {
    pub(super) fn float(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Option<Op>> {
        match i.op.as_str() {
            "add" | "sub" | "mul" | "fma" | "mad" | "min" | "max" | "neg" | "abs" | "copysign" => {
                match m.last_type() {
                    Some(Ty::F32) => self.single(i, m).map(Some),
                    Some(Ty::F64) => self.double(i, m).map(Some),
                    Some(ty) if ty.half().is_some() => self.half(i, m).map(Some),
                    _ => self.no_type(i),
                }
            }
            "div" | "rcp" | "sqrt" | "rsqrt" | "ex2" | "lg2" | "sin" | "cos" | "tanh" => {
                self.function(i, m).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn single(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let round = m.round();
        let post = Post { ftz: m.take("ftz"), saturate: m.take("sat"), ..Post::default() };
        let nan = m.take("NaN");
        m.types();
        let arithmetic = matches!(i.op.as_str(), "add" | "sub" | "mul" | "fma" | "mad");
        if (round.is_some() || post.saturate) && !arithmetic || nan && !matches!(i.op.as_str(), "min" | "max")
        {
            return self.fail(format!("'{}' takes no such modifier", i.op));
        }
        let (f, directed) = match (i.op.as_str(), nan) {
            ("add", _) => (Alu::FAdd, Some(DirectedOp::Add)),
            ("sub", _) => (Alu::FSub, Some(DirectedOp::Sub)),
            ("mul", _) => (Alu::FMul, Some(DirectedOp::Mul)),
            ("fma" | "mad", _) => (Alu::FFma, Some(DirectedOp::Fma)),
            ("min", false) => (Alu::FMin, None),
            ("max", false) => (Alu::FMax, None),
            ("min", true) => (Alu::FMinNan, None),
            ("max", true) => (Alu::FMaxNan, None),
            ("neg", _) => (Alu::FNeg, None),
            ("abs", _) => (Alu::FAbs, None),
            _ => (Alu::FCopysign, None),
        };
        if f == Alu::FFma && round.is_none() {
            return self.fail(format!("'{}' needs a rounding: .rn .rz .rm or .rp", i.op));
        }
        self.contractible = round.is_none() && directed.is_some();
        if f == Alu::FCopysign {
            // copysign d, a, b: the sign of a on the magnitude of b
            self.arity(i, 3..=3)?;
        }
        match (directed, round) {
            (_, Some(Round::NearestAway)) => self.fail(".rna belongs to conversions"),
            (Some(op), Some(round @ (Round::Zero | Round::Down | Round::Up))) => {
                self.directed(i, op, round, post)
            }
            _ => self.alu(i, f, Ty::F32, post),
        }
    }

    fn directed(&mut self, i: &Instruction, f: DirectedOp, round: Round, post: Post) -> ParseResult<Op> {
        let want = match f {
            DirectedOp::Fma => 4,
            DirectedOp::Sqrt | DirectedOp::Rcp => 2,
            _ => 3,
        };
        self.arity(i, want..=want)?;
        let d = self.dst(&i.args[0], Ty::F32)?;
        let [a, b, c] = self.sources(i, Ty::F32)?;
        Ok(Op::Directed { f, round, post, d, a, b, c })
    }

    fn double(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let round = m.round();
        m.types();
        if !matches!(round, None | Some(Round::Nearest)) {
            return self.fail("f64 is simulated with .rn only");
        }
        let f = match i.op.as_str() {
            "add" => Alu64::FAdd,
            "sub" => Alu64::FSub,
            "mul" => Alu64::FMul,
            "fma" | "mad" if round.is_some() => Alu64::FFma,
            "min" => Alu64::FMin,
            "max" => Alu64::FMax,
            "neg" => Alu64::FNeg,
            "abs" => Alu64::FAbs,
            _ => return self.no_type(i),
        };
        self.contractible = round.is_none() && matches!(f, Alu64::FAdd | Alu64::FSub | Alu64::FMul);
        self.alu64(i, f, Ty::F64)
    }

    fn half(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let round = m.round();
        let (ftz, nan, relu) = (m.take("ftz"), m.take("NaN"), m.take("relu"));
        let ty = self.one_type(i, m)?;
        let Some(format) = ty.half() else { return self.no_type(i) };
        if !matches!(round, None | Some(Round::Nearest)) || (ftz && ty.packed() && ty == Ty::Bf16x2) {
            return self.no_type(i);
        }
        let f = match (i.op.as_str(), nan, relu) {
            ("add", false, false) => HalfOp::Add,
            ("sub", false, false) => HalfOp::Sub,
            ("mul", false, false) => HalfOp::Mul,
            ("fma", false, false) if round.is_some() => HalfOp::Fma,
            ("fma", false, true) if round.is_some() => HalfOp::FmaRelu,
            ("min", false, false) => HalfOp::Min,
            ("max", false, false) => HalfOp::Max,
            ("min", true, false) => HalfOp::MinNan,
            ("max", true, false) => HalfOp::MaxNan,
            ("neg", false, false) => HalfOp::Neg,
            ("abs", false, false) => HalfOp::Abs,
            _ => return self.no_type(i),
        };
        self.contractible = round.is_none() && matches!(f, HalfOp::Add | HalfOp::Sub | HalfOp::Mul);
        let want = match f {
            HalfOp::Fma | HalfOp::FmaRelu => 4,
            HalfOp::Neg | HalfOp::Abs => 2,
            _ => 3,
        };
        self.arity(i, want..=want)?;
        let d = self.dst(&i.args[0], ty)?;
        let [a, b, c] = self.sources(i, ty)?;
        Ok(Op::Half { f, format, packed: ty.packed(), ftz, d, a, b, c })
    }

    /// Division, roots and transcendental functions: exact with a rounding, else approximate.
    fn function(&mut self, i: &Instruction, m: &Modifiers<'_>) -> ParseResult<Op> {
        let approx = m.one_of(&[("approx", ()), ("full", ())]).is_some();
        let round = m.round();
        let ftz = m.take("ftz");
        let ty = self.one_type(i, m)?;
        let post = Post { ftz, ..Post::default() };
        if approx {
            let f = match i.op.as_str() {
                "div" => ApproxOp::Div,
                "rcp" => ApproxOp::Rcp,
                "sqrt" => ApproxOp::Sqrt,
                "rsqrt" => ApproxOp::Rsqrt,
                "ex2" => ApproxOp::Ex2,
                "lg2" => ApproxOp::Lg2,
                "sin" => ApproxOp::Sin,
                "cos" => ApproxOp::Cos,
                _ => ApproxOp::Tanh,
            };
            let want = 2 + usize::from(f == ApproxOp::Div);
            self.arity(i, want..=want)?;
            let d = self.dst(&i.args[0], ty)?;
            let [a, b, _] = self.sources(i, ty)?;
            return match (ty.half(), f) {
                _ if round.is_some() => self.fail(format!("'{}': .approx takes no rounding", i.op)),
                (Some(format), ApproxOp::Ex2 | ApproxOp::Tanh) => {
                    Ok(Op::ApproxHalf { f, format, packed: ty.packed(), d, a })
                }
                (None, _) if ty == Ty::F32 => Ok(Op::Approx { f, ftz, d, a, b }),
                _ => self.no_type(i),
            };
        }
        let Some(round) = round else {
            return self.fail(format!("'{}' needs a rounding or .approx", i.op));
        };
        match (i.op.as_str(), ty, round) {
            ("div", Ty::F32, Round::Nearest) => self.alu(i, Alu::FDiv, ty, post),
            ("rcp", Ty::F32, Round::Nearest) => self.alu(i, Alu::FRcp, ty, post),
            ("sqrt", Ty::F32, Round::Nearest) => self.alu(i, Alu::FSqrt, ty, post),
            ("div", Ty::F32, round) => self.directed(i, DirectedOp::Div, round, post),
            ("rcp", Ty::F32, round) => self.directed(i, DirectedOp::Rcp, round, post),
            ("sqrt", Ty::F32, round) => self.directed(i, DirectedOp::Sqrt, round, post),
            ("div", Ty::F64, Round::Nearest) => self.alu64(i, Alu64::FDiv, ty),
            ("rcp", Ty::F64, Round::Nearest) => self.alu64(i, Alu64::FRcp, ty),
            ("sqrt", Ty::F64, Round::Nearest) => self.alu64(i, Alu64::FSqrt, ty),
            _ => self.no_type(i),
        }
    }
}
