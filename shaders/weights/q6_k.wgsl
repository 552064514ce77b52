// Q6_K in panels of 32 rows: 13 vec4 per row and super-block (eight of low nibbles, four of high bits, one of scales),
// half-word d. A unit is a half: 128 columns. value = d * scale * (q - 32), a scale per 16. Layout: quant/q6_k.rs,
// row_panels.rs.
const ${T}UNIT: u32 = 4u;
const ${T}STRIDE: u32 = 420u;
struct ${T}Unit {
    l0: vec4<u32>, l1: vec4<u32>, l2: vec4<u32>, l3: vec4<u32>,
    h0: vec4<u32>, h1: vec4<u32>,
    scales: vec2<u32>,
    d: f32,
}

fn ${T}load(base: u32, unit: u32, lane: u32) -> ${T}Unit {
    let start = base + (unit / 2u) * ${T}STRIDE;
    let at = start + lane;
    let half = unit & 1u;
    let l = at + half * 128u;
    let h = at + 256u + half * 64u;
    let s = weights[at + 384u];
    let scales = select(s.xy, s.zw, half == 1u);
    return ${T}Unit(weights[l], weights[l + 32u], weights[l + 64u], weights[l + 96u], weights[h], weights[h + 32u],
        scales, tail_half(start + 416u, lane));
}

fn ${T}block(u: ${T}Unit, b: u32) -> Block {
    // Blocks 0 and 2 have their low bits in the first 32 bytes, 1 and 3 in the second.
    let odd = (b & 1u) == 1u;
    let low = vec4((b >> 1u) * 4u);
    let high = vec4(b * 2u);
    let lo = ((select(u.l0, u.l2, odd) >> low) & vec4(0x0f0f0f0fu)) | (((u.h0 >> high) & vec4(0x03030303u)) << vec4(4u));
    let hi = ((select(u.l1, u.l3, odd) >> low) & vec4(0x0f0f0f0fu)) | (((u.h1 >> high) & vec4(0x03030303u)) << vec4(4u));
    let pair = select(u.scales.x, u.scales.y, b >= 2u) >> ((b & 1u) * 16u);
    return Block(lo, hi, u.d, 0.0, bitcast<i32>(pair << 24u) >> 24u, bitcast<i32>(pair << 16u) >> 24u);
}

fn ${T}integers(w: Block, dot0: i32, dot1: i32, h: vec4<u32>) -> vec2<i32> {
    return vec2(w.s0 * (dot0 - 32 * sum_first(h)) + w.s1 * (dot1 - 32 * sum_second(h)), 0);
}

fn ${T}combine(w: Block, dot0: i32, dot1: i32, x_scale: f32, h: vec4<u32>, acc: f32) -> f32 {
    return fused(f32(${T}integers(w, dot0, dot1, h).x) * w.d, x_scale, acc);
}

fn ${T}combine_k(w: Block, integers: vec2<i32>, x_scale: f32, acc: f32) -> f32 {
    return fused(f32(integers.x), w.d * x_scale, acc);
}

fn ${T}quad(w: Block, quad: u32) -> vec4<f32> {
    let scale = w.d * f32(select(w.s0, w.s1, quad >= 4u));
    return scale * vec4<f32>(vec4<i32>(unpack4xU8(word_of(w, quad))) - vec4(32));
}
