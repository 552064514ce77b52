//! The one table of architectures: everything that differs between them is a row here.

use super::RopePairing;
use serde::Serialize;

/// A family of models that share one forward pass up to the fields of [`super::ModelConfig`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Qwen2 and Qwen2.5: biases on q, k and v; NEOX RoPE.
    Qwen2,
    /// Qwen3: norms on the heads of q and k; explicit head size; NEOX RoPE.
    Qwen3,
    /// Llama 2 and 3.x, Mistral, TinyLlama: NORM RoPE in GGUF files, NEOX in Hugging Face ones.
    Llama,
}

/// Whether the models of a family have a kind of tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Presence {
    /// All of them.
    Always,
    /// Some: the file says.
    Optional,
    /// None; such a tensor in a file is an error, since it would go unused.
    Never,
}

/// A name under which Hugging Face's configurations know a family.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HuggingFaceName {
    /// `model_type`.
    pub model_type: &'static str,
    /// The class in `architectures`.
    pub class: &'static str,
    /// The window of the configuration class where `sliding_window` is not in the file.
    pub default_sliding_window: Option<usize>,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ArchitectureRow {
    /// The row's key.
    pub architecture: Architecture,
    /// `general.architecture` of GGUF files, and the prefix of their keys.
    pub gguf_name: &'static str,
    /// Hugging Face's names.
    pub hugging_face: &'static [HuggingFaceName],
    /// Further values of `architecture` in APR files.
    pub apr_names: &'static [&'static str],
    /// RMSNorm epsilon where the file says nothing.
    pub default_rms_norm_eps: f32,
    /// RoPE base of a GGUF or APR file that says nothing. `None`: such a file is refused, since models of this family
    /// were trained with another base than the one that readers usually assume.
    pub default_rope_theta: Option<f32>,
    /// RoPE base that transformers' configuration class assumes.
    pub hugging_face_default_rope_theta: f32,
    /// The order of q and k rows in GGUF files. Hugging Face files are always NEOX: where this is NORM, the rows of
    /// their q and k are read in permuted order.
    pub rope_pairing: RopePairing,
    /// Biases on q, k and v.
    pub qkv_bias: Presence,
    /// A bias on the attention output projection.
    pub output_bias: Presence,
    /// Biases on gate, up and down.
    pub mlp_bias: Presence,
    /// RMSNorm on the heads of q and k.
    pub qk_norm: Presence,
    /// Whether the head is the embedding where a Hugging Face configuration does not say.
    pub default_tied_embeddings: bool,
}

/// The table. Epsilons: the value that every published model of the family states. Bases and windows: the configuration
/// classes of transformers 5 (`configuration_{qwen2,qwen3,llama,mistral}.py`). Row orders: `llama_model_rope_type` of
/// llama.cpp.
static TABLE: [ArchitectureRow; 3] = [
    ArchitectureRow {
        architecture: Architecture::Qwen2,
        gguf_name: "qwen2",
        hugging_face: &[HuggingFaceName {
            model_type: "qwen2",
            class: "Qwen2ForCausalLM",
            default_sliding_window: None,
        }],
        apr_names: &["qwen", "qwen2.5"],
        default_rms_norm_eps: 1e-6,
        default_rope_theta: None,
        hugging_face_default_rope_theta: 10_000.0,
        rope_pairing: RopePairing::Neox,
        qkv_bias: Presence::Always,
        output_bias: Presence::Never,
        mlp_bias: Presence::Never,
        qk_norm: Presence::Never,
        default_tied_embeddings: false,
    },
    ArchitectureRow {
        architecture: Architecture::Qwen3,
        gguf_name: "qwen3",
        hugging_face: &[HuggingFaceName {
            model_type: "qwen3",
            class: "Qwen3ForCausalLM",
            default_sliding_window: None,
        }],
        apr_names: &[],
        default_rms_norm_eps: 1e-6,
        default_rope_theta: None,
        hugging_face_default_rope_theta: 10_000.0,
        rope_pairing: RopePairing::Neox,
        qkv_bias: Presence::Optional,
        output_bias: Presence::Optional,
        mlp_bias: Presence::Never,
        qk_norm: Presence::Always,
        default_tied_embeddings: false,
    },
    ArchitectureRow {
        architecture: Architecture::Llama,
        gguf_name: "llama",
        hugging_face: &[
            HuggingFaceName { model_type: "llama", class: "LlamaForCausalLM", default_sliding_window: None },
            HuggingFaceName {
                model_type: "mistral",
                class: "MistralForCausalLM",
                default_sliding_window: Some(4096),
            },
        ],
        apr_names: &["tinyllama"],
        default_rms_norm_eps: 1e-5,
        default_rope_theta: Some(10_000.0),
        hugging_face_default_rope_theta: 10_000.0,
        rope_pairing: RopePairing::Norm,
        qkv_bias: Presence::Optional,
        output_bias: Presence::Optional,
        mlp_bias: Presence::Optional,
        qk_norm: Presence::Never,
        default_tied_embeddings: false,
    },
];

impl Architecture {
    /// All rows of the table.
    pub fn table() -> &'static [ArchitectureRow] {
        &TABLE
    }

    /// This architecture's row.
    pub fn row(self) -> &'static ArchitectureRow {
        match self {
            Self::Qwen2 => &TABLE[0],
            Self::Qwen3 => &TABLE[1],
            Self::Llama => &TABLE[2],
        }
    }

    /// The name in GGUF files, for example `qwen2`.
    pub fn name(self) -> &'static str {
        self.row().gguf_name
    }

    /// The row that a GGUF file's `general.architecture` names.
    pub fn from_gguf_name(name: &str) -> Option<&'static ArchitectureRow> {
        TABLE.iter().find(|row| row.gguf_name == name)
    }

    /// The row that a Hugging Face `model_type` names.
    pub fn from_model_type(model_type: &str) -> Option<(&'static ArchitectureRow, &'static HuggingFaceName)> {
        TABLE.iter().find_map(|row| {
            row.hugging_face.iter().find(|name| name.model_type == model_type).map(|name| (row, name))
        })
    }

    /// The row that an entry of Hugging Face's `architectures` names.
    pub fn from_class(class: &str) -> Option<(&'static ArchitectureRow, &'static HuggingFaceName)> {
        TABLE
            .iter()
            .find_map(|row| row.hugging_face.iter().find(|name| name.class == class).map(|name| (row, name)))
    }

    /// The row that an APR file's `architecture` names: any of the names above, whatever its case.
    pub fn from_apr_name(name: &str) -> Option<&'static ArchitectureRow> {
        let same = |other: &str| other.eq_ignore_ascii_case(name);
        TABLE.iter().find(|row| {
            same(row.gguf_name)
                || row.apr_names.iter().any(|other| same(other))
                || row.hugging_face.iter().any(|other| same(other.model_type) || same(other.class))
        })
    }

    /// The names of all architectures, for messages.
    pub fn known() -> String {
        let names = |row: &ArchitectureRow| {
            let others = row.hugging_face.iter().map(|name| name.model_type).filter(|n| *n != row.gguf_name);
            std::iter::once(row.gguf_name).chain(others).collect::<Vec<_>>().join(", ")
        };
        TABLE.iter().map(names).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_at_their_own_place() {
        for row in Architecture::table() {
            assert_eq!(row.architecture.row().gguf_name, row.gguf_name);
            assert_eq!(Architecture::from_gguf_name(row.gguf_name).unwrap().architecture, row.architecture);
        }
    }

    #[test]
    fn names_of_all_three_formats_lead_to_the_row() {
        assert_eq!(Architecture::from_model_type("mistral").unwrap().0.architecture, Architecture::Llama);
        assert_eq!(
            Architecture::from_class("MistralForCausalLM").unwrap().0.architecture,
            Architecture::Llama
        );
        assert_eq!(Architecture::from_apr_name("Qwen2.5").unwrap().architecture, Architecture::Qwen2);
        assert_eq!(
            Architecture::from_apr_name("LlamaForCausalLM").unwrap().architecture,
            Architecture::Llama
        );
        // No match by a part of the name: these are other models.
        for name in ["qwen2moe", "qwen2vl", "llama4", "mistral3", "qwen", ""] {
            assert!(Architecture::from_gguf_name(name).is_none(), "{name}");
        }
    }
}
