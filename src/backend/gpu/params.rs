//! The sizes of one dispatch, as `shaders/shared/params.wgsl` and `kernels/shared/params.ptx` declare them.

use crate::plan::{KvType, Pairing, Plan};
use bytemuck::{Pod, Zeroable};

/// Stands for "there is none".
pub(in crate::backend) const NONE: u32 = u32::MAX;

/// Results are multiplied by 1 / rms of their row.
pub(in crate::backend) const FLAG_NORM: u32 = 1;
/// Records for the next op are written.
pub(in crate::backend) const FLAG_RECORDS: u32 = 2;
/// Pairs of rotated dimensions lie half a rotation apart.
pub(in crate::backend) const FLAG_NEOX: u32 = 4;
/// Keys and values are float32.
pub(in crate::backend) const FLAG_KV_F32: u32 = 8;
/// Heads have a norm of their own.
pub(in crate::backend) const FLAG_HEAD_NORM: u32 = 16;
/// The best logit is looked for among all logits, not among the best of each panel.
pub(in crate::backend) const FLAG_SCAN: u32 = 32;

/// Of gate and up, only this one is multiplied.
pub(in crate::backend) const FLAG_GATE: u32 = 64;
pub(in crate::backend) const FLAG_UP: u32 = 128;
/// Records for the next op are in the form `q8_0` where [`FLAG_RECORDS`] asks for them, or super-blocks of the form `q8_k`
/// (CUDA only).
pub(in crate::backend) const FLAG_ZERO: u32 = 256;
pub(in crate::backend) const FLAG_SUPER_BLOCKS: u32 = 512;

/// Same fields, same order as in WGSL; all of four bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(in crate::backend) struct Params {
    pub(in crate::backend) records: u32,
    pub(in crate::backend) units_a: u32,
    pub(in crate::backend) units_b: u32,
    pub(in crate::backend) segments: u32,
    pub(in crate::backend) base: [u32; 3],
    pub(in crate::backend) panels: [u32; 3],
    pub(in crate::backend) first_panel: u32,
    pub(in crate::backend) rows: u32,
    pub(in crate::backend) bias: [u32; 3],
    pub(in crate::backend) norm: u32,
    pub(in crate::backend) num_heads: u32,
    pub(in crate::backend) num_kv_heads: u32,
    pub(in crate::backend) head_dim: u32,
    pub(in crate::backend) rope_pairs: u32,
    pub(in crate::backend) context: u32,
    pub(in crate::backend) window: u32,
    pub(in crate::backend) splits: u32,
    pub(in crate::backend) first_row: u32,
    pub(in crate::backend) asked_at: u32,
    pub(in crate::backend) flags: u32,
    pub(in crate::backend) eps: f32,
    pub(in crate::backend) scale: f32,
    pub(in crate::backend) plan_rows: u32,
    pub(in crate::backend) stride_a: u32,
    pub(in crate::backend) stride_b: u32,
    pub(in crate::backend) second: u32,
    pub(in crate::backend) columns: u32,
    pub(in crate::backend) squares: [u32; 2],
    pub(in crate::backend) zero: u32,
}

impl Params {
    /// What all kernels of a plan share, for rows of activations of `columns` columns. `asked_at`: where the state lists
    /// the rows that ask; of the cache, the positions of a sequence and the parts of attention over them.
    pub(in crate::backend) fn of_plan(
        plan: &Plan,
        asked_at: usize,
        (context, splits): (usize, usize),
        columns: usize,
    ) -> Self {
        let shape = &plan.shape;
        let mut flags = 0;
        if shape.rope_pairing == Pairing::Neox {
            flags |= FLAG_NEOX;
        }
        if plan.numerics.kv == KvType::F32 {
            flags |= FLAG_KV_F32;
        }
        Self {
            records: columns.div_ceil(32) as u32,
            columns: columns as u32,
            segments: 1,
            bias: [NONE; 3],
            norm: NONE,
            num_heads: shape.num_heads as u32,
            num_kv_heads: shape.num_kv_heads as u32,
            head_dim: shape.head_dim as u32,
            rope_pairs: (shape.rope_dim / 2) as u32,
            context: context as u32,
            window: shape.sliding_window.map_or(0, |window| window.min(u32::MAX as usize) as u32),
            splits: splits as u32,
            asked_at: asked_at as u32,
            flags,
            eps: shape.rms_norm_eps,
            scale: 1.0 / (shape.head_dim as f32).sqrt(),
            ..Self::zeroed()
        }
    }
}

const _: () = assert!(size_of::<Params>() == 144);
