// One block of 32 columns of a row of quantized weights, unpacked: eight words of four signed bytes, in the order of
// the columns, and the numbers that go with them. What they mean is said by the `combine` of each type.
struct Block {
    lo: vec4<u32>,
    hi: vec4<u32>,
    // Scale and minimum of the block (for super-blocks: of the super-block).
    d: f32,
    m: f32,
    // Integer scales of super-blocks: scale and minimum, or the scales of both halves of 16.
    s0: i32,
    s1: i32,
}

fn word_of(w: Block, quad: u32) -> u32 {
    let lo = w.lo;
    let hi = w.hi;
    switch quad {
        case 0u: { return lo.x; }
        case 1u: { return lo.y; }
        case 2u: { return lo.z; }
        case 3u: { return lo.w; }
        case 4u: { return hi.x; }
        case 5u: { return hi.y; }
        case 6u: { return hi.z; }
        default: { return hi.w; }
    }
}

// The header of an activation record: two sums of 16 integers in one word.
fn sum_first(h: vec4<u32>) -> i32 { return bitcast<i32>(h.y << 16u) >> 16u; }
fn sum_second(h: vec4<u32>) -> i32 { return bitcast<i32>(h.y) >> 16u; }

// Word j and half-word of a row's tail in a panel: see quant/row_panels.rs.
fn tail_word(at: u32, lane: u32) -> u32 { return weights[at + lane / 4u][lane & 3u]; }
fn tail_half(at: u32, lane: u32) -> f32 {
    let pair = unpack2x16float(weights[at + lane / 8u][(lane / 2u) & 3u]);
    return select(pair.x, pair.y, (lane & 1u) == 1u);
}
