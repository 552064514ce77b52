// Sample: the next token of each row that asked, one workgroup per row. Twin: backend/cpu/twin/sample.rs, whose order this
// keeps: repetition penalty, top-k, top-p, min-p, temperature, one draw by Philox4x32-10.
//
// Without a penalty the best token comes from `head`'s best of each panel. A cut is a smallest logit that survives:
// top-k finds it by four rounds of counting bytes of the logits' order, top-p by halving the range of keys. Sums
// of probabilities are kept in two floats, in the order of ids, for the twin adds in float64.
//
// No variant for subgroups: of a greedy token they would save seven barriers of one workgroup, about a microsecond; a warm
// one spends its time in passes over the logits.
//
// The token goes to the ring that the host reads, and, with the next position, into the state: the next pass needs
// nothing from the host. A logit that is not finite gives NONE.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> logits: array<f32>;
@group(0) @binding(2) var<storage, read> best: array<vec2<u32>>;
@group(0) @binding(3) var<storage, read> sampling: array<Sampling>;
@group(0) @binding(4) var<storage, read_write> state: array<u32>;
// Per slot: how many tokens the text has, then a ring of them.
@group(0) @binding(5) var<storage, read_write> recent: array<u32>;
// Per row, one bit per token of the vocabulary: tokens under the penalty.
@group(0) @binding(6) var<storage, read_write> marked: array<atomic<u32>>;
@group(0) @binding(7) var<storage, read_write> ring: array<u32>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"

struct Sampling {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    // Logarithm of min-p; -inf is written as -3e38.
    log_min_p: f32,
    penalty: f32,
    window: u32,
    seed_low: u32,
    seed_high: u32,
    sequence: u32,
    pad0: u32,
    pad1: u32,
    pad2: u32,
}

// What the whole workgroup must know alike.
struct Job {
    slot: u32,
    row: u32,
    position: u32,
    penalized: u32,
    greedy: u32,
    window: u32,
    length: u32,
    finite: u32,
}
var<workgroup> job: Job;
var<workgroup> round_prefix: u32;
var<workgroup> counts: array<atomic<u32>, 256>;
var<workgroup> high: array<f32, 256>;
var<workgroup> low: array<f32, 256>;
var<workgroup> ids: array<u32, 256>;
var<workgroup> chosen: u32;
var<workgroup> sum_high: f32;
var<workgroup> sum_low: f32;

// Recent tokens kept per slot, behind their count.
fn recent_capacity() -> u32 { return params.context; }

fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }

// Larger floats have larger keys.
fn key_of(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}
fn of_key(key: u32) -> f32 {
    return bitcast<f32>(select(~key, key & 0x7fffffffu, (key & 0x80000000u) != 0u));
}

// a + b in two floats, exactly but for the last bits of the lower (Knuth's two-sum).
fn add_two(a: vec2<f32>, b: f32) -> vec2<f32> {
    let s = a.x + b;
    let v = s - a.x;
    let e = (a.x - (s - v)) + (b - v);
    return vec2(s, a.y + e);
}

fn times(a: vec2<f32>, b: f32) -> vec2<f32> {
    let p = a.x * b;
    return vec2(p, fma(a.x, b, -p) + a.y * b);
}

// How far a is above b.
fn above_by(a: vec2<f32>, b: vec2<f32>) -> f32 { return (a.x - b.x) + (a.y - b.y); }

fn logit_at(base: u32, marks: u32, id: u32, slot: u32) -> f32 {
    var logit = logits[base + id];
    if marks != NONE && ((atomicLoad(&marked[marks + id / 32u]) >> (id % 32u)) & 1u) == 1u {
        let penalty = sampling[slot].penalty;
        logit = select(logit * penalty, logit / penalty, logit > 0.0);
    }
    return logit;
}

// The two halves of a 64-bit product: high, low.
fn product(a: u32, b: u32) -> vec2<u32> {
    let a0 = a & 0xffffu;
    let a1 = a >> 16u;
    let b0 = b & 0xffffu;
    let b1 = b >> 16u;
    let low_part = a0 * b0;
    let middle = a1 * b0 + (low_part >> 16u);
    let other = a0 * b1 + (middle & 0xffffu);
    return vec2(a1 * b1 + (middle >> 16u) + (other >> 16u), (other << 16u) | (low_part & 0xffffu));
}

// A number in [0, 1) with 24 random bits: Philox4x32-10 of (position, sequence, 0, 0).
fn uniform_number(slot: u32, position: u32) -> f32 {
    var counter = vec4(position, sampling[slot].sequence, 0u, 0u);
    var key = vec2(sampling[slot].seed_low, sampling[slot].seed_high);
    for (var i = 0u; i < 10u; i++) {
        let a = product(0xd2511f53u, counter.x);
        let b = product(0xcd9e8d57u, counter.z);
        counter = vec4(b.x ^ counter.y ^ key.x, b.y, a.x ^ counter.w ^ key.y, a.y);
        key += vec2(0x9e3779b9u, 0xbb67ae85u);
    }
    return f32(counter.x >> 8u) / 16777216.0;
}

// The largest of 256 values and its id, the lower of equals; every invocation gets it. Values must be finite or -3e38.
fn reduce_best(t: u32, value: f32, id: u32) -> u32 {
    high[t] = value;
    ids[t] = id;
    workgroupBarrier();
    for (var k = 128u; k > 0u; k >>= 1u) {
        if t < k {
            let other = high[t + k];
            if other > high[t] || (other == high[t] && ids[t + k] < ids[t]) {
                high[t] = other;
                ids[t] = ids[t + k];
            }
        }
        workgroupBarrier();
    }
    let result = workgroupUniformLoad(&ids[0]);
    return result;
}

// Sum over the workgroup of a value in two floats, added in the order of invocations; every invocation gets it.
fn reduce_sum(t: u32, value: vec2<f32>) -> vec2<f32> {
    high[t] = value.x;
    low[t] = value.y;
    workgroupBarrier();
    if t == 0u {
        var total = vec2(0.0);
        for (var i = 0u; i < 256u; i++) { total = add_two(add_two(total, high[i]), low[i]); }
        sum_high = total.x;
        sum_low = total.y;
    }
    workgroupBarrier();
    return vec2(workgroupUniformLoad(&sum_high), workgroupUniformLoad(&sum_low));
}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>) {
    let asked = wg.x;
    if t == 0u {
        let row = state[params.asked_at + asked];
        let slot = state[row_at(row) + 1u];
        let length = recent[slot * (recent_capacity() + 1u)];
        job.row = row;
        job.slot = slot;
        job.position = state[row_at(row) + 2u];
        job.length = length;
        job.window = min(min(sampling[slot].window, length), recent_capacity());
        job.penalized = u32(sampling[slot].penalty != 1.0 && job.window > 0u);
        job.greedy = u32(sampling[slot].temperature <= 0.0 || sampling[slot].top_k == 1u);
        job.finite = 1u;
        // Rows that do not ask have no place here.
        if asked >= state[STATE_ASKED] { job.row = NONE; }
    }
    workgroupBarrier();
    let it = workgroupUniformLoad(&job);
    if it.row == NONE { return; }
    let vocab = params.rows;
    let base = asked * vocab;
    let recent_base = it.slot * (recent_capacity() + 1u) + 1u;
    let mark_words = (vocab + 31u) / 32u;
    let marks = select(NONE, asked * mark_words, it.penalized == 1u);
    let config = sampling[it.slot];

    if it.penalized == 1u {
        for (var i = t; i < it.window; i += 256u) {
            let token = recent[recent_base + (it.length - it.window + i) % recent_capacity()];
            if token < vocab { atomicOr(&marked[asked * mark_words + token / 32u], 1u << (token % 32u)); }
        }
        storageBarrier();
        workgroupBarrier();
    }

    // The largest logit.
    var top = -3.0e38;
    var top_id = NONE;
    var finite = true;
    if it.penalized == 0u && !has(FLAG_SCAN) {
        let panels = (vocab + 31u) / 32u;
        for (var i = t; i < panels; i += 256u) {
            let candidate = best[asked * panels + i];
            let value = bitcast<f32>(candidate.x);
            finite = finite && is_finite(value);
            if value > top || top_id == NONE { top = value; top_id = candidate.y; }
        }
    } else {
        for (var i = t; i < vocab; i += 256u) {
            let value = logit_at(base, marks, i, it.slot);
            finite = finite && is_finite(value);
            if value > top || top_id == NONE { top = value; top_id = i; }
        }
    }
    if !finite { job.finite = 0u; }
    workgroupBarrier();
    let all_finite = workgroupUniformLoad(&job.finite) == 1u;
    let best_id = reduce_best(t, top, top_id);
    var token = best_id;
    if !all_finite {
        token = NONE;
    } else if it.greedy == 0u {
        if t == 0u { sum_high = logit_at(base, marks, best_id, it.slot); }
        let maximum = workgroupUniformLoad(&sum_high);
        var floor_key = 0u;
        let limited = config.top_k > 0u && config.top_k < vocab;
        // How many of the logits equal to the floor top-k keeps.
        var kept_equal = vocab;
        if limited {
            var remaining = config.top_k;
            var prefix = 0u;
            for (var round = 0u; round < 4u; round++) {
                let shift = 24u - 8u * round;
                atomicStore(&counts[t], 0u);
                workgroupBarrier();
                for (var i = t; i < vocab; i += 256u) {
                    let key = key_of(logit_at(base, marks, i, it.slot));
                    if round == 0u || (key >> (shift + 8u)) == prefix { atomicAdd(&counts[(key >> shift) & 255u], 1u); }
                }
                workgroupBarrier();
                if t == 0u {
                    var bucket = 255u;
                    loop {
                        let count = atomicLoad(&counts[bucket]);
                        if count >= remaining || bucket == 0u { break; }
                        remaining -= count;
                        bucket--;
                    }
                    round_prefix = (prefix << 8u) | bucket;
                    chosen = remaining;
                }
                workgroupBarrier();
                prefix = workgroupUniformLoad(&round_prefix);
                remaining = workgroupUniformLoad(&chosen);
            }
            floor_key = prefix;
            kept_equal = remaining;
        }
        if config.top_p < 1.0 {
            // Only what top-k keeps counts; of the logits equal to its floor, `kept_equal`.
            let top_k_floor = floor_key;
            var total = vec2(0.0);
            for (var i = t; i < vocab; i += 256u) {
                let logit = logit_at(base, marks, i, it.slot);
                let key = key_of(logit);
                if key > top_k_floor || !limited { total = add_two(total, exp(logit - maximum)); }
            }
            var sum_all = reduce_sum(t, total);
            let equal_weight = exp(of_key(top_k_floor) - maximum) * f32(kept_equal);
            if limited { sum_all = add_two(sum_all, equal_weight); }
            let wanted = times(sum_all, config.top_p);
            // The largest key whose logit, with all above, reaches what is wanted.
            var below = top_k_floor;
            var above = key_of(maximum);
            while below < above {
                let middle = below + (above - below + 1u) / 2u;
                var part = vec2(0.0);
                for (var i = t; i < vocab; i += 256u) {
                    let logit = logit_at(base, marks, i, it.slot);
                    if key_of(logit) >= middle { part = add_two(part, exp(logit - maximum)); }
                }
                let sum = reduce_sum(t, part);
                if above_by(sum, wanted) >= 0.0 { below = middle; } else { above = middle - 1u; }
            }
            floor_key = below;
        }
        floor_key = max(floor_key, key_of(maximum + config.log_min_p));

        // Each invocation has consecutive ids, so that sums go in their order.
        let per = (vocab + 255u) / 256u;
        let first = min(t * per, vocab);
        let last = min(first + per, vocab);
        var mine = vec2(0.0);
        for (var i = first; i < last; i++) {
            let logit = logit_at(base, marks, i, it.slot);
            if key_of(logit) >= floor_key { mine = add_two(mine, exp((logit - maximum) / config.temperature)); }
        }
        let total = reduce_sum(t, mine);
        if t == 0u {
            let target_sum = times(total, uniform_number(it.slot, it.position + 1u));
            var sum = vec2(0.0);
            var block = 0u;
            for (; block < 255u; block++) {
                let next = add_two(add_two(sum, high[block]), low[block]);
                if above_by(next, target_sum) > 0.0 { break; }
                sum = next;
            }
            var last_id = best_id;
            for (var i = block * per; i < min(block * per + per, vocab); i++) {
                let logit = logit_at(base, marks, i, it.slot);
                if key_of(logit) >= floor_key {
                    let weight = exp((logit - maximum) / config.temperature);
                    if weight > 0.0 {
                        sum = add_two(sum, weight);
                        last_id = i;
                        if above_by(sum, target_sum) > 0.0 { break; }
                    }
                }
            }
            chosen = last_id;
        }
        workgroupBarrier();
        token = workgroupUniformLoad(&chosen);
    }

    if it.penalized == 1u {
        workgroupBarrier();
        for (var i = t; i < it.window; i += 256u) {
            let old = recent[recent_base + (it.length - it.window + i) % recent_capacity()];
            if old < vocab { atomicStore(&marked[asked * mark_words + old / 32u], 0u); }
        }
        storageBarrier();
        workgroupBarrier();
    }
    if t == 0u {
        let turn = state[params.asked_at + params.plan_rows + asked];
        ring[(turn % params.splits) * params.plan_rows + asked] = token;
        state[params.asked_at + params.plan_rows + asked] = turn + 1u;
        state[row_at(it.row)] = select(token, 0u, token == NONE);
        state[row_at(it.row) + 2u] = it.position + 1u;
        recent[recent_base + it.length % recent_capacity()] = token;
        recent[recent_base - 1u] = it.length + 1u;
    }
}
