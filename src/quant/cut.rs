//! Where the columns of a row are cut: the sums of a row's segments are added in order, on every backend.
//!
//! A GPU reads a row of weights in several places at once, and adds up afterwards what each has found. So that the sum is
//! the same on every device, the cut is a part of the specification: a function of the shapes alone (`plan/segments.rs`
//! says how many segments), which the scalar twins, the CPU's vectors, PTX and WGSL all follow.

use super::TensorType;

/// How the columns of a row are cut into segments: in units, of which each segment gets as many as the others, the first
/// ones one more until the rest is dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    segments: usize,
    unit_columns: usize,
}

impl Cut {
    /// One segment.
    pub const WHOLE: Self = Self { segments: 1, unit_columns: 32 };

    /// A row in `segments` segments (0 counts as 1) of whole units of `unit_columns` columns (a multiple of 32).
    pub const fn new(segments: usize, unit_columns: usize) -> Self {
        Self {
            segments: if segments == 0 { 1 } else { segments },
            unit_columns: if unit_columns < 32 { 32 } else { unit_columns },
        }
    }

    /// How many segments there are; those past the last unit are empty.
    pub const fn segments(&self) -> usize {
        self.segments
    }

    /// In blocks of 32 columns, in a row of `columns`: what every segment has, what the first ones have more, and how many
    /// those are.
    #[inline]
    pub const fn blocks(&self, columns: usize) -> (usize, usize, usize) {
        let (units, unit) = (columns.div_ceil(self.unit_columns), self.unit_columns / 32);
        (units / self.segments * unit, unit, units % self.segments)
    }

    /// Where segment `index` of a row of `columns` begins, in blocks of 32 columns; that of the last but one more: its
    /// end.
    #[inline]
    pub const fn start(&self, columns: usize, index: usize) -> usize {
        let units = columns.div_ceil(self.unit_columns);
        let (each, rest) = (units / self.segments, units % self.segments);
        let unit = index * each + if index < rest { index } else { rest };
        let (block, end) = (unit * (self.unit_columns / 32), columns.div_ceil(32));
        if block < end { block } else { end }
    }
}

/// Columns that cannot be cut apart: what a GPU loads of a row of this type at a time. `super_blocks`: with activations
/// in super-blocks (Q8_K), whose integers are added up over all 256 columns.
pub const fn unit_columns(tensor_type: TensorType, super_blocks: bool) -> usize {
    match tensor_type {
        TensorType::Q4_K | TensorType::Q5_K | TensorType::Q6_K if super_blocks => 256,
        TensorType::Q4_K | TensorType::Q5_K => 64,
        TensorType::Q6_K => 128,
        _ => 32,
    }
}

/// A sum in the order of a cut: the blocks of a segment one after the other from 0, then the segments.
pub(crate) struct SegmentSum {
    cut: Cut,
    columns: usize,
    segment: usize,
    /// Blocks of 32 columns so far, and where the segment ends.
    blocks: usize,
    end: usize,
    part: f32,
    total: f32,
}

impl SegmentSum {
    pub(crate) fn new(cut: Cut, columns: usize) -> Self {
        Self { cut, columns, segment: 0, blocks: 0, end: cut.start(columns, 1), part: 0.0, total: 0.0 }
    }

    /// What `next` makes of the segment's sum so far, with `blocks` more blocks of 32 columns.
    #[inline]
    pub(crate) fn add(&mut self, blocks: usize, next: impl FnOnce(f32) -> f32) {
        self.part = next(self.part);
        self.blocks += blocks;
        while self.blocks >= self.end && self.segment < self.cut.segments {
            self.total += self.part;
            self.part = 0.0;
            self.segment += 1;
            self.end = self.cut.start(self.columns, self.segment + 1);
        }
    }

    pub(crate) fn total(&self) -> f32 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_whole_units_and_cover_the_row() {
        for (columns, unit, segments) in
            [(1536, 64, 16), (896, 32, 16), (1536, 128, 8), (97, 32, 4), (256, 128, 8)]
        {
            let cut = Cut::new(segments, unit);
            let starts: Vec<usize> = (0..=segments).map(|i| cut.start(columns, i)).collect();
            assert_eq!((starts[0], starts[segments]), (0, columns.div_ceil(32)));
            let units: Vec<usize> = starts.windows(2).map(|w| (w[1] - w[0]).div_ceil(unit / 32)).collect();
            assert!(units.is_sorted_by(|a, b| a >= b) && units[0] - units[segments - 1] <= 1, "{units:?}");
        }
    }

    #[test]
    fn a_sum_is_that_of_its_segments() {
        let cut = Cut::new(3, 64);
        let mut sum = SegmentSum::new(cut, 256);
        let values: [f32; 8] = [1e8, 1.0, -1e8, 3.0, 1e-3, 7.0, 1e8, 0.5];
        for value in values {
            sum.add(1, |part| part + value);
        }
        let [a, b, c, d, e, f, g, h] = values;
        let parts = [0.0 + a + b + c + d, 0.0 + e + f, 0.0 + g + h];
        assert_eq!(sum.total(), 0.0 + parts[0] + parts[1] + parts[2]);
    }
}
