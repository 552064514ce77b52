// Q4_0 in panels of 32 rows: 1 vec4 of nibbles, half-word d. value = d * (q - 8). Layout: quant/q4_0.rs, row_panels.rs.
const ${T}UNIT: u32 = 1u;
const ${T}STRIDE: u32 = 36u;
struct ${T}Unit { q: vec4<u32>, d: f32 }

fn ${T}load(base: u32, unit: u32, lane: u32) -> ${T}Unit {
    let at = base + unit * ${T}STRIDE;
    return ${T}Unit(weights[at + lane], tail_half(at + 32u, lane));
}

fn ${T}block(u: ${T}Unit, b: u32) -> Block {
    return Block(u.q & vec4(0x0f0f0f0fu), (u.q >> vec4(4u)) & vec4(0x0f0f0f0fu), u.d, 0.0, 0, 0);
}

fn ${T}combine(w: Block, dot0: i32, dot1: i32, x_scale: f32, h: vec4<u32>, acc: f32) -> f32 {
    let dot = dot0 + dot1 - 8 * (sum_first(h) + sum_second(h));
    return fused(f32(dot) * w.d, x_scale, acc);
}

fn ${T}quad(w: Block, quad: u32) -> vec4<f32> {
    return w.d * vec4<f32>(vec4<i32>(unpack4xU8(word_of(w, quad))) - vec4(8));
}
