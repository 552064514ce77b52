//! The form that is executed: typed instructions over flat register files.
//!
//! Registers of 8, 16 and 32 bits live in one file of `u32` (upper bits zero), those of 64 bits in another,
//! predicates are one bit per lane. Whatever can be decided from the text is decided at lowering, so that the
//! executor only matches on small enums.

mod alu;
mod kernel;
mod op;

use crate::float::Half;
pub(crate) use alu::*;
pub(crate) use kernel::Inst;
pub use kernel::{Kernel, Param};
pub(crate) use op::*;

/// Index of a register in its file.
pub(crate) type Reg = u16;

/// PTX's fundamental types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ty {
    U8,
    S8,
    B8,
    U16,
    S16,
    B16,
    U32,
    S32,
    B32,
    U64,
    S64,
    B64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    F32,
    F64,
    Tf32,
    Pred,
}

impl Ty {
    pub(crate) fn parse(word: &str) -> Option<Ty> {
        Some(match word {
            "u8" => Ty::U8,
            "s8" => Ty::S8,
            "b8" => Ty::B8,
            "u16" => Ty::U16,
            "s16" => Ty::S16,
            "b16" => Ty::B16,
            "u32" => Ty::U32,
            "s32" => Ty::S32,
            "b32" => Ty::B32,
            "u64" => Ty::U64,
            "s64" => Ty::S64,
            "b64" => Ty::B64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            "tf32" => Ty::Tf32,
            "pred" => Ty::Pred,
            _ => return None,
        })
    }

    /// Size in bytes; 0 for a predicate.
    pub(crate) fn size(self) -> usize {
        match self {
            Ty::U8 | Ty::S8 | Ty::B8 => 1,
            Ty::U16 | Ty::S16 | Ty::B16 | Ty::F16 | Ty::Bf16 => 2,
            Ty::U64 | Ty::S64 | Ty::B64 | Ty::F64 => 8,
            Ty::Pred => 0,
            _ => 4,
        }
    }

    pub(crate) fn wide(self) -> bool {
        self.size() == 8
    }

    pub(crate) fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub(crate) fn float(self) -> bool {
        matches!(self, Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::F32 | Ty::F64 | Ty::Tf32)
    }

    /// The 16-bit float format of a scalar or packed half type.
    pub(crate) fn half(self) -> Option<Half> {
        match self {
            Ty::F16 | Ty::F16x2 => Some(Half::F16),
            Ty::Bf16 | Ty::Bf16x2 => Some(Half::Bf16),
            _ => None,
        }
    }

    pub(crate) fn packed(self) -> bool {
        matches!(self, Ty::F16x2 | Ty::Bf16x2)
    }
}

/// Special registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
    Warp,
    Warps,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    Clock,
    Sm,
    Sms,
    Grid,
    DynamicShared,
    TotalShared,
}

/// Source operand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Src {
    Reg(Reg),
    Imm(u64),
    Special(Special),
}

/// Destination in one of the two files.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Dst {
    /// The number of bits kept: 8, 16 or 32.
    Narrow(Reg, u8),
    Wide(Reg),
}

/// A predicate as a source, perhaps negated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pred {
    pub(crate) reg: Reg,
    pub(crate) negated: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
    Const,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Base {
    None,
    Narrow(Reg),
    Wide(Reg),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Address {
    pub(crate) space: Space,
    pub(crate) base: Base,
    pub(crate) offset: i64,
}

/// Generic addresses of shared memory start here.
pub(crate) const SHARED_WINDOW: u64 = 0x7100_0000_0000;
/// Generic addresses of local memory start here.
pub(crate) const LOCAL_WINDOW: u64 = 0x7200_0000_0000;
/// Generic addresses of the module's constants start here.
pub(crate) const CONST_WINDOW: u64 = 0x7300_0000_0000;
/// Generic addresses of kernel parameters start here.
pub(crate) const PARAM_WINDOW: u64 = 0x7400_0000_0000;
/// Each window is this large.
pub(crate) const WINDOW_SIZE: u64 = 1 << 40;
