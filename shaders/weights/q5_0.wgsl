// Q5_0 in panels of 32 rows: 1 vec4 of nibbles, word of fifth bits, half-word d. value = d * (q - 16). Layout:
// quant/q5_0.rs, row_panels.rs.
const ${T}UNIT: u32 = 1u;
const ${T}STRIDE: u32 = 44u;
struct ${T}Unit { q: vec4<u32>, high: u32, d: f32 }

fn ${T}load(base: u32, unit: u32, lane: u32) -> ${T}Unit {
    let at = base + unit * ${T}STRIDE;
    return ${T}Unit(weights[at + lane], tail_word(at + 32u, lane), tail_half(at + 40u, lane));
}

// Bits 0..4 of each component become bit 4 of its four bytes.
fn ${T}spread(bits: vec4<u32>) -> vec4<u32> {
    let b = bits & vec4(15u);
    return ((b & vec4(1u)) << vec4(4u)) | ((b & vec4(2u)) << vec4(11u)) | ((b & vec4(4u)) << vec4(18u))
        | ((b & vec4(8u)) << vec4(25u));
}

fn ${T}block(u: ${T}Unit, b: u32) -> Block {
    let lo = (u.q & vec4(0x0f0f0f0fu)) | ${T}spread(vec4(u.high) >> vec4(0u, 4u, 8u, 12u));
    let hi = ((u.q >> vec4(4u)) & vec4(0x0f0f0f0fu)) | ${T}spread(vec4(u.high) >> vec4(16u, 20u, 24u, 28u));
    return Block(lo, hi, u.d, 0.0, 0, 0);
}

fn ${T}combine(w: Block, dot0: i32, dot1: i32, x_scale: f32, h: vec4<u32>, acc: f32) -> f32 {
    let dot = dot0 + dot1 - 16 * (sum_first(h) + sum_second(h));
    return fused(f32(dot) * w.d, x_scale, acc);
}

fn ${T}quad(w: Block, quad: u32) -> vec4<f32> {
    return w.d * vec4<f32>(vec4<i32>(unpack4xU8(word_of(w, quad))) - vec4(16));
}
