// Embed: a row of the table for each token, and the records of the first norm. The table may lie in several buffers;
// each dispatch serves the tokens whose rows it has. Eight invocations decode a block of 32 columns. Twin:
// backend/cpu/twin/embed.rs.
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weights: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read> vectors: array<f32>;
@group(0) @binding(4) var<storage, read> state: array<u32>;
@group(0) @binding(5) var<storage, read_write> residual: array<f32>;
@group(0) @binding(6) var<storage, read_write> acts_out: array<u32>;

#include "shared/params.wgsl"
#include "shared/state.wgsl"
#include "shared/record.wgsl"
#include "shared/fused.wgsl"
#include "shared/block.wgsl"
#include "weights/${A}.wgsl" T=a_
var<workgroup> plain: array<f32, 256>;
var<workgroup> scaled: array<f32, 256>;
#include "shared/quantize_q8.wgsl"
#include "shared/halves.wgsl"

@compute @workgroup_size(64)
fn main(@builtin(local_invocation_index) t: u32, @builtin(workgroup_id) wg: vec3<u32>) {
    let row = wg.y;
    if row >= state[STATE_ROWS] { return; }
    let token = state[row_at(row)];
    let panel = token / 32u;
    if panel < params.first_panel || panel >= params.first_panel + params.panels0 { return; }
    let record = wg.x * 8u + t / 8u;
    let quad = t % 8u;
    if record < params.records {
        let base = params.base0 + (panel - params.first_panel) * params.stride_a;
        let block = a_block(a_load(base, record / a_UNIT, token % 32u), record % a_UNIT);
        let value = a_quad(block, quad);
        for (var i = 0u; i < 4u; i++) {
            let column = record * 32u + quad * 4u + i;
            var weight = 0.0;
            if column < params.columns {
                residual[row * params.columns + column] = value[i];
                weight = vectors[params.norm + column];
            }
            // Columns past the end are zeros in the table.
            plain[t * 4u + i] = value[i];
            scaled[t * 4u + i] = value[i] * weight;
        }
    }
    workgroupBarrier();
    if has(FLAG_RECORDS) && record < params.records {
        var squares = 0.0;
        let first = (t / 8u) * 32u;
        if quad == 0u {
            for (var i = 0u; i < 32u; i++) { halved[i] = plain[first + i] * plain[first + i]; }
            squares = sum_of_halves();
        }
        write_record(row * params.records + record, quad, first, squares);
    }
}
