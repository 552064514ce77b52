//! Operations on registers alone.

/// 32-bit lane operations that take one call for all lanes. 16-bit integers run here too, see [`Post`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Alu {
    Mov,
    Add,
    Sub,
    AddSat,
    SubSat,
    Mul,
    MulHiS,
    MulHiU,
    MulHi16,
    Mul24S,
    Mul24U,
    Mad,
    MadHiS,
    MadHiU,
    DivS,
    DivU,
    RemS,
    RemU,
    Neg,
    AbsS,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Shl,
    ShrU,
    ShrS,
    FunnelL { wrap: bool },
    FunnelR { wrap: bool },
    Popc,
    Clz,
    FindS,
    FindU,
    Brev,
    BfeU,
    BfeS,
    Lop3(u8),
    Prmt(PrmtMode),
    Dp4a { a_signed: bool, b_signed: bool },
    Dp2a { a_signed: bool, b_signed: bool, high: bool },
    SadS,
    SadU,
    FAdd,
    FSub,
    FMul,
    FFma,
    FDiv,
    FMin,
    FMax,
    FMinNan,
    FMaxNan,
    FNeg,
    FAbs,
    FCopysign,
    FSqrt,
    FRcp,
    F32FromS32,
    F32FromU32,
    F32FromF16,
    F32FromBf16,
    F16FromF32,
    Bf16FromF32,
    S32FromF32Nearest,
    S32FromF32Zero,
    SignExtend(u8),
    ZeroExtend(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PrmtMode {
    Index,
    Forward4,
    Backward4,
    Replicate8,
    EdgeLeft,
    EdgeRight,
    Replicate16,
}

/// What happens to operands and result around an [`Alu`] operation.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Post {
    /// Subnormal operands and results become zero of the same sign.
    pub(crate) ftz: bool,
    /// The result is clamped to [0, 1], NaN to 0.
    pub(crate) saturate: bool,
    /// Operands (bit 0 for a, 1 for b, 2 for c) that are sign-extended from 16 bits first.
    pub(crate) extend16: u8,
    /// The result keeps 16 bits.
    pub(crate) keep16: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum HalfOp {
    Add,
    Sub,
    Mul,
    Fma,
    FmaRelu,
    Min,
    Max,
    MinNan,
    MaxNan,
    Neg,
    Abs,
}

/// `f32` operations with a rounding other than to nearest.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum DirectedOp {
    Add,
    Sub,
    Mul,
    Fma,
    Div,
    Sqrt,
    Rcp,
}

/// Operations whose last bits differ between chips.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ApproxOp {
    Div,
    Rcp,
    Sqrt,
    Rsqrt,
    Ex2,
    Lg2,
    Sin,
    Cos,
    Tanh,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Alu64 {
    Mov,
    Add,
    Sub,
    Mul,
    MulHiS,
    MulHiU,
    Mad,
    DivS,
    DivU,
    RemS,
    RemU,
    Neg,
    Abs,
    MinS,
    MinU,
    MaxS,
    MaxU,
    And,
    Or,
    Xor,
    Not,
    Cnot,
    Brev,
    FAdd,
    FSub,
    FMul,
    FFma,
    FDiv,
    FMin,
    FMax,
    FNeg,
    FAbs,
    FSqrt,
    FRcp,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Shift {
    Left,
    RightU,
    RightS,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Count {
    Popc,
    Clz,
    FindU,
    FindS,
}
