// QkvRope: queries, keys and values in one dispatch (each matrix of one of two weight types), biases, rotation, and the
// append to the cache. Twin: backend/cpu/twin/qkv_rope.rs.
//
// The rows of queries and keys are stored so that the two dimensions of a rotated pair are neighbours (see
// `row_order` in upload.rs); so a pair never leaves a workgroup, and one invocation turns and writes it. Keys stay in
// that order in the cache, queries go back to theirs. Where heads have a norm before the rotation (FLAG_HEAD_NORM), the
// bare products go to `raw` and `head_norm` does the rest.
//
// The cache: keys in tiles of 32 positions, `[kv_head][position / 32][word / 4][position % 32][word % 4]`, so that a
// lane per position loads 16 bytes next to its neighbour's; values `[kv_head][position][word]`. A word is two float16
// or one float32.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(3) var<storage, read> acts: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(5) var<storage, read> rope: array<vec2<f32>>;
// Queries, or the bare products of queries and keys.
@group(0) @binding(6) var<storage, read_write> query: array<f32>;
@group(0) @binding(7) var<storage, read_write> keys: array<u32>;
@group(0) @binding(8) var<storage, read_write> values: array<u32>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"
#include "shared/record.wgsl"
fn record_of(row: u32) -> u32 { return row * params.records * RECORD; }
#include "shared/matvec.wgsl"
#include "shared/half.wgsl"
#include "shared/cache.wgsl"

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(num_workgroups) count: vec3<u32>) {
    let all = params.panels0 + params.panels1 + params.panels2;
    var panel = wg.x + wg.z * count.x;
    let token0 = wg.y * 32u;
    if panel >= all { return; }
    // Which of the matrices: 0 queries, 1 keys, 2 values.
    var matrix = 0u;
    var base = params.base0;
    if panel >= params.panels0 + params.panels1 {
        matrix = 2u;
        panel -= params.panels0 + params.panels1;
        base = params.base2;
    } else if panel >= params.panels0 {
        matrix = 1u;
        panel -= params.panels0;
        base = params.base1;
    }
    let second = ((params.second >> matrix) & 1u) == 1u;
    prepare_rms(second, t, token0);
    panel_times_rows(second, base + panel * select(params.stride_a, params.stride_b, second), t, token0);

    let rows = state[STATE_ROWS];
    let kv_width = params.num_kv_heads * params.head_dim;
    let query_width = params.num_heads * params.head_dim;
    let width = select(kv_width, query_width, matrix == 0u);
    let bias = select(select(params.bias0, params.bias1, matrix == 1u), params.bias2, matrix == 2u);
    for (var i = t; i < TOKENS * 16u; i += WG) {
        let token = token0 + i / 16u;
        let row = (params.first_panel + panel) * 32u + 2u * (i % 16u);
        if token >= rows || row >= width { continue; }
        let at = (i / 16u) * 32u + 2u * (i % 16u);
        var a = sums[at] * inverse_rms[i / 16u];
        var b = sums[at + 1u] * inverse_rms[i / 16u];
        if bias != NONE {
            a += vectors[bias + row];
            b += vectors[bias + row + 1u];
        }
        let head = row / params.head_dim;
        let pair = (row % params.head_dim) / 2u;
        let slot = state[row_at(token) + 1u];
        let position = state[row_at(token) + 2u];
        if matrix == 2u {
            append_value(slot, head, position, pair, a, b);
        } else if has(FLAG_HEAD_NORM) {
            let place = token * (query_width + kv_width) + matrix * query_width + row;
            query[place] = a;
            query[place + 1u] = b;
        } else {
            let turned = turn(position, pair, a, b);
            if matrix == 1u {
                append_key(slot, head, position, pair, turned.x, turned.y);
            } else {
                let dims = dims_of(pair);
                let place = token * query_width + head * params.head_dim;
                query[place + dims.x] = turned.x;
                query[place + dims.y] = turned.y;
            }
        }
    }
}
