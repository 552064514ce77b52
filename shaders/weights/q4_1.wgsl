// Q4_1 in panels of 32 rows: 1 vec4 of nibbles, word (d, m). value = d * q + m. Layout: quant/q4_1.rs, row_panels.rs.
const ${T}UNIT: u32 = 1u;
const ${T}STRIDE: u32 = 40u;
struct ${T}Unit { q: vec4<u32>, dm: vec2<f32> }

fn ${T}load(base: u32, unit: u32, lane: u32) -> ${T}Unit {
    let at = base + unit * ${T}STRIDE;
    return ${T}Unit(weights[at + lane], unpack2x16float(tail_word(at + 32u, lane)));
}

fn ${T}block(u: ${T}Unit, b: u32) -> Block {
    return Block(u.q & vec4(0x0f0f0f0fu), (u.q >> vec4(4u)) & vec4(0x0f0f0f0fu), u.dm.x, u.dm.y, 0, 0);
}

fn ${T}combine(w: Block, dot0: i32, dot1: i32, x_scale: f32, h: vec4<u32>, acc: f32) -> f32 {
    let first = fused(f32(dot0 + dot1) * w.d, x_scale, acc);
    return fused(w.m, x_scale * f32(sum_first(h) + sum_second(h)), first);
}

fn ${T}quad(w: Block, quad: u32) -> vec4<f32> {
    return w.d * vec4<f32>(unpack4xU8(word_of(w, quad))) + vec4(w.m);
}
