// Attention, first half: one row, one key/value head, up to eight of the query heads that share it, 256 positions. Keys
// and values are loaded once for all of these heads. Scores: a lane per position. Values: a lane per word, positions cut
// into parts that are added in order. The result is a softmax before its division: maximum, sum, weighted values.
//
// SUBGROUPS: maxima and sums over the 256 positions go through subgroups, of any size: three barriers instead of six, and
// no second and third walk over the scores. It is chosen where subgroups have at least 32 lanes, so that eight numbers
// per head are left to combine; with the 8 lanes of a software adapter it is 8 % slower than without.
//
// There is no variant in half precision. The cache is float16 and `unpack2x16float` is the conversion that a typed load
// would be (measured: no difference); arithmetic in float16 errs by more than an op may, and the loads bound this kernel.
//
// Splits begin at multiples of 256 whatever the context, so a row's result depends on its own position only.
// Twin: backend/cpu/twin/attention.rs. Cache layout: qkv_rope.wgsl.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> query: array<f32>;
@group(0) @binding(2) var<storage, read> keys: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> values: array<u32>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(5) var<storage, read_write> partial: array<f32>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"
#include "shared/split.wgsl"
// Query heads per workgroup.
override GROUP: u32 = 1u;
var<workgroup> q: array<f32, 1024>;
var<workgroup> p: array<f32, 2048>;
#ifdef SUBGROUPS
// A word per head and subgroup, of which there are up to 64.
var<workgroup> maxima: array<f32, 512>;
#else
var<workgroup> reduced: array<f32, 256>;
#endif
var<workgroup> head_value: array<f32, 8>;

fn dims_of(pair: u32) -> vec2<u32> {
    if has(FLAG_NEOX) && pair < params.rope_pairs { return vec2(pair, pair + params.rope_pairs); }
    return vec2(2u * pair, 2u * pair + 1u);
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
            for (var h = 0u; h < GROUP; h++) {
                let at = h * dim + 4u * w;
                scores[h] += dot(k4, vec4(q[at], q[at + 1u], q[at + 2u], q[at + 3u]));
            }
#else
            let k01 = vec4(unpack2x16float(k.x), unpack2x16float(k.y));
            let k23 = vec4(unpack2x16float(k.z), unpack2x16float(k.w));
            for (var h = 0u; h < GROUP; h++) {
                let at = h * dim + 8u * w;
                scores[h] += dot(k01, vec4(q[at], q[at + 1u], q[at + 2u], q[at + 3u]))
                    + dot(k23, vec4(q[at + 4u], q[at + 5u], q[at + 6u], q[at + 7u]));
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
        let weight = select(0.0, exp(scores[h] - maximum), seen);
        p[h * 256u + t] = weight;
        let sum = subgroupAdd(weight);
        // Queries are used up.
        if in_subgroup == 0u { q[h * 64u + subgroup] = sum; }
        if t == h { head_value[h] = maximum; }
    }
    workgroupBarrier();
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
    for (var h = 0u; h < GROUP; h++) { p[h * 256u + t] = select(0.0, exp(scores[h] - head_value[h]), seen); }
    workgroupBarrier();
    if my_head < GROUP {
        var sum = 0.0;
        for (var i = t % 32u; i < 256u; i += 32u) { sum += p[my_head * 256u + i]; }
        reduced[t] = sum;
    }
    workgroupBarrier();
#endif
    let out = ((wg.z * params.num_heads + first_head) * params.splits + split) * (dim + 2u);
    let next_head = params.splits * (dim + 2u);
    if t < heads {
        var sum = 0.0;
#ifdef SUBGROUPS
        for (var s = 0u; s < subgroups; s++) { sum += q[t * 64u + s]; }
#else
        for (var i = 0u; i < 32u; i++) { sum += reduced[t * 32u + i]; }
#endif
        partial[out + t * next_head] = head_value[t];
        partial[out + t * next_head + 1u] = sum;
    }

    let parts = 256u / words;
    let part = t / words;
    let word = t % words;
    let per_part = (SPLIT + parts - 1u) / parts;
    var sums: array<vec2<f32>, 8>;
    for (var h = 0u; h < GROUP; h++) { sums[h] = vec2(0.0); }
    if part < parts {
        let first = max(part * per_part, max(start, split * SPLIT) - split * SPLIT);
        let last = min(min((part + 1u) * per_part, SPLIT), end - split * SPLIT);
        for (var i = first; i < last; i++) {
            let v = values[(cache_row + split * SPLIT + i) * words + word];
#ifdef KV=f32
            let pair = vec2(bitcast<f32>(v), 0.0);
#else
            let pair = unpack2x16float(v);
#endif
            for (var h = 0u; h < GROUP; h++) { sums[h] += p[h * 256u + i] * pair; }
        }
    }
    // The parts of four heads at a time have room in `p`.
    for (var first = 0u; first < GROUP; first += 4u) {
        workgroupBarrier();
        for (var h = first; h < min(first + 4u, GROUP); h++) {
            p[(h - first) * 512u + 2u * t] = sums[h].x;
            p[(h - first) * 512u + 2u * t + 1u] = sums[h].y;
        }
        workgroupBarrier();
        for (var i = t; i < min(4u, heads - min(first, heads)) * words; i += 256u) {
            let h = i / words;
            var sum = vec2(0.0);
            for (var j = 0u; j < parts; j++) {
                let at = h * 512u + 2u * (j * words + i % words);
                sum += vec2(p[at], p[at + 1u]);
            }
            let place = out + (first + h) * next_head + 2u;
#ifdef KV=f32
            partial[place + i % words] = sum.x;
#else
            partial[place + 2u * (i % words)] = sum.x;
            partial[place + 2u * (i % words) + 1u] = sum.y;
#endif
        }
    }
}
