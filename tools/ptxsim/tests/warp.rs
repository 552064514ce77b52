//! Shuffles, votes, reductions, atomics, vectors and matrix tiles.

mod common;

use common::{Noise, run, run_with};
use ptxsim::Options;

#[test]
fn shuffles() {
    let lanes: Vec<u32> = (0..32).map(|i| i * 100).collect();
    let load = "ld.global.u32 %r3, [%rd3];\n";
    let go = |op: &str| run(&format!("{load}{op}"), &lanes);
    let by = |f: &dyn Fn(u32) -> u32| (0..32).map(|i| f(i) * 100).collect::<Vec<u32>>();
    assert_eq!(go("shfl.sync.bfly.b32 %r10, %r3, 5, 31, -1;"), by(&|i| i ^ 5));
    assert_eq!(go("shfl.sync.down.b32 %r10, %r3, 3, 31, -1;"), by(&|i| if i + 3 < 32 { i + 3 } else { i }));
    assert_eq!(go("shfl.sync.up.b32 %r10, %r3, 3, 0, -1;"), by(&|i| if i >= 3 { i - 3 } else { i }));
    assert_eq!(go("shfl.sync.idx.b32 %r10, %r3, 9, 31, -1;"), by(&|_| 9));
    // segments of 8
    assert_eq!(go("shfl.sync.idx.b32 %r10, %r3, 2, 0x181f, -1;"), by(&|i| (i & !7) + 2));
    assert_eq!(
        go("shfl.sync.down.b32 %r10, %r3, 1, 0x181f, -1;"),
        by(&|i| if i % 8 == 7 { i } else { i + 1 })
    );
    let pred = go("shfl.sync.up.b32 %r4|%p1, %r3, 1, 0, -1;\nselp.u32 %r10, 1, 0, %p1;");
    assert_eq!((pred[0], pred[1], pred[31]), (0, 1, 1));
}

#[test]
fn votes_and_reductions() {
    let odd = "and.b32 %r3, %r1, 1;\nsetp.eq.u32 %p1, %r3, 1;\n";
    assert_eq!(run(&format!("{odd}vote.sync.ballot.b32 %r10, %p1, -1;"), &[0; 32]), [0xaaaa_aaaa; 32]);
    for (mode, p, want) in [("all", "%p1", 0), ("any", "%p1", 1), ("uni", "%p1", 0), ("any", "!%p1", 1)] {
        let body = format!("{odd}vote.sync.{mode}.pred %p2, {p}, -1;\nselp.u32 %r10, 1, 0, %p2;");
        assert_eq!(run(&body, &[0; 32]), [want; 32], "{mode} {p}");
    }
    let mut noise = Noise(6);
    let v: Vec<u32> = (0..32).map(|_| noise.next()).collect();
    let fold = |f: fn(u32, u32) -> u32| v.iter().copied().reduce(f).unwrap();
    for (op, want) in [
        ("add.u32", fold(u32::wrapping_add)),
        ("min.u32", fold(u32::min)),
        ("max.s32", fold(|a, b| (a as i32).max(b as i32) as u32)),
        ("and.b32", fold(|a, b| a & b)),
        ("xor.b32", fold(|a, b| a ^ b)),
    ] {
        let body = format!("ld.global.u32 %r3, [%rd3];\nredux.sync.{op} %r10, %r3, -1;");
        assert_eq!(run(&body, &v), [want; 32], "{op}");
    }
    let elected = run("elect.sync %r4|%p1, -1;\nselp.u32 %r10, 1, 0, %p1;", &[0; 32]);
    assert_eq!(elected.iter().sum::<u32>(), 1);
    assert_eq!(
        run("setp.lt.u32 %p1, %r1, 5;\nmov.u32 %r10, 0;\n@%p1 activemask.b32 %r10;", &[0; 32])[..6],
        [31, 31, 31, 31, 31, 0]
    );
}

#[test]
fn atomics() {
    let options = Options { threads: 2, ..Options::default() };
    let one = |body: &str, start: u32| {
        let mut input = vec![start; 256];
        input[1] = start;
        let text = format!(
            "{body}\nbar.sync 0;\nld.volatile.global.u32 %r10, [%rd1];\nsetp.eq.u32 %p7, %r1, 0;\nmov.u32 %r11, %ctaid.x;\nmul.wide.u32 %rd9, %r11, 4;\nadd.u64 %rd9, %rd9, %rd2;\n@%p7 st.global.u32 [%rd9], %r10;"
        );
        run_with(&text, &input, 8, (1, 64), &options).unwrap().0[0]
    };
    assert_eq!(one("atom.global.add.u32 %r3, [%rd1], 2;", 5), 5 + 128);
    assert_eq!(one("red.global.max.u32 [%rd1], %r1;", 5), 63);
    assert_eq!(one("red.global.min.s32 [%rd1], -3;", 5), -3i32 as u32);
    assert_eq!(one("red.global.xor.b32 [%rd1], %r1;", 0), 0);
    assert_eq!(one("atom.global.inc.u32 %r3, [%rd1], 9;", 0), 64 % 10);
    assert_eq!(one("atom.global.cas.b32 %r3, [%rd1], 5, 77;", 5), 77);
    assert_eq!(f32::from_bits(one("red.global.add.f32 [%rd1], 0f3F800000;", 0)), 64.0);
    assert_eq!(one("red.global.add.u64 [%rd1], 3;", 0), 192);
    assert_eq!(
        one(
            "setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [sm], 0;\nbar.sync 0;\natom.shared.add.u32 %r3, [sm], %r1;\nbar.sync 0;\nld.shared.u32 %r4, [sm];\n@%p1 st.global.u32 [%rd1], %r4;",
            1
        ),
        2016
    );
}

#[test]
fn vector_loads_and_stores_of_every_width() {
    let mut noise = Noise(8);
    let v: Vec<u32> = (0..256).map(|_| noise.next()).collect();
    let at = "mul.wide.u32 %rd5, %r1, 16;\nadd.u64 %rd6, %rd5, %rd2;\nadd.u64 %rd5, %rd5, %rd1;\n";
    let options = Options { threads: 1, ..Options::default() };
    for copy in [
        "ld.global.v4.u32 {%r3,%r4,%r5,%r6}, [%rd5];\nst.global.v4.u32 [%rd6], {%r3,%r4,%r5,%r6};",
        "ld.global.nc.L1::no_allocate.L2::128B.v2.u64 {%rd7,%rd8}, [%rd5];\nst.global.v2.b64 [%rd6], {%rd7,%rd8};",
        "ld.global.v4.u8 {%r3,%r4,%r5,%r6}, [%rd5];\nst.global.v4.u8 [%rd6], {%r3,%r4,%r5,%r6};\nld.global.v4.u16 {%r7,%r8,%r9,%r10}, [%rd5+8];\nst.global.v4.u16 [%rd6+8], {%r7,%r8,%r9,%r10};\nld.global.b32 %r3, [%rd5+4];\nst.global.b32 [%rd6+4], %r3;",
        "createpolicy.fractional.L2::evict_first.b64 %rd9, 1.0;\nprefetch.global.L2 [%rd5];\nld.global.nc.L2::cache_hint.v4.f32 {%f1,%f2,%f3,%f4}, [%rd5], %rd9;\nst.global.v2.f32 [%rd6], {%f1,%f2};\nst.global.v2.f32 [%rd6+8], {%f3,%f4};",
        "shl.b32 %r9, %r1, 4;\nand.b32 %r9, %r9, 1008;\nld.v4.u32 {%r3,%r4,%r5,%r6}, [%rd5];\nst.shared.v4.u32 [%r9], {%r3,%r4,%r5,%r6};\nld.shared.v2.u64 {%rd7,%rd8}, [%r9];\nst.v2.u64 [%rd6], {%rd7,%rd8};",
        "shl.b32 %r9, %r1, 4;\ncp.async.cg.shared.global.L2::128B [%r9], [%rd5], 16;\ncp.async.commit_group;\ncp.async.wait_group 0;\nld.shared.v4.u32 {%r3,%r4,%r5,%r6}, [%r9];\nst.global.v4.u32 [%rd6], {%r3,%r4,%r5,%r6};",
    ] {
        let (out, _) = run_with(&format!("{at}{copy}"), &v, 256, (1, 64), &options).unwrap();
        assert_eq!(out, v, "{copy}");
    }
    let signs = run("ld.global.s8 %r10, [%rd3+3];", &v[..32]);
    assert!(signs.iter().zip(&v).all(|(s, w)| *s == (w >> 24) as i8 as i32 as u32));
    // a copy of fewer bytes fills up with zeros
    let short = "shl.b32 %r9, %r1, 4;\nmov.u32 %r8, 4;\ncp.async.cg.shared.global [%r9], [%rd5], 16, %r8;\ncp.async.wait_all;\nld.shared.v4.u32 {%r3,%r4,%r5,%r6}, [%r9];\nst.global.v4.u32 [%rd6], {%r3,%r4,%r5,%r6};";
    let (out, _) = run_with(&format!("{at}{short}"), &v, 256, (1, 64), &options).unwrap();
    assert!(out.chunks(4).zip(v.chunks(4)).all(|(o, w)| o == [w[0], 0, 0, 0]));
}

/// Row-major `a` (16 x k) and column-major `b` (8 columns of k) bytes, 4 to a word, through shared memory with
/// `ldmatrix`, multiplied with `mma`, compared with the plain product.
#[test]
fn integer_tiles_through_ldmatrix() {
    let mut noise = Noise(9);
    for (k, a_type, b_type) in [(32usize, "s8", "s8"), (32, "u8", "s8"), (16, "s8", "s8"), (16, "s8", "u8")] {
        let words: Vec<u32> = (0..24 * k / 4).map(|_| noise.next()).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        let row = k; // bytes of a row
        let fill: String = (0..words.len().div_ceil(32))
            .map(|i| {
                let guard = if (i + 1) * 32 > words.len() { "@%p6 " } else { "" };
                format!(
                    "{guard}ld.global.u32 %r3, [%rd3+{0}];\n{guard}st.shared.u32 [%r2+{0}], %r3;\n",
                    i * 128
                )
            })
            .collect();
        let left = words.len() % 32;
        // lanes 0..15 address the rows of a (and, for k = 32, their second halves), then the columns of b
        let a_regs = if k == 32 { "%r20,%r21,%r22,%r23" } else { "%r20,%r21" };
        let b_regs = if k == 32 { "%r24,%r25" } else { "%r24" };
        let body = format!(
            "setp.lt.u32 %p6, %r1, {left};\n{fill}bar.sync 0;\n\
             and.b32 %r4, %r1, 15;\nshr.u32 %r5, %r1, 4;\nmul.lo.u32 %r6, %r4, {row};\nmad.lo.u32 %r6, %r5, 16, %r6;\n\
             {}\
             ldmatrix.sync.aligned.m8n8.{}.shared.b16 {{{a_regs}}}, [%r6];\n\
             and.b32 %r4, %r1, 7;\nshr.u32 %r5, %r1, 3;\nand.b32 %r5, %r5, 1;\nmad.lo.u32 %r6, %r4, {row}, {};\nmad.lo.u32 %r6, %r5, {}, %r6;\n\
             ldmatrix.sync.aligned.m8n8.{}.shared.b16 {{{b_regs}}}, [%r6];\n\
             mov.u32 %r30, 5;\n\
             mma.sync.aligned.m16n8k{k}.row.col.s32.{a_type}.{b_type}.s32 {{%r31,%r32,%r33,%r34}}, {{{a_regs}}}, {{{b_regs}}}, {{%r30,%r30,%r30,%r30}};\n\
             mul.wide.u32 %rd5, %r1, 16;\nadd.u64 %rd5, %rd5, %rd2;\nst.global.v4.u32 [%rd5], {{%r31,%r32,%r33,%r34}};",
            if k == 16 { format!("mul.lo.u32 %r6, %r4, {row};\n") } else { String::new() },
            if k == 32 { "x4" } else { "x2" },
            16 * k,
            if k == 32 { 16 } else { 0 },
            if k == 32 { "x2" } else { "x1" },
        );
        let (out, _) = run_with(&body, &words, 128, (1, 32), &Options::default()).unwrap();
        let value = |b: u8, ty: &str| if ty == "s8" { i32::from(b as i8) } else { i32::from(b) };
        for lane in 0..32 {
            for r in 0..4 {
                let (m, n) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
                let want: i32 = (0..k)
                    .map(|i| value(bytes[m * k + i], a_type) * value(bytes[16 * k + n * k + i], b_type))
                    .sum();
                assert_eq!(out[lane * 4 + r] as i32, want + 5, "k {k} {a_type} {b_type} row {m} column {n}");
            }
        }
    }
}

#[test]
fn half_tiles() {
    // small integers are exact in half and in the sum
    let value = |i: usize| (i * 7 % 11) as i32 - 5;
    let half = |v: i32| {
        if v == 0 {
            0u32
        } else {
            (if v < 0 { 0x8000 } else { 0 }) | (((v.abs() as f32).to_bits() >> 13) - (112 << 10))
        }
    };
    let (a, b) = (|m: usize, k: usize| value(m * 16 + k), |k: usize, n: usize| value(1000 + n * 16 + k));
    let mut input = vec![];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for r in 0..4 {
            let (m, k) = (g + 8 * (r % 2), 2 * t + 8 * (r / 2));
            input.push(half(a(m, k)) | half(a(m, k + 1)) << 16);
        }
        for r in 0..2 {
            let k = 2 * t + 8 * r;
            input.push(half(b(k, g)) | half(b(k + 1, g)) << 16);
        }
    }
    let body = "\
mad.wide.u32 %rd5, %r1, 24, %rd1;
ld.global.v2.b32 {%r20,%r21}, [%rd5];
ld.global.v2.b32 {%r22,%r23}, [%rd5+8];
ld.global.v2.b32 {%r24,%r25}, [%rd5+16];
mov.f32 %f1, 0f3F000000;
mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f2,%f3,%f4,%f5}, {%r20,%r21,%r22,%r23}, {%r24,%r25}, {%f1,%f1,%f1,%f1};
mad.wide.u32 %rd5, %r1, 16, %rd2;
st.global.v4.f32 [%rd5], {%f2,%f3,%f4,%f5};";
    let (out, _) = run_with(body, &input, 128, (1, 32), &Options::default()).unwrap();
    for lane in 0..32 {
        for r in 0..4 {
            let (m, n) = (lane / 4 + 8 * (r / 2), lane % 4 * 2 + r % 2);
            let want: i32 = (0..16).map(|k| a(m, k) * b(k, n)).sum();
            assert_eq!(f32::from_bits(out[lane * 4 + r]), want as f32 + 0.5);
        }
    }
}
