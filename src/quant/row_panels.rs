//! Rows of weights as a GPU reads them: panels of 32 rows, one lane per row, 16 bytes per lane and load.
//!
//! A block of every weight type is cut into pieces of 16, 4 and 2 bytes, without a change to any bit and without growth;
//! a panel holds, for each block of columns, the first piece of all 32 rows, then the second of all rows, and so on:
//!
//! ```text
//! panel: [block of columns][piece][row of 32][bytes of the piece]     16-byte pieces first, then 4, then 2
//! ```
//!
//! So 32 lanes read 512 consecutive bytes where a row has 16, whatever the size of the file's block (18, 34 or 210 bytes,
//! aligned to 2). Float types have blocks of 32 columns here. Rows past the end of a matrix are zeros.

use super::TensorType;

/// Rows per panel.
pub const PANEL_ROWS: usize = 32;

/// How a block of one weight type is cut: offsets in the file's block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowPanels {
    /// Columns per block.
    pub columns: usize,
    /// Bytes per block and row.
    pub block_bytes: usize,
    /// Pieces of 16 bytes.
    vectors: &'static [usize],
    /// Pieces of 4 bytes.
    words: &'static [usize],
    /// Pieces of 2 bytes.
    halves: &'static [usize],
}

impl RowPanels {
    /// The layout of a weight type; `None` for types that have no kernels.
    pub const fn new(tensor_type: TensorType) -> Option<Self> {
        const RUN: &[usize; 11] = &[0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160];
        let (columns, vectors, words, halves): (_, &'static [usize], &'static [usize], &'static [usize]) =
            match tensor_type {
                TensorType::Q4_0 => (32, &[2], &[], &[0]),
                TensorType::Q4_1 => (32, &[4], &[0], &[]),
                TensorType::Q5_0 => (32, &[6], &[2], &[0]),
                TensorType::Q5_1 => (32, &[8], &[0, 4], &[]),
                TensorType::Q8_0 => (32, &[2, 18], &[], &[0]),
                TensorType::Q4_K => (256, RUN.split_at(9).0, &[], &[]),
                TensorType::Q5_K => (256, RUN, &[], &[]),
                TensorType::Q6_K => {
                    (256, &[0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192], &[], &[208])
                }
                TensorType::F16 | TensorType::BF16 => (32, RUN.split_at(4).0, &[], &[]),
                TensorType::F32 => (32, RUN.split_at(8).0, &[], &[]),
                _ => return None,
            };
        let block_bytes = 16 * vectors.len() + 4 * words.len() + 2 * halves.len();
        Some(Self { columns, block_bytes, vectors, words, halves })
    }

    /// Bytes of the panels' part for one block of columns.
    pub const fn stride(&self) -> usize {
        PANEL_ROWS * self.block_bytes
    }

    /// Bytes of a panel of rows of `cols` values. Rows of floats that end within 32 columns are filled up with zeros.
    pub fn panel_bytes(&self, cols: usize) -> Option<usize> {
        cols.div_ceil(self.columns).checked_mul(self.stride())
    }

    /// Calls `copy` with the place in a row of `row_bytes` and the place in the panel of every piece of row `lane`, and
    /// its length; the last piece may reach past the row.
    fn pieces(&self, row_bytes: usize, lane: usize, mut copy: impl FnMut(usize, usize, usize)) {
        for block in 0..row_bytes.div_ceil(self.block_bytes) {
            let row = block * self.block_bytes;
            let mut panel = block * self.stride();
            for (size, offsets) in [(16, self.vectors), (4, self.words), (2, self.halves)] {
                for offset in offsets {
                    copy(row + offset, panel + lane * size, size);
                    panel += PANEL_ROWS * size;
                }
            }
        }
    }

    /// Writes a panel of up to 32 rows of equal length; missing rows become zeros. Rows that do not fit are left out.
    pub fn repack<'a>(&self, rows: impl Iterator<Item = &'a [u8]>, panel: &mut [u8]) {
        panel.fill(0);
        for (lane, row) in rows.take(PANEL_ROWS).enumerate() {
            self.pieces(row.len(), lane, |from, to, size| {
                let size = size.min(row.len().saturating_sub(from));
                if let (Some(from), Some(to)) = (row.get(from..from + size), panel.get_mut(to..to + size)) {
                    to.copy_from_slice(from);
                }
            });
        }
    }

    /// Reads row `lane` of a panel back.
    pub fn unrepack(&self, panel: &[u8], lane: usize, row: &mut [u8]) {
        let row_bytes = row.len();
        self.pieces(row_bytes, lane, |to, from, size| {
            let size = size.min(row_bytes.saturating_sub(to));
            if let (Some(from), Some(to)) = (panel.get(from..from + size), row.get_mut(to..to + size)) {
                to.copy_from_slice(from);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unrepacking_is_the_inverse_of_repacking() {
        for &tensor_type in TensorType::ALL.iter().filter(|t| t.is_weight_type()) {
            let panels = RowPanels::new(tensor_type).unwrap();
            let cols = 3 * panels.columns;
            assert_eq!(
                panels.panel_bytes(cols),
                tensor_type.row_bytes(cols * PANEL_ROWS),
                "{tensor_type} grows"
            );
            let cols = if tensor_type.is_float() { cols - 31 } else { cols };
            let bytes = tensor_type.row_bytes(cols).unwrap();
            for count in [1, 31, 32] {
                let row = |r: usize| (0..bytes).map(|i| (i * 7 + r * 31 + i / 251) as u8).collect::<Vec<_>>();
                let rows: Vec<Vec<u8>> = (0..count).map(row).collect();
                let mut panel = vec![0xaa; panels.panel_bytes(cols).unwrap()];
                panels.repack(rows.iter().map(|row| &row[..]), &mut panel);
                for lane in 0..PANEL_ROWS {
                    let mut back = vec![0x55; bytes];
                    panels.unrepack(&panel, lane, &mut back);
                    let expected = rows.get(lane).cloned().unwrap_or(vec![0; bytes]);
                    assert_eq!(back, expected, "{tensor_type}, row {lane} of {count}");
                }
            }
        }
    }
}
