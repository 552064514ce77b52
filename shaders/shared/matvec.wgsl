// Products of 32 rows of weights with some rows of activations, summed into `sums[token * 32 + row]`.
//
// Decode (M = 1..8 rows of activations): lane = row of the panel, and the columns are cut into `segments` (quant/cut.rs),
// one per group of 32 invocations, in several rounds where there are fewer groups; every load of weights is 16 bytes per lane, 512 consecutive bytes per group, every load of
// activations the same for all lanes. The segments' sums are added in order through workgroup memory. Nothing needs a
// subgroup of any size.
//
// Prefill (TILE): the same lanes, but each group takes eight tokens of its own and walks the segments one after the other,
// adding them up in the same order. So a row's sum has one order, and a prompt gives the same numbers however it is cut.
override M: u32 = 1u;
override WG: u32 = 256u;
// Rows of activations whose parts fit into `parts` at a time.
override AT_A_TIME: u32 = 1u;

#ifdef TILE
const TOKENS: u32 = 32u;
var<workgroup> sums: array<f32, 1024>;
#else
override TOKENS: u32 = M;
var<workgroup> parts: array<f32, 2048>;
var<workgroup> sums: array<f32, 256>;
#endif
#include "shared/fused.wgsl"
var<workgroup> inverse_rms: array<f32, 32>;
var<private> acc: array<f32, 8>;

fn dot16(w: vec4<u32>, x: vec4<u32>) -> i32 {
    return dot4I8Packed(w.x, x.x) + dot4I8Packed(w.y, x.y) + dot4I8Packed(w.z, x.z) + dot4I8Packed(w.w, x.w);
}

#include "shared/block.wgsl"
#include "weights/${A}.wgsl" T=a_
#include "shared/accumulate.wgsl" T=a_
#ifdef B
#include "weights/${B}.wgsl" T=b_
#include "shared/accumulate.wgsl" T=b_
#endif

fn add_row(second: bool, base: u32, lane: u32, segment: u32, token: u32) {
    for (var m = 0u; m < M; m++) { acc[m] = 0.0; }
    if segment >= params.segments { return; }
#ifdef B
    if second {
        let stride = params.units_b / params.segments;
        let more = params.units_b % params.segments;
        let first = segment * stride + min(segment, more);
        b_accumulate(base, lane, first, first + stride + select(0u, 1u, segment < more), token);
        return;
    }
#endif
    let stride = params.units_a / params.segments;
    let more = params.units_a % params.segments;
    let first = segment * stride + min(segment, more);
    a_accumulate(base, lane, first, first + stride + select(0u, 1u, segment < more), token);
}

// `base` is the panel's place, `token0` the first row of activations (of a tile).
fn panel_times_rows(second: bool, base: u32, t: u32, token0: u32) {
    let lane = t % 32u;
    let group = t / 32u;
#ifdef TILE
    var total: array<f32, 8>;
    for (var m = 0u; m < M; m++) { total[m] = 0.0; }
    for (var s = 0u; s < params.segments; s++) {
        add_row(second, base, lane, s, token0 + group * M);
        for (var m = 0u; m < M; m++) { total[m] += acc[m]; }
    }
    for (var m = 0u; m < M; m++) { sums[(group * M + m) * 32u + lane] = total[m]; }
    workgroupBarrier();
#else
    for (var round = 0u; round < params.segments; round += WG / 32u) {
        add_row(second, base, lane, round + group, 0u);
        for (var first = 0u; first < M; first += AT_A_TIME) {
            for (var m = 0u; m < AT_A_TIME; m++) {
                if first + m < M { parts[m * WG + t] = acc[first + m]; }
            }
            workgroupBarrier();
            if group < AT_A_TIME && first + group < M {
                let at = (first + group) * 32u + lane;
                var sum = 0.0;
                if round > 0u { sum = sums[at]; }
                for (var s = 0u; s < WG / 32u; s++) { sum += parts[group * WG + s * 32u + lane]; }
                sums[at] = sum;
            }
            workgroupBarrier();
        }
    }
#endif
}

// 1 / rms of each activation row, from the squares in its records: in the segments of a row of the matrix. `second`:
// whether that is of the second type.
fn prepare_rms(second: bool, t: u32, token0: u32) {
    if has(FLAG_NORM) {
        let per = select(params.squares_a, params.squares_b, second);
        let units = (params.records + per - 1u) / per;
        let each = units / params.segments;
        let more = units % params.segments;
        for (var i = t; i < TOKENS * params.segments; i += WG) {
            let segment = i % params.segments;
            let token = i / params.segments;
            let first = segment * each + min(segment, more);
            let last = first + each + select(0u, 1u, segment < more);
            var part = 0.0;
            let row = record_of(token0 + token) + 10u;
            for (var r = first * per; r < min(last * per, params.records); r++) {
                part += bitcast<f32>(acts[row + r * RECORD].z);
            }
            sums[token * 32u + segment] = part;
        }
        workgroupBarrier();
        if t < TOKENS {
            var squares = 0.0;
            for (var i = 0u; i < params.segments; i++) { squares += sums[t * 32u + i]; }
            inverse_rms[t] = 1.0 / sqrt(squares / f32(params.columns) + params.eps);
        }
    } else if t < TOKENS {
        inverse_rms[t] = 1.0;
    }
    workgroupBarrier();
}
