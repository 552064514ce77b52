//! Operands: registers of the right size, immediates in the right format, addresses.

use super::symbols::{File, Symbol};
use super::{Lowering, full_name};
use crate::error::ParseResult;
use crate::float::f32_to_f16;
use crate::ir::{
    Address, Base, CONST_WINDOW, Dst, LOCAL_WINDOW, PARAM_WINDOW, Pred, Reg, SHARED_WINDOW, Space, Special,
    Src, Ty,
};
use crate::text::ast::{Instruction, Operand};

fn special(name: &str) -> Option<Special> {
    let axis = |s: &str| match s {
        "x" => Some(0),
        "y" => Some(1),
        "z" => Some(2),
        _ => None,
    };
    if let Some((register, component)) = name.split_once('.') {
        let axis = axis(component)?;
        return Some(match register {
            "%tid" => Special::Tid(axis),
            "%ntid" => Special::Ntid(axis),
            "%ctaid" => Special::Ctaid(axis),
            "%nctaid" => Special::Nctaid(axis),
            _ => return None,
        });
    }
    Some(match name {
        "%laneid" => Special::Lane,
        "%warpid" => Special::Warp,
        "%nwarpid" => Special::Warps,
        "%lanemask_eq" => Special::LaneMaskEq,
        "%lanemask_lt" => Special::LaneMaskLt,
        "%lanemask_le" => Special::LaneMaskLe,
        "%lanemask_gt" => Special::LaneMaskGt,
        "%lanemask_ge" => Special::LaneMaskGe,
        "%clock" | "%clock64" | "%globaltimer" | "%globaltimer_lo" => Special::Clock,
        "%smid" => Special::Sm,
        "%nsmid" => Special::Sms,
        "%gridid" => Special::Grid,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        _ => return None,
    })
}

/// How wide a register may be for a type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Width {
    /// Exactly the type's size.
    Exact,
    /// The type's size or more: loads, stores, conversions.
    AtLeast,
}

impl Lowering<'_> {
    fn register(&mut self, name: &str) -> ParseResult<(File, Reg)> {
        match self.symbols.find(name) {
            Some(Symbol::Reg(file, Some(reg))) => Ok((file, reg)),
            Some(Symbol::Reg(_, None)) => self.fail("more than 65536 registers"),
            Some(_) => self.fail(format!("'{name}' is a variable, not a register")),
            None => self.fail(format!("'{name}' is not declared")),
        }
    }

    fn check_width(&self, name: &str, file: File, ty: Ty, width: Width) -> ParseResult<()> {
        let have = match file {
            File::Narrow(bits) => usize::from(bits) / 8,
            File::Wide => 8,
            File::Pred => return self.fail(format!("'{name}' is a predicate, not a value")),
        };
        let want = ty.size();
        if have == want || (width == Width::AtLeast && have > want) {
            return Ok(());
        }
        self.fail(format!("'{name}' has {} bits, the instruction's type {}", have * 8, want * 8))
    }

    /// A source of type `ty`, in a register of exactly that size.
    pub(super) fn src(&mut self, operand: &Operand, ty: Ty) -> ParseResult<Src> {
        self.src_of_width(operand, ty, Width::Exact).map(|s| s.0)
    }

    /// A source, and whether it stands in the file of 64-bit registers.
    pub(super) fn src_of_width(
        &mut self,
        operand: &Operand,
        ty: Ty,
        width: Width,
    ) -> ParseResult<(Src, bool)> {
        let imm = |v: u64| Ok((Src::Imm(v), ty.wide()));
        match operand {
            Operand::Name(name) => {
                if let Some(s) = special(name) {
                    return Ok((Src::Special(s), ty.wide()));
                }
                if let Some(address) = self.variable(name) {
                    return imm(address);
                }
                let (file, reg) = self.register(name)?;
                self.check_width(name, file, ty, width)?;
                Ok((Src::Reg(reg), file == File::Wide))
            }
            Operand::Offset(name, offset) => match self.variable(name) {
                Some(address) => imm(address.wrapping_add_signed(*offset)),
                None => self.fail(format!("'{name}' is no variable")),
            },
            Operand::Int(v) => match ty {
                Ty::F32 | Ty::F64 | Ty::F16 | Ty::Bf16 => self.fail("an integer where a float is expected"),
                _ if ty.wide() => imm(*v as u64),
                _ => imm(*v as u64 & (u64::MAX >> (64 - 8 * ty.size().max(1)))),
            },
            Operand::F32(v) if ty == Ty::F64 => imm(f64::from(f32::from_bits(*v)).to_bits()),
            Operand::F32(v) if ty.size() == 4 => imm(u64::from(*v)),
            Operand::F64(v) if ty == Ty::F32 => imm(u64::from((f64::from_bits(*v) as f32).to_bits())),
            Operand::F64(v) if ty == Ty::F16 => imm(u64::from(f32_to_f16(f64::from_bits(*v) as f32))),
            Operand::F64(v) if ty.wide() => imm(*v),
            other => self.fail(format!("{other:?} is no source operand of this type")),
        }
    }

    /// The address of a variable within its space, if `name` is one.
    fn variable(&mut self, name: &str) -> Option<u64> {
        match self.symbols.find(name)? {
            Symbol::Shared(at) | Symbol::Local(at) | Symbol::Param(at) => Some(at),
            Symbol::Const(at) => Some(at),
            Symbol::Reg(..) => None,
        }
    }

    /// A destination register of exactly the type's size; its index in its file.
    pub(super) fn dst(&mut self, operand: &Operand, ty: Ty) -> ParseResult<Reg> {
        let Operand::Name(name) = operand else {
            return self.fail(format!("expected a register, found {operand:?}"));
        };
        let (file, reg) = self.register(name)?;
        self.check_width(name, file, ty, Width::Exact)?;
        Ok(reg)
    }

    /// A destination that may be wider than the type.
    pub(super) fn dst_of_width(&mut self, operand: &Operand, ty: Ty, width: Width) -> ParseResult<Dst> {
        let Operand::Name(name) = operand else {
            return self.fail(format!("expected a register, found {operand:?}"));
        };
        let (file, reg) = self.register(name)?;
        self.check_width(name, file, ty, width)?;
        match file {
            File::Narrow(bits) => Ok(Dst::Narrow(reg, bits)),
            _ => Ok(Dst::Wide(reg)),
        }
    }

    pub(super) fn pred_dst(&mut self, operand: &Operand) -> ParseResult<Reg> {
        match operand {
            Operand::Name(name) => self.symbols.pred(name, self.line),
            other => self.fail(format!("expected a predicate, found {other:?}")),
        }
    }

    pub(super) fn pred(&mut self, operand: &Operand) -> ParseResult<Pred> {
        let (name, negated) = match operand {
            Operand::Name(name) => (name, false),
            Operand::Not(name) => (name, true),
            other => return self.fail(format!("expected a predicate, found {other:?}")),
        };
        Ok(Pred { reg: self.symbols.pred(name, self.line)?, negated })
    }

    /// `[base+offset]` in `space`.
    pub(super) fn address(&mut self, operand: &Operand, space: Space) -> ParseResult<Address> {
        let Operand::Address(base, offset) = operand else {
            return self.fail(format!("expected an address, found {operand:?}"));
        };
        let fixed = |at: u64, window: u64| {
            let at = if space == Space::Generic { window.wrapping_add(at) } else { at };
            Address { space, base: Base::None, offset: (at as i64).wrapping_add(*offset) }
        };
        match &**base {
            Operand::Name(name) => match self.symbols.find(name) {
                Some(Symbol::Reg(File::Wide, Some(r))) => {
                    Ok(Address { space, base: Base::Wide(r), offset: *offset })
                }
                Some(Symbol::Reg(File::Narrow(32), Some(r))) => {
                    if matches!(space, Space::Generic | Space::Global) {
                        return self.fail(format!("'{name}' has 32 bits: an address here has 64"));
                    }
                    Ok(Address { space, base: Base::Narrow(r), offset: *offset })
                }
                Some(Symbol::Shared(at)) if space == Space::Shared || space == Space::Generic => {
                    Ok(fixed(at, SHARED_WINDOW))
                }
                Some(Symbol::Local(at)) if space == Space::Local || space == Space::Generic => {
                    Ok(fixed(at, LOCAL_WINDOW))
                }
                Some(Symbol::Param(at)) if space == Space::Param || space == Space::Generic => {
                    Ok(fixed(at, PARAM_WINDOW))
                }
                Some(Symbol::Const(at)) if matches!(space, Space::Const | Space::Global | Space::Generic) => {
                    Ok(Address { space: Space::Generic, base: Base::None, offset: at as i64 + *offset })
                }
                Some(_) => self.fail(format!("'{name}' is no address in this space")),
                None => self.fail(format!("'{name}' is not declared")),
            },
            Operand::Int(at) => {
                Ok(Address { space, base: Base::None, offset: (*at as i64).wrapping_add(*offset) })
            }
            other => self.fail(format!("{other:?} is no base of an address")),
        }
    }

    /// The registers of `{a, b}`, or the one operand.
    pub(super) fn elements<'o>(&self, operand: &'o Operand) -> &'o [Operand] {
        match operand {
            Operand::Vector(v) => v,
            one => std::slice::from_ref(one),
        }
    }

    /// The integer of an immediate operand.
    pub(super) fn immediate(&self, i: &Instruction, at: usize) -> ParseResult<u32> {
        match i.args.get(at) {
            Some(Operand::Int(v)) if u32::try_from(*v).is_ok() => Ok(*v as u32),
            other => self.fail(format!("'{}' takes an immediate here, found {other:?}", full_name(i))),
        }
    }

    /// The window of a space in generic addresses.
    pub(super) fn window(space: Space) -> u64 {
        match space {
            Space::Shared => SHARED_WINDOW,
            Space::Local => LOCAL_WINDOW,
            Space::Param => PARAM_WINDOW,
            // addresses of constants are generic throughout
            Space::Const | Space::Global | Space::Generic => 0,
        }
    }
}

const _: () = assert!(CONST_WINDOW < PARAM_WINDOW);
