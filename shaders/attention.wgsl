// Attention, first half: one row, one key/value head, up to eight of the query heads that share it, 256 positions. Keys
// and values are loaded once for all of these heads. Scores: a lane per position. Values: a lane per piece of 16 bytes of
// every 256 / pieces-th position; these sums are added in order, as everything here is in the twin's. The result is a softmax before its division: maximum, sum, weighted values.
//
// SUBGROUPS: maxima over the 256 positions go through subgroups, of any size: two barriers less, and no second walk over
// the scores. It is chosen where subgroups have at least 32 lanes, so that eight numbers per head are left to combine.
// Sums do not: what order a subgroup adds in is the driver's.
//
// There is no variant in half precision. The cache is float16 and `unpack2x16float` is the conversion that a typed load
// would be (measured: no difference); arithmetic in float16 errs by more than an op may, and the loads bound this kernel.
//
// Splits begin at multiples of 256 whatever the context, so a row's result depends on its own position only.
// Twin: backend/cpu/twin/attention.rs. Cache layout: qkv_rope.wgsl.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> query: array<f32>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> values: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(5) var<storage, read_write> partial: array<f32>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"
#include "shared/split.wgsl"
#include "shared/fused.wgsl"
#include "shared/exp.wgsl"
#include "shared/halves.wgsl"
// Query heads per workgroup.
override GROUP: u32 = 1u;
var<workgroup> q: array<f32, 1024>;
var<workgroup> p: array<f32, 2048>;
#ifdef SUBGROUPS
// A word per head and subgroup, of which there are up to 64.
var<workgroup> maxima: array<f32, 512>;
#endif
var<workgroup> reduced: array<f32, 256>;
var<workgroup> head_value: array<f32, 8>;

fn dims_of(pair: u32) -> vec2<u32> {
    if has(FLAG_NEOX) && pair < params.rope_pairs { return vec2(pair, pair + params.rope_pairs); }
    return vec2(2u * pair, 2u * pair + 1u);
}

// A score with four more dimensions, whose queries begin at `at`.
fn add_four(at: u32, k: vec4<f32>, score: f32) -> f32 {
    return fused(q[at + 3u], k.w, fused(q[at + 2u], k.z, fused(q[at + 1u], k.y, fused(q[at], k.x, score))));
}

@compute @workgroup_size(256)
#ifdef SUBGROUPS
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(num_subgroups) subgroups: u32,
        @builtin(subgroup_invocation_id) in_subgroup: u32) {
#else
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>) {
#endif
    let row = params.first_row + wg.z;
    if row >= state[STATE_ROWS] { return; }
    let slot = state[row_at(row) + 1u];
    let end = state[row_at(row) + 2u] + 1u;
    let start = first_position(end);
    let split = wg.x;
    if split * SPLIT >= end || (split + 1u) * SPLIT <= start { return; }
    let group = params.num_heads / params.num_kv_heads;
    let passes = (group + GROUP - 1u) / GROUP;
    let kv_head = wg.y / passes;
    let first_head = kv_head * group + (wg.y % passes) * GROUP;
    let heads = min(GROUP, (kv_head + 1u) * group - first_head);
    let dim = params.head_dim;

    // Queries in the order of the keys' dimensions.
    for (var i = t; i < heads * dim / 2u; i += 256u) {
        let head = i / (dim / 2u);
        let pair = i % (dim / 2u);
        let dims = dims_of(pair);
        let from_place = (row * params.num_heads + first_head + head) * dim;
        q[head * dim + 2u * pair] = query[from_place + dims.x];
        q[head * dim + 2u * pair + 1u] = query[from_place + dims.y];
    }
    workgroupBarrier();

    let position = split * SPLIT + t;
    let seen = position >= start && position < end;
#ifdef KV=f32
    let words = dim;
#else
    let words = dim / 2u;
#endif
    let cache_row = (slot * params.num_kv_heads + kv_head) * params.context;
    var scores: array<f32, 8>;
    for (var h = 0u; h < GROUP; h++) { scores[h] = 0.0; }
    if seen {
        let tile = (cache_row + position) / 32u;
        for (var w = 0u; w < words / 4u; w++) {
            let k = keys[(tile * (words / 4u) + w) * 32u + position % 32u];
#ifdef KV=f32
            let k4 = bitcast<vec4<f32>>(k);
            for (var h = 0u; h < GROUP; h++) { scores[h] = add_four(h * dim + 4u * w, k4, scores[h]); }
#else
            let k01 = vec4(unpack2x16float(k.x), unpack2x16float(k.y));
            let k23 = vec4(unpack2x16float(k.z), unpack2x16float(k.w));
            for (var h = 0u; h < GROUP; h++) {
                scores[h] = add_four(h * dim + 8u * w + 4u, k23, add_four(h * dim + 8u * w, k01, scores[h]));
            }
#endif
        }
    }
    for (var h = 0u; h < GROUP; h++) { scores[h] = select(-3.0e38, scores[h] * params.scale, seen); }

#ifdef SUBGROUPS
    for (var h = 0u; h < GROUP; h++) {
        let maximum = subgroupMax(scores[h]);
        if in_subgroup == 0u { maxima[h * 64u + subgroup] = maximum; }
    }
    workgroupBarrier();
    for (var h = 0u; h < GROUP; h++) {
        var maximum = -3.0e38;
        for (var s = 0u; s < subgroups; s++) { maximum = max(maximum, maxima[h * 64u + s]); }
        p[h * 256u + t] = select(0.0, exponential(scores[h] - maximum), seen);
        if t == h { head_value[h] = maximum; }
    }
#else
    for (var h = 0u; h < GROUP; h++) { p[h * 256u + t] = scores[h]; }
    workgroupBarrier();
    // Maximum per head: 32 lanes each, then one.
    let my_head = t / 32u;
    if my_head < GROUP {
        var maximum = -3.0e38;
        for (var i = t % 32u; i < 256u; i += 32u) { maximum = max(maximum, p[my_head * 256u + i]); }
        reduced[t] = maximum;
    }
    workgroupBarrier();
    if t < GROUP {
        var maximum = -3.0e38;
        for (var i = 0u; i < 32u; i++) { maximum = max(maximum, reduced[t * 32u + i]); }
        head_value[t] = maximum;
    }
    workgroupBarrier();
    for (var h = 0u; h < GROUP; h++) {
        p[h * 256u + t] = select(0.0, exponential(scores[h] - head_value[h]), seen);
    }
#endif
    workgroupBarrier();
    // 32 positions of a head by halves, then its eight sums in order.
    if t < 8u * GROUP {
        for (var i = 0u; i < 32u; i++) { halved[i] = p[t * 32u + i]; }
        reduced[t] = sum_of_halves();
    }
    workgroupBarrier();
    let out = ((wg.z * params.num_heads + first_head) * params.splits + split) * (dim + 2u);
    let next_head = params.splits * (dim + 2u);
    if t < heads {
        var sum = 0.0;
        for (var i = 0u; i < 8u; i++) { sum += reduced[t * 8u + i]; }
        partial[out + t * next_head] = head_value[t];
        partial[out + t * next_head + 1u] = sum;
    }

    let pieces = words / 4u;
    let value_sums = 256u / pieces;
    let mine = t / pieces;
    var low: array<vec4<f32>, 8>;
#ifndef KV=f32
    var high: array<vec4<f32>, 8>;
#endif
    for (var h = 0u; h < GROUP; h++) {
        low[h] = vec4(0.0);
#ifndef KV=f32
        high[h] = vec4(0.0);
#endif
    }
    if mine < value_sums {
        let first = max(start, split * SPLIT) - split * SPLIT;
        let last = min(end - split * SPLIT, SPLIT);
        var i = mine;
        if i < first { i += (first - mine + value_sums - 1u) / value_sums * value_sums; }
        for (; i < last; i += value_sums) {
            let v = values[(cache_row + split * SPLIT + i) * pieces + t % pieces];
#ifdef KV=f32
            let v4 = bitcast<vec4<f32>>(v);
            for (var h = 0u; h < GROUP; h++) { low[h] = fused4(p[h * 256u + i], v4, low[h]); }
#else
            let v01 = vec4(unpack2x16float(v.x), unpack2x16float(v.y));
            let v23 = vec4(unpack2x16float(v.z), unpack2x16float(v.w));
            for (var h = 0u; h < GROUP; h++) {
                low[h] = fused4(p[h * 256u + i], v01, low[h]);
                high[h] = fused4(p[h * 256u + i], v23, high[h]);
            }
#endif
        }
    }
    // The sums of one head at a time have room in `p`, where the weights are used up.
    for (var h = 0u; h < GROUP; h++) {
        workgroupBarrier();
        if mine < value_sums {
#ifdef KV=f32
            for (var x = 0u; x < 4u; x++) { p[4u * t + x] = low[h][x]; }
#else
            for (var x = 0u; x < 4u; x++) {
                p[8u * t + x] = low[h][x];
                p[8u * t + 4u + x] = high[h][x];
            }
#endif
        }
        workgroupBarrier();
        if h < heads {
            for (var i = t; i < dim; i += 256u) {
                var sum = 0.0;
                for (var j = 0u; j < value_sums; j++) { sum += p[j * dim + i]; }
                partial[out + h * next_head + 2u + i] = sum;
            }
        }
    }
}
