// a * b + c rounded once. WGSL lets a driver round `fma` twice, and software adapters do: for these the text is compiled
// with FUSED false, which does the same with more operations (Boldo and Melquiond, "Emulation of FMA and correctly rounded
// sums", 2008: exact product and sums in two floats each, the last but one rounded to odd). So a software adapter gives the
// bits of a CPU; it is there to show what a GPU computes, not to be fast.
const FUSED: bool = true;

// The same float, of which a compiler knows nothing: it would take `(a + b) - a` for b.
fn opaque(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) ^ params.zero); }

// a + b in two floats, exactly (Knuth).
fn exact_sum(a: f32, b: f32) -> vec2<f32> {
    let s = opaque(a + b);
    let v = opaque(s - a);
    return vec2(s, (a - opaque(s - v)) + (b - v));
}

// The upper 12 bits of a float's 24.
fn upper_half(a: f32) -> f32 { return bitcast<f32>(bitcast<u32>(a) & 0xfffff000u); }

fn fused(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { return fma(a, b, c); }
    let a1 = upper_half(a);
    let b1 = upper_half(b);
    let a2 = a - a1;
    let b2 = b - b1;
    let product = a * b;
    let rest = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2;
    let low = exact_sum(c, rest);
    let high = exact_sum(product, low.x);
    let between = exact_sum(low.y, high.y);
    // Rounded to odd: what is lost below an even last bit makes it odd.
    var odd = between.x;
    let bits = bitcast<u32>(odd);
    if between.y != 0.0 && (bits & 1u) == 0u {
        odd = bitcast<f32>(select(bits - 1u, bits + 1u, (between.y > 0.0) == (odd > 0.0)));
    }
    let sum = high.x + odd;
    // What overflows on the way, or is not finite.
    if (bitcast<u32>(sum) & 0x7f800000u) == 0x7f800000u { return product + c; }
    return sum;
}

fn fused4(a: f32, b: vec4<f32>, c: vec4<f32>) -> vec4<f32> {
    if FUSED { return fma(vec4(a), b, c); }
    return vec4(fused(a, b.x, c.x), fused(a, b.y, c.y), fused(a, b.z, c.z), fused(a, b.w, c.w));
}
