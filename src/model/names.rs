//! The names of tensors: GGUF's (`blk.3.attn_q.weight`) and Hugging Face's (`model.layers.3.self_attn.q_proj.weight`,
//! with or without `model.`), both of which APR files use. From here on there are only roles.

use serde::Serialize;
use std::fmt;

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// `[vocab_size, hidden_size]`: a row per token.
    TokenEmbedding,
    /// RMSNorm before attention, `hidden_size` values.
    AttnNorm,
    /// Query projection `[num_heads * head_dim, hidden_size]`.
    AttnQ,
    /// Its bias.
    AttnQBias,
    /// Key projection `[num_kv_heads * head_dim, hidden_size]`.
    AttnK,
    /// Its bias.
    AttnKBias,
    /// Value projection `[num_kv_heads * head_dim, hidden_size]`.
    AttnV,
    /// Its bias.
    AttnVBias,
    /// RMSNorm on each query head, `head_dim` values.
    AttnQNorm,
    /// RMSNorm on each key head, `head_dim` values.
    AttnKNorm,
    /// Attention output projection `[hidden_size, num_heads * head_dim]`.
    AttnOutput,
    /// Its bias.
    AttnOutputBias,
    /// RMSNorm before the feed-forward layer, `hidden_size` values.
    FfnNorm,
    /// Gate projection `[intermediate_size, hidden_size]`.
    FfnGate,
    /// Its bias.
    FfnGateBias,
    /// Up projection `[intermediate_size, hidden_size]`.
    FfnUp,
    /// Its bias.
    FfnUpBias,
    /// Down projection `[hidden_size, intermediate_size]`.
    FfnDown,
    /// Its bias.
    FfnDownBias,
    /// RMSNorm before the head, `hidden_size` values.
    OutputNorm,
    /// The head `[vocab_size, hidden_size]`.
    Output,
    /// A divisor for each RoPE frequency, `rope.dim / 2` values.
    RopeFreqs,
}

/// A place that a tensor of a file can take: one role, or several fused into one matrix by rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// One role.
    One(Role),
    /// q, k and v, one below the other.
    Qkv,
    /// Their biases.
    QkvBias,
    /// Gate and up, one below the other.
    GateUp,
}

/// What a tensor's name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// A tensor of the model.
    Known {
        /// The layer, for roles that belong to one.
        layer: Option<usize>,
        /// Its place.
        slot: Slot,
    },
    /// Known to be redundant: computed from the configuration instead.
    Harmless,
    /// None of the names that are known.
    Unknown,
}

/// Roles outside of layers: GGUF's name, Hugging Face's name.
const GLOBAL: [(Role, &str, &str); 4] = [
    (Role::TokenEmbedding, "token_embd.weight", "embed_tokens.weight"),
    (Role::OutputNorm, "output_norm.weight", "norm.weight"),
    (Role::Output, "output.weight", "lm_head.weight"),
    (Role::RopeFreqs, "rope_freqs.weight", "rope_freqs.weight"),
];

/// Roles of a layer: GGUF's name after `blk.N.`, Hugging Face's after `layers.N.`.
const LAYER: [(Slot, &str, &str); 21] = [
    (Slot::One(Role::AttnNorm), "attn_norm.weight", "input_layernorm.weight"),
    (Slot::One(Role::AttnQ), "attn_q.weight", "self_attn.q_proj.weight"),
    (Slot::One(Role::AttnQBias), "attn_q.bias", "self_attn.q_proj.bias"),
    (Slot::One(Role::AttnK), "attn_k.weight", "self_attn.k_proj.weight"),
    (Slot::One(Role::AttnKBias), "attn_k.bias", "self_attn.k_proj.bias"),
    (Slot::One(Role::AttnV), "attn_v.weight", "self_attn.v_proj.weight"),
    (Slot::One(Role::AttnVBias), "attn_v.bias", "self_attn.v_proj.bias"),
    (Slot::Qkv, "attn_qkv.weight", "self_attn.qkv_proj.weight"),
    (Slot::QkvBias, "attn_qkv.bias", "self_attn.qkv_proj.bias"),
    (Slot::One(Role::AttnQNorm), "attn_q_norm.weight", "self_attn.q_norm.weight"),
    (Slot::One(Role::AttnKNorm), "attn_k_norm.weight", "self_attn.k_norm.weight"),
    (Slot::One(Role::AttnOutput), "attn_output.weight", "self_attn.o_proj.weight"),
    (Slot::One(Role::AttnOutputBias), "attn_output.bias", "self_attn.o_proj.bias"),
    (Slot::One(Role::FfnNorm), "ffn_norm.weight", "post_attention_layernorm.weight"),
    (Slot::One(Role::FfnGate), "ffn_gate.weight", "mlp.gate_proj.weight"),
    (Slot::One(Role::FfnGateBias), "ffn_gate.bias", "mlp.gate_proj.bias"),
    (Slot::One(Role::FfnUp), "ffn_up.weight", "mlp.up_proj.weight"),
    (Slot::One(Role::FfnUpBias), "ffn_up.bias", "mlp.up_proj.bias"),
    (Slot::GateUp, "ffn_gate_up.weight", "mlp.gate_up_proj.weight"),
    (Slot::One(Role::FfnDown), "ffn_down.weight", "mlp.down_proj.weight"),
    (Slot::One(Role::FfnDownBias), "ffn_down.bias", "mlp.down_proj.bias"),
];

/// What a tensor's name stands for.
pub(crate) fn parse(name: &str) -> Parsed {
    let bare = name.strip_prefix("model.").unwrap_or(name);
    let layered = match (name.strip_prefix("blk."), bare.strip_prefix("layers.")) {
        (Some(rest), _) => Some((rest, true)),
        (None, Some(rest)) => Some((rest, false)),
        (None, None) => None,
    };
    if let Some((rest, gguf)) = layered {
        let Some((number, rest)) = rest.split_once('.') else { return Parsed::Unknown };
        let Ok(layer) = number.parse::<u32>() else { return Parsed::Unknown };
        if layer.to_string() != number {
            return Parsed::Unknown;
        }
        let known = LAYER.iter().find(|(_, in_gguf, in_hf)| rest == if gguf { *in_gguf } else { *in_hf });
        return match known {
            Some((slot, ..)) => Parsed::Known { layer: Some(layer as usize), slot: *slot },
            None if rest.ends_with("rotary_emb.inv_freq") || rest == "attn_rot_embd.weight" => {
                Parsed::Harmless
            }
            None => Parsed::Unknown,
        };
    }
    if bare == "rotary_emb.inv_freq" {
        return Parsed::Harmless;
    }
    match GLOBAL.iter().find(|(_, in_gguf, in_hf)| name == *in_gguf || bare == *in_hf) {
        Some((role, ..)) => Parsed::Known { layer: None, slot: Slot::One(*role) },
        None => Parsed::Unknown,
    }
}

impl Slot {
    /// The slot's row in the tables: GGUF's name, Hugging Face's name.
    fn names(self) -> Option<(&'static str, &'static str)> {
        let global =
            GLOBAL.iter().find(|(role, ..)| Self::One(*role) == self).map(|(_, gguf, hf)| (*gguf, *hf));
        global.or_else(|| LAYER.iter().find(|(slot, ..)| *slot == self).map(|(_, gguf, hf)| (*gguf, *hf)))
    }

    /// The slot's name in GGUF files.
    pub(crate) fn gguf_name(self, layer: Option<usize>) -> String {
        match (self.names(), layer) {
            (Some((name, _)), Some(layer)) => format!("blk.{layer}.{name}"),
            (Some((name, _)), None) => name.to_owned(),
            (None, _) => format!("{self:?}"),
        }
    }

    /// The slot's name in Hugging Face files.
    pub(crate) fn hugging_face_name(self, layer: Option<usize>) -> String {
        match (self.names(), layer) {
            (Some((_, name)), Some(layer)) => format!("model.layers.{layer}.{name}"),
            (Some((_, name)), None) if self == Self::One(Role::Output) => name.to_owned(),
            (Some((_, name)), None) => format!("model.{name}"),
            (None, _) => format!("{self:?}"),
        }
    }
}

impl Role {
    /// Whether each layer has its own tensor of this role.
    pub fn in_layer(self) -> bool {
        !GLOBAL.iter().any(|(role, ..)| *role == self)
    }

    /// Whether tensors of this role are vectors, always held as float32.
    pub fn is_vector(self) -> bool {
        !matches!(
            self,
            Self::TokenEmbedding
                | Self::AttnQ
                | Self::AttnK
                | Self::AttnV
                | Self::AttnOutput
                | Self::FfnGate
                | Self::FfnUp
                | Self::FfnDown
                | Self::Output
        )
    }

    /// The name in GGUF files.
    pub fn gguf_name(self, layer: Option<usize>) -> String {
        Slot::One(self).gguf_name(layer)
    }

    /// The name in Hugging Face files.
    pub fn hugging_face_name(self, layer: Option<usize>) -> String {
        Slot::One(self).hugging_face_name(layer)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.gguf_name(None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> (Option<usize>, Slot) {
        match parse(name) {
            Parsed::Known { layer, slot } => (layer, slot),
            other => panic!("{name}: {other:?}"),
        }
    }

    #[test]
    fn every_role_has_a_name_in_both_conventions() {
        let roles = GLOBAL.iter().map(|(role, ..)| (*role, None));
        let layered = LAYER.iter().filter_map(|(slot, ..)| match slot {
            Slot::One(role) => Some((*role, Some(17))),
            _ => None,
        });
        for (role, layer) in roles.chain(layered) {
            assert_eq!(known(&role.gguf_name(layer)), (layer, Slot::One(role)));
            assert_eq!(known(&role.hugging_face_name(layer)), (layer, Slot::One(role)));
            let name = role.hugging_face_name(layer);
            assert_eq!(known(name.strip_prefix("model.").unwrap_or(&name)), (layer, Slot::One(role)));
            assert_eq!(role.in_layer(), layer.is_some());
        }
        assert_eq!(known("blk.2.attn_qkv.weight"), (Some(2), Slot::Qkv));
        assert_eq!(known("model.layers.2.self_attn.qkv_proj.bias"), (Some(2), Slot::QkvBias));
        assert_eq!(Role::TokenEmbedding.hugging_face_name(None), "model.embed_tokens.weight");
        assert_eq!(Role::Output.hugging_face_name(None), "lm_head.weight");
    }

    #[test]
    fn strange_names_are_unknown() {
        for name in [
            "blk.attn_q.weight",
            "blk.-1.attn_q.weight",
            "blk.+1.attn_q.weight",
            "blk.007.attn_q.weight",
            "blk..attn_q.weight",
            "blk.99999999999999999999.attn_q.weight",
            "blk.0.self_attn.q_proj.weight",
            "model.layers.0.attn_q.weight",
            "model.blk.0.attn_q.weight",
            "blk.0.ffn_gate_inp.weight",
            "model.layers.0.mlp.gate_proj.weight.scale",
            "",
        ] {
            assert_eq!(parse(name), Parsed::Unknown, "{name}");
        }
        assert_eq!(parse("model.layers.3.self_attn.rotary_emb.inv_freq"), Parsed::Harmless);
    }
}
