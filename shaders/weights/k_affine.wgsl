// What Q4_K and Q5_K do with a block.
fn ${T}combine(w: Block, dot0: i32, dot1: i32, x_scale: f32, h: vec4<u32>, acc: f32) -> f32 {
    let first = fused(f32(dot0 + dot1) * (w.d * f32(w.s0)), x_scale, acc);
    return fused(-(w.m * f32(w.s1)), x_scale * f32(sum_first(h) + sum_second(h)), first);
}

fn ${T}quad(w: Block, quad: u32) -> vec4<f32> {
    return (w.d * f32(w.s0)) * vec4<f32>(unpack4xU8(word_of(w, quad))) - vec4(w.m * f32(w.s1));
}

// With Q8_K activations: the integers of a block, and of its minimums.
fn ${T}integers(w: Block, dot0: i32, dot1: i32, h: vec4<u32>) -> vec2<i32> {
    return vec2(w.s0 * (dot0 + dot1), w.s1 * (sum_first(h) + sum_second(h)));
}

fn ${T}combine_k(w: Block, integers: vec2<i32>, x_scale: f32, acc: f32) -> f32 {
    let first = fused(f32(integers.x), w.d * x_scale, acc);
    return fused(-f32(integers.y), w.m * x_scale, first);
}
