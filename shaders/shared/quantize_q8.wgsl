// Writes one word of integers of a record and, for quad 0, its header: the format q8 of quant/q8.rs. `scaled` holds the
// 32 values from `first` on, `squares` is their sum before the norm's weight. Eight invocations make a record; each
// finds the maximum by itself, which costs 32 reads of workgroup memory and no barrier.
const SMALLEST_MAXIMUM: f32 = 0x1p-119;

// The nearest integer, ties to even, of a number below 2^22: adding 1.5 * 2^23 leaves no room for a fraction.
fn nearest(x: f32) -> i32 {
    return bitcast<i32>(x + 12582912.0) - 0x4b400000;
}

fn write_record(record: u32, quad: u32, first: u32, squares: f32) {
    var largest = 0u;
    for (var i = 0u; i < 32u; i++) {
        largest = max(largest, bitcast<u32>(scaled[first + i]) & 0x7fffffffu);
    }
    let maximum = bitcast<f32>(largest);
    var scale = maximum / 127.0;
    var inverse = 1.0 / scale;
    if largest < bitcast<u32>(SMALLEST_MAXIMUM) {
        scale = 0.0;
        inverse = 0.0;
    }
    let at = record * RECORD_WORDS;
    var word = 0u;
    for (var i = 0u; i < 4u; i++) {
        let value = scaled[first + quad * 4u + i];
        acts_out[at + quad * 4u + i] = bitcast<u32>(value);
        word |= (bitcast<u32>(nearest(value * inverse)) & 255u) << (8u * i);
    }
    acts_out[at + 32u + quad] = word;
    if quad == 0u {
        var sum0 = 0;
        var sum1 = 0;
        for (var i = 0u; i < 16u; i++) {
            sum0 += nearest(scaled[first + i] * inverse);
            sum1 += nearest(scaled[first + 16u + i] * inverse);
        }
        acts_out[at + 40u] = bitcast<u32>(scale);
        acts_out[at + 41u] = (bitcast<u32>(sum0) & 0xffffu) | (bitcast<u32>(sum1) << 16u);
        acts_out[at + 42u] = bitcast<u32>(squares);
    }
}
