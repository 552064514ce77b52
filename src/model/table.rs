//! The tensors of a file by what they are for: names are read once, here.

use super::error::Error;
use super::names::{Parsed, Role, Slot, parse};
use crate::format::Tensor;
use crate::quant::decode_row;
use std::collections::BTreeMap;
use std::path::Path;

/// Tensors by layer and slot. Every slot is taken at most once, whichever convention its name follows.
pub(crate) struct TensorTable<'a> {
    path: &'a Path,
    tensors: &'a [Tensor],
    slots: BTreeMap<(Option<usize>, Slot), &'a Tensor>,
    unknown: Vec<&'a str>,
}

/// What a file has in the place of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// No tensor.
    Absent,
    /// A tensor without bytes: how some APR files mark a tied head.
    Empty,
    /// A matrix.
    Stored,
}

impl<'a> TensorTable<'a> {
    /// Sorts the tensors of the file at `path` into slots.
    pub(crate) fn new(path: &'a Path, tensors: &'a [Tensor]) -> Result<Self, Error> {
        let mut slots: BTreeMap<(Option<usize>, Slot), &'a Tensor> = BTreeMap::new();
        let mut unknown = Vec::new();
        for tensor in tensors {
            let (layer, slot) = match parse(&tensor.name) {
                Parsed::Known { layer, slot } => (layer, slot),
                Parsed::Harmless => continue,
                Parsed::Unknown => {
                    unknown.push(tensor.name.as_str());
                    continue;
                }
            };
            if layer.is_some_and(|layer| layer >= tensors.len()) {
                let what = format!("a layer of this number cannot be in a file of {} tensors", tensors.len());
                return Err(Error::invalid(path, &tensor.name, what));
            }
            if let Some(first) = slots.insert((layer, slot), tensor) {
                let what = format!("stands for the same weights as {}; expected one of them", first.name);
                return Err(Error::invalid(path, &tensor.name, what));
            }
        }
        let table = Self { path, tensors, slots, unknown };
        for (&(layer, slot), tensor) in &table.slots {
            if let Some(part) = parts(slot).iter().find_map(|role| table.get(layer, Slot::One(*role))) {
                let what = format!("stands for the same weights as {}; expected one of them", part.name);
                return Err(Error::invalid(path, &tensor.name, what));
            }
        }
        Ok(table)
    }

    /// The tensor in a slot.
    pub(crate) fn get(&self, layer: Option<usize>, slot: Slot) -> Option<&'a Tensor> {
        self.slots.get(&(layer, slot)).copied()
    }

    /// The tensor of a role outside of layers.
    pub(crate) fn global(&self, role: Role) -> Option<&'a Tensor> {
        self.get(None, Slot::One(role))
    }

    /// The first tensor, over all layers, in one of `slots`.
    pub(crate) fn any(&self, slots: &[Slot]) -> Option<&'a Tensor> {
        self.slots.iter().find(|((_, slot), _)| slots.contains(slot)).map(|(_, tensor)| *tensor)
    }

    /// All slots that are taken, in order.
    pub(crate) fn taken(&self) -> impl Iterator<Item = (Option<usize>, Slot, &'a Tensor)> + '_ {
        self.slots.iter().map(|(&(layer, slot), &tensor)| (layer, slot, tensor))
    }

    /// A tensor of the last layer, with the layer's number.
    pub(crate) fn last_layer(&self) -> Option<(usize, &'a Tensor)> {
        let ((layer, _), tensor) = self.slots.last_key_value()?;
        layer.map(|layer| (layer, *tensor))
    }

    /// Number of tensors in the file.
    pub(crate) fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Names that mean nothing here.
    pub(crate) fn unknown(&self) -> &[&'a str] {
        &self.unknown
    }

    /// What the file has for a head.
    pub(crate) fn head(&self) -> Head {
        match self.global(Role::Output) {
            None => Head::Absent,
            Some(tensor) if tensor.is_empty() => Head::Empty,
            Some(_) => Head::Stored,
        }
    }

    /// Whether the head is the embedding once more, byte for byte.
    pub(crate) fn head_repeats_embedding(&self) -> bool {
        match (self.global(Role::Output), self.global(Role::TokenEmbedding)) {
            (Some(head), Some(embedding)) => {
                head.tensor_type == embedding.tensor_type
                    && head.shape == embedding.shape
                    && head.bytes() == embedding.bytes()
            }
            _ => false,
        }
    }

    /// The values of `rope_freqs.weight`, if it is there.
    pub(crate) fn rope_freqs(&self) -> Result<Option<Vec<f32>>, Error> {
        self.global(Role::RopeFreqs).map(|tensor| decode_vector(self.path, tensor)).transpose()
    }
}

/// The roles that a fused slot holds, from the first row down.
pub(crate) fn parts(slot: Slot) -> &'static [Role] {
    match slot {
        Slot::Qkv => &[Role::AttnQ, Role::AttnK, Role::AttnV],
        Slot::QkvBias => &[Role::AttnQBias, Role::AttnKBias, Role::AttnVBias],
        Slot::GateUp => &[Role::FfnGate, Role::FfnUp],
        Slot::One(_) => &[],
    }
}

/// The values of a vector: norms, biases, frequency factors.
pub(crate) fn decode_vector(path: &Path, tensor: &Tensor) -> Result<Vec<f32>, Error> {
    if !tensor.tensor_type.is_float() {
        let what = format!("a vector of type {}; expected F32, F16 or BF16", tensor.tensor_type);
        return Err(Error::unsupported(path, &tensor.name, what));
    }
    let bytes = tensor.bytes();
    let mut values = vec![0.0; bytes.len() / tensor.tensor_type.block_bytes()];
    decode_row(tensor.tensor_type, bytes, &mut values)
        .map_err(|error| Error::invalid(path, &tensor.name, error.to_string()))?;
    Ok(values)
}
