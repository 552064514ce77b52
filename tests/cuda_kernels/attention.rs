//! attention_tile: the bits of attention, row by row, and a quarter to a sixteenth of what it reads.

use super::bench::*;
use aprgpu::backend::cuda::forms::Geometry;
use aprgpu::backend::cuda::sources::Target;
use aprgpu::compare::Random;

/// Positions of each slot.
const CONTEXT: usize = 544;
const SPLITS: usize = 3;
const FLAG_NEOX: u32 = 4;
/// Instructions that read keys and values.
const CACHE: [&str; 2] = ["ld.global.L1::no_allocate", "cp.async.cg"];

struct Case {
    /// Heads that a block takes, of how many in a group, of how many groups.
    heads: (usize, usize, usize),
    dimensions: usize,
    kv: &'static str,
    window: u32,
    /// Position of the first row, and rows.
    from: usize,
    rows: usize,
}

impl Case {
    fn tile(&self) -> usize {
        match self.heads.0 {
            1 => 16,
            2..=4 => 8,
            _ => 4,
        }
    }

    fn what(&self) -> String {
        let (heads, group, groups) = self.heads;
        format!(
            "{heads} of {group} heads in {groups} groups of {} {}, {} rows from {}, window {}",
            self.dimensions, self.kv, self.rows, self.from, self.window
        )
    }

    /// The kernel, its grid and its block, of a row or of a tile.
    fn launch(&self, tile: bool, rows: usize) -> (String, [u32; 3], Geometry) {
        let (heads, group, groups) = self.heads;
        let size = if self.kv == "f16" { 2 } else { 4 };
        let blocks = (group.div_ceil(heads) * groups) as u32;
        let key =
            format!("{} GROUP={heads} KV={}", if tile { "attention_tile" } else { "attention" }, self.kv);
        let (key, z, shared) = match tile {
            false => (key, rows, 0),
            true => {
                let rows_each = self.tile();
                let weights = 1024 * (8 - heads + heads * rows_each);
                let values = 256 * self.dimensions * size;
                (format!("{key} ROWS={rows_each}"), rows.div_ceil(rows_each), weights + values)
            }
        };
        let geometry = Geometry { threads: 256, shared_bytes: shared as u32 };
        (key, [SPLITS as u32, blocks, z as u32], geometry)
    }

    /// Everything that both kernels read: two slots, rows of the second.
    fn bench(&self, seed: u64) -> Bench {
        let mut random = Random::new(seed);
        let (_, group, groups) = self.heads;
        let mut bench = Bench::new();
        let cached = 2 * groups * CONTEXT * self.dimensions;
        for name in ["keys", "values"] {
            let floats = random.values(cached);
            match self.kv {
                "f16" => {
                    let halves = floats.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes());
                    bench.put_bytes(name, &halves.collect::<Vec<u8>>());
                }
                _ => bench.put(name, &bits(&floats)),
            }
        }
        bench.put("query", &bits(&random.values(self.rows * group * groups * self.dimensions)));
        let mut state = vec![self.rows as u32, 1, 0, 0, 0, 0, 0, 0];
        for row in 0..self.rows {
            state.extend([7, 1, (self.from + row) as u32, NONE]);
        }
        bench.put("state", &state);
        bench.put("partial", &vec![SENTINEL; self.rows * group * groups * SPLITS * (self.dimensions + 2)]);
        bench
    }

    fn params(&self, first: usize, most: usize) -> Params {
        let (_, group, groups) = self.heads;
        let mut params = Params::new();
        params.set("num_heads", (group * groups) as u32);
        params.set("num_kv_heads", groups as u32);
        params.set("head_dim", self.dimensions as u32);
        params.set("rope_pairs", self.dimensions as u32 / 2);
        params.set("context", CONTEXT as u32);
        params.set("window", self.window);
        params.set("splits", SPLITS as u32);
        params.set("first_row", first as u32);
        params.set("rows", (first + most) as u32);
        params.set("flags", FLAG_NEOX);
        params.set("scale", (1.0 / (self.dimensions as f32).sqrt()).to_bits());
        params
    }

    /// Runs `most` rows from `first` on both ways.
    fn same_bits(&self, first: usize, most: usize) {
        let run = |tile: bool, seed: u64| {
            let bench = self.bench(17);
            let rows = most.min(self.rows - first);
            let (key, grid, geometry) = self.launch(tile, rows);
            bench.launch(&key, Target::Sm80, grid, geometry, &self.params(first, most), seed);
            bench.words("partial")
        };
        let expected = run(false, 1);
        assert!(expected.iter().filter(|word| **word != SENTINEL).count() > self.dimensions);
        for seed in [2, 3] {
            assert!(run(true, seed) == expected, "{}: a row has other bits in a tile", self.what());
        }
    }
}

fn case(heads: (usize, usize, usize), dimensions: usize, kv: &'static str) -> Case {
    Case { heads, dimensions, kv, window: 0, from: 0, rows: 11 }
}

#[test]
fn a_tile_has_the_bits_of_its_rows() {
    // Every number of heads, widths whose pieces do not divide 256 threads, and a group that takes two turns, the second short.
    let shapes = [
        ((1, 1, 2), 64),
        ((2, 2, 1), 32),
        ((3, 3, 1), 96),
        ((4, 4, 1), 64),
        ((5, 5, 1), 32),
        ((5, 9, 1), 40),
        ((6, 6, 1), 64),
        ((7, 7, 1), 64),
        ((8, 8, 1), 128),
    ];
    for (heads, dimensions) in shapes {
        // Over the end of a part.
        Case { from: 250, ..case(heads, dimensions, "f16") }.same_bits(0, 11);
    }
    for (heads, dimensions) in [((1, 1, 1), 64), ((3, 3, 1), 24), ((4, 4, 1), 40), ((8, 8, 1), 64)] {
        Case { from: 250, ..case(heads, dimensions, "f32") }.same_bits(0, 11);
    }
}

/// From the beginning of a sequence on, windows that begin in a tile's middle, and rows that take turns.
#[test]
fn every_row_of_a_tile_sees_its_own_positions() {
    case((6, 6, 1), 32, "f16").same_bits(0, 11);
    case((2, 2, 1), 32, "f16").same_bits(0, 11);
    for window in [1, 5, 255, 300] {
        Case { from: 251, window, rows: 13, ..case((3, 3, 1), 32, "f16") }.same_bits(0, 13);
        Case { from: 505, window, rows: 13, ..case((7, 7, 1), 32, "f16") }.same_bits(0, 13);
    }
    for (first, most) in [(0, 6), (6, 6), (10, 6)] {
        Case { from: 253, ..case((5, 5, 1), 32, "f16") }.same_bits(first, most);
    }
}

/// 64 rows at position 448 to 511: what the multiprocessors ask of keys and values, in sectors.
#[test]
fn a_tile_reads_keys_and_values_once() {
    for (heads, expected) in [((6, 6, 1), 4), ((4, 4, 1), 8), ((1, 1, 1), 16)] {
        let case = Case { from: 448, rows: 64, ..case(heads, 128, "f16") };
        let asked = |tile: bool| {
            let (key, grid, geometry) = case.launch(tile, case.rows);
            case.bench(5).bytes_asked_for(&key, (grid, geometry), &case.params(0, 64), &CACHE)
        };
        let (apart, together) = (asked(false), asked(true));
        println!("{}: {} sectors, in tiles {}", case.what(), apart / 32, together / 32);
        // Each row reads what it sees.
        let seen: u64 = (448..512).map(|position| position + 1).sum();
        assert!((seen * 512..=seen * 512 * 11 / 10).contains(&apart), "{apart} bytes");
        // A tile reads what its last row sees.
        let seen: u64 = (448..512).map(|position| position + 1).filter(|end| end % expected == 0).sum();
        assert!((seen * 512..=seen * 512 * 11 / 10).contains(&together), "{together} bytes");
    }
}
