//! How a 32-column block of a panel becomes 8 x 64 bytes and its scales: one small type per layout.
//!
//! The arrangement is `panel`'s: vector `g` of a block holds columns `4 g .. 4 g + 4` of 16 rows.

use super::lanes::Lanes;

/// What the scales of a block are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scales {
    /// A float per block of 32, in the tail.
    One,
    /// A float and a minimum per block of 32, at the start of the body.
    WithMinimum,
    /// Two floats per super-block, and a scale and a minimum of 6 bits per block.
    SixBit,
    /// A float per super-block, in the tail, and a signed byte per 16 columns.
    Halves,
}

/// What is subtracted from the stored integers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Offset {
    None,
    /// 2 to this power.
    Power(u32),
    /// 128: the integers take the whole byte.
    Whole,
}

/// A layout of weights.
pub(super) trait Format {
    /// Bytes of a unit's body and tail.
    const BODY: usize;
    const TAIL: usize;
    /// Blocks of 32 columns in a unit.
    const BLOCKS: usize;
    const SCALES: Scales;
    const OFFSET: Offset;
    /// The stored integers of block `s` of a unit; `one_token`: for a tile of one.
    fn integers<L: Lanes>(l: L, body: &[u8], s: usize, one_token: bool) -> [L::B; 8];
}

/// `N` bytes at `offset`; zeros where the slice is too short, which no caller lets happen.
#[inline(always)]
pub(super) fn at<const N: usize>(bytes: &[u8], offset: usize) -> &[u8; N] {
    match bytes.get(offset..).and_then(|b| b.first_chunk()) {
        Some(chunk) => chunk,
        None => &[0; N],
    }
}

/// Low four bits (`high` 0) or high four bits (`high` 1) of bytes.
#[inline(always)]
fn nibbles<L: Lanes>(l: L, v: L::B, high: usize) -> L::B {
    if high == 0 { l.and(v, 15) } else { l.and(l.shr(v, 4), 15) }
}

/// Bit `bit` of each byte, moved to bit 4.
#[inline(always)]
fn fifth_bit<L: Lanes>(l: L, v: L::B, bit: usize) -> L::B {
    if bit < 4 { l.and(l.shl(v, 4 - bit as u32), 16) } else { l.and(l.shr(v, bit as u32 - 4), 16) }
}

/// The integers of a 32-block: nibbles at `qs`, columns 0..16 in the low halves, 16..32 in the high ones.
#[inline(always)]
fn block_of_nibbles<L: Lanes>(l: L, body: &[u8], qs: usize) -> [L::B; 8] {
    let mut w = [l.load_bytes(at(body, qs)); 8];
    for g in 0..4 {
        let v = l.load_bytes(at(body, qs + 64 * g));
        w[g] = nibbles(l, v, 0);
        w[g + 4] = nibbles(l, v, 1);
    }
    w
}

/// Adds the fifth bits, transposed, at `qh`.
#[inline(always)]
fn with_fifth_bits<L: Lanes>(l: L, body: &[u8], qh: usize, mut w: [L::B; 8]) -> [L::B; 8] {
    let high = l.load_bytes(at(body, qh));
    for g in 0..8 {
        w[g] = l.or(w[g], fifth_bit(l, high, g));
    }
    w
}

/// The same without a branch, where `high` is not known to the compiler: with one token a shift by nothing costs less than
/// the eight branches that it makes of the other form; with many tokens, to which one unpacking serves, it costs more.
#[inline(always)]
fn either_nibbles<L: Lanes>(l: L, v: L::B, high: usize, one_token: bool) -> L::B {
    if one_token { l.and(l.shr(v, 4 * high as u32), 15) } else { nibbles(l, v, high) }
}

/// Half a super-block's nibbles: those of block `s`, the low ones for even, the high ones for odd blocks.
#[inline(always)]
fn super_block_nibbles<L: Lanes>(l: L, body: &[u8], qs: usize, s: usize, one_token: bool) -> [L::B; 8] {
    let mut w = [l.load_bytes(at(body, qs)); 8];
    for g in 0..8 {
        let v = l.load_bytes(at(body, qs + 64 * (8 * (s / 2) + g)));
        w[g] = either_nibbles(l, v, s % 2, one_token);
    }
    w
}

pub(super) struct Q4_0;
impl Format for Q4_0 {
    const BODY: usize = 256;
    const TAIL: usize = 32;
    const BLOCKS: usize = 1;
    const SCALES: Scales = Scales::One;
    const OFFSET: Offset = Offset::Power(3);
    #[inline(always)]
    fn integers<L: Lanes>(l: L, body: &[u8], _: usize, _: bool) -> [L::B; 8] {
        block_of_nibbles(l, body, 0)
    }
}

pub(super) struct Q4_1;
impl Format for Q4_1 {
    const BODY: usize = 320;
    const TAIL: usize = 0;
    const BLOCKS: usize = 1;
    const SCALES: Scales = Scales::WithMinimum;
    const OFFSET: Offset = Offset::None;
    #[inline(always)]
    fn integers<L: Lanes>(l: L, body: &[u8], _: usize, _: bool) -> [L::B; 8] {
        block_of_nibbles(l, body, 64)
    }
}

pub(super) struct Q5_0;
impl Format for Q5_0 {
    const BODY: usize = 320;
    const TAIL: usize = 32;
    const BLOCKS: usize = 1;
    const SCALES: Scales = Scales::One;
    const OFFSET: Offset = Offset::Power(4);
    #[inline(always)]
    fn integers<L: Lanes>(l: L, body: &[u8], _: usize, _: bool) -> [L::B; 8] {
        with_fifth_bits(l, body, 0, block_of_nibbles(l, body, 64))
    }
}

pub(super) struct Q5_1;
impl Format for Q5_1 {
    const BODY: usize = 384;
    const TAIL: usize = 0;
    const BLOCKS: usize = 1;
    const SCALES: Scales = Scales::WithMinimum;
    const OFFSET: Offset = Offset::None;
    #[inline(always)]
    fn integers<L: Lanes>(l: L, body: &[u8], _: usize, _: bool) -> [L::B; 8] {
        with_fifth_bits(l, body, 64, block_of_nibbles(l, body, 128))
    }
}

pub(super) struct Q8_0;
impl Format for Q8_0 {
    const BODY: usize = 512;
    const TAIL: usize = 32;
    const BLOCKS: usize = 1;
    const SCALES: Scales = Scales::One;
    const OFFSET: Offset = Offset::Whole;
    #[inline(always)]
    fn integers<L: Lanes>(l: L, body: &[u8], _: usize, _: bool) -> [L::B; 8] {
        let mut w = [l.load_bytes(at(body, 0)); 8];
        for g in 1..8 {
            w[g] = l.load_bytes(at(body, 64 * g));
        }
        w
    }
}

pub(super) struct Q4K;
impl Format for Q4K {
    const BODY: usize = 2304;
    const TAIL: usize = 0;
    const BLOCKS: usize = 8;
    const SCALES: Scales = Scales::SixBit;
    const OFFSET: Offset = Offset::None;
    #[inline(always)]
    fn integers<L: Lanes>(l: L, body: &[u8], s: usize, one_token: bool) -> [L::B; 8] {
        super_block_nibbles(l, body, 256, s, one_token)
    }
}

pub(super) struct Q5K;
impl Format for Q5K {
    const BODY: usize = 2816;
    const TAIL: usize = 0;
    const BLOCKS: usize = 8;
    const SCALES: Scales = Scales::SixBit;
    const OFFSET: Offset = Offset::None;
    #[inline(always)]
    fn integers<L: Lanes>(l: L, body: &[u8], s: usize, one_token: bool) -> [L::B; 8] {
        let mut w = super_block_nibbles(l, body, 768, s, one_token);
        for g in 0..8 {
            let high = l.shr(l.load_bytes(at(body, 256 + 64 * g)), s as u32);
            w[g] = l.or(w[g], l.and(l.shl(high, 4), 16));
        }
        w
    }
}

pub(super) struct Q6K;
impl Format for Q6K {
    const BODY: usize = 3328;
    const TAIL: usize = 32;
    const BLOCKS: usize = 8;
    const SCALES: Scales = Scales::Halves;
    const OFFSET: Offset = Offset::Power(5);
    #[inline(always)]
    fn integers<L: Lanes>(l: L, body: &[u8], s: usize, one_token: bool) -> [L::B; 8] {
        // 128 columns: blocks 0 and 1 in the low nibbles of 64 bytes, 2 and 3 in the high ones; two bits of each above.
        let (half, quarter) = (s / 4, s % 4);
        let mut w = [l.load_bytes(at(body, 0)); 8];
        for g in 0..8 {
            let low = l.load_bytes(at(body, 1280 + 64 * (16 * half + 8 * (quarter % 2) + g)));
            let high = l.load_bytes(at(body, 256 + 64 * (8 * half + g)));
            // As a match this becomes a jump table, whose misses stall the loads.
            let bits = l.and(l.shl(l.shr(high, 2 * quarter as u32), 4), 0x30);
            w[g] = l.or(either_nibbles(l, low, quarter / 2, one_token), bits);
        }
        w
    }
}

/// The scales and minimums of a Q4_K or Q5_K unit: `[0..8]` scales, `[8..16]` minimums, 16 rows each.
#[inline(always)]
pub(super) fn six_bit<L: Lanes>(l: L, body: &[u8]) -> [[u8; 16]; 16] {
    let (a, b, c) = (l.load_bytes(at(body, 64)), l.load_bytes(at(body, 128)), l.load_bytes(at(body, 192)));
    let parts = [
        l.and(a, 63),
        l.or(l.and(c, 15), l.and(l.shr(a, 2), 0x30)),
        l.and(b, 63),
        l.or(l.and(l.shr(c, 4), 15), l.and(l.shr(b, 2), 0x30)),
    ];
    let mut out = [[0; 16]; 16];
    for (part, to) in parts.into_iter().zip(out.as_flattened_mut().as_chunks_mut::<64>().0) {
        l.store_bytes(part, to);
    }
    out
}
