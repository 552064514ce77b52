// Attention, second half: the parts of each head joined in the order of positions, and the records that `attn_out` reads.
// A lane per column, 256 columns per workgroup. Twin: backend/cpu/twin/attention.rs.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial: array<f32>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(5) var<storage, read_write> attention: array<f32>;
@group(0) @binding(6) var<storage, read_write> acts_out: array<u32>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"
#include "shared/record.wgsl"
#include "shared/split.wgsl"
#include "shared/fused.wgsl"
#include "shared/exp.wgsl"
var<workgroup> scaled: array<f32, 256>;
#include "shared/quantize_q8.wgsl"

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>) {
    let row = params.first_row + wg.y;
    if row >= state[STATE_ROWS] { return; }
    let end = state[row_at(row) + 2u] + 1u;
    let width = params.num_heads * params.head_dim;
    let column = wg.x * 256u + t;
    scaled[t] = 0.0;
    if column < width {
        let head = column / params.head_dim;
        let dim = column % params.head_dim;
        var maximum = -3.0e38;
        var sum = 0.0;
        var value = 0.0;
        for (var split = first_position(end) / SPLIT; split * SPLIT < end; split++) {
            let at = ((wg.y * params.num_heads + head) * params.splits + split) * (params.head_dim + 2u);
            let joined = max(maximum, partial[at]);
            let before = exponential(maximum - joined);
            let after = exponential(partial[at] - joined);
            sum = fused(partial[at + 1u], after, sum * before);
            value = fused(partial[at + 2u + dim], after, value * before);
            maximum = joined;
        }
        value /= sum;
        attention[row * width + column] = value;
        scaled[t] = value;
    }
    workgroupBarrier();
    let record = wg.x * 8u + t / 8u;
    if has(FLAG_RECORDS) && t < 64u && record * 32u < width {
        write_record(row * ((width + 31u) / 32u) + record, t % 8u, (t / 8u) * 32u, 0.0);
    }
}
