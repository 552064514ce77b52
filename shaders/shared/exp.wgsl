// e^x: the operations of backend/cpu/twin/exp.rs in their order. Coefficients as bits, so that no compiler rounds them.
fn exponential(x: f32) -> f32 {
    let clamped = min(max(x, -87.0), 88.0);
    let n = round(clamped * bitcast<f32>(0x3fb8aa3bu));
    var r = fused(-n, bitcast<f32>(0x3f318000u), clamped);
    r = fused(-n, bitcast<f32>(0xb95e8083u), r);
    var p = bitcast<f32>(0x39500d01u);
    p = fused(p, r, bitcast<f32>(0x3ab60b61u));
    p = fused(p, r, bitcast<f32>(0x3c088889u));
    p = fused(p, r, bitcast<f32>(0x3d2aaaabu));
    p = fused(p, r, bitcast<f32>(0x3e2aaaabu));
    p = fused(p, r, 0.5);
    p = fused(p, r, 1.0);
    p = fused(p, r, 1.0);
    return select(p * bitcast<f32>(u32(i32(n) + 127) << 23u), x, x != x);
}
