//! The form that is executed: typed instructions over flat register files.
//!
//! Registers of 8, 16 and 32 bits live in one file of `u32` (upper bits zero), those of 64 bits in another,
//! predicates are one bit per lane. Whatever can be decided from the text is decided at lowering, so that the
//! executor only matches on small enums.

use crate::error::SourceLine;
use crate::float::{Half, Round};
use std::sync::Arc;

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

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Num,
    Nan,
}

/// Type class of a comparison.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum CompareTy {
    U16,
    S16,
    U32,
    S32,
    U64,
    S64,
    F32,
    F64,
    Half(Half),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum BoolOp {
    And,
    Or,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Setp {
    pub(crate) compare: Compare,
    /// `equ`, `ltu` ...: true if an operand is NaN.
    pub(crate) unordered: bool,
    pub(crate) ty: CompareTy,
    pub(crate) ftz: bool,
    pub(crate) d: Option<Reg>,
    pub(crate) q: Option<Reg>,
    pub(crate) a: Src,
    pub(crate) b: Src,
    pub(crate) combine: Option<(BoolOp, Pred)>,
}

/// How a load or store takes part in the memory model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Weak,
    /// Volatile, relaxed: no race with other strong accesses, but orders nothing.
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Load {
    pub(crate) address: Address,
    /// Bytes per element.
    pub(crate) size: usize,
    pub(crate) signed: bool,
    pub(crate) d: Vec<Option<Dst>>,
    /// Through the read-only path.
    pub(crate) non_coherent: bool,
    pub(crate) order: Order,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Store {
    pub(crate) address: Address,
    pub(crate) size: usize,
    pub(crate) s: Vec<(Src, bool)>,
    pub(crate) order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum AtomicOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
    Increment,
    Decrement,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Atomic {
    pub(crate) op: AtomicOp,
    pub(crate) ty: Ty,
    pub(crate) address: Address,
    pub(crate) d: Option<Reg>,
    pub(crate) b: Src,
    pub(crate) c: Option<Src>,
    pub(crate) order: Order,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum ShuffleMode {
    Up,
    Down,
    Butterfly,
    Index,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Shuffle {
    pub(crate) mode: ShuffleMode,
    pub(crate) d: Reg,
    pub(crate) p: Option<Reg>,
    pub(crate) a: Src,
    pub(crate) b: Src,
    pub(crate) c: Src,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum VoteMode {
    All,
    Any,
    Uniform,
    Ballot,
}

/// An instruction that a named set of lanes executes together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum WarpOp {
    Barrier,
    Shuffle(Shuffle),
    Vote { mode: VoteMode, d: Reg, p: Pred },
    Reduce { op: AtomicOp, signed: bool, d: Reg, a: Src },
    Elect { d: Option<Reg>, p: Reg },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct AsyncCopy {
    pub(crate) to: Address,
    pub(crate) from: Address,
    pub(crate) size: usize,
    /// Bytes really read; the rest is zero.
    pub(crate) source_size: Option<Src>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum MatrixTy {
    F16,
    Bf16,
    Int { a_signed: bool, b_signed: bool },
}

/// `mma.sync.m16n8kK.row.col`, accumulator in `f32` or `s32`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Matrix {
    pub(crate) ty: MatrixTy,
    pub(crate) k: usize,
    pub(crate) d: Vec<Reg>,
    pub(crate) a: Vec<Src>,
    pub(crate) b: Vec<Src>,
    pub(crate) c: Vec<Src>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MatrixLoad {
    pub(crate) transposed: bool,
    pub(crate) d: Vec<Reg>,
    pub(crate) address: Address,
}

/// A conversion with no [`Alu`] operation of its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Convert {
    pub(crate) from: Ty,
    pub(crate) to: Ty,
    pub(crate) d: Dst,
    pub(crate) a: Src,
    pub(crate) a_wide: bool,
    /// Towards an integral value (`.rni` ...), where given.
    pub(crate) integral: Option<Round>,
    pub(crate) round: Round,
    pub(crate) saturate: bool,
    pub(crate) relu: bool,
    pub(crate) ftz: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Op {
    Alu {
        f: Alu,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
        args: u8,
        post: Post,
    },
    Half {
        f: HalfOp,
        format: Half,
        packed: bool,
        ftz: bool,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    Directed {
        f: DirectedOp,
        round: Round,
        post: Post,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    Approx {
        f: ApproxOp,
        ftz: bool,
        d: Reg,
        a: Src,
        b: Src,
    },
    ApproxHalf {
        f: ApproxOp,
        format: Half,
        packed: bool,
        d: Reg,
        a: Src,
    },
    Alu64 {
        f: Alu64,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
        args: u8,
    },
    Shift64 {
        f: Shift,
        d: Reg,
        a: Src,
        b: Src,
    },
    Count64 {
        f: Count,
        d: Reg,
        a: Src,
    },
    Bfe64 {
        signed: bool,
        d: Reg,
        a: Src,
        pos: Src,
        len: Src,
    },
    Bfi {
        d: Dst,
        a: Src,
        b: Src,
        pos: Src,
        len: Src,
    },
    Wide {
        signed: bool,
        d: Reg,
        a: Src,
        b: Src,
        c: Option<Src>,
    },
    Setp(Box<Setp>),
    Select {
        d: Dst,
        a: Src,
        b: Src,
        p: Pred,
    },
    Bool {
        f: BoolOp,
        d: Reg,
        a: Pred,
        b: Pred,
    },
    BoolConst {
        d: Reg,
        value: bool,
    },
    Pack {
        d: Dst,
        parts: Vec<Src>,
        bits: u32,
    },
    Unpack {
        d: Vec<Option<Reg>>,
        a: Src,
        wide: bool,
        bits: u32,
    },
    Convert(Box<Convert>),
    /// `cvt.*x2.f32 d, high, low`
    ConvertPair {
        format: Half,
        round: Round,
        relu: bool,
        d: Reg,
        high: Src,
        low: Src,
    },
    /// `cvt.pack.sat.{u8,s8}.s32.b32 d, a, b, c`
    ConvertPack {
        signed: bool,
        d: Reg,
        a: Src,
        b: Src,
        c: Src,
    },
    Load(Box<Load>),
    Store(Box<Store>),
    Atomic(Box<Atomic>),
    Branch {
        to: u32,
    },
    Return,
    Barrier {
        id: Src,
        threads: Option<Src>,
        wait: bool,
    },
    Warp {
        op: Box<WarpOp>,
        mask: Src,
    },
    ActiveMask {
        d: Reg,
    },
    AsyncCopy(Box<AsyncCopy>),
    AsyncCommit,
    /// Groups that may stay pending, or none at all of any group.
    AsyncWait {
        pending: Option<u32>,
    },
    Matrix(Box<Matrix>),
    MatrixLoad(Box<MatrixLoad>),
    /// Orders memory beyond the block, or only within it.
    Fence {
        device: bool,
    },
    /// `griddepcontrol.wait`
    GridWait,
    /// Leaves the rest of the slice to other warps.
    Yield,
    Nop,
    Trap,
}

#[derive(Debug, Clone)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    pub(crate) guard: Option<Pred>,
    pub(crate) line: u32,
    /// An assembler may fuse it with a neighbour.
    pub(crate) contractible: bool,
}

/// A parameter of a kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Name in the text.
    pub name: String,
    /// Offset in the parameter block, bytes.
    pub offset: usize,
    /// Size, bytes.
    pub size: usize,
    /// Alignment, bytes.
    pub align: usize,
}

/// One kernel, ready to launch.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Inst>,
    pub(crate) narrow_names: Vec<String>,
    pub(crate) wide_names: Vec<String>,
    pub(crate) pred_names: Vec<String>,
    pub(crate) params: Vec<Param>,
    pub(crate) param_size: usize,
    pub(crate) shared: usize,
    pub(crate) local: usize,
    pub(crate) max_threads: Option<u32>,
    pub(crate) required_block: Option<[u32; 3]>,
    pub(crate) constants: Arc<[u8]>,
    /// `#line` or `.loc` of each line that has one, sorted.
    pub(crate) sources: Vec<(u32, SourceLine)>,
}

impl Kernel {
    /// Name of the entry.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its parameters, in order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }

    /// Size of the parameter block, bytes.
    pub fn param_size(&self) -> usize {
        self.param_size
    }

    /// Shared memory declared in the text, bytes; what a launch asks for comes on top.
    pub fn static_shared(&self) -> usize {
        self.shared
    }

    /// Local memory of a thread, bytes.
    pub fn local_bytes(&self) -> usize {
        self.local
    }

    /// Registers that the text uses, in units of 32 bits. An assembler will need fewer.
    pub fn registers(&self) -> usize {
        self.narrow_names.len() + 2 * self.wide_names.len()
    }

    /// Threads per block that `.maxntid` or `.reqntid` allow.
    pub fn max_threads(&self) -> Option<u32> {
        self.max_threads
    }

    /// Lines of floating-point adds, subtracts and multiplies without a rounding modifier: an assembler may
    /// fuse them, so that their last bit is not defined.
    pub fn contraction_hazards(&self) -> Vec<u32> {
        let mut lines: Vec<u32> = self.code.iter().filter(|i| i.contractible).map(|i| i.line).collect();
        lines.dedup();
        lines
    }

    /// The line that a line of the PTX was made from.
    pub(crate) fn source(&self, line: u32) -> Option<SourceLine> {
        let at = self.sources.binary_search_by_key(&line, |s| s.0).ok()?;
        self.sources.get(at).map(|s| s.1.clone())
    }
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
