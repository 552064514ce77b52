// Q8_0 in panels of 32 rows: 2 vec4 of bytes, half-word d. value = d * q. Layout: quant/q8_0.rs, row_panels.rs.
const ${T}UNIT: u32 = 1u;
const ${T}STRIDE: u32 = 68u;
struct ${T}Unit { lo: vec4<u32>, hi: vec4<u32>, d: f32 }

fn ${T}load(base: u32, unit: u32, lane: u32) -> ${T}Unit {
    let at = base + unit * ${T}STRIDE;
    return ${T}Unit(weights[at + lane], weights[at + 32u + lane], tail_half(at + 64u, lane));
}

fn ${T}block(u: ${T}Unit, b: u32) -> Block {
    return Block(u.lo, u.hi, u.d, 0.0, 0, 0);
}

fn ${T}combine(w: Block, dot0: i32, dot1: i32, x_scale: f32, h: vec4<u32>, acc: f32) -> f32 {
    return fused(f32(dot0 + dot1) * w.d, x_scale, acc);
}

fn ${T}quad(w: Block, quad: u32) -> vec4<f32> {
    return w.d * vec4<f32>(unpack4xI8(word_of(w, quad)));
}
