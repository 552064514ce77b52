//! Tensor names: those of GGUF files and those of Hugging Face checkpoints. APR files use both: the peer's imports of
//! qwen models have Hugging Face names, those of all other architectures keep GGUF's.

/// GGUF name and Hugging Face name of the tensors outside the layers.
const MODEL: &[(&str, &str)] = &[
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// The same for tensors of layer N, behind `blk.N.` and `model.layers.N.`, without `.weight` and `.bias`.
const LAYER: &[(&str, &str)] = &[
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_qkv", "self_attn.qkv_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// The name in an APR file of a tensor of a GGUF file. Unknown names stay as they are.
pub(super) fn apr_name(architecture: &str, gguf: &str) -> String {
    match architecture {
        "qwen2" | "qwen3" => translate(gguf, "blk.", "model.layers.", |(gguf, hf)| (gguf, hf)),
        _ => None,
    }
    .unwrap_or_else(|| gguf.to_owned())
}

/// The GGUF name of a tensor of an APR file, whichever convention that file follows. Unknown names stay as they are.
pub(super) fn gguf_name(apr: &str) -> String {
    translate(apr, "model.layers.", "blk.", |(gguf, hf)| (hf, gguf)).unwrap_or_else(|| apr.to_owned())
}

/// The Hugging Face name of a tensor of a GGUF file, if that convention has one.
pub(super) fn hugging_face_name(gguf: &str) -> Option<String> {
    translate(gguf, "blk.", "model.layers.", |(gguf, hf)| (gguf, hf))
}

/// Whether llama.cpp knows a tensor of this name in the models that it and aprgpu have in common.
pub(super) fn is_gguf(name: &str) -> bool {
    name == "rope_freqs.weight" || translate(name, "blk.", "model.layers.", |(gguf, hf)| (gguf, hf)).is_some()
}

/// Whether a name follows the Hugging Face convention.
pub(super) fn is_hugging_face(name: &str) -> bool {
    translate(name, "model.layers.", "blk.", |(gguf, hf)| (hf, gguf)).is_some()
}

/// Translates a name from one column of the tables to the other.
fn translate(
    name: &str,
    from_prefix: &str,
    to_prefix: &str,
    columns: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str),
) -> Option<String> {
    if let Some((_, to)) = MODEL.iter().map(|&row| columns(row)).find(|(from, _)| *from == name) {
        return Some(to.to_owned());
    }
    let (layer, rest) = name.strip_prefix(from_prefix)?.split_once('.')?;
    if layer.is_empty() || !layer.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (part, kind) = rest.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))?;
    let (_, to) = LAYER.iter().map(|&row| columns(row)).find(|(from, _)| *from == part)?;
    Some(format!("{to_prefix}{layer}.{to}.{kind}"))
}

#[cfg(test)]
mod tests {
    use super::{apr_name, gguf_name};

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
