//! Tensor-core tiles: `mma.sync` and `ldmatrix`, with the fragment layouts of the PTX ISA.
//!
//! Integer tiles are exact. Float tiles are summed in `f64` and rounded once to `f32`; the machine's order and
//! inner precision are not specified, so results agree with it only to a tolerance.

use super::block::{Block, Step};
use super::lanes::V32;
use super::warp::Warp;
use crate::error::FaultKind;
use crate::float::{Half, Round, f32_bits};
use crate::ir::{Inst, Matrix, MatrixLoad, MatrixTy};

impl Block<'_> {
    fn whole_warp(&self, w: &Warp, inst: &Inst, m: u32) -> Step<()> {
        if m == !0 {
            return Ok(());
        }
        let message = "a matrix instruction needs all 32 lanes of the warp";
        self.fault(w, inst, m, FaultKind::MemberMask, message)
    }

    pub(super) fn matrix(&mut self, w: &mut Warp, inst: &Inst, t: &Matrix, m: u32) -> Step<()> {
        self.whole_warp(w, inst, m)?;
        let get = |sources: &[crate::ir::Src]| -> Step<Vec<V32>> {
            sources.iter().map(|s| self.get32(w, inst, *s, m)).collect()
        };
        let (a, b, c) = (get(&t.a)?, get(&t.b)?, get(&t.c)?);
        let size = if matches!(t.ty, MatrixTy::Int { .. }) { 1 } else { 2 };
        let (mut rows, mut columns) = ([[0u16; 32]; 16], [[0u16; 32]; 8]);
        spread(&a, &b, size, &mut rows, &mut columns);
        for (r, d) in t.d.iter().enumerate() {
            let mut out = [0; 32];
            for lane in 0..32 {
                let (row, column) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
                out[lane] = dot(t, &rows[row], &columns[column], c[r][lane]);
            }
            w.set32(*d, &out, m);
        }
        Ok(())
    }

    pub(super) fn matrix_load(&mut self, w: &mut Warp, inst: &Inst, l: &MatrixLoad, m: u32) -> Step<()> {
        self.whole_warp(w, inst, m)?;
        let addresses = self.addresses(w, inst, l.address, m)?;
        let used = u32::MAX >> (32 - 8 * l.d.len());
        self.check_alignment(w, inst, &addresses, used, 16)?;
        if self.grid.options.profile {
            self.profile_access(inst, crate::ir::Space::Shared, &addresses, used, 16);
        }
        for (k, d) in l.d.iter().enumerate() {
            let mut tile = [[0u16; 8]; 8];
            for (r, row) in tile.iter_mut().enumerate() {
                let lane = k * 8 + r;
                let size = self.shared.bytes.len();
                let range = (addresses[lane], 16);
                let at = self.check_range(w, inst, lane, range, ("the block's shared memory", size))?;
                self.check_shared(w, inst, lane, (at, 16), false, false)?;
                let mut words = [0; 8];
                self.shared.load(at, 16, &mut words);
                for (i, value) in row.iter_mut().enumerate() {
                    *value = (words[i / 2] >> (16 * (i % 2))) as u16;
                }
            }
            let mut out = [0; 32];
            for (lane, slot) in out.iter_mut().enumerate() {
                let (r, c) = (lane / 4, lane % 4 * 2);
                let (low, high) =
                    if l.transposed { (tile[c][r], tile[c + 1][r]) } else { (tile[r][c], tile[r][c + 1]) };
                *slot = u32::from(low) | (u32::from(high) << 16);
            }
            w.set32(*d, &out, m);
        }
        Ok(())
    }
}

/// Fragments to rows of `a` and columns of `b`, elements of `size` bytes.
fn spread(a: &[V32], b: &[V32], size: usize, rows: &mut [[u16; 32]; 16], columns: &mut [[u16; 32]; 8]) {
    let per = 4 / size;
    let element = |v: u32, e: usize| (v >> (8 * size * e)) as u16 & if size == 1 { 0xff } else { 0xffff };
    for lane in 0..32 {
        let (group, within) = (lane / 4, lane % 4);
        for (r, v) in a.iter().enumerate() {
            for e in 0..per {
                rows[group + 8 * (r % 2)][within * per + e + (r / 2) * per * 4] = element(v[lane], e);
            }
        }
        for (r, v) in b.iter().enumerate() {
            for e in 0..per {
                columns[group][within * per + e + r * per * 4] = element(v[lane], e);
            }
        }
    }
}

fn dot(t: &Matrix, row: &[u16; 32], column: &[u16; 32], c: u32) -> u32 {
    let pairs = row.iter().zip(column).take(t.k);
    let float = |format: Half| {
        let start = f64::from(f32::from_bits(c));
        let sum = pairs.clone().fold(start, |s, (x, y)| format.widen(*x).mul_add(format.widen(*y), s));
        f32_bits(sum, 0.0, Round::Nearest)
    };
    match t.ty {
        MatrixTy::F16 => float(Half::F16),
        MatrixTy::Bf16 => float(Half::Bf16),
        MatrixTy::Int { a_signed, b_signed } => {
            let int = |v: u16, signed: bool| if signed { i32::from(v as u8 as i8) } else { i32::from(v) };
            pairs.fold(c, |s, (x, y)| s.wrapping_add((int(*x, a_signed) * int(*y, b_signed)) as u32))
        }
    }
}
