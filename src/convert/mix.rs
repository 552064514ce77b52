//! Mixes: which tensor type each weight of a model gets, chosen as llama.cpp chooses it.
//!
//! A mix names one type for most weights and a better one for those that suffer most from rounding: the head, and
//! `attn_v` and `ffn_down` of some layers. The rule is that of `src/llama-quant.cpp` of llama.cpp (ggml 0.25.3), so that
//! a file made here has the types of one made by `llama-quantize`:
//!
//! - vectors, norms and everything whose name does not end in `weight` stay as they are;
//! - the head (the embedding, where the model ties them) is Q6_K, or Q8_0 where the mix is Q8_0 or its block does not
//!   divide the row;
//! - "more bits" go to the first and last eighth of the layers and to every third one between;
//! - layers are counted in the order of their numbers, and only tensors that the rule has chosen for count;
//! - a row that the block does not divide falls back: Q4_K to Q5_0, Q5_K to Q5_1, Q6_K to Q8_0, all of which need 32,
//!   and then to F16.

use crate::quant::TensorType;
use std::fmt;

/// Declares the mixes once: variant, name, the type of most weights, llama.cpp's number for the file.
macro_rules! mixes {
    ($($variant:ident $name:literal $default:ident $file_type:literal;)*) => {
        /// A recipe for a whole model, named as in llama.cpp.
        #[expect(non_camel_case_types, reason = "the field's own names: Q4_K_M, not Q4KM")]
        #[expect(missing_docs, reason = "each variant is named after the mix it stands for")]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Mix { $($variant),* }

        impl Mix {
            /// All mixes, from the smallest file to the largest.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The name, in capitals.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The type of most weights.
            pub const fn tensor_type(self) -> TensorType {
                match self { $(Self::$variant => TensorType::$default),* }
            }

            /// `general.file_type` of such a file.
            pub const fn file_type(self) -> u32 {
                match self { $(Self::$variant => $file_type),* }
            }
        }
    };
}

mixes! {
    Q4_0   "Q4_0"   Q4_0 2;
    Q4_K_S "Q4_K_S" Q4_K 14;
    Q4_K_M "Q4_K_M" Q4_K 15;
    Q4_1   "Q4_1"   Q4_1 3;
    Q5_0   "Q5_0"   Q5_0 8;
    Q5_K_S "Q5_K_S" Q5_K 16;
    Q5_K_M "Q5_K_M" Q5_K 17;
    Q5_1   "Q5_1"   Q5_1 9;
    Q6_K   "Q6_K"   Q6_K 18;
    Q8_0   "Q8_0"   Q8_0 7;
    F16    "F16"    F16  1;
    BF16   "BF16"   BF16 32;
    F32    "F32"    F32  0;
}

impl Mix {
    /// The mix with this name, whatever its case; `q4_k` and `q5_k` stand for their M mixes, as in llama.cpp.
    pub fn from_name(name: &str) -> Option<Self> {
        match name.to_ascii_uppercase().as_str() {
            "Q4_K" => Some(Self::Q4_K_M),
            "Q5_K" => Some(Self::Q5_K_M),
            upper => Self::ALL.iter().copied().find(|mix| mix.name() == upper),
        }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the choice depends on besides the tensors.
#[derive(Clone, Debug)]
pub struct MixOptions {
    /// The mix.
    pub mix: Mix,
    /// The mix's own type for every weight, as far as rows allow.
    pub pure: bool,
    /// A tensor whose GGUF name the pattern finds gets this type; the first pattern that does counts.
    pub overrides: Vec<(regex::Regex, TensorType)>,
    /// An importance matrix will be used: Q4_0 and Q5_0 then guard the first layers.
    pub has_imatrix: bool,
}

impl MixOptions {
    /// A mix and nothing else.
    pub fn new(mix: Mix) -> Self {
        Self { mix, pure: false, overrides: Vec::new(), has_imatrix: false }
    }
}

/// The numbers of a model that its mix depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MixModel<'a> {
    /// `general.architecture`.
    pub architecture: &'a str,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
}

impl MixModel<'_> {
    /// llama.cpp's models "70B", whose few `attn_v` rows get more bits.
    fn is_70b(&self) -> bool {
        self.num_layers == 80
            && match self.architecture {
                "llama" => self.num_heads != self.num_kv_heads,
                "qwen2" => true,
                _ => false,
            }
    }
}

/// A tensor to choose a type for.
#[derive(Clone, Copy, Debug)]
pub struct MixTensor<'a> {
    /// Its GGUF name.
    pub name: &'a str,
    /// Its shape, slowest dimension first.
    pub shape: &'a [usize],
    /// The type that it has.
    pub stored: TensorType,
}

/// The type that was chosen for a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The type.
    pub tensor_type: TensorType,
    /// What the mix asked for, where its block does not divide the row.
    pub instead_of: Option<TensorType>,
    /// The tensor is not one that mixes change (a norm, a bias).
    pub kept: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Embedding,
    Output,
    AttnV,
    FfnDown,
    Other,
}

fn kind(name: &str) -> Kind {
    match name {
        "output.weight" => Kind::Output,
        "token_embd.weight" | "per_layer_token_embd.weight" => Kind::Embedding,
        _ if ["attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight"].iter().any(|v| name.contains(v)) => {
            Kind::AttnV
        }
        _ if name.contains("ffn_down") => Kind::FfnDown,
        _ => Kind::Other,
    }
}

/// Where llama.cpp lists a tensor: those of no layer first, then layer by layer, by name within.
pub(super) fn listing_order(name: &str) -> (i64, &str) {
    let layer = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')).map(|(number, _)| number);
    (layer.and_then(|number| number.parse().ok()).unwrap_or(-1), name)
}

/// Whether a mix may change the tensor.
pub(super) fn is_quantizable(name: &str, shape: &[usize]) -> bool {
    let is_matrix = shape.split_last().is_some_and(|(_, outer)| outer.iter().any(|&dim| dim > 1));
    is_matrix
        && name.ends_with("weight")
        && !name.contains("_norm.weight")
        && !name.contains("ffn_gate_inp.weight")
}

/// The type of every tensor, in the order of `tensors`.
pub fn choose(model: &MixModel<'_>, tensors: &[MixTensor<'_>], options: &MixOptions) -> Vec<Choice> {
    let mut rule = Rule {
        model,
        options,
        tied: tensors.iter().all(|tensor| kind(tensor.name) != Kind::Output),
        attn_v: Counter { next: 0, of: tensors.iter().filter(|t| kind(t.name) == Kind::AttnV).count() },
        ffn_down: Counter { next: 0, of: model.num_layers },
    };
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| tensors.get(i).map(|tensor| listing_order(tensor.name)));
    let mut choices: Vec<(usize, Choice)> =
        order.into_iter().filter_map(|i| Some((i, rule.choose(tensors.get(i)?)))).collect();
    choices.sort_by_key(|&(i, _)| i);
    choices.into_iter().map(|(_, choice)| choice).collect()
}

struct Counter {
    next: usize,
    of: usize,
}

impl Counter {
    fn take(&mut self) -> (usize, usize) {
        let at = self.next;
        self.next += 1;
        (at, self.of)
    }
}

/// The first and the last eighth of the layers, and every third one between.
fn use_more_bits((layer, layers): (usize, usize)) -> bool {
    layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2
}

struct Rule<'a> {
    model: &'a MixModel<'a>,
    options: &'a MixOptions,
    tied: bool,
    attn_v: Counter,
    ffn_down: Counter,
}

impl Rule<'_> {
    fn choose(&mut self, tensor: &MixTensor<'_>) -> Choice {
        if !is_quantizable(tensor.name, tensor.shape) {
            return Choice { tensor_type: tensor.stored, instead_of: None, kept: true };
        }
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let default = self.options.mix.tensor_type();
        let stated = self.options.overrides.iter().find(|(pattern, _)| pattern.is_match(tensor.name));
        let wanted = match stated {
            Some(&(_, tensor_type)) => tensor_type,
            None if self.options.pure || default.is_float() => default,
            None => self.of_mix(kind(tensor.name), cols, default),
        };
        let tensor_type = fitting(wanted, cols);
        Choice { tensor_type, instead_of: (tensor_type != wanted).then_some(wanted), kept: false }
    }

    fn of_mix(&mut self, kind: Kind, cols: usize, default: TensorType) -> TensorType {
        let mix = self.options.mix;
        match kind {
            Kind::Output => head(cols, default),
            Kind::Embedding if self.tied => head(cols, default),
            Kind::AttnV => {
                let at = self.attn_v.take();
                let chosen = match mix {
                    Mix::Q4_K_M | Mix::Q5_K_M if use_more_bits(at) => TensorType::Q6_K,
                    Mix::Q4_K_S if at.0 < 4 => TensorType::Q5_K,
                    _ => default,
                };
                if chosen == TensorType::Q4_K && self.model.is_70b() { TensorType::Q5_K } else { chosen }
            }
            Kind::FfnDown => {
                let at = self.ffn_down.take();
                let first = at.0 < at.1 / 8;
                match mix {
                    Mix::Q4_K_M | Mix::Q5_K_M if use_more_bits(at) => TensorType::Q6_K,
                    Mix::Q4_K_S if first => TensorType::Q5_K,
                    Mix::Q4_0 if first && self.options.has_imatrix => TensorType::Q4_1,
                    Mix::Q5_0 if first && self.options.has_imatrix => TensorType::Q5_1,
                    _ => default,
                }
            }
            Kind::Embedding | Kind::Other => default,
        }
    }
}

fn head(cols: usize, default: TensorType) -> TensorType {
    if default == TensorType::Q8_0 || !cols.is_multiple_of(default.block_len()) {
        TensorType::Q8_0
    } else {
        TensorType::Q6_K
    }
}

/// `wanted`, or the type that stands in for it where its block does not divide a row of `cols` values. llama.cpp has no
/// stand-in for types in blocks of 32 and refuses such a model; F16 it is here for them too.
fn fitting(wanted: TensorType, cols: usize) -> TensorType {
    let fits = |tensor_type: TensorType| cols.is_multiple_of(tensor_type.block_len());
    if fits(wanted) {
        return wanted;
    }
    let second = match wanted {
        TensorType::Q4_K => TensorType::Q5_0,
        TensorType::Q5_K => TensorType::Q5_1,
        TensorType::Q6_K => TensorType::Q8_0,
        _ => TensorType::F16,
    };
    if fits(second) { second } else { TensorType::F16 }
}
