//! The sizes of one dispatch, as `shaders/shared/params.wgsl` and `kernels/shared/params.ptx` declare them.

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

const _: () = assert!(size_of::<Params>() == 144);
