//! Which implementation of the lanes runs, decided once at run time.

use super::lanes::Lanes;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// Code that is compiled once for each instruction set.
pub trait Task {
    /// What it returns.
    type Output;
    /// The code; must be `#[inline(always)]`, as must everything generic that it calls.
    fn run<L: Lanes>(self, l: L) -> Self::Output;
}

/// An instruction set that this CPU has.
#[derive(Clone, Copy, Debug)]
pub struct Isa(Kind);

/// The token of each.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2<false>),
    #[cfg(target_arch = "x86_64")]
    AvxVnni(Avx2<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(Neon<false>),
    #[cfg(target_arch = "aarch64")]
    NeonDot(Neon<true>),
}

impl Isa {
    /// The names of all instruction sets that this program was compiled for, slowest first.
    #[cfg(target_arch = "x86_64")]
    pub const NAMES: &[&str] = &["scalar", "avx2", "avxvnni", "avx512vnni"];
    /// The names of all instruction sets that this program was compiled for, slowest first.
    #[cfg(target_arch = "aarch64")]
    pub const NAMES: &[&str] = &["scalar", "neon", "neondot"];
    /// The names of all instruction sets that this program was compiled for, slowest first.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub const NAMES: &[&str] = &["scalar"];

    /// The fastest that this CPU has.
    pub fn detect() -> Self {
        Self::available().last().copied().unwrap_or(Self(Kind::Scalar(Scalar)))
    }

    /// All that this CPU has, slowest first: what tests go through.
    pub fn available() -> Vec<Self> {
        let mut all = vec![Some(Kind::Scalar(Scalar))];
        #[cfg(target_arch = "x86_64")]
        all.extend([
            Avx2::new().map(Kind::Avx2),
            Avx2::new().map(Kind::AvxVnni),
            Avx512::new().map(Kind::Avx512),
        ]);
        #[cfg(target_arch = "aarch64")]
        all.extend([Neon::new().map(Kind::Neon), Neon::new().map(Kind::NeonDot)]);
        all.into_iter().flatten().map(Self).collect()
    }

    /// Its name, one of [`Isa::NAMES`].
    pub const fn name(self) -> &'static str {
        match self.0 {
            Kind::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::AvxVnni(_) => "avxvnni",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512vnni",
            #[cfg(target_arch = "aarch64")]
            Kind::Neon(_) => "neon",
            #[cfg(target_arch = "aarch64")]
            Kind::NeonDot(_) => "neondot",
        }
    }

    /// Tokens that a register tile holds at most: as many as leave room for the weights in the register file.
    pub const fn tile(self) -> usize {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => 16,
            _ => 8,
        }
    }

    /// Runs the task, compiled for this instruction set.
    pub fn run<T: Task>(self, task: T) -> T::Output {
        match self.0 {
            Kind::Scalar(l) => task.run(l),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token shows that the CPU has the features.
            Kind::Avx2(l) => unsafe { avx2(task, l) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token shows that the CPU has the features.
            Kind::AvxVnni(l) => unsafe { avxvnni(task, l) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: the token shows that the CPU has the features.
            Kind::Avx512(l) => unsafe { avx512(task, l) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the token shows that the CPU has the features.
            Kind::Neon(l) => unsafe { neon(task, l) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: the token shows that the CPU has the features.
            Kind::NeonDot(l) => unsafe { neon_dot(task, l) },
        }
    }
}

/// Compiles `task` with AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2<T: Task>(task: T, l: Avx2<false>) -> T::Output {
    task.run(l)
}

/// Compiles `task` with AVX2, FMA, F16C and AVX-VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn avxvnni<T: Task>(task: T, l: Avx2<true>) -> T::Output {
    task.run(l)
}

/// Compiles `task` with AVX-512 F, BW, DQ, VL and VNNI.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,fma,f16c")]
fn avx512<T: Task>(task: T, l: Avx512) -> T::Output {
    task.run(l)
}

/// Compiles `task` with NEON.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon<T: Task>(task: T, l: Neon<false>) -> T::Output {
    task.run(l)
}

/// Compiles `task` with NEON and the dot product extension.
#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
fn neon_dot<T: Task>(task: T, l: Neon<true>) -> T::Output {
    task.run(l)
}
