// float32 to float16 bits, rounded to nearest even: pack2x16float may round either way.
fn half_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    let sign = (bits >> 16u) & 0x8000u;
    let magnitude = bits & 0x7fffffffu;
    if magnitude >= 0x47800000u {
        // Too large, infinite or not a number.
        return sign | select(0x7c00u, 0x7e00u, magnitude > 0x7f800000u);
    }
    if magnitude < 0x38800000u {
        // Subnormal in float16: a multiple of 2^-24.
        let scaled = bitcast<f32>(magnitude) * 16777216.0;
        return sign | u32(bitcast<i32>(scaled + 8388608.0) - 0x4b000000);
    }
    let rounded = magnitude + 0xfffu + ((magnitude >> 13u) & 1u);
    return sign | ((rounded >> 13u) - 0x1c000u);
}
fn half_pair(a: f32, b: f32) -> u32 { return half_bits(a) | (half_bits(b) << 16u); }
