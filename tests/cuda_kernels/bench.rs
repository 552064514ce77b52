//! What the tests share: matrices and records as the device holds them, the parameters of a launch, the launch.

use aprgpu::backend::cuda::forms::{self, Geometry, Rows};
use aprgpu::backend::cuda::sources::{self, Target};
use aprgpu::compare::Random;
use aprgpu::plan::OpKind;
use aprgpu::quant::{self, Cut, PANEL_ROWS, Q8KRow, Q8Row, RowPanels, TensorType, encode_row};
use ptxsim::{Arg, Kernel, Memory, Module, Options, Report};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

pub const NONE: u32 = u32::MAX;
pub const FLAG_NORM: u32 = 1;
pub const FLAG_RECORDS: u32 = 2;
pub const FLAG_ZERO: u32 = 256;
pub const FLAG_SUPER_BLOCKS: u32 = 512;
pub const EPS: f32 = 1e-6;
const RECORD: usize = 44;

/// The parameter block, field for field.
#[derive(Clone, Debug)]
pub struct Params(pub HashMap<&'static str, u32>);

const FIELDS: [&str; 36] = [
    "records",
    "units_a",
    "units_b",
    "segments",
    "base0",
    "base1",
    "base2",
    "panels0",
    "panels1",
    "panels2",
    "first_panel",
    "rows",
    "bias0",
    "bias1",
    "bias2",
    "norm",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "rope_pairs",
    "context",
    "window",
    "splits",
    "first_row",
    "asked_at",
    "flags",
    "eps",
    "scale",
    "plan_rows",
    "stride_a",
    "stride_b",
    "second",
    "columns",
    "spare0",
    "spare1",
    "spare2",
];

impl Params {
    pub fn new() -> Self {
        let none = ["bias0", "bias1", "bias2", "norm"].map(|name| (name, NONE));
        Self(none.into_iter().chain([("eps", EPS.to_bits())]).collect())
    }

    pub fn set(&mut self, name: &'static str, value: u32) {
        assert!(FIELDS.contains(&name), "{name}");
        self.0.insert(name, value);
    }

    fn bytes(&self) -> Vec<u8> {
        FIELDS.iter().flat_map(|name| self.0.get(name).copied().unwrap_or(0).to_le_bytes()).collect()
    }
}

/// A matrix: rows as in a file, and in panels.
pub struct Matrix {
    pub rows: Vec<Vec<u8>>,
    pub panels: Vec<u8>,
    pub stride: u32,
}

impl Matrix {
    pub fn random(random: &mut Random, tensor_type: TensorType, rows: usize, cols: usize) -> Self {
        let rows: Vec<Vec<u8>> = (0..rows)
            .map(|_| {
                let values: Vec<f32> = random.values(cols).iter().map(|v| v * 0.1 + 0.01).collect();
                let mut bytes = vec![0; tensor_type.row_bytes(cols).unwrap()];
                encode_row(tensor_type, &values, None, &mut bytes).unwrap();
                bytes
            })
            .collect();
        let layout = RowPanels::new(tensor_type).unwrap();
        let size = layout.panel_bytes(cols).unwrap();
        let mut panels = vec![0; rows.len().div_ceil(PANEL_ROWS) * size];
        for (rows, panel) in rows.chunks(PANEL_ROWS).zip(panels.chunks_exact_mut(size)) {
            layout.repack(rows.iter().map(|row| &row[..]), panel);
        }
        Self { rows, panels, stride: (size / 16) as u32 }
    }

    pub fn panel_count(&self) -> u32 {
        self.rows.len().div_ceil(PANEL_ROWS) as u32
    }
}

/// Activations of one row, in every form.
pub struct Activation {
    pub values: Vec<f32>,
    pub q8: Q8Row,
    pub q8_k: Option<Q8KRow>,
    /// Sum of squares before the norm's weight, per record.
    pub squares: Vec<f32>,
}

impl Activation {
    pub fn random(random: &mut Random, cols: usize) -> Self {
        let mut values = random.values(cols);
        // A record of zeros, and one that is tiny.
        if cols >= 96 {
            values[32..64].fill(0.0);
            values[64..96].iter_mut().for_each(|v| *v *= 1e-38);
        }
        Self::new(values)
    }

    pub fn new(values: Vec<f32>) -> Self {
        let mut padded = values.clone();
        padded.resize(values.len().next_multiple_of(32), 0.0);
        let mut q8 = Q8Row::new();
        q8.quantize(&padded).unwrap();
        let q8_k = values.len().is_multiple_of(256).then(|| {
            let mut row = Q8KRow::new();
            row.quantize(&values).unwrap();
            row
        });
        let squares = padded.chunks(32).map(|v| v.iter().map(|v| v * v).sum()).collect();
        Self { values, q8, q8_k, squares }
    }

    /// The records as the device holds them; `k`: in the form q8_k.
    pub fn records(&self, k: bool) -> Vec<u32> {
        let mut words = Vec::new();
        let mut padded = self.values.clone();
        padded.resize(self.values.len().next_multiple_of(32), 0.0);
        for (index, values) in padded.chunks(32).enumerate() {
            let (scale, integers, sums) = match (&self.q8_k, k) {
                (Some(row), true) => {
                    (row.scales[index / 8], &row.values[32 * index..][..32], &row.sums[2 * index..][..2])
                }
                _ => (
                    self.q8.scales[index],
                    &self.q8.values[32 * index..][..32],
                    &self.q8.sums[2 * index..][..2],
                ),
            };
            words.extend(values.iter().map(|v| v.to_bits()));
            let bytes: Vec<u8> = integers.iter().map(|v| *v as u8).collect();
            words.extend(bytes.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())));
            words.push(scale.to_bits());
            words.push(u32::from(sums[0] as u16) | u32::from(sums[1] as u16) << 16);
            words.push(self.squares[index].to_bits());
            words.push(0);
        }
        words
    }

    /// The product with a row of weights.
    pub fn dot(&self, tensor_type: TensorType, row: &[u8], x: &str) -> f32 {
        match x {
            "q8" => quant::dot_q8(tensor_type, row, &self.q8, Cut::WHOLE),
            "q8_k" => quant::dot_q8_k(tensor_type, row, self.q8_k.as_ref().unwrap(), Cut::WHOLE),
            _ => quant::dot_f32(tensor_type, row, &self.values, Cut::WHOLE),
        }
    }

    /// 1 / rms, from the squares in the records.
    pub fn inverse_rms(&self) -> f32 {
        self.inverse_rms_of(self.values.len())
    }

    pub fn inverse_rms_of(&self, cols: usize) -> f32 {
        let squares: f64 = self.squares.iter().map(|v| f64::from(*v)).sum();
        (1.0 / (squares / cols as f64 + f64::from(EPS)).sqrt()) as f32
    }
}

/// A place that must be left alone.
pub const SENTINEL: u32 = 0x7fc0_dead;

/// A record as it was found.
pub struct Record<'a>(pub &'a [u32]);

impl Record<'_> {
    pub fn values(&self) -> Vec<f32> {
        self.0[..32].iter().map(|w| f32::from_bits(*w)).collect()
    }

    /// Integers, scale and sums must be what `quant::q8` makes of the values, bit for bit.
    pub fn check(&self, squares: f64, what: &str) {
        let mut row = Q8Row::new();
        row.quantize(&self.values()).unwrap();
        let bytes: Vec<u8> = self.0[32..40].iter().flat_map(|w| w.to_le_bytes()).collect();
        assert_eq!(bytes, row.values.iter().map(|v| *v as u8).collect::<Vec<_>>(), "{what}: integers");
        assert_eq!(self.0[40], row.scales[0].to_bits(), "{what}: scale");
        assert_eq!(
            self.0[41],
            u32::from(row.sums[0] as u16) | u32::from(row.sums[1] as u16) << 16,
            "{what}: sums"
        );
        let found = f64::from(f32::from_bits(self.0[42]));
        assert!((found - squares).abs() <= 1e-5 * squares + 1e-37, "{what}: squares {found} for {squares}");
    }
}

/// The records of one row of activations in the form `q8_0` or `q8_k` must be what `quant` makes of the row's values, bit for
/// bit.
pub fn check_ggml_row(records: &[Record<'_>], form: &str, what: &str) {
    let all: Vec<f32> = records.iter().flat_map(Record::values).collect();
    let (scales, integers, sums, per_scale) = if form == "q8_k" {
        let mut k = Q8KRow::new();
        k.quantize(&all).unwrap();
        (k.scales, k.values, k.sums, 8)
    } else {
        let mut zero = Q8Row::new();
        zero.quantize_q8_0(&all).unwrap();
        (zero.scales, zero.values, zero.sums, 1)
    };
    for (block, record) in records.iter().enumerate() {
        let bytes: Vec<u8> = record.0[32..40].iter().flat_map(|w| w.to_le_bytes()).collect();
        let truth: Vec<u8> = integers[32 * block..][..32].iter().map(|v| *v as u8).collect();
        assert_eq!(bytes, truth, "{what}, record {block}: integers");
        assert_eq!(record.0[40], scales[block / per_scale].to_bits(), "{what}, record {block}: scale");
        let packed = u32::from(sums[2 * block] as u16) | u32::from(sums[2 * block + 1] as u16) << 16;
        assert_eq!(record.0[41], packed, "{what}, record {block}: sums");
        assert_eq!(record.0[43], 0, "{what}, record {block}: the word that is free");
    }
}

pub fn records(words: &[u32]) -> Vec<Record<'_>> {
    words.chunks_exact(RECORD).map(Record).collect()
}

pub fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// One launch's device memory: buffers by the names of the kernel's parameters.
pub struct Bench {
    pub memory: Memory,
    buffers: HashMap<&'static str, (u64, usize)>,
}

impl Bench {
    pub fn new() -> Self {
        Self { memory: Memory::new(), buffers: HashMap::new() }
    }

    pub fn put(&mut self, name: &'static str, words: &[u32]) {
        self.put_bytes(name, &bytes_of(words));
    }

    pub fn put_bytes(&mut self, name: &'static str, bytes: &[u8]) {
        let at = self.memory.upload(bytes).unwrap();
        self.buffers.insert(name, (at, bytes.len()));
    }

    pub fn words(&self, name: &str) -> Vec<u32> {
        let (at, len) = self.buffers[name];
        let bytes = self.memory.download(at, len).unwrap();
        bytes.chunks(4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        self.words(name).into_iter().map(f32::from_bits).collect()
    }

    pub fn launch(
        &self,
        key: &str,
        target: Target,
        grid: [u32; 3],
        block: Geometry,
        params: &Params,
        seed: u64,
    ) {
        let options = Options { seed, dependent: target == Target::Sm90, ..Options::strict() };
        self.launch_with(&kernel(key, target), key, target, (grid, block), params, &options);
    }

    /// Bytes of global memory that a launch asks for with the instructions whose text holds one of `instructions`, in whole sectors.
    pub fn bytes_asked_for(
        &self,
        key: &str,
        launch: ([u32; 3], Geometry),
        params: &Params,
        instructions: &[&str],
    ) -> u64 {
        // Without directives the profile's lines are the text's.
        let text = sources::source(key, Target::Sm80).unwrap();
        let module = Module::parse(&text).unwrap();
        let kernel = module.kernel(&sources::entry_name(key, Target::Sm80)).unwrap();
        let options = Options { profile: true, ..Options::default() };
        let report = self.launch_with(kernel, key, Target::Sm80, launch, params, &options);
        let lines: Vec<&str> = text.lines().collect();
        let counts = |line: u32| instructions.iter().any(|wanted| lines[line as usize - 1].contains(wanted));
        report.lines.iter().filter(|(line, _)| counts(**line)).map(|(_, found)| 32 * found.sectors).sum()
    }

    fn launch_with(
        &self,
        kernel: &Kernel,
        key: &str,
        target: Target,
        (grid, block): ([u32; 3], Geometry),
        params: &Params,
        options: &Options,
    ) -> Report {
        let names = buffer_names(key, target);
        let mut args: Vec<Arg> = names
            .iter()
            .map(|name| Arg::U64(self.buffers.get(&name[..]).unwrap_or_else(|| panic!("{key}: no {name}")).0))
            .collect();
        args.push(Arg::Bytes(params.bytes()));
        let packed = kernel.pack(&args).unwrap();
        let shared = block.shared_bytes as usize;
        ptxsim::launch(kernel, &self.memory, grid, [block.threads, 1, 1], shared, &packed, options)
            .unwrap_or_else(|fault| panic!("{key}: {fault}"))
    }
}

fn buffer_names(key: &str, target: Target) -> Vec<String> {
    let text = sources::source(key, target).unwrap();
    let of_line =
        |line: &str| Some(line.trim().strip_prefix(".param .u64 ")?.trim_end_matches(',').to_owned());
    text.lines().filter_map(of_line).collect()
}

fn kernel(key: &str, target: Target) -> Arc<Kernel> {
    type Kernels = HashMap<(String, Target), Arc<Kernel>>;
    static KERNELS: Mutex<Option<Kernels>> = Mutex::new(None);
    let mut kernels = KERNELS.lock().unwrap();
    let found = kernels.get_or_insert_default().entry((key.to_owned(), target));
    let parsed = found.or_insert_with(|| {
        let text = sources::source_with_lines(key, target).unwrap();
        let module = Module::parse(&text).unwrap_or_else(|error| panic!("{key}: {error}"));
        Arc::new(module.kernel(&sources::entry_name(key, target)).unwrap().clone())
    });
    Arc::clone(parsed)
}

/// Every weight type with every form of activations that it meets.
pub fn types_and_forms() -> Vec<(TensorType, &'static str)> {
    use TensorType::*;
    let all = [Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, F16, BF16, F32];
    let forms = |a: TensorType| {
        let quantized = !a.is_float();
        [(quantized, "q8"), (quantized && a.block_len() == 256, "q8_k"), (true, "f32")]
    };
    let pairs = all.into_iter().flat_map(|a| forms(a).map(|(there, x)| there.then_some((a, x))));
    pairs.flatten().collect()
}

/// What a test of a product is about.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub op: OpKind,
    pub a: TensorType,
    pub x: &'static str,
    pub rows: usize,
    pub cols: usize,
    /// Rows of activations; a decode kernel is made for `m`.
    pub m: usize,
    pub tile: bool,
    /// `None`: as many as there may be.
    pub segments: Option<u32>,
    pub target: Target,
}

impl Shape {
    pub fn kernel_rows(self) -> Rows {
        if self.tile { Rows::Tile } else { Rows::Decode(self.m as u32) }
    }

    pub fn units(self, tensor_type: TensorType) -> u32 {
        (self.cols as u32).div_ceil(forms::unit_columns(tensor_type, self.x))
    }

    /// As many as a block has room for: matrices here are too small to fill a device otherwise.
    pub fn segments(self) -> u32 {
        let most = if self.op == OpKind::GateUp { 6 } else { 16 };
        self.segments.unwrap_or(most.min(self.units(self.a)))
    }

    pub fn key(self, b: Option<TensorType>) -> String {
        forms::product_key(self.op, self.a, b, self.x, self.kernel_rows())
    }

    pub fn grid(self, panels: u32) -> [u32; 3] {
        [panels, if self.tile { (self.m as u32).div_ceil(forms::TILE) } else { 1 }, 1]
    }

    /// What every product's parameters have in common.
    pub fn params(self) -> Params {
        assert!(self.cols.is_multiple_of(32) || self.a.is_float());
        let mut params = Params::new();
        params.set("records", (self.cols as u32).div_ceil(32));
        params.set("columns", self.cols as u32);
        params.set("units_a", self.units(self.a));
        params.set("segments", self.segments());
        params.set("rows", self.rows as u32);
        params
    }

    pub fn geometry(self) -> Geometry {
        forms::geometry(self.op, self.kernel_rows(), self.segments())
    }
}

/// The limit of the normalized mean square error where both sides have the same activations.
pub fn close(found: &[f32], truth: &[f32], limit: f64, what: &str) {
    let nmse = aprgpu::compare::metric::nmse(found, truth);
    assert!(nmse <= limit, "{what}: NMSE {nmse:e}");
}
