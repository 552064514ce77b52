// A projection added to the residual stream, and the records of the norm that comes next.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(3) var<storage, read> acts: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(5) var<storage, read_write> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> acts_out: array<u32>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"
#include "shared/record.wgsl"
fn record_of(row: u32) -> u32 { return row * params.records * RECORD; }
#include "shared/matvec.wgsl"
#ifdef TILE
var<workgroup> scaled: array<f32, 1024>;
#else
var<workgroup> scaled: array<f32, 256>;
#endif
#include "shared/quantize_q8.wgsl"
#include "shared/halves.wgsl"

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) count: vec3<u32>) {
    let panel = wg.x + wg.z * count.x;
    let token0 = wg.y * 32u;
    if panel >= params.panels0 { return; }
    panel_times_rows(false, params.base0 + panel * params.stride_a, t, token0);
    let rows = state[STATE_ROWS];
    let first = (params.first_panel + panel) * 32u;
    for (var i = t; i < TOKENS * 32u; i += WG) {
        let token = token0 + i / 32u;
        let row = first + i % 32u;
        var value = 0.0;
        if token < rows && row < params.rows {
            value = sums[i];
            if params.bias0 != NONE { value += vectors[params.bias0 + row]; }
            let at = token * params.rows + row;
            value += residual[at];
            residual[at] = value;
        }
        sums[i] = value;
        if params.norm != NONE && row < params.rows { value *= vectors[params.norm + row]; }
        scaled[i] = value;
    }
    workgroupBarrier();
    if has(FLAG_RECORDS) {
        for (var i = t; i < TOKENS * 8u; i += WG) {
            let token = i / 8u;
            if token0 + token < rows {
                var squares = 0.0;
                if i % 8u == 0u {
                    for (var j = 0u; j < 32u; j++) { halved[j] = sums[token * 32u + j] * sums[token * 32u + j]; }
                    squares = sum_of_halves();
                }
                write_record((token0 + token) * ((params.rows + 31u) / 32u) + first / 32u, i % 8u, token * 32u, squares);
            }
        }
    }
}
