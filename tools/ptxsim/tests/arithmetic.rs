//! What instructions compute, against plain Rust and against values from the IEEE formats and the PTX ISA.

mod common;

use common::{Noise, run};

/// Words with every awkward value, then noise.
fn words() -> Vec<u32> {
    let special = [
        0,
        1,
        2,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x8000_0001,
        0x0080_0000,
        0x007f_ffff,
        0x3f80_0000,
        0xbf80_0000,
        0x7f80_0000,
        0xff80_0000,
        0x7fc0_0000,
        0x7f80_0001,
        0x7f7f_ffff,
        0x4f00_0000,
        0xcf00_0001,
        0x477f_f000,
        0x3300_0000,
        0x3300_0001,
        0x0000_ffff,
    ];
    let mut noise = Noise(99);
    special.into_iter().chain(std::iter::repeat_with(move || noise.next())).take(32).collect()
}

/// Three words a lane: `%r3`, `%r4`, `%r5` hold them, and `%f1` to `%f3` the same bits.
fn lanes3(op: &str) -> (Vec<[u32; 3]>, Vec<u32>) {
    let w = words();
    let mut inputs = vec![];
    for round in 0..8 {
        inputs.extend((0..32).map(|i| [w[i], w[(i * 7 + round * 5) % 32], w[(i * 11 + round * 3 + 1) % 32]]));
    }
    let mut results = vec![];
    for chunk in inputs.chunks(32) {
        let flat: Vec<u32> = chunk.iter().flatten().copied().collect();
        let body = format!(
            "mad.lo.u32 %r6, %r1, 12, 0;\ncvt.u64.u32 %rd5, %r6;\nadd.u64 %rd5, %rd5, %rd1;\n\
             ld.global.b32 %r3, [%rd5];\nld.global.b32 %r4, [%rd5+4];\nld.global.b32 %r5, [%rd5+8];\n\
             mov.b32 %f1, %r3;\nmov.b32 %f2, %r4;\nmov.b32 %f3, %r5;\n{op}"
        );
        results.extend(run(&body, &flat));
    }
    (inputs, results)
}

fn check(op: &str, want: impl Fn(u32, u32, u32) -> u32) {
    let (inputs, results) = lanes3(op);
    for ([a, b, c], got) in inputs.into_iter().zip(results) {
        assert_eq!(got, want(a, b, c), "{op}: {a:#x} {b:#x} {c:#x}");
    }
}

fn check_float(op: &str, want: impl Fn(f32, f32, f32) -> f32) {
    let op = format!("{op}\nmov.b32 %r10, %f10;");
    check(&op, |a, b, c| {
        let r = want(f32::from_bits(a), f32::from_bits(b), f32::from_bits(c));
        if r.is_nan() { 0x7fff_ffff } else { r.to_bits() }
    });
}

#[test]
fn integers_wrap_and_saturate() {
    check("add.s32 %r10, %r3, %r4;", |a, b, _| a.wrapping_add(b));
    check("sub.u32 %r10, %r3, %r4;", |a, b, _| a.wrapping_sub(b));
    check("add.sat.s32 %r10, %r3, %r4;", |a, b, _| (a as i32).saturating_add(b as i32) as u32);
    check("sub.sat.s32 %r10, %r3, %r4;", |a, b, _| (a as i32).saturating_sub(b as i32) as u32);
    check("mul.lo.s32 %r10, %r3, %r4;", |a, b, _| a.wrapping_mul(b));
    check("mul.hi.s32 %r10, %r3, %r4;", |a, b, _| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32);
    check("mul.hi.u32 %r10, %r3, %r4;", |a, b, _| ((u64::from(a) * u64::from(b)) >> 32) as u32);
    check("mad.lo.u32 %r10, %r3, %r4, %r5;", |a, b, c| a.wrapping_mul(b).wrapping_add(c));
    check("mad.hi.u32 %r10, %r3, %r4, %r5;", |a, b, c| {
        (((u64::from(a) * u64::from(b)) >> 32) as u32).wrapping_add(c)
    });
    check("abs.s32 %r10, %r3;", |a, _, _| (a as i32).wrapping_abs() as u32);
    check("neg.s32 %r10, %r3;", |a, _, _| a.wrapping_neg());
    check("min.s32 %r10, %r3, %r4;", |a, b, _| (a as i32).min(b as i32) as u32);
    check("max.u32 %r10, %r3, %r4;", |a, b, _| a.max(b));
    check("sad.s32 %r10, %r3, %r4, %r5;", |a, b, c| c.wrapping_add((a as i32).abs_diff(b as i32)));
    check("or.b32 %r4, %r4, 1;\ndiv.s32 %r10, %r3, %r4;", |a, b, _| {
        (a as i32).wrapping_div((b | 1) as i32) as u32
    });
    check("or.b32 %r4, %r4, 1;\nrem.s32 %r10, %r3, %r4;", |a, b, _| {
        (a as i32).wrapping_rem((b | 1) as i32) as u32
    });
    check("or.b32 %r4, %r4, 1;\nrem.u32 %r10, %r3, %r4;", |a, b, _| a % (b | 1));
    check("mul24.lo.u32 %r10, %r3, %r4;", |a, b, _| (a & 0xff_ffff).wrapping_mul(b & 0xff_ffff));
}

#[test]
fn sixteen_bit_integers() {
    let pair = "cvt.u16.u32 %h1, %r3;\ncvt.u16.u32 %h2, %r4;\n";
    let back = "\ncvt.u32.u16 %r10, %h3;";
    let h = |v: u32| v as u16;
    check(&format!("{pair}add.s16 %h3, %h1, %h2;{back}"), |a, b, _| u32::from(h(a).wrapping_add(h(b))));
    check(&format!("{pair}mul.lo.s16 %h3, %h1, %h2;{back}"), |a, b, _| u32::from(h(a).wrapping_mul(h(b))));
    check(&format!("{pair}min.s16 %h3, %h1, %h2;{back}"), |a, b, _| {
        u32::from((h(a) as i16).min(h(b) as i16) as u16)
    });
    check(&format!("{pair}mul.hi.s16 %h3, %h1, %h2;{back}"), |a, b, _| {
        (((i32::from(h(a) as i16) * i32::from(h(b) as i16)) >> 16) as u32) & 0xffff
    });
    check(&format!("{pair}and.b32 %r4, %r4, 31;\nshr.s16 %h3, %h1, %r4;{back}"), |a, b, _| {
        u32::from(((h(a) as i16) >> (b & 31).min(15)) as u16)
    });
    check(
        &format!("{pair}shl.b16 %h3, %h1, %r4;{back}"),
        |a, b, _| {
            if b > 15 { 0 } else { u32::from(h(a) << b) }
        },
    );
    check(&format!("{pair}mul.wide.s16 %r10, %h1, %h2;"), |a, b, _| {
        (i32::from(h(a) as i16) * i32::from(h(b) as i16)) as u32
    });
    check(&format!("{pair}setp.lt.s16 %p1, %h1, %h2;\nselp.u32 %r10, 1, 0, %p1;"), |a, b, _| {
        u32::from((h(a) as i16) < h(b) as i16)
    });
}

#[test]
fn shifts_by_the_width_and_more() {
    let by = "and.b32 %r4, %r4, 63;\n";
    check(&format!("{by}shl.b32 %r10, %r3, %r4;"), |a, b, _| a.checked_shl(b & 63).unwrap_or(0));
    check(&format!("{by}shr.u32 %r10, %r3, %r4;"), |a, b, _| a.checked_shr(b & 63).unwrap_or(0));
    check(&format!("{by}shr.s32 %r10, %r3, %r4;"), |a, b, _| ((a as i32) >> (b & 63).min(31)) as u32);
    check("shl.b32 %r10, %r3, %r4;", |a, b, _| if b > 31 { 0 } else { a << b });
    let both = |a: u32, b: u32| (u64::from(b) << 32) | u64::from(a);
    check("shf.l.wrap.b32 %r10, %r3, %r4, %r5;", |a, b, c| ((both(a, b) << (c & 31)) >> 32) as u32);
    check("shf.l.clamp.b32 %r10, %r3, %r4, %r5;", |a, b, c| ((both(a, b) << c.min(32)) >> 32) as u32);
    check("shf.r.wrap.b32 %r10, %r3, %r4, %r5;", |a, b, c| (both(a, b) >> (c & 31)) as u32);
    check("shf.r.clamp.b32 %r10, %r3, %r4, %r5;", |a, b, c| (both(a, b) >> c.min(32)) as u32);
    let wide = "cvt.u64.u32 %rd6, %r3;\nshl.b64 %rd6, %rd6, 31;\nand.b32 %r4, %r4, 127;\n";
    let low = "\ncvt.u32.u64 %r10, %rd7;";
    let w = |a: u32| u64::from(a) << 31;
    check(&format!("{wide}shr.s64 %rd7, %rd6, %r4;{low}"), |a, b, _| {
        ((w(a) as i64) >> (b & 127).min(63)) as u32
    });
    check(&format!("{wide}shl.b64 %rd7, %rd6, %r4;{low}"), |a, b, _| {
        w(a).checked_shl(b & 127).unwrap_or(0) as u32
    });
}

#[test]
fn shifts_around_the_width() {
    let by = |op: &str| {
        run(&format!("add.u32 %r4, %r1, 16;\nmov.u32 %r3, 0xdeadbeef;\n{op} %r10, %r3, %r4;"), &[0; 32])
    };
    let want = |f: &dyn Fn(u32) -> u32| (16..48).map(f).collect::<Vec<u32>>();
    assert_eq!(by("shr.u32"), want(&|n| 0xdead_beefu32.checked_shr(n).unwrap_or(0)));
    assert_eq!(by("shl.b32"), want(&|n| 0xdead_beefu32.checked_shl(n).unwrap_or(0)));
    assert_eq!(by("shr.s32"), want(&|n| (0xdead_beefu32 as i32 >> n.min(31)) as u32));
}

#[test]
fn bits() {
    check("popc.b32 %r10, %r3;", |a, _, _| a.count_ones());
    check("clz.b32 %r10, %r3;", |a, _, _| a.leading_zeros());
    check("brev.b32 %r10, %r3;", |a, _, _| a.reverse_bits());
    check("bfind.u32 %r10, %r3;", |a, _, _| if a == 0 { !0 } else { a.ilog2() });
    check("bfind.s32 %r10, %r3;", |a, _, _| {
        let v = if (a as i32) < 0 { !a } else { a };
        if v == 0 { !0 } else { v.ilog2() }
    });
    for table in [0x00u8, 0xff, 0xea, 0x96, 0x1b, 0xf0, 0xcc, 0xaa] {
        check(&format!("lop3.b32 %r10, %r3, %r4, %r5, {table};"), |a, b, c| {
            (0..32).fold(0, |r, i| {
                let at = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
                r | u32::from(table >> at & 1) << i
            })
        });
    }
    // the definition of bfe, bit by bit
    let field = |x: u32, p: u32, n: u32, signed: bool| {
        let (p, n) = (p & 0xff, n & 0xff);
        let sign = signed && n > 0 && x >> (p + n - 1).min(31) & 1 == 1;
        (0..32).fold(0, |r, i| {
            let bit = if i < n && p + i <= 31 { x >> (p + i) & 1 == 1 } else { sign };
            r | u32::from(bit) << i
        })
    };
    for mask in [31, 255] {
        let limit = format!("and.b32 %r4, %r4, {mask};\nand.b32 %r5, %r5, {mask};\n");
        check(&format!("{limit}bfe.u32 %r10, %r3, %r4, %r5;"), |a, b, c| field(a, b & mask, c & mask, false));
        check(&format!("{limit}bfe.s32 %r10, %r3, %r4, %r5;"), |a, b, c| field(a, b & mask, c & mask, true));
        check(&format!("{limit}bfi.b32 %r10, %r3, 0x12345678, %r4, %r5;"), |a, b, c| {
            let (p, n) = (b & mask, c & mask);
            (0..32).fold(0, |r, i| {
                let bit = if i >= p && i - p < n { a >> (i - p) & 1 } else { 0x1234_5678u32 >> i & 1 };
                r | bit << i
            })
        });
    }
}

#[test]
fn permute() {
    let source =
        |a: u32, b: u32, k: u32| (((u64::from(b) << 32) | u64::from(a)) >> (8 * (k & 7))) as u32 & 0xff;
    check("prmt.b32 %r10, %r3, %r4, %r5;", |a, b, c| {
        (0..4).fold(0, |r, k| {
            let s = c >> (4 * k) & 15;
            let v = source(a, b, s);
            let v = if s & 8 == 0 { v } else { 0xff * (v >> 7) };
            r | v << (8 * k)
        })
    });
    type Pick = fn(u32, u32) -> u32;
    let modes: [(&str, Pick); 6] = [
        ("f4e", |n, k| n + k),
        ("b4e", |n, k| n.wrapping_sub(k)),
        ("rc8", |n, _| n),
        ("ecl", |n, k| k.max(n)),
        ("ecr", |n, k| k.min(n)),
        ("rc16", |n, k| 2 * (n & 1) + (k & 1)),
    ];
    for (mode, pick) in modes {
        check(&format!("prmt.b32.{mode} %r10, %r3, %r4, %r5;"), |a, b, c| {
            (0..4).fold(0, |r, k| r | source(a, b, pick(c & 3, k)) << (8 * k))
        });
    }
}

#[test]
fn integer_dots() {
    let byte = |v: u32, k: u32, signed: bool| {
        let b = (v >> (8 * k)) as u8;
        if signed { i64::from(b as i8) } else { i64::from(b) }
    };
    for (a_type, b_type) in [("s32", "s32"), ("u32", "s32"), ("s32", "u32"), ("u32", "u32")] {
        let (sa, sb) = (a_type == "s32", b_type == "s32");
        check(&format!("dp4a.{a_type}.{b_type} %r10, %r3, %r4, %r5;"), |a, b, c| {
            (0..4).fold(i64::from(c), |s, k| s + byte(a, k, sa) * byte(b, k, sb)) as u32
        });
        for (part, base) in [("lo", 0), ("hi", 2)] {
            check(&format!("dp2a.{part}.{a_type}.{b_type} %r10, %r3, %r4, %r5;"), |a, b, c| {
                (0..2).fold(i64::from(c), |s, k| {
                    let h = (a >> (16 * k)) as u16;
                    let h = if sa { i64::from(h as i16) } else { i64::from(h) };
                    s + h * byte(b, base + k, sb)
                }) as u32
            });
        }
    }
}

#[test]
fn single_precision() {
    check_float("add.rn.f32 %f10, %f1, %f2;", |a, b, _| a + b);
    check_float("sub.rn.f32 %f10, %f1, %f2;", |a, b, _| a - b);
    check_float("mul.f32 %f10, %f1, %f2;", |a, b, _| a * b);
    check_float("fma.rn.f32 %f10, %f1, %f2, %f3;", f32::mul_add);
    check_float("div.rn.f32 %f10, %f1, %f2;", |a, b, _| a / b);
    check_float("sqrt.rn.f32 %f10, %f1;", |a, _, _| a.sqrt());
    check_float("rcp.rn.f32 %f10, %f1;", |a, _, _| 1.0 / a);
    check("neg.f32 %f10, %f1;\nmov.b32 %r10, %f10;", |a, _, _| a ^ 0x8000_0000);
    check("abs.f32 %f10, %f1;\nmov.b32 %r10, %f10;", |a, _, _| a & 0x7fff_ffff);
    check("copysign.f32 %f10, %f1, %f2;\nmov.b32 %r10, %f10;", |a, b, _| {
        (a & 0x8000_0000) | (b & 0x7fff_ffff)
    });
    let zero = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
    check_float("mul.ftz.f32 %f10, %f1, %f2;", |a, b, _| zero(zero(a) * zero(b)));
    check_float("fma.rn.ftz.f32 %f10, %f1, %f2, %f3;", |a, b, c| zero(zero(a).mul_add(zero(b), zero(c))));
    check_float("add.sat.f32 %f10, %f1, %f2;", |a, b, _| {
        let s = a + b;
        if s > 0.0 { s.min(1.0) } else { 0.0 }
    });
}

#[test]
fn minimum_and_maximum_of_zeros_and_nans() {
    let pick = |a: f32, b: f32, greater: bool| match (a.is_nan(), b.is_nan()) {
        (true, _) => b,
        (_, true) => a,
        _ if a.total_cmp(&b).is_gt() == greater => a,
        _ => b,
    };
    check_float("min.f32 %f10, %f1, %f2;", |a, b, _| pick(a, b, false));
    check_float("max.f32 %f10, %f1, %f2;", |a, b, _| pick(a, b, true));
    check_float("max.NaN.f32 %f10, %f1, %f2;", |a, b, _| {
        if a.is_nan() || b.is_nan() { f32::NAN } else { pick(a, b, true) }
    });
}

#[test]
fn directed_rounding_brackets_the_exact_result() {
    for (op, exact) in [
        ("add", (|a, b, _| a + b) as fn(f64, f64, f64) -> f64),
        ("sub", |a, b, _| a - b),
        ("mul", |a, b, _| a * b),
        ("div", |a, b, _| a / b),
    ] {
        let results = ["rm", "rn", "rp", "rz"]
            .map(|mode| lanes3(&format!("{op}.{mode}.f32 %f10, %f1, %f2;\nmov.b32 %r10, %f10;")));
        for (i, [a, b, _]) in results[0].0.iter().enumerate() {
            let [down, near, up, zero] = [0, 1, 2, 3].map(|k| f32::from_bits(results[k].1[i]));
            let x = exact(f64::from(f32::from_bits(*a)), f64::from(f32::from_bits(*b)), 0.0);
            if x.is_nan() {
                assert!(down.is_nan() && near.is_nan() && up.is_nan() && zero.is_nan());
                continue;
            }
            let what = format!("{op} {a:#x} {b:#x}: {down:e} {near:e} {up:e} of {x:e}");
            assert!(f64::from(down) <= x && x <= f64::from(up), "{what}");
            assert!(near == down || near == up, "{what}");
            assert_eq!(zero.to_bits() << 1, if x < 0.0 { up } else { down }.to_bits() << 1, "{what}");
            if down != up {
                assert!(down.next_up() == up, "{what}");
            }
        }
    }
}

#[test]
fn conversions() {
    let float = |r: f32| r.to_bits();
    check("cvt.rn.f32.s32 %f10, %r3;\nmov.b32 %r10, %f10;", |a, _, _| float(a as i32 as f32));
    check("cvt.rn.f32.u32 %f10, %r3;\nmov.b32 %r10, %f10;", |a, _, _| float(a as f32));
    check("cvt.rz.f32.u32 %f10, %r3;\nmov.b32 %r10, %f10;", |a, _, _| {
        let r = a as f32;
        float(if f64::from(r) > f64::from(a) { r.next_down() } else { r })
    });
    check("cvt.rni.s32.f32 %r10, %f1;", |a, _, _| f32::from_bits(a).round_ties_even() as i32 as u32);
    check("cvt.rzi.s32.f32 %r10, %f1;", |a, _, _| f32::from_bits(a) as i32 as u32);
    check("cvt.rmi.s32.f32 %r10, %f1;", |a, _, _| f32::from_bits(a).floor() as i32 as u32);
    check("cvt.rpi.u32.f32 %r10, %f1;", |a, _, _| f32::from_bits(a).ceil() as u32);
    check("cvt.rni.s8.f32 %r10, %f1;", |a, _, _| f32::from_bits(a).round_ties_even() as i8 as i32 as u32);
    check("cvt.sat.s8.s32 %r10, %r3;", |a, _, _| (a as i32).clamp(-128, 127) as u32);
    check("cvt.sat.u8.s32 %r10, %r3;", |a, _, _| (a as i32).clamp(0, 255) as u32);
    check("cvt.s32.s8 %r10, %r3;", |a, _, _| a as i8 as i32 as u32);
    check("cvt.u32.u16 %r10, %r3;", |a, _, _| a & 0xffff);
    check("cvt.pack.sat.s8.s32.b32 %r10, %r3, %r4, %r5;", |a, b, c| {
        let s = |v: u32| (v as i32).clamp(-128, 127) as u8;
        c << 16 | u32::from(s(a)) << 8 | u32::from(s(b))
    });
    check("cvt.s64.s32 %rd6, %r3;\nshr.u64 %rd6, %rd6, 32;\ncvt.u32.u64 %r10, %rd6;", |a, _, _| {
        if (a as i32) < 0 { !0 } else { 0 }
    });
    check_float("cvt.rni.f32.f32 %f10, %f1;", |a, _, _| a.round_ties_even());
    check_float("cvt.sat.f32.f32 %f10, %f1;", |a, _, _| if a > 0.0 { a.min(1.0) } else { 0.0 });
    check_float("cvt.f64.f32 %d1, %f1;\ncvt.rn.f32.f64 %f10, %d1;", |a, _, _| a);
    check("cvt.rna.tf32.f32 %r10, %f1;", |a, _, _| {
        if f32::from_bits(a).is_nan() {
            0x7fff_ffff
        } else if a & 0x7f80_0000 == 0x7f80_0000 {
            a
        } else {
            (a + 0x1000) & !0x1fff
        }
    });
}

/// Half bits to their value, from the definition of the format.
fn half_value(h: u32) -> f64 {
    let (e, m) = ((h >> 10 & 31) as i32, f64::from(h & 1023));
    let v = match e {
        31 if m != 0.0 => f64::NAN,
        31 => f64::INFINITY,
        0 => m * 2f64.powi(-24),
        _ => (1.0 + m / 1024.0) * 2f64.powi(e - 15),
    };
    if h & 0x8000 != 0 { -v } else { v }
}

#[test]
fn every_half_widens_exactly_and_comes_back() {
    let body = "\
ld.global.b32 %r3, [%rd3];
cvt.u16.u32 %h1, %r3;
cvt.f32.f16 %f1, %h1;
cvt.rn.f16.f32 %h2, %f1;
mov.b32 %r11, %f1;
cvt.u32.u16 %r10, %h2;
st.global.u32 [%rd4+128], %r11;";
    let options = ptxsim::Options { threads: 1, ..Default::default() };
    for start in (0..0x1_0000u32).step_by(32) {
        let input: Vec<u32> = (start..start + 32).collect();
        let text = format!("{body}\nst.global.u32 [%rd4], %r10;");
        let (out, _) = common::run_with(&text, &input, 64, (1, 32), &options).unwrap();
        for (i, h) in input.iter().enumerate() {
            let want = half_value(*h);
            if want.is_nan() {
                assert_eq!((out[32 + i], out[i]), (0x7fff_ffff, 0x7fff));
            } else {
                assert_eq!(f64::from(f32::from_bits(out[32 + i])).to_bits(), want.to_bits(), "{h:#x}");
                assert_eq!(out[i], *h);
            }
        }
    }
}

/// The half nearest to `x`, ties to even, found by trying.
fn nearest_half(x: f64) -> u32 {
    if x.is_nan() {
        return 0x7fff;
    }
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    let a = x.abs();
    if a >= 65520.0 {
        return sign | 0x7c00;
    }
    let (mut low, mut high) = (0u32, 0x7bff);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if half_value(middle) <= a { low = middle } else { high = middle }
    }
    let (dl, dh) = (a - half_value(low), half_value(high) - a);
    sign | if dl < dh || (dl == dh && low % 2 == 0) { low } else { high }
}

#[test]
fn half_arithmetic_rounds_once() {
    let two = "cvt.u16.u32 %h1, %r3;\ncvt.u16.u32 %h2, %r4;\ncvt.u16.u32 %h3, %r5;\n";
    let back = "\ncvt.u32.u16 %r10, %h4;";
    let v = |x: u32| half_value(x & 0xffff);
    check(&format!("{two}add.rn.f16 %h4, %h1, %h2;{back}"), |a, b, _| nearest_half(v(a) + v(b)));
    check(&format!("{two}mul.rn.f16 %h4, %h1, %h2;{back}"), |a, b, _| nearest_half(v(a) * v(b)));
    check("cvt.rn.f16.f32 %h4, %f1;\ncvt.u32.u16 %r10, %h4;", |a, _, _| {
        nearest_half(f64::from(f32::from_bits(a)))
    });
    check("cvt.rn.f16x2.f32 %r10, %f1, %f2;", |a, b, _| {
        let [a, b] = [a, b].map(|x| nearest_half(f64::from(f32::from_bits(x))));
        a << 16 | b
    });
    check("add.rn.f16x2 %r10, %r3, %r4;", |a, b, _| {
        nearest_half(v(a) + v(b)) | nearest_half(v(a >> 16) + v(b >> 16)) << 16
    });
    // 1 + 2^-10 squared, plus a tail that only an exact fma sees
    check(
        "mov.b32 %r6, 0x3c013c01;\nmov.b32 %r7, 0x00018001;\nfma.rn.f16x2 %r10, %r6, %r6, %r7;",
        |_, _, _| {
            let square = half_value(0x3c01).powi(2);
            nearest_half(square - 2f64.powi(-24)) << 16 | nearest_half(square + 2f64.powi(-24))
        },
    );
    // in bfloat16 the product is a tie, which an addend of 2^-100 decides
    let tie = "mov.b32 %r6, 0x3f813f81;\nmov.b32 %r7, 0x3fc03fc0;\nmov.b32 %r8, 0x0d808d80;\n";
    check(&format!("{tie}fma.rn.bf16x2 %r10, %r6, %r7, %r8;"), |_, _, _| 0x3fc2_3fc1);
    check("cvt.rn.bf16x2.f32 %r10, %f1, %f2;", |a, b, _| {
        let bf = |x: u32| {
            if f32::from_bits(x).is_nan() { 0x7fff } else { (x + 0x7fff + (x >> 16 & 1)) >> 16 }
        };
        bf(a) << 16 | bf(b)
    });
}

#[test]
fn comparisons_order_nans_and_signs() {
    let out = "\nselp.u32 %r10, 1, 0, %p1;";
    let f = f32::from_bits;
    check(&format!("setp.lt.f32 %p1, %f1, %f2;{out}"), |a, b, _| u32::from(f(a) < f(b)));
    check(&format!("setp.ne.f32 %p1, %f1, %f2;{out}"), |a, b, _| {
        u32::from(f(a) != f(b) && !f(a).is_nan() && !f(b).is_nan())
    });
    check(&format!("setp.neu.f32 %p1, %f1, %f2;{out}"), |a, b, _| u32::from(f(a) != f(b)));
    check(&format!("setp.geu.f32 %p1, %f1, %f2;{out}"), |a, b, _| {
        #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "this is what unordered means")]
        u32::from(!(f(a) < f(b)))
    });
    check(&format!("setp.nan.f32 %p1, %f1, %f2;{out}"), |a, b, _| u32::from(f(a).is_nan() || f(b).is_nan()));
    check(&format!("setp.lt.s32 %p1, %r3, %r4;{out}"), |a, b, _| u32::from((a as i32) < b as i32));
    check(&format!("setp.hi.u32 %p1, %r3, %r4;{out}"), |a, b, _| u32::from(a > b));
    check(
        &format!(
            "setp.lt.u32 %p2, %r4, %r5;\nsetp.eq.and.u32 %p1|%p3, %r3, 1, %p2;\n@%p3 mov.u32 %r8, 2;\n@!%p3 mov.u32 %r8, 0;{out}\nadd.u32 %r10, %r10, %r8;"
        ),
        |a, b, c| u32::from(a == 1 && b < c) + 2 * u32::from(a != 1 && b < c),
    );
}

#[test]
fn wide_integers_and_doubles() {
    let two = "mov.b64 %rd6, {%r3, %r4};\nmov.b64 %rd7, {%r5, %r3};\n";
    let high = "\nmov.b64 {%r11, %r10}, %rd8;\nxor.b32 %r10, %r10, %r11;";
    let fold = |v: u64| (v >> 32) as u32 ^ v as u32;
    let (x, y) = (
        |a: u32, b: u32| (u64::from(b) << 32) | u64::from(a),
        |c: u32, a: u32| (u64::from(a) << 32) | u64::from(c),
    );
    check(&format!("{two}add.s64 %rd8, %rd6, %rd7;{high}"), |a, b, c| fold(x(a, b).wrapping_add(y(c, a))));
    check(&format!("{two}mul.lo.s64 %rd8, %rd6, %rd7;{high}"), |a, b, c| fold(x(a, b).wrapping_mul(y(c, a))));
    check(&format!("{two}mul.hi.u64 %rd8, %rd6, %rd7;{high}"), |a, b, c| {
        fold(((u128::from(x(a, b)) * u128::from(y(c, a))) >> 64) as u64)
    });
    check(&format!("{two}mad.wide.s32 %rd8, %r3, %r4, %rd7;{high}"), |a, b, c| {
        fold(((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(y(c, a)))
    });
    check(&format!("{two}max.s64 %rd8, %rd6, %rd7;{high}"), |a, b, c| {
        fold((x(a, b) as i64).max(y(c, a) as i64) as u64)
    });
    let doubles = "cvt.f64.f32 %d1, %f1;\ncvt.f64.f32 %d2, %f2;\ncvt.f64.f32 %d3, %f3;\n";
    let single = "\ncvt.rn.f32.f64 %f10, %d4;";
    let d = f64::from;
    check_float(&format!("{doubles}fma.rn.f64 %d4, %d1, %d2, %d3;{single}"), |a, b, c| {
        d(a).mul_add(d(b), d(c)) as f32
    });
    check_float(&format!("{doubles}div.rn.f64 %d4, %d1, %d2;{single}"), |a, b, _| (d(a) / d(b)) as f32);
}

#[test]
fn approximations_stay_within_their_documented_error() {
    type Function = (&'static str, fn(f64) -> f64, f64);
    let functions: [Function; 5] = [
        ("ex2.approx.ftz.f32", f64::exp2, 2f64.powi(-22)),
        ("rcp.approx.ftz.f32", |x| 1.0 / x, 2f64.powi(-23)),
        ("rsqrt.approx.ftz.f32", |x| 1.0 / x.sqrt(), 2f64.powi(-22)),
        ("sqrt.approx.f32", f64::sqrt, 2f64.powi(-23)),
        ("tanh.approx.f32", f64::tanh, 2f64.powi(-11)),
    ];
    let mut noise = Noise(5);
    let input: Vec<u32> = (0..32).map(|_| (noise.unit().abs() * 20.0 + 0.01).to_bits()).collect();
    for (op, exact, error) in functions {
        let body = format!("ld.global.f32 %f1, [%rd3];\n{op} %f2, %f1;\nst.global.f32 [%rd4], %f2;");
        let mut seen = vec![];
        for perturb in 0..5 {
            let options = ptxsim::Options { perturb, ..Default::default() };
            let (out, _) = common::run_with(&body, &input, 32, (1, 32), &options).unwrap();
            for (x, got) in input.iter().zip(&out) {
                let want = exact(f64::from(f32::from_bits(*x)));
                let off = (f64::from(f32::from_bits(*got)) - want).abs() / want.abs();
                // half a unit more for the last rounding
                assert!(off <= error + 2f64.powi(-24), "{op} {x:#x}: {off:e}");
            }
            seen.push(out);
        }
        assert!(seen[1..].iter().all(|s| *s != seen[0]), "{op}: the perturbation changes nothing");
    }
}
