//! What is refused, with its line; what is understood; where lines come from.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::allow_attributes,
    reason = "helpers of a test file count as production code to these lints"
)]

mod common;

use common::{BODY_LINE, fault, kernel, run, wrap};
use ptxsim::Module;

/// The message about a body that must be refused; the mistake stands on its second line.
fn refused(second_line: &str) -> String {
    let text = wrap(&format!("mov.u32 %r3, 0;\n{second_line}"));
    let e = Module::parse(&text).expect_err(second_line);
    assert_eq!(e.line, BODY_LINE + 1, "{second_line}: {e}");
    e.message
}

#[test]
fn whatever_is_not_simulated_is_an_error_with_its_line() {
    for line in [
        "wgmma.fence.sync.aligned;",
        "mbarrier.init.shared.b64 [sm], 1;",
        "call foo;",
        "add.u32.x %r3, %r3, 1;",
        "add.rn.u32 %r3, %r3, 1;",
        "add.f32x2 %r3, %r3, %r3;",
        "ld.global.v3.u32 {%r3,%r4,%r5}, [%rd1];",
        "ld.shared.nc.u32 %r3, [%r2];",
        "fma.f32 %f1, %f2, %f3, %f4;",
        "cvt.rn.f32.f16 %f1, %h1;",
        "cvt.f16.f32 %h1, %f1;",
        "cvt.u32.f32 %r3, %f1;",
        "cvt.rn.satfinite.e4m3x2.f32 %h1, %f1, %f2;",
        "setp.u32 %p1, %r3, 1;",
        "shl.u32 %r3, %r3, 1;",
        "shfl.bfly.b32 %r3, %r3, 1, 31;",
        "atom.global.add.f16 %h1, [%rd1], %h2;",
        "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%r3,%r4}, {%r5,%r6,%r7,%r8}, {%r9,%r10}, {%r3,%r4};",
        "ex2.f32 %f1, %f2;",
        "fence.acq_rel;",
        "bar.red.popc.u32 %r3, 0, %p1;",
        "cp.async.cg.shared.global [%r2], [%rd1], 8;",
        "griddepcontrol.go;",
    ] {
        refused(line);
    }
}

#[test]
fn operands_must_fit_the_type() {
    assert!(refused("mov.u32 %rd5, 5;").contains("64 bits"));
    assert!(refused("add.u64 %rd5, %rd5, %r3;").contains("32"));
    assert!(refused("add.u32 %r3, %r99, 1;").contains("not declared"));
    assert!(refused("add.u32 %r3, %r4;").contains("operands"));
    assert!(refused("add.u16 %h1, %r3, %h2;").contains("32"));
    assert!(refused("ld.global.u32 %h1, [%rd1];").contains("16"));
    assert!(refused("ld.global.u32 %r3, [%r4];").contains("64"));
    assert!(refused("add.u32 %p1, %r3, 1;").contains("predicate"));
    assert!(refused("@%r3 add.u32 %r3, %r3, 1;").contains("predicate"));
    assert!(refused("add.rn.f32 %f1, %f2, 1;").contains("integer"));
    assert!(refused("bra NOWHERE;").contains("NOWHERE"));
    assert!(refused("mov.u32 %r3, @;").contains("operand"));
}

/// As ptxas has it: a label is seen inside its braces only, and an inner one hides an outer one.
#[test]
fn labels_belong_to_their_braces() {
    let twice =
        "{\nbra DONE;\nmov.u32 %r3, 1;\nDONE:\n}\n{\nbra DONE;\nmov.u32 %r3, 1;\nDONE:\nbra OUT;\n}\nOUT:";
    assert!(Module::parse(&wrap(twice)).is_ok());
    let refused = |body: &str| Module::parse(&wrap(body)).unwrap_err().to_string();
    assert!(refused("{\nINSIDE:\nmov.u32 %r3, 1;\n}\nbra INSIDE;").contains("no label 'INSIDE'"));
    assert!(refused("A:\nmov.u32 %r3, 1;\nA:").contains("twice"));

    // From inside the braces the inner label is the nearer one: the store between it and the outer one runs.
    let body = "{\nmov.u32 %r3, 7;\nbra NEXT;\nst.global.u32 [%rd1+4], %r3;\nNEXT:\nst.global.u32 [%rd1], %r3;\n}\nNEXT:";
    let k = kernel(&wrap(body));
    let mut m = ptxsim::Memory::new();
    let a = m.upload(&[0; 8]).unwrap();
    let params = k.pack(&[ptxsim::Arg::U64(a), ptxsim::Arg::U64(a)]).unwrap();
    ptxsim::launch(&k, &m, [1; 3], [1, 1, 1], 0, &params, &Default::default()).unwrap();
    assert_eq!(m.download(a, 8).unwrap(), [7, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn text_that_is_no_module() {
    for text in [
        "",
        ".version 8.0\n",
        ".version 8.0\n.target sm_80\n.visible .entry k( {",
        ".version 8.0\n.target sm_80\n.func f() { ret; }",
        ".version 8.0\n.target sm_80\n.address_size 32\n",
        ".version 8.0\n.target sm_80\n.visible .entry k() { .reg .b32 %r<9999999999>; ret; }",
        ".version 8.0\n.target sm_80\n.visible .entry k() { /* ",
        ".version 8.0\n.target sm_80\n.visible .entry k() { mov.u32 0q1, 2; }",
        "\u{fffd}",
        "\"",
    ] {
        assert!(Module::parse(text).is_err(), "{text:?}");
    }
    // whatever is cut off is refused, not a panic
    let text = include_str!("kernels/q4k_dp4a.ptx");
    for end in (0..text.len()).step_by(97) {
        let _ = Module::parse(&text[..end]);
    }
}

#[test]
fn lines_of_an_include_are_reported() {
    let text = wrap(
        "#line 7 \"shared/load.ptx\"\nmov.u32 %r3, 1;\nld.global.u32 %r3, [%rd1+2];\n#line 40 \"q4k.ptx\"\nmov.u32 %r4, 1;",
    );
    let k = kernel(&text);
    let mut m = ptxsim::Memory::new();
    let a = m.upload(&[0; 512]).unwrap();
    let params = k.pack(&[ptxsim::Arg::U64(a), ptxsim::Arg::U64(a)]).unwrap();
    let f = ptxsim::launch(&k, &m, [1; 3], [32, 1, 1], 0, &params, &Default::default()).unwrap_err();
    assert_eq!(f.source.as_ref().map(|s| (&*s.file, s.line)), Some(("shared/load.ptx", 8)), "{f}");
    assert!(f.to_string().contains("shared/load.ptx:8"), "{f}");
    let bad = text.replace("mov.u32 %r4, 1;", "mov.u33 %r4, 1;");
    let e = Module::parse(&bad).unwrap_err();
    assert_eq!(e.source.map(|s| (s.file.to_string(), s.line)), Some(("q4k.ptx".into(), 40)));
}

#[test]
fn special_registers_and_scopes() {
    let ids = (0..32).collect::<Vec<u32>>();
    assert_eq!(run("mov.u32 %r10, %laneid;", &[0; 32]), ids);
    assert_eq!(run("mov.u32 %r10, %lanemask_lt;", &[0; 32])[5], 31);
    assert_eq!(run("mov.u32 %r10, %lanemask_ge;", &[0; 32])[5], !31);
    assert_eq!(
        run("mov.u32 %r3, 7;\n{ .reg .b32 %r<8>;\nmov.u32 %r3, 9; }\nmov.u32 %r10, %r3;", &[0; 32]),
        [7; 32]
    );
    assert_eq!(run("mov.u32 %r10, sm+12;", &[0; 32]), [12; 32]);
}

#[test]
fn constants_and_dynamic_shared_memory() {
    let text = "\
.version 8.0
.target sm_80
.address_size 64
.const .align 4 .b8 table[8] = {10, 20, 30, 40, 250, 6, 7, 8};
.extern .shared .align 16 .b8 dynamic[];
.visible .entry k(.param .u64 p_out)
{
.reg .b32 %r<8>;
.reg .b64 %rd<8>;
.shared .align 4 .b8 fixed[20];
ld.param.u64 %rd1, [p_out];
mov.u32 %r1, %tid.x;
cvt.u64.u32 %rd2, %r1;
mov.u64 %rd3, table;
add.u64 %rd3, %rd3, %rd2;
ld.const.s8 %r2, [%rd3];
mov.u32 %r3, dynamic;
add.u32 %r4, %r3, %r1;
st.shared.u8 [%r4], %r2;
ld.shared.u8 %r5, [%r4];
ld.const.u8 %r6, [table+1];
mad.lo.u32 %r5, %r6, 1000, %r5;
mad.lo.u32 %r5, %r3, 1000000, %r5;
mul.wide.u32 %rd2, %r1, 4;
add.u64 %rd1, %rd1, %rd2;
st.global.u32 [%rd1], %r5;
ret;
}
";
    let k = kernel(text);
    let mut m = ptxsim::Memory::new();
    let out = m.alloc(32).unwrap();
    let params = k.pack(&[ptxsim::Arg::U64(out)]).unwrap();
    let go = |dynamic| ptxsim::launch(&k, &m, [1; 3], [8, 1, 1], dynamic, &params, &Default::default());
    go(8).unwrap();
    let got = common::download_u32(&m, out, 8);
    assert_eq!(got, [10u32, 20, 30, 40, 250, 6, 7, 8].map(|v| 32_000_000 + 20_000 + v));
    assert_eq!(go(7).unwrap_err().kind, ptxsim::FaultKind::OutOfBounds);
    assert_eq!(fault("st.global.u32 [%rd4+8192], %r1;", (1, 32)).kind, ptxsim::FaultKind::OutOfBounds);
}

/// Text with bytes changed and lines moved is refused or runs to an end: it never brings the simulator down.
#[test]
fn damaged_text_is_no_panic() {
    let mut noise = common::Noise(11);
    let texts =
        [include_str!("kernels/q4k_dp4a.ptx"), include_str!("compiled/kernels.ptx"), &wrap("bar.sync 0;")];
    let options = ptxsim::Options {
        max_instructions: 2_000,
        threads: 1,
        checks: ptxsim::Checks::NONE,
        ..Default::default()
    };
    let mut ran = 0;
    for round in 0..400 {
        let text = texts[round % 3];
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for _ in 0..1 + noise.next() % 3 {
            let (a, b) = (noise.next() as usize % lines.len(), noise.next() as usize % lines.len());
            match noise.next() % 3 {
                0 => lines.swap(a, b),
                1 => lines[a] = lines[b].clone(),
                _ => {
                    let mut bytes = lines[a].clone().into_bytes();
                    if !bytes.is_empty() {
                        let at = noise.next() as usize % bytes.len();
                        let marks = b"0123456789{}[]()<>%,;.|@!+-_:axv\"#";
                        bytes[at] = marks[noise.next() as usize % marks.len()];
                    }
                    lines[a] = String::from_utf8(bytes).unwrap();
                }
            }
        }
        let Ok(module) = Module::parse(&lines.join("\n")) else { continue };
        for k in module.kernels() {
            let mut memory = ptxsim::Memory::new();
            let at = memory.upload(&[1; 4096]).unwrap();
            let params: Vec<u8> = at.to_le_bytes().into_iter().cycle().take(k.param_size()).collect();
            let _ = ptxsim::launch(k, &memory, [2, 1, 1], [64, 1, 1], 64, &params, &options);
            ran += 1;
        }
    }
    assert!(ran > 100);
    let _ = Module::parse(&format!(
        ".version 8.0\n.target sm_80\n.visible .entry k() {{ add.u32 {} }}",
        "{".repeat(100_000)
    ));
}
