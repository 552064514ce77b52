//! Weights repacked into panels of 16 interleaved rows.
//!
//! A panel is a run of units, a unit being what one block (or super-block) of the type holds for each of the 16 rows.
//! Fields of a block are interleaved by row in granules: floats as 16 x 2 bytes, scales as 16 x 1, and quantized values
//! as 16 x 4, so that one 64-byte load holds four consecutive bytes of 16 rows. Which columns those bytes hold is the
//! file's own arrangement (low nibbles one block, high nibbles another), which suits lanes as it is. Two fields are
//! changed on the way: Q8_0's bytes have their sign bit flipped, since the byte dot takes one unsigned factor, and the
//! 32 fifth bits of Q5_0 and Q5_1 are transposed (8 groups of 4 columns) so that one shift and mask serves four columns.
//!
//! The memory of a panel is its units one after the other, each a multiple of 64 bytes (the body). Types whose block is
//! not have 32 bytes more, the 16 block scales (the tail): two units share 64 bytes of tails in front of their bodies. So
//! a matrix grows by nothing but the padding of its last panel to 16 rows (zero rows) and of an odd last tail to 64
//! bytes, and all of a panel is read from its start to its end. (All tails behind all bodies was tried: a second place
//! to read from that nothing prefetches, 11 GB/s of Q8_0 from memory.) The inverse gives back the file's bytes exactly.
//!
//! The memory of all matrices of a model is one anonymous mapping with huge pages asked for: it is read from end to end
//! for every token, and small pages would cost a TLB miss every 4 KiB. (A mapping for each matrix was tried: what does
//! not fill a huge page at its two ends is small pages, 380 MB of a 1.5B model, and writing them took a third of the
//! time to load it.)

use std::sync::{Arc, Mutex, PoisonError};

use memmap2::MmapMut;

use crate::backend::cpu::pool::{Pool, PoolError};
use crate::quant::{self, TensorType};

/// Rows of a panel: the lanes of a vector.
pub const ROWS: usize = 16;

/// About as much is packed before a thread asks for more: a huge page, so that no two threads fault in the same one.
const PACK_BYTES: usize = 2 << 20;

/// Why a weight could not be packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// There is no kernel for the type.
    #[error(
        "no CPU kernel for weights of type {0}; convert the model to a type that `inspect` lists a kernel for"
    )]
    Type(TensorType),
    /// The matrix is empty or its rows are not whole blocks.
    #[error(
        "a {tensor_type} matrix of {rows} rows of {cols} values cannot be packed; rows must be whole blocks of {block}"
    )]
    Shape {
        /// The type.
        tensor_type: TensorType,
        /// Rows asked for.
        rows: usize,
        /// Values in a row.
        cols: usize,
        /// Values in a block.
        block: usize,
    },
    /// A row is not as long as its type and columns say.
    #[error("row {row} has {found} bytes, expected {expected}")]
    RowBytes {
        /// Index of the row.
        row: usize,
        /// Bytes that the shape asks for.
        expected: usize,
        /// Bytes there are.
        found: usize,
    },
    /// A scale that is NaN or infinite.
    #[error("row {row}: {source}")]
    Row {
        /// Index of the row.
        row: usize,
        /// What is wrong with it.
        source: quant::Error,
    },
    /// No memory.
    #[error("cannot map {bytes} bytes for repacked weights: {reason}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// The system's words.
        reason: String,
    },
    /// A worker failed.
    #[error(transparent)]
    Pool(#[from] PoolError),
}

/// What happens to a field's bytes on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Keep,
    /// The sign bit of each byte is flipped.
    Flip,
    /// Bit `4 g + i` of 32 becomes bit `8 i + g`.
    Transpose,
}

/// A field of a block: where it lies in the file's block and where its granules go.
#[derive(Clone, Copy)]
struct Field {
    /// Offset in the block.
    from: usize,
    /// Bytes in the block.
    len: usize,
    /// Bytes that stay together.
    granule: usize,
    /// Offset in the unit's body; `None`: the tail.
    to: Option<usize>,
    change: Change,
}

const fn field(from: usize, len: usize, granule: usize, to: usize) -> Field {
    Field { from, len, granule, to: Some(to), change: Change::Keep }
}

const fn tail(from: usize) -> Field {
    Field { from, len: 2, granule: 2, to: None, change: Change::Keep }
}

/// How a type's blocks are laid out in a panel.
struct Layout {
    /// Bytes of a unit's body.
    body: usize,
    /// Bytes of a unit's tail: 0 or 32.
    tail: usize,
    fields: &'static [Field],
}

/// The layouts; the offsets are repeated in `block`, which reads them.
const fn layout(tensor_type: TensorType) -> Option<Layout> {
    let (body, tail, fields): (usize, usize, &'static [Field]) = match tensor_type {
        TensorType::F32 => (64, 0, const { &[field(0, 4, 4, 0)] }),
        TensorType::F16 | TensorType::BF16 => (32, 0, const { &[field(0, 2, 2, 0)] }),
        TensorType::Q4_0 => (256, 32, const { &[tail(0), field(2, 16, 4, 0)] }),
        TensorType::Q4_1 => (320, 0, const { &[field(0, 4, 2, 0), field(4, 16, 4, 64)] }),
        TensorType::Q5_0 => (
            320,
            32,
            const {
                &[
                    tail(0),
                    Field { from: 2, len: 4, granule: 4, to: Some(0), change: Change::Transpose },
                    field(6, 16, 4, 64),
                ]
            },
        ),
        TensorType::Q5_1 => (
            384,
            0,
            const {
                &[
                    field(0, 4, 2, 0),
                    Field { from: 4, len: 4, granule: 4, to: Some(64), change: Change::Transpose },
                    field(8, 16, 4, 128),
                ]
            },
        ),
        TensorType::Q8_0 => (
            512,
            32,
            const { &[tail(0), Field { from: 2, len: 32, granule: 4, to: Some(0), change: Change::Flip }] },
        ),
        TensorType::Q4_K => {
            (2304, 0, const { &[field(0, 4, 2, 0), field(4, 12, 1, 64), field(16, 128, 4, 256)] })
        }
        TensorType::Q5_K => (
            2816,
            0,
            const { &[field(0, 4, 2, 0), field(4, 12, 1, 64), field(16, 32, 4, 256), field(48, 128, 4, 768)] },
        ),
        TensorType::Q6_K => (
            3328,
            32,
            const { &[field(192, 16, 1, 0), field(128, 64, 4, 256), field(0, 128, 4, 1280), tail(208)] },
        ),
        _ => return None,
    };
    Some(Layout { body, tail, fields })
}

/// Bit `4 g + i` becomes bit `8 i + g`: a transposition of 8 rows of 4 bits.
const fn transpose_bits(x: u32) -> u32 {
    unzip_bits(unzip_bits(x))
}

/// Even bits to the lower half, odd bits to the upper one.
const fn unzip_bits(x: u32) -> u32 {
    let x = swap_bits(x, 0x2222_2222, 1);
    let x = swap_bits(x, 0x0c0c_0c0c, 2);
    let x = swap_bits(x, 0x00f0_00f0, 4);
    swap_bits(x, 0x0000_ff00, 8)
}

/// The inverse of [`unzip_bits`].
const fn zip_bits(x: u32) -> u32 {
    let x = swap_bits(x, 0x0000_ff00, 8);
    let x = swap_bits(x, 0x00f0_00f0, 4);
    let x = swap_bits(x, 0x0c0c_0c0c, 2);
    swap_bits(x, 0x2222_2222, 1)
}

/// Exchanges the bits of `mask` with those `by` places higher.
const fn swap_bits(x: u32, mask: u32, by: u32) -> u32 {
    let t = (x ^ (x >> by)) & mask;
    x ^ t ^ (t << by)
}

/// A granule as it is stored in a panel.
#[inline(always)]
fn changed<const G: usize>(change: Change, bytes: [u8; G]) -> [u8; G] {
    match change {
        Change::Keep => bytes,
        Change::Flip => bytes.map(|b| b ^ 0x80),
        Change::Transpose => map_u32(bytes, transpose_bits),
    }
}

/// A granule as it is stored in the file.
#[inline(always)]
fn restored<const G: usize>(change: Change, bytes: [u8; G]) -> [u8; G] {
    match change {
        Change::Keep => bytes,
        Change::Flip => bytes.map(|b| b ^ 0x80),
        Change::Transpose => map_u32(bytes, |x| zip_bits(zip_bits(x))),
    }
}

/// Applies `f` to a granule of four bytes.
#[inline(always)]
fn map_u32<const G: usize>(bytes: [u8; G], f: impl Fn(u32) -> u32) -> [u8; G] {
    let mut out = bytes;
    if let Some(four) = out.first_chunk_mut::<4>() {
        *four = f(u32::from_le_bytes(*four)).to_le_bytes();
    }
    out
}

/// Interleaves one field of 16 blocks.
#[inline(always)]
fn interleave<const G: usize>(change: Change, from: [&[u8]; ROWS], to: &mut [u8]) {
    for (i, granules) in to.as_chunks_mut::<G>().0.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
        for (granule, from) in granules.iter_mut().zip(from) {
            if let Some(&bytes) = from.get(i * G..).and_then(|b| b.first_chunk::<G>()) {
                *granule = changed(change, bytes);
            }
        }
    }
}

/// Takes one row's field out of a unit.
#[inline(always)]
fn gather<const G: usize>(change: Change, lane: usize, from: &[u8], to: &mut [u8]) {
    for (granule, granules) in
        to.as_chunks_mut::<G>().0.iter_mut().zip(from.as_chunks::<G>().0.as_chunks::<ROWS>().0)
    {
        *granule = restored(change, granules[lane % ROWS]);
    }
}

/// Where a unit's body starts in its panel.
#[inline(always)]
pub(super) const fn body_start(unit: usize, body: usize, tail: usize) -> usize {
    if tail == 0 { unit * body } else { unit / 2 * 2 * (body + tail) + 2 * tail + unit % 2 * body }
}

/// Where a unit's tail starts in its panel.
#[inline(always)]
pub(super) const fn tail_start(unit: usize, body: usize, tail: usize) -> usize {
    unit / 2 * 2 * (body + tail) + unit % 2 * tail
}

/// Memory for the panels of many matrices: one mapping, so that all of it but its two ends can be huge pages.
pub struct PanelMemory(MmapMut);

impl PanelMemory {
    /// Maps `bytes` of zeros; the system hands out pages as they are written.
    ///
    /// # Errors
    /// No memory.
    pub fn new(bytes: usize) -> Result<Self, PackError> {
        // An empty mapping is not a mapping.
        let memory = MmapMut::map_anon(bytes.max(1));
        let memory = memory.map_err(|e| PackError::Memory { bytes, reason: e.to_string() })?;
        #[cfg(target_os = "linux")]
        {
            // Only a wish: without huge pages everything works, slower.
            let _ = memory.advise(memmap2::Advice::HugePage);
        }
        Ok(Self(memory))
    }
}

/// The shape of a matrix in panels.
#[derive(Clone, Copy, Debug)]
pub struct PanelShape {
    tensor_type: TensorType,
    rows: usize,
    cols: usize,
    /// Bytes of a panel.
    stride: usize,
}

impl PanelShape {
    /// The panels of a matrix `[rows, cols]`.
    ///
    /// # Errors
    /// An unknown type, an impossible shape.
    pub fn new(tensor_type: TensorType, rows: usize, cols: usize) -> Result<Self, PackError> {
        let layout = layout(tensor_type).ok_or(PackError::Type(tensor_type))?;
        let units = cols / tensor_type.block_len();
        let stride = (units.checked_mul(layout.body))
            .and_then(|body| body.checked_add(units.checked_mul(layout.tail)?))
            .and_then(|bytes| bytes.checked_next_multiple_of(64))
            .filter(|_| rows > 0 && tensor_type.row_bytes(cols).is_some_and(|bytes| bytes > 0))
            .filter(|stride| stride.checked_mul(rows.div_ceil(ROWS)).is_some());
        let shape = || PackError::Shape { tensor_type, rows, cols, block: tensor_type.block_len() };
        Ok(Self { tensor_type, rows, cols, stride: stride.ok_or_else(shape)? })
    }

    /// Bytes of memory.
    pub const fn bytes(&self) -> usize {
        self.stride * self.rows.div_ceil(ROWS)
    }

    /// Packs the matrix whose rows are given by `row` into the memory from byte `start` on, on all threads of the pool.
    ///
    /// # Errors
    /// Rows of another length, scales that are not finite, memory that ends before.
    pub fn pack<'a>(
        &self,
        row: impl Fn(usize) -> &'a [u8] + Sync,
        pool: &Pool,
        memory: &mut PanelMemory,
        start: usize,
    ) -> Result<(), PackError> {
        let Self { tensor_type, rows, cols, stride } = *self;
        let layout = layout(tensor_type).ok_or(PackError::Type(tensor_type))?;
        let (units, row_bytes) = (cols / tensor_type.block_len(), tensor_type.row_bytes(cols).unwrap_or(0));
        let bytes = self.bytes();
        let memory = start.checked_add(bytes).and_then(|end| memory.0.get_mut(start..end));
        let short = || PackError::Memory { bytes, reason: "not as much was mapped".to_owned() };
        let memory = memory.ok_or_else(short)?;
        let zeros = vec![0; row_bytes];
        let failed: Mutex<Option<(usize, PackError)>> = Mutex::new(None);
        let panels = rows.div_ceil(ROWS);
        // Dealt out as threads ask: while a model loads, others (the tokenizer's) run beside them.
        let at_once = PACK_BYTES.div_ceil(stride).min(panels.div_ceil(pool.threads())).max(1);
        let parts = Mutex::new(memory.chunks_mut(at_once * stride).enumerate());
        let next = || parts.lock().unwrap_or_else(PoisonError::into_inner).next();
        pool.run(|_, _| {
            while let Some((part, panels)) = next() {
                for (i, to) in panels.chunks_exact_mut(stride).enumerate() {
                    let base = (part * at_once + i) * ROWS;
                    let mut blocks = [&zeros[..]; ROWS];
                    for (r, bytes) in (base..rows).zip(&mut blocks) {
                        *bytes = row(r);
                        if let Err(error) = check(tensor_type, r, bytes, row_bytes) {
                            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                            if failed.as_ref().is_none_or(|(row, _)| r < *row) {
                                *failed = Some((r, error));
                            }
                            return;
                        }
                    }
                    pack_panel(tensor_type, &layout, units, blocks, to);
                }
            }
        })?;
        match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }
}

/// A weight matrix in panels.
pub struct Panels {
    shape: PanelShape,
    /// Where in the memory it begins.
    start: usize,
    memory: Arc<PanelMemory>,
}

impl std::fmt::Debug for Panels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Panels({} [{}, {}])", self.shape.tensor_type, self.shape.rows, self.shape.cols)
    }
}

impl Panels {
    /// The matrix that was packed into `memory` from byte `start` on.
    pub fn new(shape: PanelShape, start: usize, memory: Arc<PanelMemory>) -> Self {
        Self { shape, start, memory }
    }

    /// Packs one matrix into memory of its own.
    ///
    /// # Errors
    /// Those of [`PanelShape::new`], [`PanelMemory::new`] and [`PanelShape::pack`].
    pub fn pack<'a>(
        tensor_type: TensorType,
        rows: usize,
        cols: usize,
        row: impl Fn(usize) -> &'a [u8] + Sync,
        pool: &Pool,
    ) -> Result<Self, PackError> {
        let shape = PanelShape::new(tensor_type, rows, cols)?;
        let mut memory = PanelMemory::new(shape.bytes())?;
        shape.pack(row, pool, &mut memory, 0)?;
        Ok(Self::new(shape, 0, Arc::new(memory)))
    }

    /// The type of the packed blocks.
    pub const fn tensor_type(&self) -> TensorType {
        self.shape.tensor_type
    }

    /// Output features.
    pub const fn rows(&self) -> usize {
        self.shape.rows
    }

    /// Input features.
    pub const fn cols(&self) -> usize {
        self.shape.cols
    }

    /// Panels of 16 rows.
    pub const fn panels(&self) -> usize {
        self.shape.rows.div_ceil(ROWS)
    }

    /// Bytes of memory.
    pub const fn bytes(&self) -> usize {
        self.shape.bytes()
    }

    /// Bytes of one panel.
    pub const fn panel_bytes(&self) -> usize {
        self.shape.stride
    }

    /// The bytes of a panel and of all of the matrix after it: kernels read the first, and ask the cache for what follows.
    #[inline]
    pub(super) fn panels_from(&self, panel: usize) -> &[u8] {
        let end = self.start + self.bytes();
        self.memory.0.get(self.start + panel * self.shape.stride..end).unwrap_or(&[])
    }

    /// Units of a row and the layout.
    fn units(&self) -> Option<(usize, Layout)> {
        let PanelShape { tensor_type, cols, .. } = self.shape;
        Some((cols / tensor_type.block_len(), layout(tensor_type)?))
    }

    /// Writes a row's bytes as the file has them. `out` must have the length of a row; other rows are left alone.
    pub fn unpack_row(&self, row: usize, out: &mut [u8]) {
        let block = self.shape.tensor_type.block_bytes();
        let Some((units, layout)) = self.units() else { return };
        for (unit, out) in out.chunks_exact_mut(block).enumerate().take(units) {
            self.unpack_block(&layout, row, unit, out);
        }
    }

    /// Writes one block of one row as the file has it.
    fn unpack_block(&self, layout: &Layout, row: usize, unit: usize, out: &mut [u8]) {
        let panel = self.panels_from(row / ROWS);
        for f in layout.fields {
            let start = match f.to {
                Some(to) => body_start(unit, layout.body, layout.tail) + to,
                None => tail_start(unit, layout.body, layout.tail),
            };
            let (Some(from), Some(to)) =
                (panel.get(start..start + f.len * ROWS), out.get_mut(f.from..f.from + f.len))
            else {
                return;
            };
            match f.granule {
                1 => gather::<1>(f.change, row % ROWS, from, to),
                2 => gather::<2>(f.change, row % ROWS, from, to),
                _ => gather::<4>(f.change, row % ROWS, from, to),
            }
        }
    }

    /// Decodes a row (an embedding) into `cols` values.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        let t = self.shape.tensor_type;
        let Some((_, layout)) = self.units() else { return };
        // The largest block has 210 bytes; 32 floats at a time have at most 128.
        let mut blocks = [0; 256];
        let at_once = if t.is_float() { 32 } else { 1 };
        for (i, out) in out.chunks_mut(at_once * t.block_len()).enumerate() {
            let count = out.len() / t.block_len();
            let Some(bytes) = blocks.get_mut(..count * t.block_bytes()) else { return };
            for (j, block) in bytes.chunks_exact_mut(t.block_bytes()).enumerate() {
                self.unpack_block(&layout, row, i * at_once + j, block);
            }
            if quant::decode_row(t, bytes, out).is_err() {
                // A length that is not whole blocks: the caller's fault, made visible.
                out.fill(f32::NAN);
            }
        }
    }
}

/// Checks the length of a row and that its scales are finite.
fn check(tensor_type: TensorType, row: usize, bytes: &[u8], expected: usize) -> Result<(), PackError> {
    if bytes.len() != expected {
        return Err(PackError::RowBytes { row, expected, found: bytes.len() });
    }
    quant::finite_scales(tensor_type, bytes).map_err(|source| PackError::Row { row, source })
}

/// Packs 16 rows.
fn pack_panel(tensor_type: TensorType, layout: &Layout, units: usize, rows: [&[u8]; ROWS], to: &mut [u8]) {
    if tensor_type.is_float() {
        // A unit is one value, so the whole row is one field.
        return match tensor_type.block_bytes() {
            2 => interleave::<2>(Change::Keep, rows, to),
            _ => interleave::<4>(Change::Keep, rows, to),
        };
    }
    let block = tensor_type.block_bytes();
    for unit in 0..units {
        for f in layout.fields {
            let start = unit * block + f.from;
            let from = rows.map(|row| row.get(start..start + f.len).unwrap_or(&[]));
            let start = match f.to {
                Some(to) => body_start(unit, layout.body, layout.tail) + to,
                None => tail_start(unit, layout.body, layout.tail),
            };
            let Some(to) = to.get_mut(start..start + f.len * ROWS) else { return };
            match (f.granule, f.change) {
                (1, _) => interleave::<1>(Change::Keep, from, to),
                (2, _) => interleave::<2>(Change::Keep, from, to),
                (_, Change::Keep) => interleave::<4>(Change::Keep, from, to),
                (_, Change::Flip) => interleave::<4>(Change::Flip, from, to),
                (_, Change::Transpose) => interleave::<4>(Change::Transpose, from, to),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_transposed_and_back() {
        for g in 0..8 {
            for i in 0..4 {
                assert_eq!(transpose_bits(1 << (4 * g + i)), 1 << (8 * i + g), "group {g}, bit {i}");
            }
        }
        for x in [0, 1, 0xdead_beef, u32::MAX, 0x1234_5678] {
            assert_eq!(zip_bits(zip_bits(transpose_bits(x))), x);
        }
    }

    #[test]
    fn every_byte_of_a_block_has_its_place() {
        for &t in TensorType::ALL {
            let Some(layout) = layout(t) else {
                assert!(!t.is_weight_type(), "{t} has no layout");
                continue;
            };
            let (mut block, mut unit) = (vec![0; t.block_bytes()], vec![0; layout.body + layout.tail]);
            for f in layout.fields {
                block[f.from..f.from + f.len].iter_mut().for_each(|b| *b += 1);
                let to = f.to.unwrap_or(layout.body);
                unit[to..to + f.len * ROWS].iter_mut().for_each(|b| *b += 1);
            }
            assert!(block.iter().all(|&b| b == 1) && unit.iter().all(|&b| b == 1), "{t}");
            assert_eq!(layout.body + layout.tail, t.block_bytes() * ROWS, "{t}");
        }
    }
}
