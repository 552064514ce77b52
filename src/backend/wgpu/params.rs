//! The sizes of one dispatch, as `shaders/shared/params.wgsl` declares them.

use bytemuck::{Pod, Zeroable};

/// Stands for "there is none".
pub(super) const NONE: u32 = u32::MAX;

/// Results are multiplied by 1 / rms of their row.
pub(super) const FLAG_NORM: u32 = 1;
/// Records for the next op are written.
pub(super) const FLAG_RECORDS: u32 = 2;
/// Pairs of rotated dimensions lie half a rotation apart.
pub(super) const FLAG_NEOX: u32 = 4;
/// Keys and values are float32.
pub(super) const FLAG_KV_F32: u32 = 8;
/// Heads have a norm of their own.
pub(super) const FLAG_HEAD_NORM: u32 = 16;
/// The best logit is looked for among all logits, not among the best of each panel.
pub(super) const FLAG_SCAN: u32 = 32;

/// Same fields, same order as in WGSL; all of four bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct Params {
    pub(super) records: u32,
    pub(super) units_a: u32,
    pub(super) units_b: u32,
    pub(super) segments: u32,
    pub(super) base: [u32; 3],
    pub(super) panels: [u32; 3],
    pub(super) first_panel: u32,
    pub(super) rows: u32,
    pub(super) bias: [u32; 3],
    pub(super) norm: u32,
    pub(super) num_heads: u32,
    pub(super) num_kv_heads: u32,
    pub(super) head_dim: u32,
    pub(super) rope_pairs: u32,
    pub(super) context: u32,
    pub(super) window: u32,
    pub(super) splits: u32,
    pub(super) first_row: u32,
    pub(super) asked_at: u32,
    pub(super) flags: u32,
    pub(super) eps: f32,
    pub(super) scale: f32,
    pub(super) plan_rows: u32,
    pub(super) stride_a: u32,
    pub(super) stride_b: u32,
    pub(super) second: u32,
    pub(super) columns: u32,
    pub(super) padding: [u32; 3],
}

/// Bytes between the parameters of two dispatches: the largest offset alignment that a device may ask for.
pub(super) const PARAMS_STRIDE: u64 = 256;

const _: () = assert!(size_of::<Params>() == 144);
