// The integers of the mode q8_k, with the same bindings as quantize_q8.wgsl: Q8_K for 256 columns, or Q8_0 for 32.
fn nearest(x: f32) -> i32 {
    return bitcast<i32>(x + 12582912.0) - 0x4b400000;
}

#ifdef X=q8_0
// Half away from zero: the float below one half is added, the fraction dropped.
fn integer(x: f32, inverse: f32) -> i32 {
    let v = x * inverse;
    return i32(v + select(0.49999997, -0.49999997, v < 0.0));
}
#else
fn integer(x: f32, inverse: f32) -> i32 { return min(nearest(inverse * x), 127); }
#endif

fn write_record(record: u32, quad: u32, first: u32, squares: f32) {
#ifdef X=q8_0
    var largest = 0u;
    for (var i = 0u; i < 32u; i++) { largest = max(largest, bitcast<u32>(scaled[first + i]) & 0x7fffffffu); }
    let d = bitcast<f32>(largest) / 127.0;
    var inverse = 1.0 / d;
    if largest == 0u { inverse = 0.0; }
    let scale = unpack2x16float(half_bits(d)).x;
#else
    // The first value of largest magnitude among 256, with its sign.
    var largest = 0u;
    var extreme = 0.0;
    for (var i = 0u; i < 256u; i++) {
        let bits = bitcast<u32>(scaled[i]) & 0x7fffffffu;
        if bits > largest {
            largest = bits;
            extreme = scaled[i];
        }
    }
    var inverse = -127.0 / extreme;
    var scale = 1.0 / inverse;
    if largest == 0u {
        inverse = 0.0;
        scale = 0.0;
    }
#endif
    let at = record * RECORD_WORDS;
    var word = 0u;
    for (var i = 0u; i < 4u; i++) {
        let value = scaled[first + quad * 4u + i];
        acts_out[at + quad * 4u + i] = bitcast<u32>(value);
        word |= (bitcast<u32>(integer(value, inverse)) & 255u) << (8u * i);
    }
    acts_out[at + 32u + quad] = word;
    if quad == 0u {
        var sum0 = 0;
        var sum1 = 0;
        for (var i = 0u; i < 16u; i++) {
            sum0 += integer(scaled[first + i], inverse);
            sum1 += integer(scaled[first + 16u + i], inverse);
        }
        acts_out[at + 40u] = bitcast<u32>(scale);
        acts_out[at + 41u] = (bitcast<u32>(sum0) & 0xffffu) | (bitcast<u32>(sum1) << 16u);
        acts_out[at + 42u] = bitcast<u32>(squares);
    }
}
