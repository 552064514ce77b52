//! Published models as shapes: everything that speed depends on, nothing that has to be downloaded.
//!
//! Sizes: the `config.json` of each model. Types: llama.cpp's rule for Q4_K_M (`llama_tensor_get_type_impl` in
//! `src/llama-quant.cpp`), which [`tensor_type`] repeats for dense models.

use crate::model::{Architecture, ModelConfig, Role, RopeConfig, RopePairing, RopeScaling};
use crate::plan::{Decoder, PlanError, Weight};
use crate::quant::TensorType;

/// A published model's shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preset {
    /// The name that `--preset` takes.
    pub name: &'static str,
    /// What llama-bench would call it.
    pub model_type: &'static str,
    /// Family.
    pub architecture: Architecture,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads.
    pub num_kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Positions that the model was trained for.
    pub context_length: usize,
    /// RMSNorm epsilon.
    pub rms_norm_eps: f32,
    /// RoPE base.
    pub rope_theta: f32,
    /// The head is the embedding.
    pub tied: bool,
    /// Llama 3's RoPE factor over 8192 positions, if any.
    pub llama3_factor: Option<f32>,
}

/// The presets.
pub const PRESETS: [Preset; 5] = [
    Preset {
        name: "qwen2.5-0.5b",
        model_type: "qwen2 1B Q4_K - Medium",
        architecture: Architecture::Qwen2,
        hidden_size: 896,
        intermediate_size: 4864,
        num_layers: 24,
        num_heads: 14,
        num_kv_heads: 2,
        head_dim: 64,
        vocab_size: 151_936,
        context_length: 32_768,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
        tied: true,
        llama3_factor: None,
    },
    Preset {
        name: "qwen2.5-1.5b",
        model_type: "qwen2 1.5B Q4_K - Medium",
        hidden_size: 1536,
        intermediate_size: 8960,
        num_layers: 28,
        num_heads: 12,
        num_kv_heads: 2,
        vocab_size: 151_936,
        tied: true,
        ..QWEN_7B
    },
    QWEN_7B,
    Preset {
        name: "llama-3.2-1b",
        model_type: "llama 1B Q4_K - Medium",
        hidden_size: 2048,
        intermediate_size: 8192,
        num_layers: 16,
        num_heads: 32,
        num_kv_heads: 8,
        head_dim: 64,
        tied: true,
        llama3_factor: Some(32.0),
        ..LLAMA_8B
    },
    LLAMA_8B,
];

const QWEN_7B: Preset = Preset {
    name: "qwen2.5-7b",
    model_type: "qwen2 7B Q4_K - Medium",
    architecture: Architecture::Qwen2,
    hidden_size: 3584,
    intermediate_size: 18_944,
    num_layers: 28,
    num_heads: 28,
    num_kv_heads: 4,
    head_dim: 128,
    vocab_size: 152_064,
    context_length: 32_768,
    rms_norm_eps: 1e-6,
    rope_theta: 1e6,
    tied: false,
    llama3_factor: None,
};

const LLAMA_8B: Preset = Preset {
    name: "llama-3.1-8b",
    model_type: "llama 8B Q4_K - Medium",
    architecture: Architecture::Llama,
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_layers: 32,
    num_heads: 32,
    num_kv_heads: 8,
    head_dim: 128,
    vocab_size: 128_256,
    context_length: 131_072,
    rms_norm_eps: 1e-5,
    rope_theta: 5e5,
    tied: false,
    llama3_factor: Some(8.0),
};

impl Preset {
    /// The preset of this name.
    pub fn find(name: &str) -> Option<Self> {
        PRESETS.into_iter().find(|preset| preset.name == name)
    }

    /// All names, for messages.
    pub fn names() -> String {
        PRESETS.map(|preset| preset.name).join(", ")
    }

    /// The same family with everything small enough for a test: 2 layers, 512 tokens.
    pub const fn reduced(self) -> Self {
        Self {
            hidden_size: 256,
            intermediate_size: 512,
            num_layers: 2,
            num_heads: 4,
            num_kv_heads: 2,
            head_dim: 64,
            vocab_size: 512,
            context_length: 2048,
            ..self
        }
    }

    /// The configuration that a file of this model would give.
    pub fn config(&self) -> ModelConfig {
        let pairing = match self.architecture {
            Architecture::Llama => RopePairing::Norm,
            Architecture::Qwen2 | Architecture::Qwen3 => RopePairing::Neox,
        };
        let scaling = self.rope_factors().map_or(RopeScaling::None, RopeScaling::Factors);
        ModelConfig {
            architecture: self.architecture,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_layers: self.num_layers,
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            vocab_size: self.vocab_size,
            context_length: self.context_length,
            rms_norm_eps: self.rms_norm_eps,
            rope: RopeConfig { theta: self.rope_theta, dim: self.head_dim, pairing, scaling },
            sliding_window: None,
            tied_embeddings: self.tied,
            qkv_bias: self.architecture == Architecture::Qwen2,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
        }
    }

    /// Llama 3's divisors of frequencies: 1 for wavelengths under 8192 / 4 positions, `factor` over 8192, between them a
    /// ramp (`_compute_llama3_parameters` in transformers' `modeling_rope_utils.py`).
    pub fn rope_factors(&self) -> Option<Vec<f32>> {
        let factor = self.llama3_factor?;
        let (low, high, original) = (1.0, 4.0, 8192.0);
        let factors = (0..self.head_dim / 2).map(|i| {
            let theta = f64::from(self.rope_theta).powf(2.0 * i as f64 / self.head_dim as f64);
            let wavelength = std::f64::consts::TAU * theta;
            let smooth = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)) as f32
        });
        Some(factors.collect())
    }

    /// The weight of a role, as a Q4_K_M file has it; `None` for roles that the model lacks.
    pub fn weight(&self, role: Role, layer: Option<usize>) -> Option<Weight> {
        let (query, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let (hidden, ffn) = (self.hidden_size, self.intermediate_size);
        let (rows, cols) = match role {
            Role::TokenEmbedding | Role::Output => (self.vocab_size, hidden),
            Role::AttnQ => (query, hidden),
            Role::AttnK | Role::AttnV => (kv, hidden),
            Role::AttnOutput => (hidden, query),
            Role::AttnQBias => (1, query),
            Role::AttnKBias | Role::AttnVBias => (1, kv),
            Role::FfnGate | Role::FfnUp => (ffn, hidden),
            Role::FfnDown => (hidden, ffn),
            Role::AttnNorm | Role::FfnNorm | Role::OutputNorm => (1, hidden),
            _ => return None,
        };
        let tensor_type = if rows == 1 { TensorType::F32 } else { self.tensor_type(role, layer, cols) };
        Some(Weight { name: role.gguf_name(layer), tensor_type, rows, cols })
    }

    /// llama.cpp's choice for Q4_K_M.
    fn tensor_type(&self, role: Role, layer: Option<usize>, cols: usize) -> TensorType {
        let n = self.num_layers;
        let more_bits = |i: usize| i < n / 8 || i >= 7 * n / 8 || i.saturating_sub(n / 8) % 3 == 2;
        let head = role == Role::Output || role == Role::TokenEmbedding && self.tied;
        let favoured = matches!(role, Role::AttnV | Role::FfnDown) && layer.is_some_and(more_bits);
        match (head || favoured, cols.is_multiple_of(256)) {
            (true, true) => TensorType::Q6_K,
            (false, true) => TensorType::Q4_K,
            // Rows that super-blocks do not divide fall back to blocks of 32.
            (true, false) => TensorType::Q8_0,
            (false, false) => TensorType::Q5_0,
        }
    }

    /// The decoder.
    ///
    /// # Errors
    /// None for the presets of the table.
    pub fn decoder(&self) -> Result<Decoder, PlanError> {
        Decoder::new(&self.config(), &|role, layer| self.weight(role, layer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Activations, KvType, Numerics, Rows};

    fn bytes_per_token(name: &str) -> u64 {
        let decoder = Preset::find(name).unwrap().decoder().unwrap();
        let numerics = Numerics { activations: Activations::Q8, kv: KvType::F16 };
        let rows = Rows { rows: 1, logit_rows: 1, sample: true };
        // The embedding gives one row, which is not what a token costs.
        decoder.plan(rows, numerics).steps.iter().skip(1).map(|step| step.cost.weight_bytes).sum()
    }

    /// By hand, per layer: Q4_K takes 144 bytes for 256 weights, Q6_K 210, vectors 4 bytes a value. Half of the 28 layers
    /// (0 to 2, 5, 8, 11, 14, 17, 20, 23 to 27) have v and down in Q6_K.
    #[test]
    fn bytes_per_token_of_qwen_1_5b() {
        let q4 = |rows: u64, cols: u64| rows * cols / 256 * 144;
        let q6 = |rows: u64, cols: u64| rows * cols / 256 * 210;
        assert_eq!((q4(1536, 1536), q4(256, 1536), q4(8960, 1536)), (1_327_104, 221_184, 7_741_440));
        let always = 2 * 1_327_104 + 221_184 + 2 * 7_741_440;
        let vectors = 4 * (2 * 1536 + 1536 + 2 * 256);
        let plain = q4(256, 1536) + q4(1536, 8960);
        let favoured = q6(256, 1536) + q6(1536, 8960);
        assert_eq!((plain, favoured), (7_962_624, 11_612_160));
        let body = 28 * (always + vectors) + 14 * plain + 14 * favoured;
        assert_eq!(body, 788_652_032);
        let head = q6(151_936, 1536) + 4 * 1536;
        assert_eq!(bytes_per_token("qwen2.5-1.5b"), body + head);
    }

    /// The totals of the table that the project's targets were derived from, in units of 0.1 MB.
    #[test]
    fn bytes_per_token_of_the_others() {
        for (name, expected) in
            [("qwen2.5-1.5b", 9801), ("qwen2.5-7b", 43706), ("llama-3.2-1b", 7999), ("llama-3.1-8b", 46174)]
        {
            assert_eq!((bytes_per_token(name) + 50_000) / 100_000, expected, "{name}");
        }
    }

    #[test]
    fn rows_of_896_fall_back_to_blocks_of_32() {
        let preset = Preset::find("qwen2.5-0.5b").unwrap();
        let of = |role, layer| preset.weight(role, layer).unwrap().tensor_type;
        assert_eq!(of(Role::AttnQ, Some(3)), TensorType::Q5_0);
        assert_eq!(
            (of(Role::AttnV, Some(3)), of(Role::AttnV, Some(0))),
            (TensorType::Q5_0, TensorType::Q8_0)
        );
        assert_eq!(
            (of(Role::FfnDown, Some(3)), of(Role::FfnDown, Some(0))),
            (TensorType::Q4_K, TensorType::Q6_K)
        );
        assert_eq!(of(Role::TokenEmbedding, None), TensorType::Q8_0);
    }
}
