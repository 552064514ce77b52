// Scale and minimum of block j of a Q4_K or Q5_K super-block, from its head (d and dmin, then 12 bytes). Layout:
// quant/k_scales.rs. `j` is the same for all lanes, so the branch is, too.
fn ${T}scale_and_minimum(head: vec4<u32>, j: u32) -> vec2<i32> {
    let shift = (j & 3u) * 8u;
    let a = head.y >> shift;
    let b = head.z >> shift;
    if j < 4u {
        return vec2<i32>(vec2(a, b) & vec2(63u));
    }
    let low = head.w >> shift;
    return vec2<i32>((vec2(low, low >> 4u) & vec2(15u)) | (vec2(a >> 2u, b >> 2u) & vec2(48u)));
}
