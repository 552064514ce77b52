// F32 in panels of 32 rows: 8 vec4 per row and 32 columns. Layout: quant/float.rs, row_panels.rs.
const ${T}UNIT: u32 = 1u;
const ${T}STRIDE: u32 = 256u;
struct ${T}Unit { at: u32 }

fn ${T}load(base: u32, unit: u32, lane: u32) -> ${T}Unit {
    return ${T}Unit(base + unit * ${T}STRIDE + lane);
}

fn ${T}block(u: ${T}Unit, b: u32) -> ${T}Unit { return u; }

fn ${T}quad(u: ${T}Unit, quad: u32) -> vec4<f32> {
    return bitcast<vec4<f32>>(weights[u.at + quad * 32u]);
}
