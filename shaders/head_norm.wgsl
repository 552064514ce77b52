// The second part of QkvRope where heads have a norm of their own: RMSNorm over each query and key head, rotation, and
// the append of the key. One workgroup per head and row. Twin: backend/cpu/twin/qkv_rope.rs.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(5) var<storage, read> rope: array<vec2<f32>>;
@group(0) @binding(3) var<storage, read> raw: array<f32>;
@group(0) @binding(6) var<storage, read_write> query: array<f32>;
@group(0) @binding(7) var<storage, read_write> keys: array<u32>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"
#include "shared/half.wgsl"
#include "shared/cache.wgsl" KEYS_ONLY=1
#include "shared/fused.wgsl"
#include "shared/halves.wgsl"
var<workgroup> parts: array<f32, 32>;

@compute @workgroup_size(32)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>) {
    let token = wg.y;
    let heads = params.num_heads + params.num_kv_heads;
    if token >= state[STATE_ROWS] { return; }
    let head = wg.x;
    let from_place = (token * heads + head) * params.head_dim;
    var part = 0.0;
    for (var pair = t; pair < params.head_dim / 2u; pair += 32u) {
        let a = raw[from_place + 2u * pair];
        let b = raw[from_place + 2u * pair + 1u];
        part = fused(b, b, fused(a, a, part));
    }
    parts[t] = part;
    workgroupBarrier();
    for (var i = 0u; i < 32u; i++) { halved[i] = parts[i]; }
    let squares = sum_of_halves();
    let inverse = 1.0 / sqrt(squares / f32(params.head_dim) + params.eps);
    let slot = state[row_at(token) + 1u];
    let position = state[row_at(token) + 2u];
    let is_key = head >= params.num_heads;
    let norm = select(params.bias0, params.bias1, is_key);
    for (var pair = t; pair < params.head_dim / 2u; pair += 32u) {
        let a = raw[from_place + 2u * pair] * inverse * vectors[norm + 2u * pair];
        let b = raw[from_place + 2u * pair + 1u] * inverse * vectors[norm + 2u * pair + 1u];
        let turned = turn(position, pair, a, b);
        if is_key {
            append_key(slot, head - params.num_heads, position, pair, turned.x, turned.y);
        } else {
            let dims = dims_of(pair);
            let place = (token * params.num_heads + head) * params.head_dim;
            query[place + dims.x] = turned.x;
            query[place + dims.y] = turned.y;
        }
    }
}
