//! Vocabularies from the metadata of GGUF and APR files.

use crate::format::apr::Apr;
use crate::format::gguf::{Metadata, Strings};

use super::hugging_face::scores_of_merges;
use super::{Error, SpecialIds, TokenizerSpec, VocabularyFields};

impl TokenizerSpec {
    /// From the `tokenizer.ggml.*` keys of a GGUF file; it need not have tensors.
    ///
    /// # Errors
    /// Values of the wrong kind, missing keys that have no default, names that are not known.
    pub fn from_gguf(metadata: &Metadata) -> Result<Self, Error> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| metadata.u32(&key(&format!("{name}_token_id")));
        let text = |name: &str| Ok::<_, Error>(metadata.string(&key(name))?.map(str::to_owned));
        let list = |name: &'static str| match metadata.strings(&key(name))? {
            Some(strings) => to_utf8(strings, &key(name)).map(Some),
            None => Ok(None),
        };
        let types = metadata.i32s(&key("token_type"))?;
        Self::try_from(VocabularyFields {
            model: text("model")?,
            pre: text("pre")?,
            tokens: list("tokens")?,
            merges: list("merges")?,
            scores: metadata.f32s(&key("scores"))?,
            token_types: types.map(|types| types.into_iter().map(i64::from).collect()),
            special: SpecialIds {
                bos: id("bos")?,
                eos: id("eos")?,
                unk: id("unknown")?,
                pad: id("padding")?,
                eot: id("eot")?,
                eom: id("eom")?,
            },
            add_bos: metadata.bool(&key("add_bos_token"))?,
            add_eos: metadata.bool(&key("add_eos_token"))?,
            add_space_prefix: metadata.bool(&key("add_space_prefix"))?,
        })
    }

    /// From an APR file: the keys of the GGUF file that it was made of, where it keeps them, or else its own.
    ///
    /// Files that other programs wrote lack some. Without a pre-tokenizer the architecture tells it; SentencePiece
    /// vocabularies without scores take the order of their merges.
    ///
    /// # Errors
    /// As [`TokenizerSpec::from_gguf`].
    pub fn from_apr(apr: &Apr) -> Result<Self, Error> {
        if let Some(origin) = apr.gguf_origin()?
            && origin.metadata.get("tokenizer.ggml.tokens").is_some()
        {
            return Self::from_gguf(&origin.metadata);
        }
        let key = |name: &str| format!("tokenizer.{name}");
        let id = |name: &str| apr.u32(&key(&format!("{name}_token_id")));
        let list = |name: &str| match apr.strings(&key(name))? {
            Some(strings) => to_utf8(&strings, &key(name)).map(Some),
            None => Ok(None),
        };
        let mut notes = Vec::new();
        let tokens = list("vocabulary")?;
        let merges = list("merges")?;
        let has = |token: &str| tokens.iter().flatten().any(|known| known == token);
        let mut model = apr.string(&key("model"))?.map(str::to_owned);
        if model.as_deref().is_none_or(|model| model.eq_ignore_ascii_case("bpe")) && tokens.is_some() {
            let guess = if has("<0x0A>") && has("<0xFF>") { "llama" } else { "gpt2" };
            notes.push(format!("tokenizer.model does not tell the kind: {guess}, by the vocabulary's bytes"));
            model = Some(guess.to_owned());
        }
        let sentencepiece = model.as_deref() == Some("llama");
        let mut pre = apr.string(&key("pre_type"))?.map(str::to_owned);
        if pre.is_none() && !sentencepiece {
            let guess = match apr.string("architecture")? {
                Some("qwen2" | "qwen3") => "qwen2",
                _ if has("<|begin_of_text|>") => "llama-bpe",
                _ => "default",
            };
            notes.push(format!("tokenizer.pre_type is missing: {guess}"));
            pre = Some(guess.to_owned());
        }
        let mut scores = apr.f32s(&key("scores"))?.filter(|scores| !scores.is_empty());
        if let (true, None, Some(tokens), Some(merges)) = (sentencepiece, &scores, &tokens, &merges) {
            notes.push("tokenizer.scores is missing: the order of the merges".to_owned());
            scores = Some(scores_of_merges(tokens, merges));
        }
        let types = apr.i32s(&key("token_type"))?.filter(|types| !types.is_empty());
        let mut spec = Self::try_from(VocabularyFields {
            model,
            pre,
            tokens,
            merges,
            scores,
            token_types: types.map(|types| types.into_iter().map(i64::from).collect()),
            special: SpecialIds {
                bos: id("bos")?,
                eos: id("eos")?,
                unk: id("unknown")?,
                pad: id("padding")?,
                eot: id("eot")?,
                eom: id("eom")?,
            },
            add_bos: apr.bool(&key("add_bos_token"))?,
            add_eos: apr.bool(&key("add_eos_token"))?,
            add_space_prefix: apr.bool(&key("add_space_prefix"))?,
        })?;
        spec.notes.splice(0..0, notes);
        Ok(spec)
    }
}

fn to_utf8(strings: &Strings, key: &str) -> Result<Vec<String>, Error> {
    let check = |(index, bytes): (usize, &[u8])| match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(Error::key(key, format!("entry {index} is not UTF-8"))),
    };
    strings.iter().enumerate().map(check).collect()
}
