// Records of rows of float activations, for an op whose producer has not written them: a step that is run by itself, and
// every op of the mode q8_k, whose blocks of 256 columns no producer has in one workgroup. X=q8 (quant/q8.rs) leaves
// 1 / rms to the consumer, like every producer; q8_0 (the same, as ggml rounds) and q8_k (quant/q8_k.rs) apply it here,
// because a scale that is rounded to float16 must be that of the normed row. One workgroup per row and 256 columns.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(6) var<storage, read_write> acts_out: array<u32>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"
#include "shared/record.wgsl"
#include "shared/half.wgsl"
#include "shared/halves.wgsl"
var<workgroup> plain: array<f32, 256>;
var<workgroup> scaled: array<f32, 256>;
#ifdef X=q8
#include "shared/quantize_q8.wgsl"
#else
#include "shared/fused.wgsl"
#include "shared/quantize_ggml.wgsl"
#endif

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>) {
    let row = wg.y;
    if row >= state[STATE_ROWS] { return; }
    let record = wg.x * 8u + t / 8u;
    let quad = t % 8u;
    var inverse_rms = 1.0;
#ifndef X=q8
    if has(FLAG_NORM) {
        let width = params.columns;
        // 256 lanes, four per invocation; halves of 32 are added, then the eight sums in order.
        for (var lane = t; lane < 256u; lane += 64u) {
            var part = 0.0;
            for (var i = lane; i < width; i += 256u) {
                let value = x[row * width + i];
                part = fused(value, value, part);
            }
            plain[lane] = part;
        }
        workgroupBarrier();
        if t < 8u {
            for (var i = 0u; i < 32u; i++) { halved[i] = plain[t * 32u + i]; }
            scaled[t] = sum_of_halves();
        }
        workgroupBarrier();
        var total = 0.0;
        for (var i = 0u; i < 8u; i++) { total += scaled[i]; }
        inverse_rms = 1.0 / sqrt(total / f32(width) + params.eps);
        workgroupBarrier();
    }
#endif
    for (var i = 0u; i < 4u; i++) {
        let column = record * 32u + quad * 4u + i;
        var value = 0.0;
        var weight = 1.0;
        if column < params.columns {
            value = x[row * params.columns + column] * inverse_rms;
            if params.norm != NONE { weight = vectors[params.norm + column]; }
        }
        plain[t * 4u + i] = value;
        scaled[t * 4u + i] = value * weight;
    }
    workgroupBarrier();
    if record < params.records {
        let first = (t / 8u) * 32u;
        var squares = 0.0;
        if quad == 0u {
            for (var i = 0u; i < 32u; i++) { halved[i] = plain[first + i] * plain[first + i]; }
            squares = sum_of_halves();
        }
        write_record(row * params.records + record, quad, first, squares);
    }
}
