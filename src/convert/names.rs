//! Tensor names from one convention to the other; the table is `model/names.rs`. APR files use both: the peer's imports of
//! qwen models have Hugging Face names, those of all other architectures keep GGUF's.

use crate::model::names::{Parsed, Role, Slot, parse};

/// A tensor's place in a model, by its name in either convention. Gate and up in one matrix have none: llama.cpp knows no
/// such tensor in the models that it and aprgpu have in common.
fn place(name: &str) -> Option<(Option<usize>, Slot)> {
    match parse(name) {
        Parsed::Known { slot: Slot::GateUp, .. } | Parsed::Harmless | Parsed::Unknown => None,
        Parsed::Known { layer, slot } => Some((layer, slot)),
    }
}

/// The name in an APR file of a tensor of a GGUF file. Unknown names stay as they are.
pub(super) fn apr_name(architecture: &str, gguf: &str) -> String {
    match architecture {
        "qwen2" | "qwen3" => hugging_face_name(gguf),
        _ => None,
    }
    .unwrap_or_else(|| gguf.to_owned())
}

/// The GGUF name of a tensor, whichever convention its name follows. Unknown names stay as they are.
pub(super) fn gguf_name(name: &str) -> String {
    place(name).map_or_else(|| name.to_owned(), |(layer, slot)| slot.gguf_name(layer))
}

/// The Hugging Face name of a tensor of a GGUF file, if that convention has one: it keeps frequency factors elsewhere.
pub(super) fn hugging_face_name(gguf: &str) -> Option<String> {
    let (layer, slot) = place(gguf)?;
    (slot != Slot::One(Role::RopeFreqs)).then(|| slot.hugging_face_name(layer))
}

/// Whether llama.cpp knows a tensor of this name in the models that it and aprgpu have in common.
pub(super) fn is_gguf(name: &str) -> bool {
    place(name).is_some_and(|(layer, slot)| slot.gguf_name(layer) == name)
}

/// Whether a name follows the Hugging Face convention.
pub(super) fn is_hugging_face(name: &str) -> bool {
    place(name).is_some_and(|(layer, slot)| slot.gguf_name(layer) != name)
}

#[cfg(test)]
mod tests {
    use super::{apr_name, gguf_name, is_gguf, is_hugging_face};

    #[test]
    fn qwen_tensors_get_hugging_face_names_and_come_back() {
        for (gguf, apr) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            ("blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"),
            ("blk.27.attn_k_norm.weight", "model.layers.27.self_attn.k_norm.weight"),
            ("blk.3.ffn_norm.weight", "model.layers.3.post_attention_layernorm.weight"),
        ] {
            assert_eq!(apr_name("qwen2", gguf), apr);
            assert_eq!(gguf_name(apr), gguf);
            assert_eq!([gguf, apr].map(is_gguf), [true, false]);
            assert_eq!([gguf, apr].map(is_hugging_face), [false, true]);
        }
        assert_eq!(gguf_name("layers.0.mlp.up_proj.weight"), "blk.0.ffn_up.weight");
        assert!(is_hugging_face("layers.0.mlp.up_proj.weight"));
    }

    #[test]
    fn what_llama_cpp_does_not_know_is_in_neither_convention() {
        for name in [
            "blk.0.ffn_gate_up.weight",
            "model.layers.0.mlp.gate_up_proj.weight",
            "blk.0.attn_norm.bias",
            "blk.007.attn_q.weight",
            "model.layers.3.self_attn.rotary_emb.inv_freq",
        ] {
            assert!(!is_gguf(name) && !is_hugging_face(name), "{name}");
            assert_eq!(gguf_name(name), name);
        }
    }

    #[test]
    fn other_names_stay() {
        assert_eq!(apr_name("llama", "blk.0.attn_q.weight"), "blk.0.attn_q.weight");
        assert_eq!(gguf_name("blk.0.attn_q.weight"), "blk.0.attn_q.weight");
        for name in [
            "rope_freqs.weight",
            "blk.x.attn_q.weight",
            "blk.0.attn_q.scale",
            "blk.0.ssm.weight",
            "blk..attn_q.weight",
        ] {
            assert_eq!(apr_name("qwen2", name), name);
        }
    }
}
