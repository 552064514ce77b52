//! Instructions with their operands.

use super::{Address, Alu, Alu64, ApproxOp, Count, DirectedOp, Dst, HalfOp, Post, Pred, Reg, Shift, Src, Ty};
use crate::float::{Half, Round};

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
