// Q5_K in panels of 32 rows: 11 vec4 per row and super-block: the head, two of fifth bits, eight of nibbles. A unit is
// 64 columns. value = d * scale * q - dmin * minimum. Layout: quant/q5_k.rs, row_panels.rs.
const ${T}UNIT: u32 = 2u;
const ${T}STRIDE: u32 = 352u;
struct ${T}Unit { head: vec4<u32>, h0: vec4<u32>, h1: vec4<u32>, q0: vec4<u32>, q1: vec4<u32>, j: u32 }

#include "weights/k_scales.wgsl"

fn ${T}load(base: u32, unit: u32, lane: u32) -> ${T}Unit {
    let at = base + (unit / 4u) * ${T}STRIDE + lane;
    let group = unit & 3u;
    let q = at + 96u + group * 64u;
    return ${T}Unit(weights[at], weights[at + 32u], weights[at + 64u], weights[q], weights[q + 32u], group * 2u);
}

fn ${T}block(u: ${T}Unit, b: u32) -> Block {
    let d = unpack2x16float(u.head.x);
    let j = u.j + b;
    let s = ${T}scale_and_minimum(u.head, j);
    let shift = vec4(b * 4u);
    let high0 = ((u.h0 >> vec4(j)) & vec4(0x01010101u)) << vec4(4u);
    let high1 = ((u.h1 >> vec4(j)) & vec4(0x01010101u)) << vec4(4u);
    let lo = ((u.q0 >> shift) & vec4(0x0f0f0f0fu)) | high0;
    let hi = ((u.q1 >> shift) & vec4(0x0f0f0f0fu)) | high1;
    return Block(lo, hi, d.x, d.y, s.x, s.y);
}

#include "weights/k_affine.wgsl"
