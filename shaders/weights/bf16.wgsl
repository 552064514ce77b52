// BF16 in panels of 32 rows: 4 vec4 per row and 32 columns, two values a word, each the upper half of a float32.
// Layout: quant/float.rs, row_panels.rs.
const ${T}UNIT: u32 = 1u;
const ${T}STRIDE: u32 = 128u;
struct ${T}Unit { at: u32 }

fn ${T}load(base: u32, unit: u32, lane: u32) -> ${T}Unit {
    return ${T}Unit(base + unit * ${T}STRIDE + lane);
}

fn ${T}block(u: ${T}Unit, b: u32) -> ${T}Unit { return u; }

fn ${T}quad(u: ${T}Unit, quad: u32) -> vec4<f32> {
    let words = weights[u.at + (quad / 2u) * 32u];
    let pair = select(words.xy, words.zw, (quad & 1u) == 1u);
    return bitcast<vec4<f32>>(vec4(pair.x << 16u, pair.x & 0xffff0000u, pair.y << 16u, pair.y & 0xffff0000u));
}
