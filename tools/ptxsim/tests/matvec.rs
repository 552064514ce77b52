//! A Q4_K matrix-vector product of the kind the project writes: right to the bit, at every seed, and profiled.

mod common;

use common::q4k::Product;
use ptxsim::Options;

#[test]
fn bits_do_not_depend_on_checks_seeds_or_threads() {
    let p = Product::new(18, 2304, 7);
    for (seed, threads) in [(0, 1), (0, 2), (1, 1), (2, 2), (3, 2)] {
        p.run(&Options { seed, threads, ..Options::strict() }).unwrap();
        assert_eq!(p.result(), p.want);
    }
    p.run(&Options::fast()).unwrap();
    assert_eq!(p.result(), p.want);
}

#[test]
fn the_profile_counts_sectors_and_executions() {
    let p = Product::new(4, 1024, 8);
    let report = p.run(&Options { profile: true, ..Options::default() }).unwrap();
    let text = include_str!("kernels/q4k_dp4a.ptx");
    let line = |needle: &str| text.lines().position(|l| l.contains(needle)).unwrap() as u32 + 1;
    let weights = report.lines[&line("{%r11, %r12")];
    assert_eq!((weights.executions, weights.requests, weights.lanes), (4, 4, 128));
    assert_eq!((weights.sectors, weights.ideal_sectors), (64, 64));
    // two loads of 16 bytes touch every sector of 32 twice
    let x = report.lines[&line("[%rd4+16]")];
    assert_eq!((x.sectors, x.ideal_sectors), (128, 64));
    assert_eq!(report.lines[&line("dp4a.u32.s32 %r24, %r25, %r23")].executions, 4);
    assert_eq!(report.lane_instructions, report.lines.values().map(|l| l.lanes).sum());
    assert_eq!(report.blocks, 1);
}

#[test]
fn bank_conflicts_are_counted() {
    let options = Options { profile: true, ..Options::default() };
    for (stride, conflicts) in [(4, 0), (8, 1), (16, 3), (0, 0)] {
        let body = format!("mul.lo.u32 %r3, %r1, {stride};\nld.shared.u32 %r4, [%r3];");
        let filled = format!(
            "st.shared.u32 [%r2], %r1;\nst.shared.u32 [%r2+128], %r1;\nst.shared.u32 [%r2+256], %r1;\nst.shared.u32 [%r2+384], %r1;\nbar.warp.sync 0xffffffff;\n{body}"
        );
        let (_, report) = common::run_with(&filled, &[0; 32], 1, (1, 32), &options).unwrap();
        assert_eq!(report.lines[&(common::BODY_LINE + 6)].bank_conflicts, conflicts, "stride {stride}");
    }
}
