// Adds to `acc[m]` the products of units `first..last` of one row of weights with activation rows `token + m`: the order
// is that of the columns. `base` is the panel, `lane` the row in it.
#ifdef X=q8_k
fn ${T}accumulate(base: u32, lane: u32, first: u32, last: u32, token: u32) {
    // Integers over a whole super-block, then two multiplications.
    let per = 8u / ${T}UNIT;
    for (var s = first; s < last; s++) {
        var integers: array<vec2<i32>, 8>;
        for (var m = 0u; m < M; m++) { integers[m] = vec2(0); }
        for (var u = 0u; u < per; u++) {
            let unit = ${T}load(base, s * per + u, lane);
            for (var b = 0u; b < ${T}UNIT; b++) {
                let w = ${T}block(unit, b);
                for (var m = 0u; m < M; m++) {
                    let x = record_of(token + m) + (s * 8u + u * ${T}UNIT + b) * RECORD;
                    let x0 = acts[x + 8u];
                    let x1 = acts[x + 9u];
                    let h = acts[x + 10u];
                    integers[m] += ${T}integers(w, dot16(w.lo, x0), dot16(w.hi, x1), h);
                }
            }
        }
        let w = ${T}block(${T}load(base, s * per, lane), 0u);
        for (var m = 0u; m < M; m++) {
            let x_scale = bitcast<f32>(acts[record_of(token + m) + s * 8u * RECORD + 10u].x);
            acc[m] = ${T}combine_k(w, integers[m], x_scale, acc[m]);
        }
    }
}
#else
fn ${T}accumulate(base: u32, lane: u32, first: u32, last: u32, token: u32) {
    for (var u = first; u < last; u++) {
        let unit = ${T}load(base, u, lane);
        for (var b = 0u; b < ${T}UNIT; b++) {
            let w = ${T}block(unit, b);
            for (var m = 0u; m < M; m++) {
                let x = record_of(token + m) + (u * ${T}UNIT + b) * RECORD;
#ifdef X=f32
                var partial = 0.0;
                for (var i = 0u; i < 8u; i++) {
                    partial += dot(${T}quad(w, i), bitcast<vec4<f32>>(acts[x + i]));
                }
                acc[m] += partial;
#else
                let x0 = acts[x + 8u];
                let x1 = acts[x + 9u];
                let h = acts[x + 10u];
                acc[m] = ${T}combine(w, dot16(w.lo, x0), dot16(w.hi, x1), bitcast<f32>(h.x), h, acc[m]);
#endif
            }
        }
    }
}
#endif
