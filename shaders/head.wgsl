// Head: logits of the rows that ask for them, and the best of each panel for `sample`. Twin: backend/cpu/twin/head.rs.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> acts: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(5) var<storage, read_write> logits: array<f32>;
@group(0) @binding(6) var<storage, read_write> best: array<vec2<u32>>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"
#include "shared/record.wgsl"
// The rows of this op are those that ask, in order.
fn record_of(row: u32) -> u32 {
    let last = max(state[STATE_ASKED], 1u) - 1u;
    return state[params.asked_at + min(row, last)] * params.records * RECORD;
}
#include "shared/matvec.wgsl"

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) count: vec3<u32>) {
    let panel = wg.x + wg.z * count.x;
    let token0 = wg.y * 32u;
    if panel >= params.panels0 { return; }
    prepare_rms(false, t, token0);
    panel_times_rows(false, params.base0 + panel * params.stride_a, t, token0);
    let asked = state[STATE_ASKED];
    let first = (params.first_panel + panel) * 32u;
    for (var i = t; i < TOKENS * 32u; i += WG) {
        let token = token0 + i / 32u;
        let row = first + i % 32u;
        if token < asked && row < params.rows {
            let value = sums[i] * inverse_rms[i / 32u];
            logits[token * params.rows + row] = value;
            sums[i] = value;
        }
    }
    workgroupBarrier();
    if t < TOKENS && token0 + t < asked {
        // A value that is not finite wins, so that it is seen: `sample` refuses it.
        var value = sums[t * 32u];
        var place = 0u;
        for (var i = 1u; i < 32u && first + i < params.rows; i++) {
            let next = sums[t * 32u + i];
            let bad = (bitcast<u32>(next) & 0x7f800000u) == 0x7f800000u;
            let was_bad = (bitcast<u32>(value) & 0x7f800000u) == 0x7f800000u;
            if !was_bad && (bad || next > value) {
                value = next;
                place = i;
            }
        }
        let panels = (params.rows + 31u) / 32u;
        best[(token0 + t) * panels + params.first_panel + panel] = vec2(bitcast<u32>(value), first + place);
    }
}
