// Sizes of one dispatch, constant for the life of its graph: see `params.rs`, which has the same fields in this order.
struct Params {
    // Records per row of activations (columns / 32), and units of each of two weight types in a row.
    records: u32,
    units_a: u32,
    units_b: u32,
    segments: u32,
    // Panels of up to three matrices in the weights' buffer: where each begins (in vec4), how many there are.
    base0: u32,
    base1: u32,
    base2: u32,
    panels0: u32,
    panels1: u32,
    panels2: u32,
    // First panel of this dispatch in its matrix, rows of the matrix (of all its parts), distance of output rows.
    first_panel: u32,
    rows: u32,
    // Places in the vectors' buffer: biases, and the weights of the norm that comes next (NONE where there is none).
    bias0: u32,
    bias1: u32,
    bias2: u32,
    norm: u32,
    // Heads.
    num_heads: u32,
    num_kv_heads: u32,
    head_dim: u32,
    rope_pairs: u32,
    // Positions per slot in the cache, sliding window (0: none), splits per row in the partial results.
    context: u32,
    window: u32,
    splits: u32,
    first_row: u32,
    // Where the list of rows that ask for logits begins in the state.
    asked_at: u32,
    flags: u32,
    eps: f32,
    scale: f32,
    plan_rows: u32,
    // Distance of panels of each weight type, in vec4.
    stride_a: u32,
    stride_b: u32,
    // Whether the panels of matrices 1 and 2 are of the second type: bits 1 and 2.
    second: u32,
    // Columns of a row of activations; the last record may be filled up with zeros.
    columns: u32,
    // Records of the units in which the squares of a row are cut, for matrices of each type.
    squares_a: u32,
    squares_b: u32,
    // 0, which no compiler knows.
    zero: u32,
}
// Norm in front: results are multiplied by 1 / rms.
const FLAG_NORM: u32 = 1u;
// Write records for the next op.
const FLAG_RECORDS: u32 = 2u;
// Pairs of rotated dimensions lie half a rotation apart.
const FLAG_NEOX: u32 = 4u;
// Keys and values are float32.
const FLAG_KV_F32: u32 = 8u;
// Queries and keys get a norm per head before the rotation.
const FLAG_HEAD_NORM: u32 = 16u;
// The best logit is looked for among all, not among the best of each panel.
const FLAG_SCAN: u32 = 32u;
// Of gate and up, only this one is multiplied: see gate_up.wgsl.
const FLAG_GATE: u32 = 64u;
const FLAG_UP: u32 = 128u;
fn has(flag: u32) -> bool { return (params.flags & flag) != 0u; }
