//! The weights of a model by role. Matrices stay in the file's map: a weight is a view of rows, in the order and layout
//! in which kernels take them. Only what no kernel reads as it lies is decoded, and that is noted.

mod prepare;
mod row_order;

pub use row_order::RowOrder;

use super::error::Error;
use super::names::{Role, Slot};
use super::table::{TensorTable, parts};
use super::{ModelConfig, RopePairing};
use crate::format::Tensor;
use crate::quant::{TensorType, finite_scales};
use prepare::{Data, Prepared};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One weight: a matrix `[rows, cols]`, or a vector with one row.
#[derive(Clone, Debug)]
pub struct WeightTensor {
    /// What it is for.
    pub role: Role,
    /// The layer, for roles that belong to one.
    pub layer: Option<usize>,
    /// The tensor's name in the file.
    pub name: String,
    /// The type of its rows. Vectors are always `F32`.
    pub tensor_type: TensorType,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
    /// The order in which rows are taken from the file.
    pub row_order: RowOrder,
    data: Data,
    /// Where row 0 starts in `data`, in bytes.
    start: usize,
    row_bytes: usize,
}

impl WeightTensor {
    /// The bytes of row `index`, in the layout of [`Self::tensor_type`]; empty past the last row. They have no particular
    /// alignment.
    pub fn row(&self, index: usize) -> &[u8] {
        if index >= self.rows {
            return &[];
        }
        let from = self.start + self.row_order.source(index) * self.row_bytes;
        self.data.bytes().get(from..from + self.row_bytes).unwrap_or_default()
    }

    /// Bytes of all rows.
    pub fn bytes(&self) -> u64 {
        self.row_bytes as u64 * self.rows as u64
    }

    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        self.rows as u64 * self.cols as u64
    }

    /// The values of a vector; `None` for a matrix.
    pub fn values(&self) -> Option<&[f32]> {
        if !self.role.is_vector() {
            return None;
        }
        let first = self.start / size_of::<f32>();
        self.data.values()?.get(first..first + self.cols)
    }

    /// Whether the rows are read from the mapped file, not from memory of their own.
    pub fn is_mapped(&self) -> bool {
        matches!(self.data, Data::Mapped(_))
    }

    /// Says that this weight was read for the last time: its pages of the mapped file no longer count as resident.
    pub fn release(&self) {
        if let Data::Mapped(map) = &self.data {
            map.release(self.start..self.start + self.row_bytes * self.rows);
        }
    }

    /// All rows in the order of the file.
    fn stored(&self) -> &[u8] {
        self.data.bytes().get(self.start..self.start + self.row_bytes * self.rows).unwrap_or_default()
    }
}

/// A weight that takes memory of its own, since no kernel reads the type that the file has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadNote {
    /// The tensor's name in the file.
    pub tensor: String,
    /// What was done to it.
    pub what: String,
    /// The memory that this takes.
    pub bytes: u64,
}

/// All weights of a model.
#[derive(Clone, Debug)]
pub struct Weights {
    path: PathBuf,
    tensors: Vec<WeightTensor>,
    index: BTreeMap<(Option<usize>, Role), usize>,
    notes: Vec<LoadNote>,
    warnings: Vec<String>,
}

impl Weights {
    /// Finds the weights that `config` asks for among the tensors of the file at `path`. `stored` is the order of the q
    /// and k rows in the file; where the configuration's pairing is another one, they are taken in permuted order.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape, holds no bytes, or is of a type that is not computed.
    pub(super) fn load(
        path: &Path,
        config: &ModelConfig,
        tensors: &[Tensor],
        stored: RopePairing,
    ) -> Result<Self, Error> {
        let table = TensorTable::new(path, tensors)?;
        let mut loader = Loader {
            path,
            config,
            table: &table,
            permute: stored == RopePairing::Neox && config.rope.pairing == RopePairing::Norm,
            fused: BTreeMap::new(),
            used: BTreeSet::new(),
            weights: Self {
                path: path.to_owned(),
                tensors: Vec::new(),
                index: BTreeMap::new(),
                notes: Vec::new(),
                warnings: Vec::new(),
            },
        };
        loader.add(None, Role::TokenEmbedding)?;
        for layer in 0..config.num_layers {
            for role in layer_roles(config) {
                loader.add(Some(layer), role)?;
            }
        }
        loader.add(None, Role::OutputNorm)?;
        if !config.tied_embeddings {
            loader.add(None, Role::Output)?;
        }
        loader.finish()
    }

    /// All weights, in the order of a forward pass.
    pub fn tensors(&self) -> &[WeightTensor] {
        &self.tensors
    }

    /// The weight of a role; `layer` is `None` for roles that belong to none.
    pub fn get(&self, layer: Option<usize>, role: Role) -> Option<&WeightTensor> {
        self.tensors.get(*self.index.get(&(layer, role))?)
    }

    /// The head: the embedding where the model ties them.
    pub fn head(&self) -> Option<&WeightTensor> {
        self.get(None, Role::Output).or_else(|| self.get(None, Role::TokenEmbedding))
    }

    /// Weights that were converted while loading, with the memory that this takes.
    pub fn notes(&self) -> &[LoadNote] {
        &self.notes
    }

    /// What in the file is not used.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Number of weights; tied ones count once.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(WeightTensor::parameters).sum()
    }

    /// Bytes of all weights as kernels read them; tied ones count once.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(WeightTensor::bytes).sum()
    }

    /// Checks the scales of every block (every element of float types). `progress` is called after each tensor with the
    /// bytes checked so far. Reads the whole file: a loader that repacks calls [`Self::check_tensor`] as it goes.
    ///
    /// # Errors
    /// The first tensor and block with a scale that is NaN or infinite.
    pub fn check_finite(&self, mut progress: impl FnMut(u64)) -> Result<(), Error> {
        let mut done = 0;
        for tensor in &self.tensors {
            self.check_tensor(tensor)?;
            done += tensor.bytes();
            progress(done);
        }
        Ok(())
    }

    /// The same for one of the tensors.
    ///
    /// # Errors
    /// The first block with a scale that is NaN or infinite.
    pub fn check_tensor(&self, tensor: &WeightTensor) -> Result<(), Error> {
        finite_scales(tensor.tensor_type, tensor.stored())
            .map_err(|error| Error::invalid(&self.path, &tensor.name, error.to_string()))
    }
}

/// The roles that each layer of a model has, in the order of a forward pass.
fn layer_roles(config: &ModelConfig) -> impl Iterator<Item = Role> {
    let (qkv, norm, output, mlp) = (config.qkv_bias, config.qk_norm, config.output_bias, config.mlp_bias);
    [
        (true, Role::AttnNorm),
        (true, Role::AttnQ),
        (qkv, Role::AttnQBias),
        (true, Role::AttnK),
        (qkv, Role::AttnKBias),
        (true, Role::AttnV),
        (qkv, Role::AttnVBias),
        (norm, Role::AttnQNorm),
        (norm, Role::AttnKNorm),
        (true, Role::AttnOutput),
        (output, Role::AttnOutputBias),
        (true, Role::FfnNorm),
        (true, Role::FfnGate),
        (mlp, Role::FfnGateBias),
        (true, Role::FfnUp),
        (mlp, Role::FfnUpBias),
        (true, Role::FfnDown),
        (mlp, Role::FfnDownBias),
    ]
    .into_iter()
    .filter_map(|(there, role)| there.then_some(role))
}

/// The shape that a configuration asks for: `(rows, cols)`, one row for vectors.
fn shape(config: &ModelConfig, role: Role) -> (usize, usize) {
    // The configuration has checked that these products fit.
    let query = config.num_heads * config.head_dim;
    let key = config.num_kv_heads * config.head_dim;
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    match role {
        Role::TokenEmbedding | Role::Output => (config.vocab_size, hidden),
        Role::AttnNorm | Role::FfnNorm | Role::OutputNorm => (1, hidden),
        Role::AttnQ => (query, hidden),
        Role::AttnK | Role::AttnV => (key, hidden),
        Role::AttnQBias => (1, query),
        Role::AttnKBias | Role::AttnVBias => (1, key),
        Role::AttnQNorm | Role::AttnKNorm => (1, config.head_dim),
        Role::AttnOutput => (hidden, query),
        Role::AttnOutputBias | Role::FfnDownBias => (1, hidden),
        Role::FfnGate | Role::FfnUp => (ffn, hidden),
        Role::FfnGateBias | Role::FfnUpBias => (1, ffn),
        Role::FfnDown => (hidden, ffn),
        Role::RopeFreqs => (1, config.rope.dim / 2),
    }
}

/// The state of one load.
struct Loader<'a> {
    path: &'a Path,
    config: &'a ModelConfig,
    table: &'a TensorTable<'a>,
    permute: bool,
    /// Fused tensors whose rows are shared by several weights.
    fused: BTreeMap<(Option<usize>, Slot), Prepared>,
    used: BTreeSet<(Option<usize>, Slot)>,
    weights: Weights,
}

impl Loader<'_> {
    fn add(&mut self, layer: Option<usize>, role: Role) -> Result<(), Error> {
        let (rows, cols) = shape(self.config, role);
        let slot = Slot::One(role);
        let (tensor, prepared, skip) = match self.table.get(layer, slot) {
            Some(tensor) => {
                let prepared = self.prepare(tensor, role.is_vector(), rows, cols)?;
                self.used.insert((layer, slot));
                (tensor, prepared, 0)
            }
            None => self.part(layer, role)?,
        };
        // Rows of a matrix, elements of a vector: what one part of a fused tensor is counted in.
        let unit = if role.is_vector() { size_of::<f32>() } else { prepared.row_bytes };
        let row_bytes = if role.is_vector() { cols * size_of::<f32>() } else { prepared.row_bytes };
        let mut weight = WeightTensor {
            role,
            layer,
            name: tensor.name.clone(),
            tensor_type: prepared.tensor_type,
            rows,
            cols,
            row_order: RowOrder::AsStored,
            data: prepared.data,
            start: prepared.start + skip * unit,
            row_bytes,
        };
        if self.permute {
            let order =
                RowOrder::NormFromNeox { head_dim: self.config.head_dim, rope_dim: self.config.rope.dim };
            match role {
                Role::AttnQ | Role::AttnK => weight.row_order = order,
                Role::AttnQBias | Role::AttnKBias => {
                    weight.data = order.reorder(&mut weight.start, &weight.data, cols);
                }
                _ => {}
            }
        }
        if weight.stored().len() as u64 != weight.bytes() {
            let what = format!("expected {} bytes from byte {} of its data", weight.bytes(), weight.start);
            return Err(Error::invalid(self.path, &weight.name, what));
        }
        self.weights.index.insert((layer, role), self.weights.tensors.len());
        self.weights.tensors.push(weight);
        Ok(())
    }

    /// The rows of `role` in a fused tensor: the tensor and the rows (or elements) before them.
    fn part(&mut self, layer: Option<usize>, role: Role) -> Result<(&Tensor, Prepared, usize), Error> {
        let slots = [Slot::Qkv, Slot::QkvBias, Slot::GateUp];
        let fused = slots.into_iter().filter(|slot| parts(*slot).contains(&role));
        let found = fused.filter_map(|slot| Some((slot, self.table.get(layer, slot)?))).next();
        let Some((slot, tensor)) = found else {
            let (gguf, hf) = (role.gguf_name(layer), role.hugging_face_name(layer));
            return Err(Error::invalid(self.path, gguf, format!("missing (also under the name {hf})")));
        };
        // Counted in rows of a matrix, in elements of a vector.
        let size = |role: Role| match shape(self.config, role) {
            (1, cols) if role.is_vector() => cols,
            (rows, _) => rows,
        };
        let total: usize = parts(slot).iter().map(|&part| size(part)).sum();
        let skip: usize = parts(slot).iter().take_while(|&&part| part != role).map(|&part| size(part)).sum();
        if let Some(prepared) = self.fused.get(&(layer, slot)) {
            return Ok((tensor, prepared.clone(), skip));
        }
        let (rows, cols) = if role.is_vector() { (1, total) } else { (total, shape(self.config, role).1) };
        let prepared = self.prepare(tensor, role.is_vector(), rows, cols)?;
        self.used.insert((layer, slot));
        self.fused.insert((layer, slot), prepared.clone());
        Ok((tensor, prepared, skip))
    }

    fn prepare(
        &mut self,
        tensor: &Tensor,
        vector: bool,
        rows: usize,
        cols: usize,
    ) -> Result<Prepared, Error> {
        let expected = if vector { vec![cols] } else { vec![rows, cols] };
        if tensor.shape != expected {
            let what =
                format!("expected shape {expected:?} from the configuration, found {:?}", tensor.shape);
            return Err(Error::invalid(self.path, &tensor.name, what));
        }
        if tensor.is_empty() {
            return Err(Error::invalid(self.path, &tensor.name, "the tensor holds no bytes"));
        }
        let prepared = if vector {
            Prepared::vector(self.path, tensor)?
        } else {
            Prepared::matrix(self.path, tensor, rows, cols)?
        };
        if let Some(what) = prepared.converted {
            let bytes = prepared.data.bytes().len() as u64;
            self.weights.notes.push(LoadNote { tensor: tensor.name.clone(), what: what.to_owned(), bytes });
        }
        Ok(prepared)
    }

    /// Says what was left over.
    fn finish(mut self) -> Result<Weights, Error> {
        for (layer, slot, tensor) in self.table.taken() {
            match slot {
                _ if self.used.contains(&(layer, slot)) => {}
                Slot::One(Role::RopeFreqs) => {}
                Slot::One(Role::Output) => {
                    if !tensor.is_empty() && !self.table.head_repeats_embedding() {
                        let what = "not used: the configuration says that the head is the embedding";
                        self.weights.warnings.push(format!("{}: {what}", tensor.name));
                    }
                }
                _ => {
                    let what = "no weight of this model goes by this name";
                    return Err(Error::invalid(self.path, &tensor.name, what));
                }
            }
        }
        for name in self.table.unknown() {
            self.weights
                .warnings
                .push(format!("{name}: not used: no weight that is known goes by this name"));
        }
        Ok(self.weights)
    }
}
