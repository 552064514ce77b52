// GateUp: SiLU(gate) * up. A workgroup computes the same 32 rows of both matrices; its results are one block of the
// activations that `down` reads, so the epilogue writes them quantized as well. Twin: backend/cpu/twin/gate_up.rs.
//
// Matrices of two types, or of pieces that no buffer holds together, take two dispatches: first `up` alone (FLAG_UP),
// which leaves its results in `gated`, then `gate` alone (FLAG_GATE), which finds them there.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(3) var<storage, read> acts: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(5) var<storage, read_write> gated: array<f32>;
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
#include "shared/exp.wgsl"

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) count: vec3<u32>) {
    let panel = wg.x + wg.z * count.x;
    let token0 = wg.y * 32u;
    if panel >= max(params.panels0, params.panels1) { return; }
    prepare_rms(false, t, token0);
    let gate_only = has(FLAG_GATE);
    let up_only = has(FLAG_UP);
    if !up_only {
        panel_times_rows(false, params.base0 + panel * params.stride_a, t, token0);
        for (var i = t; i < TOKENS * 32u; i += WG) { scaled[i] = sums[i]; }
        workgroupBarrier();
    }
    if !gate_only {
        panel_times_rows(false, params.base1 + panel * params.stride_a, t, token0);
    }
    let rows = state[STATE_ROWS];
    let first = (params.first_panel + panel) * 32u;
    for (var i = t; i < TOKENS * 32u; i += WG) {
        let token = token0 + i / 32u;
        let row = first + i % 32u;
        var value = 0.0;
        if token < rows && row < params.rows {
            let place = token * params.rows + row;
            var up = sums[i] * inverse_rms[i / 32u];
            if params.bias1 != NONE { up += vectors[params.bias1 + row]; }
            if gate_only { up = gated[place]; }
            value = up;
            if !up_only {
                var gate = scaled[i] * inverse_rms[i / 32u];
                if params.bias0 != NONE { gate += vectors[params.bias0 + row]; }
                value = gate / (1.0 + exponential(-gate)) * up;
            }
            gated[place] = value;
        }
        scaled[i] = value;
    }
    workgroupBarrier();
    if has(FLAG_RECORDS) {
        for (var i = t; i < TOKENS * 8u; i += WG) {
            let token = i / 8u;
            if token0 + token < rows {
                write_record((token0 + token) * ((params.rows + 31u) / 32u) + first / 32u, i % 8u, token * 32u, 0.0);
            }
        }
    }
}
