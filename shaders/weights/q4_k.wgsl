// Q4_K in panels of 32 rows: 9 vec4 per row and super-block, the head first. A unit is 64 columns: the low and the high
// nibbles of two vec4. value = d * scale * q - dmin * minimum. Layout: quant/q4_k.rs, row_panels.rs.
const ${T}UNIT: u32 = 2u;
const ${T}STRIDE: u32 = 288u;
struct ${T}Unit { head: vec4<u32>, q0: vec4<u32>, q1: vec4<u32>, j: u32 }

#include "weights/k_scales.wgsl"

fn ${T}load(base: u32, unit: u32, lane: u32) -> ${T}Unit {
    let at = base + (unit / 4u) * ${T}STRIDE + lane;
    let group = unit & 3u;
    let q = at + 32u + group * 64u;
    return ${T}Unit(weights[at], weights[q], weights[q + 32u], group * 2u);
}

fn ${T}block(u: ${T}Unit, b: u32) -> Block {
    let d = unpack2x16float(u.head.x);
    let s = ${T}scale_and_minimum(u.head, u.j + b);
    let shift = vec4(b * 4u);
    return Block((u.q0 >> shift) & vec4(0x0f0f0f0fu), (u.q1 >> shift) & vec4(0x0f0f0f0fu), d.x, d.y, s.x, s.y);
}

#include "weights/k_affine.wgsl"
