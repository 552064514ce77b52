//! Each check is proved by a kernel that must fault, next to one that differs little and must not.

mod common;

use common::{BODY_LINE, fault, kernel, proves, run_with, u32_bytes, wrap};
use ptxsim::{Arg, Checks, FaultKind, Memory, Options, launch};

const WARP: (u32, u32) = (1, 32);
const FOUR_WARPS: (u32, u32) = (1, 128);

#[test]
fn out_of_bounds_names_line_block_warp_and_lanes() {
    let f = proves(
        FaultKind::OutOfBounds,
        (3, 64),
        "mov.u32 %r3, %ctaid.x;\nsetp.eq.u32 %p1, %r3, 2;\nsetp.eq.and.u32 %p2, %r1, 37, %p1;\n@%p2 ld.global.u32 %r4, [%rd1+1024];",
        "mov.u32 %r3, %ctaid.x;\nsetp.eq.u32 %p1, %r3, 2;\nsetp.eq.and.u32 %p2, %r1, 37, %p1;\n@%p2 ld.global.u32 %r4, [%rd1+1020];",
    );
    assert_eq!((f.line, f.block, f.warp, f.lanes), (BODY_LINE + 3, [2, 0, 0], 1, 1 << 5), "{f}");
    proves(FaultKind::OutOfBounds, WARP, "st.shared.u32 [%r2+1000], %r1;", "st.shared.u32 [%r2+896], %r1;");
    proves(FaultKind::OutOfBounds, WARP, "ld.global.u32 %r4, [%rd1+-4];", "ld.global.u32 %r4, [%rd1+4];");
    proves(FaultKind::OutOfBounds, WARP, "ld.param.u64 %rd5, [p_out+8];", "ld.param.u64 %rd5, [p_out];");
    proves(FaultKind::OutOfBounds, WARP, "mov.u64 %rd5, 0; ld.u32 %r4, [%rd5];", "ld.u32 %r4, [%rd1];");
}

#[test]
fn misaligned() {
    proves(FaultKind::Misaligned, WARP, "ld.global.u32 %r4, [%rd1+2];", "ld.global.u16 %h1, [%rd1+2];");
    proves(
        FaultKind::Misaligned,
        WARP,
        "ld.global.v4.u32 {%r4,%r5,%r6,%r7}, [%rd1+8];",
        "ld.global.v2.u32 {%r4,%r5}, [%rd1+8];",
    );
}

#[test]
fn registers_read_before_written() {
    let guarded =
        |by: &str| format!("setp.lt.u32 %p1, %r1, 16;\n@%p1 mov.u32 %r5, 1;\n{by} add.u32 %r6, %r5, 1;");
    let f = proves(FaultKind::UninitializedRegister, WARP, &guarded(""), &guarded("@%p1"));
    assert_eq!(f.lanes, 0xffff_0000);
    assert!(f.message.contains("%r5"), "{f}");
    proves(
        FaultKind::UninitializedRegister,
        WARP,
        "@%p1 mov.u32 %r5, 1;",
        "setp.eq.u32 %p1, 0, 1;\n@%p1 mov.u32 %r5, 1;",
    );
    proves(FaultKind::UninitializedRegister, WARP, "mov.b64 %rd7, %rd6;", "mov.b64 %rd7, %rd1;");
}

#[test]
fn memory_read_before_written() {
    let k = FaultKind::UninitializedMemory;
    proves(k, WARP, "ld.global.u32 %r4, [%rd2];", "ld.global.u32 %r4, [%rd1];");
    proves(
        k,
        WARP,
        "st.global.u8 [%rd4], %r1;\nld.global.u16 %h1, [%rd4];",
        "st.global.u8 [%rd4], %r1;\nld.global.u8 %h1, [%rd4];",
    );
    proves(
        k,
        WARP,
        "st.shared.u32 [%r2], %r1;\nld.shared.u32 %r4, [%r2+128];",
        "st.shared.u32 [%r2], %r1;\nld.shared.u32 %r4, [%r2];",
    );
    let local = |line: &str| format!(".local .align 8 .b8 spill[16];\nst.local.u32 [spill+4], %r1;\n{line}");
    proves(k, WARP, &local("ld.local.u32 %r4, [spill+8];"), &local("ld.local.u32 %r4, [spill+4];"));
    proves(
        FaultKind::OutOfBounds,
        WARP,
        &local("ld.local.u32 %r4, [spill+16];"),
        &local("ld.local.u32 %r4, [spill+4];"),
    );
}

#[test]
fn freed_and_read_only_memory() {
    let k = kernel(&wrap("st.global.u32 [%rd4], %r1;"));
    let mut m = Memory::new();
    let a = m.upload(&[0; 128]).unwrap();
    let b = m.upload(&[0; 128]).unwrap();
    let params = k.pack(&[Arg::U64(a), Arg::U64(b)]).unwrap();
    let go = |m: &Memory| launch(&k, m, [1; 3], [32, 1, 1], 0, &params, &Options::default());
    go(&m).unwrap();
    m.set_read_only(b).unwrap();
    assert_eq!(go(&m).unwrap_err().kind, FaultKind::ReadOnly);
    m.free(b).unwrap();
    assert_ne!(m.alloc(128).unwrap(), b);
    assert_eq!(go(&m).unwrap_err().kind, FaultKind::UseAfterFree);
    proves(
        FaultKind::ReadOnly,
        WARP,
        "cvta.param.u64 %rd5, %rd1;\nmov.u64 %rd5, p_in;\ncvta.param.u64 %rd5, %rd5;\nst.u32 [%rd5], %r1;",
        "st.u32 [%rd4], %r1;",
    );
}

#[test]
fn shared_races() {
    let k = FaultKind::SharedRace;
    let swap = |sync: &str| {
        format!(
            "st.shared.u32 [%r2], 0;\nbar.sync 2;\nst.shared.u32 [%r2], %r1;\n{sync}\nxor.b32 %r3, %r2, 128;\nld.shared.u32 %r4, [%r3];"
        )
    };
    let f = proves(k, FOUR_WARPS, &swap(""), &swap("bar.sync 0;"));
    assert!(f.message.contains("warp"), "{f}");
    // a barrier of the warp orders its lanes, not its neighbours
    let inside = |sync: &str| {
        format!("st.shared.u32 [%r2], %r1;\n{sync}\nxor.b32 %r3, %r2, 4;\nld.shared.u32 %r4, [%r3];")
    };
    proves(k, FOUR_WARPS, &inside(""), &inside("bar.warp.sync 0xffffffff;"));
    proves(k, FOUR_WARPS, &swap("bar.warp.sync 0xffffffff;"), &swap("barrier.sync 0, 128;"));
    // a shuffle brings lanes together but orders no memory
    proves(
        k,
        WARP,
        &inside("shfl.sync.bfly.b32 %r7, %r1, 1, 31, 0xffffffff;"),
        &inside("bar.warp.sync 0xffffffff;"),
    );
    proves(k, WARP, "st.shared.u32 [sm], %r1;", "setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [sm], %r1;");
    // write after read
    let reuse = |sync: &str| {
        format!(
            "st.shared.u32 [%r2], %r1;\nbar.sync 0;\nxor.b32 %r3, %r2, 128;\nld.shared.u32 %r4, [%r3];\n{sync}\nst.shared.u32 [%r2], %r4;"
        )
    };
    proves(k, FOUR_WARPS, &reuse(""), &reuse("bar.sync 1;"));
    // bytes of one word are apart
    proves(k, WARP, "shr.u32 %r3, %r1, 1;\nst.shared.u8 [%r3], %r1;", "st.shared.u8 [%r1], %r1;");
    // atomics may meet; an atomic and a plain write may not be told apart from a race without a barrier
    proves(
        k,
        WARP,
        "st.shared.u32 [sm], 0;",
        "setp.eq.u32 %p1, %r1, 0;\n@%p1 st.shared.u32 [sm], 0;\nbar.warp.sync 0xffffffff;\nred.shared.add.u32 [sm], 1;",
    );
}

#[test]
fn global_races_between_blocks_and_warps() {
    let k = FaultKind::GlobalRace;
    proves(
        k,
        (2, 32),
        "st.global.u32 [%rd4], %r1;",
        "mov.u32 %r3, %ctaid.x;\nmul.wide.u32 %rd5, %r3, 128;\nadd.u64 %rd4, %rd4, %rd5;\nst.global.u32 [%rd4], %r1;",
    );
    // one block reads what another writes
    let exchange = |access: &str| {
        format!(
            "mov.u32 %r3, %ctaid.x;\nsetp.eq.u32 %p1, %r3, 0;\n@%p1 st.global.u32 [%rd3], %r1;\n@!%p1 {access};"
        )
    };
    proves(k, (2, 32), &exchange("ld.global.u32 %r4, [%rd3]"), &exchange("ld.global.u32 %r4, [%rd3+512]"));
    // one block writes what another has read
    let overwrite = |at: u32| {
        format!(
            "mov.u32 %r3, %ctaid.x;\nsetp.eq.u32 %p1, %r3, 0;\n@%p1 ld.global.u32 %r4, [%rd3];\n@!%p1 st.global.u32 [%rd3+{at}], %r1;"
        )
    };
    proves(k, (2, 32), &overwrite(0), &overwrite(512));
    // warps of one block through global memory
    let swap = |sync: &str| format!("st.global.u32 [%rd4], %r1;\n{sync}\nld.global.u32 %r4, [%rd2+12];");
    proves(k, FOUR_WARPS, &swap(""), &swap("bar.sync 0;"));
    proves(k, (4, 32), "st.global.u32 [%rd2], %r1;", "red.global.add.u32 [%rd1], %r1;");
}

/// Block 0 passes a value to block 1 through a flag; the pieces are the writer's and the reader's order.
fn message_passing(release: &str, raise: &str, poll: &str, acquire: &str) -> String {
    format!(
        "\
setp.ne.u32 %p7, %r1, 0;
@%p7 bra END;
mov.u32 %r3, %ctaid.x;
setp.eq.u32 %p1, %r3, 0;
@%p1 bra WRITER;
WAIT:
{poll} %r4, [%rd1];
setp.ne.u32 %p2, %r4, 8;
@%p2 bra WAIT;
{acquire}
ld.global.u32 %r5, [%rd2];
st.global.u32 [%rd2+4], %r5;
bra END;
WRITER:
st.global.u32 [%rd2], 42;
{release}
{raise};
END:
"
    )
}

#[test]
fn a_flag_orders_only_with_fences() {
    let cooperative = Options { cooperative: true, threads: 1, ..Options::default() };
    let go = |body: &str, options: &Options| run_with(body, &[7; 256], 256, (2, 32), options);
    let red = "red.global.add.u32 [%rd1], 1";
    let right = message_passing("membar.gl;", red, "ld.volatile.global.u32", "membar.gl;");
    for seed in 0..6 {
        let options = Options { seed, ..cooperative.clone() };
        assert_eq!(go(&right, &options).unwrap().0[1], 42);
        let two = Options { threads: 2, ..options.clone() };
        assert_eq!(go(&right, &two).unwrap().0[1], 42);
    }
    let modern =
        message_passing("", "red.release.gpu.global.add.u32 [%rd1], 1", "ld.acquire.gpu.global.u32", "");
    assert_eq!(go(&modern, &cooperative).unwrap().0[1], 42);
    for (release, acquire) in [("", "membar.gl;"), ("membar.gl;", ""), ("membar.cta;", "membar.gl;")] {
        let wrong = message_passing(release, red, "ld.relaxed.gpu.global.u32", acquire);
        let f = go(&wrong, &cooperative).unwrap_err();
        assert_eq!(f.kind, FaultKind::GlobalRace, "{release} {acquire}: {f}");
    }
    // polling with a plain load is a race of its own
    let plain = message_passing("membar.gl;", red, "ld.global.u32", "membar.gl;");
    let seeded = Options { seed: 3, ..cooperative.clone() };
    assert_eq!(go(&plain, &seeded).unwrap_err().kind, FaultKind::GlobalRace);
    // blocks that are not resident together must not wait for each other
    let alone = Options { seed: 1, threads: 1, ..Options::default() };
    let kinds: Vec<_> =
        (1..6).map(|seed| go(&right, &Options { seed, ..alone.clone() }).map_err(|f| f.kind)).collect();
    assert!(kinds.iter().any(|k| matches!(k, Err(FaultKind::Deadlock))), "{kinds:?}");
}

/// Every block adds its number, all wait for all, every block reads the sum of the phase; twice.
fn grid_barrier(fence: &str) -> String {
    format!(
        "\
mov.u32 %r20, %ctaid.x;
mov.u32 %r21, %nctaid.x;
mul.wide.u32 %rd5, %r20, 4;
add.u64 %rd6, %rd2, %rd5;
mov.u32 %r22, 0;
PHASE:
setp.eq.u32 %p1, %r1, 0;
add.u32 %r23, %r20, %r22;
@%p1 st.global.u32 [%rd6], %r23;
bar.sync 0;
@!%p1 bra JOIN;
{fence}
red.global.add.u32 [%rd1], 1;
add.u32 %r24, %r22, 1;
mad.lo.u32 %r24, %r24, %r21, 7;
SPIN:
ld.volatile.global.u32 %r25, [%rd1];
setp.lt.u32 %p2, %r25, %r24;
@%p2 bra SPIN;
{fence}
JOIN:
bar.sync 0;
mov.u32 %r26, 0;
mov.u32 %r27, 0;
mov.u64 %rd7, %rd2;
SUM:
ld.global.u32 %r28, [%rd7];
add.u32 %r26, %r26, %r28;
add.u64 %rd7, %rd7, 4;
add.u32 %r27, %r27, 1;
setp.lt.u32 %p3, %r27, %r21;
@%p3 bra SUM;
bar.sync 0;
@!%p1 bra JOIN2;
{fence}
red.global.add.u32 [%rd1+4], 1;
SPIN2:
ld.volatile.global.u32 %r25, [%rd1+4];
setp.lt.u32 %p2, %r25, %r24;
@%p2 bra SPIN2;
{fence}
JOIN2:
bar.sync 0;
add.u32 %r22, %r22, 1;
setp.lt.u32 %p3, %r22, 2;
@%p3 bra PHASE;
@%p1 st.global.u32 [%rd6+256], %r26;
"
    )
}

#[test]
fn cooperative_grids_synchronize() {
    for (seed, threads) in [(0, 1), (0, 2), (1, 1), (2, 2), (3, 1)] {
        let options = Options { cooperative: true, seed, threads, ..Options::default() };
        let (out, _) = run_with(&grid_barrier("membar.gl;"), &[7; 256], 256, (16, 96), &options).unwrap();
        // the second phase: each block leaves its number plus one
        assert_eq!(out[64..80], [136; 16]);
    }
    let options = Options { cooperative: true, threads: 1, ..Options::default() };
    let f = run_with(&grid_barrier(""), &[7; 256], 256, (16, 96), &options).unwrap_err();
    assert_eq!(f.kind, FaultKind::GlobalRace);
}

#[test]
fn what_nc_reads_must_not_be_written() {
    let k = FaultKind::NonCoherent;
    let both = |at: u32| {
        format!(
            "ld.global.nc.u32 %r4, [%rd1];\nbar.sync 0;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 st.global.u32 [%rd1+{at}], %r4;"
        )
    };
    proves(k, WARP, &both(0), &both(512));
    let after = |load: &str| format!("st.global.u32 [%rd3], %r1;\n{load} %r4, [%rd3];");
    proves(k, WARP, &after("ld.global.nc.u32"), &after("ld.global.u32"));
}

#[test]
fn barriers() {
    let half = |label: &str| {
        format!("setp.lt.u32 %p1, %r1, 16;\n@%p1 bra A;\nbar.sync 0;\nbra {label};\nA:\nbar.sync 0;\nB:")
    };
    let f = proves(
        FaultKind::DivergentBarrier,
        WARP,
        &half("B"),
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra A;\nadd.u32 %r3, %r1, 1;\nA:\nbar.sync 0;",
    );
    assert!([BODY_LINE + 2, BODY_LINE + 5].contains(&f.line), "{f}");
    proves(
        FaultKind::DivergentBarrier,
        WARP,
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 bar.sync 0;",
        "setp.lt.u32 %p1, %r1, 32;\n@%p1 bar.sync 0;",
    );
    let apart = |id: u32| {
        format!("setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 0;\nbra B;\nA:\nbar.sync {id};\nB:")
    };
    proves(FaultKind::MismatchedBarrier, (1, 64), &apart(1), &apart(0));
    proves(
        FaultKind::MismatchedBarrier,
        (1, 64),
        "setp.lt.u32 %p1, %r1, 32;\n@%p1 ret;\nbar.sync 0;",
        "setp.lt.u32 %p1, %r1, 32;\n@%p1 ret;\nbar.sync 0, 32;",
    );
    let counted = |n: u32| format!("mov.u32 %r3, {n};\nbar.sync 1, %r3;");
    proves(FaultKind::MismatchedBarrier, (1, 64), &counted(40), &counted(64));
    proves(
        FaultKind::Deadlock,
        (1, 64),
        "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nbar.sync 1, 64;\nA:",
        "bar.sync 1, 64;",
    );
    // producer and consumer
    proves(
        FaultKind::SharedRace,
        (1, 64),
        "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nst.shared.u32 [%r2], %r1;\nbar.arrive 2, 64;\nbra B;\nA:\nld.shared.u32 %r3, [%r2];\nbar.sync 2, 64;\nB:"
            .replace("ld.shared.u32 %r3, [%r2]", "st.shared.u32 [%r2+128], %r1")
            .as_str(),
        "setp.lt.u32 %p1, %r1, 32;\n@%p1 bra A;\nst.shared.u32 [%r2], %r1;\nbar.arrive 2, 64;\nbra B;\nA:\nbar.sync 2, 64;\nld.shared.u32 %r3, [%r2+128];\nB:",
    );
}

#[test]
fn lanes_and_warps_that_wait_for_ever() {
    let f = fault(
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra A;\nbar.warp.sync 0xffffffff;\nbra B;\nA:\nbar.warp.sync 0xffffffff;\nB:",
        WARP,
    );
    assert_eq!(f.kind, FaultKind::Deadlock, "{f}");
    let spin = |by: &str| {
        format!(
            "st.global.u32 [%rd4], %r1;\n{by}\nL:\nld.volatile.global.u32 %r4, [%rd1];\nsetp.ne.u32 %p1, %r4, 8;\n@%p1 bra L;"
        )
    };
    proves(
        FaultKind::Deadlock,
        WARP,
        &spin(""),
        &spin("setp.eq.u32 %p2, %r1, 0;\n@%p2 red.global.add.u32 [%rd1], 1;"),
    );
    let options = Options { max_instructions: 10_000, ..Options::default() };
    let f = run_with("L:\nadd.u32 %r3, %r1, 1;\nbra L;", &[0; 32], 32, WARP, &options).unwrap_err();
    assert_eq!(f.kind, FaultKind::Limit, "{f}");
    assert_eq!(fault("trap;", WARP).kind, FaultKind::Trap);
}

#[test]
fn member_masks() {
    let k = FaultKind::MemberMask;
    let halves = |mask: &str| {
        format!("setp.lt.u32 %p1, %r1, 16;\n@!%p1 bra A;\nshfl.sync.bfly.b32 %r3, %r1, 1, 31, {mask};\nA:")
    };
    let f = proves(k, WARP, &halves("0x00ff"), &halves("0xffff"));
    assert_eq!(f.lanes, 0xff00);
    proves(
        k,
        WARP,
        "setp.lt.u32 %p1, %r1, 16;\n@!%p1 ret;\nvote.sync.ballot.b32 %r3, %p1, 0xffffffff;",
        "setp.lt.u32 %p1, %r1, 16;\n@!%p1 ret;\nvote.sync.ballot.b32 %r3, %p1, 0xffff;",
    );
    proves(
        k,
        WARP,
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 redux.sync.add.u32 %r3, %r1, 0xffffffff;",
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 redux.sync.add.u32 %r3, %r1, 0xffff;",
    );
    proves(
        k,
        WARP,
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 shfl.sync.bfly.b32 %r3, %r1, 16, 31, 0xffff;",
        "setp.lt.u32 %p1, %r1, 16;\n@%p1 shfl.sync.bfly.b32 %r3, %r1, 8, 31, 0xffff;",
    );
    proves(
        k,
        WARP,
        "and.b32 %r3, %r1, 1;\nadd.u32 %r3, %r3, 0xfffffffe;\nbar.warp.sync %r3;",
        "mov.u32 %r3, -1;\nbar.warp.sync %r3;",
    );
}

#[test]
fn async_copies_need_their_wait() {
    let copy = |wait: &str, load: &str| {
        format!(
            "shl.b32 %r3, %r1, 2;\ncp.async.ca.shared.global [%r3], [%rd3], 4;\ncp.async.commit_group;\n{wait}\n{load}"
        )
    };
    let own = "ld.shared.u32 %r4, [%r3];";
    proves(FaultKind::AsyncCopy, WARP, &copy("", own), &copy("cp.async.wait_group 0;", own));
    proves(
        FaultKind::AsyncCopy,
        WARP,
        &copy("cp.async.wait_group 1;", own),
        &copy("cp.async.wait_all;", own),
    );
    let other = "xor.b32 %r5, %r3, 4;\nld.shared.u32 %r4, [%r5];";
    proves(
        FaultKind::SharedRace,
        WARP,
        &copy("cp.async.wait_group 0;", other),
        &copy("cp.async.wait_group 0;\nbar.sync 0;", other),
    );
    proves(
        FaultKind::AsyncCopy,
        WARP,
        &copy("", "st.shared.u32 [%r3], %r1;"),
        &copy("cp.async.wait_all;", "st.shared.u32 [%r3], %r1;"),
    );
    proves(
        FaultKind::OutOfBounds,
        WARP,
        &copy("", "").replace("[%rd3]", "[%rd3+1000]"),
        &copy("", "").replace("[%rd3]", "[%rd3+896]"),
    );
}

#[test]
fn contraction_is_reported_when_asked_for() {
    let strict = Options::strict();
    let go = |body: &str| run_with(body, &[7; 256], 256, WARP, &strict).map(|_| ()).map_err(|f| f.kind);
    let with = |op: &str| format!("mov.f32 %f1, 0f3F800000;\n{op} %f2, %f1, %f1;");
    for op in ["mul", "add", "sub"] {
        assert_eq!(go(&with(&format!("{op}.f32"))), Err(FaultKind::Contraction));
        assert_eq!(go(&with(&format!("{op}.ftz.f32"))), Err(FaultKind::Contraction));
        assert_eq!(go(&with(&format!("{op}.rn.f32"))), Ok(()));
    }
    assert_eq!(go(&with("min.f32")), Ok(()));
    let k = kernel(&wrap(&with("mul.f32")));
    assert_eq!(k.contraction_hazards(), [BODY_LINE + 1]);
    assert!(kernel(&wrap(&with("mul.rn.f32"))).contraction_hazards().is_empty());
}

#[test]
fn a_dependent_launch_must_wait_before_it_touches_results() {
    let writer = kernel(&wrap("st.global.u32 [%rd4], %r1;"));
    let early = kernel(&wrap("ld.global.u32 %r3, [%rd3];\ngriddepcontrol.wait;"));
    let late =
        kernel(&wrap("griddepcontrol.launch_dependents;\ngriddepcontrol.wait;\nld.global.u32 %r3, [%rd3];"));
    let overwrites = kernel(&wrap("st.global.u32 [%rd4], %r1;\ngriddepcontrol.wait;"));
    let mut m = Memory::new();
    let a = m.upload(&u32_bytes(&[1; 32])).unwrap();
    let b = m.alloc(128).unwrap();
    let c = m.alloc(128).unwrap();
    let dependent = Options { dependent: true, ..Options::default() };
    let go = |k: &ptxsim::Kernel, from: u64, to: u64, o: &Options| {
        let params = k.pack(&[Arg::U64(from), Arg::U64(to)]).unwrap();
        launch(k, &m, [1; 3], [32, 1, 1], 0, &params, o).map(|_| ()).map_err(|f| f.kind)
    };
    assert_eq!(go(&writer, a, b, &Options::default()), Ok(()));
    assert_eq!(go(&late, b, c, &dependent), Ok(()));
    assert_eq!(go(&early, a, c, &dependent), Ok(()));
    assert_eq!(go(&early, b, c, &dependent), Err(FaultKind::DependentLaunch));
    assert_eq!(go(&overwrites, a, b, &dependent), Err(FaultKind::DependentLaunch));
    // Who ends without waiting lets the next launch overtake the one before.
    assert_eq!(go(&writer, a, c, &dependent), Err(FaultKind::DependentLaunch));
    assert_eq!(go(&early, b, c, &Options::default()), Ok(()));
    assert_eq!(go(&writer, a, b, &Options::default()), Ok(()));
    m.synchronize();
    assert_eq!(go(&early, b, c, &dependent), Ok(()));
}

/// An assembler may move a load through `.nc` in front of the wait, since nothing that it is told orders the two.
#[test]
fn a_dependent_launch_reads_results_coherently() {
    let writer = kernel(&wrap("griddepcontrol.wait;\nst.global.u32 [%rd4], %r1;"));
    let reader = kernel(&wrap("griddepcontrol.wait;\nld.global.nc.u32 %r3, [%rd3];"));
    let mut m = Memory::new();
    let [a, b, c] = [1, 2, 3].map(|value| m.upload(&u32_bytes(&[value; 32])).unwrap());
    let go = |k: &ptxsim::Kernel, from: u64, to: u64, dependent: bool| {
        let params = k.pack(&[Arg::U64(from), Arg::U64(to)]).unwrap();
        let options = Options { dependent, ..Options::default() };
        launch(k, &m, [1; 3], [32, 1, 1], 0, &params, &options).map(|_| ()).map_err(|f| f.kind)
    };
    assert_eq!(go(&writer, a, b, false), Ok(()));
    assert_eq!(go(&reader, b, c, true), Err(FaultKind::DependentLaunch));
    assert_eq!(go(&reader, a, c, true), Ok(()));
    assert_eq!(go(&reader, b, c, false), Ok(()));
    assert_eq!(go(&reader, b, c, true), Ok(()));
}

/// Whoever waits for a launch that has not waited itself knows nothing of the launches before that one.
#[test]
fn a_dependent_launch_waits_before_it_ends() {
    let m = Memory::new();
    let options = |dependent| Options { dependent, ..Options::default() };
    for (body, dependent, expected) in [
        ("griddepcontrol.launch_dependents;", true, Err(FaultKind::DependentLaunch)),
        ("griddepcontrol.launch_dependents;", false, Ok(())),
        ("griddepcontrol.wait;", true, Ok(())),
    ] {
        let k = kernel(&wrap(body));
        let params = k.pack(&[Arg::U64(0), Arg::U64(0)]).unwrap();
        let found = launch(&k, &m, [1; 3], [32, 1, 1], 0, &params, &options(dependent));
        assert_eq!(found.map(|_| ()).map_err(|f| f.kind), expected, "{body}");
    }
}

#[test]
fn launches_that_no_device_takes() {
    let k = kernel(&wrap(""));
    let m = Memory::new();
    let params = k.pack(&[Arg::U64(0), Arg::U64(0)]).unwrap();
    let go = |grid, block, shared, params: &[u8]| {
        launch(&k, &m, grid, block, shared, params, &Options::default()).map(|_| ()).map_err(|f| f.kind)
    };
    assert_eq!(go([1; 3], [32, 1, 1], 0, &params), Ok(()));
    assert_eq!(go([1; 3], [32, 32, 2], 0, &params), Err(FaultKind::Launch));
    assert_eq!(go([0, 1, 1], [32, 1, 1], 0, &params), Err(FaultKind::Launch));
    assert_eq!(go([1; 3], [32, 1, 1], 300 << 10, &params), Err(FaultKind::Launch));
    assert_eq!(go([1; 3], [32, 1, 1], 0, &params[1..]), Err(FaultKind::Launch));
    assert_eq!(k.pack(&[Arg::U64(0)]).unwrap_err().kind, FaultKind::Launch);
    assert_eq!(k.pack(&[Arg::U64(0), Arg::U32(0)]).unwrap_err().kind, FaultKind::Launch);
}

#[test]
fn checks_can_be_switched_off() {
    let body = "ld.shared.u32 %r4, [%r2];\nadd.u32 %r5, %r6, 1;\nst.shared.u32 [sm], %r1;\nst.global.u32 [%rd2], %r1;";
    let off = Options { checks: Checks::NONE, ..Options::default() };
    assert!(run_with(body, &[7; 256], 256, (4, 64), &off).is_ok());
    assert!(run_with(body, &[7; 256], 256, (4, 64), &Options::default()).is_err());
}
