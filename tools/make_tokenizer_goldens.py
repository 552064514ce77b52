#!/usr/bin/env python3
"""Writes tests/golden/tokenizer from model files, with llama.cpp as the oracle.

    python tools/make_tokenizer_goldens.py FIXTURES OUT

needs gguf, numpy and llama-cpp-python. FIXTURES is the folder with coder/, llama-gqa/ and llama-spm/.

- `<name>.vocabulary.json`: the `tokenizer.ggml.*` keys of a GGUF file.
- `<name>.tokens.json`: strings with ids and decoded text, as the fixtures have them.
- `<name>.prompts.json`: the prompts of the model's own file and their ids.
- `hf-bpe/`, `hf-spm/`: the tokenizer's files of two Hugging Face folders, white space taken out.
- `bpe.gguf`: the first vocabulary as a GGUF file without tensors.
- `variants.json`: the same vocabularies with other pre-tokenizers, added user-defined and control tokens, and
  flags, each written to a vocabulary-only GGUF file and tokenized by llama.cpp.
"""
import json
import random
import sys
import tempfile
from pathlib import Path

import gguf
import llama_cpp

KEYS = ["model", "pre", "tokens", "token_type", "merges", "scores", "bos_token_id", "eos_token_id",
        "unknown_token_id", "padding_token_id", "eot_token_id", "add_bos_token", "add_eos_token", "add_space_prefix"]


def vocabulary(path):
    fields = gguf.GGUFReader(path).fields
    found = {k: fields["tokenizer.ggml." + k].contents() for k in KEYS if "tokenizer.ggml." + k in fields}
    return found


def write_gguf(path, vocab, template=None):
    w = gguf.GGUFWriter(path, "llama")
    w.add_block_count(1), w.add_context_length(64), w.add_embedding_length(64), w.add_head_count(1)
    w.add_feed_forward_length(64), w.add_layer_norm_rms_eps(1e-5)
    for k, v in vocab.items():
        key = "tokenizer.ggml." + k
        if isinstance(v, bool):
            w.add_bool(key, v)
        elif isinstance(v, int):
            w.add_uint32(key, v)
        elif isinstance(v, str):
            w.add_string(key, v)
        else:
            w.add_array(key, v)
    if template:
        w.add_chat_template(template)
    w.write_header_to_file(), w.write_kv_data_to_file(), w.close()


def tokenize(path, rows):
    model = llama_cpp.Llama(path, vocab_only=True, verbose=False)
    out = []
    for text, add_special, parse_special in rows:
        ids = model.tokenize(text.encode(), add_bos=add_special, special=parse_special)
        out.append({"text": text, "add_special": add_special, "parse_special": parse_special, "ids": ids})
    return out


def texts(rng, specials):
    parts = ["the", " of", "é", "e\u0301", "中", "🙂", "\n", "\r\n", "\t", "  ", " ", "   ", "'s", "'LL", "1", "22", "12345",
             "def f(x):", "_", "--", "!?", "$+<=>^~|", "\u3000", "\xa0", "½", "Ⅷ", "١٢", "ß", "x" * 12, "a.b", "\"q\"", "ab",
             "\u200d", "नमस्ते", "\x07"]
    fixed = ["", " ", "a", " a", "a ", "\n ", "  \n  x", "hello   world", "x'Sy", "ſ'ſ", "1234567 89", "$100,000.00!",
             "----\n\n", "tab\t\tend \t"]
    for s in specials:
        fixed += [s, s + s, "x" + s, s + " x", " " + s + " ", s[:-1], s[1:], s[:-1] + s]
    return fixed + ["".join(rng.choice(parts + specials) for _ in range(rng.randint(1, 14))) for _ in range(24)]


def main():
    fixtures, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)

    def write(name, value):
        (out / name).write_text(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n")

    files = {"coder": "coder/coder-Q4_0.gguf", "llama-gqa": "llama-gqa/llama-gqa-Q4_K_M.gguf",
             "llama-spm": "llama-spm/llama-spm-Q4_K_M.gguf"}
    vocabs = {name: vocabulary(fixtures / path) for name, path in files.items()}
    bpe, spm = vocabs["coder"], vocabs["llama-spm"]
    write("bpe.vocabulary.json", bpe)
    write("spm.vocabulary.json", spm)
    same = {k: v for k, v in vocabs["llama-gqa"].items() if k != "pre"} == {k: v for k, v in bpe.items() if k != "pre"}
    assert same, "llama-gqa no longer borrows coder's vocabulary"
    for name in files:
        column = "hf" if name == "coder" else "llama"
        rows = json.loads((fixtures / name / "tokens.json").read_text())
        write(name + ".tokens.json", [{"text": r["text"], "ids": r[column], "decoded": r["hf_decoded"],
                                       "decoded_ids": r["hf"]} for r in rows])
        model = json.loads((fixtures / name / (name + ".json")).read_text())
        ids = next(iter(model["files"].values()))["tokens"]
        write(name + ".prompts.json", [{"text": t, "ids": i} for t, i in zip(model["prompts"], ids, strict=True)])

    for name, folder in [("hf-bpe", "coder/hf"), ("hf-spm", "llama-spm/hf")]:
        (out / name).mkdir(exist_ok=True)
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]:
            write(f"{name}/{file}", json.loads((fixtures / folder / file).read_text()))
        if (fixtures / folder / "tokenizer.model").exists():
            (out / name / "tokenizer.model").write_bytes((fixtures / folder / "tokenizer.model").read_bytes())
    template = (fixtures / "coder/hf/chat_template.jinja").read_text()
    (out / "hf-bpe/chat_template.jinja").write_text(template)
    write_gguf(str(out / "bpe.gguf"), bpe, template)

    rng = random.Random(7)
    added = {"<tool": 4, "<tool_call>": 4, "<|x|>": 3, "<|x|><|y|>": 3, "[INST]": 3, "of the": 4}
    longer = {"12": 1, "123": 1, "1234": 1, "hello": 1}
    digits = ["1 2", "12 3", "123 4"]
    variants = []
    for base, changes in [
        ("bpe", {"pre": "default"}), ("bpe", {"pre": "gpt-2"}), ("bpe", {"pre": "llama-bpe", "add_bos_token": False}),
        ("bpe", {"pre": "smollm"}), ("bpe", {"pre": "default", "added": added}),
        ("bpe", {"pre": "llama-bpe", "added": added, "bos_token_id": 4094, "add_bos_token": True, "add_eos_token": True}),
        ("bpe", {"pre": "default", "added": longer, "added_merges": digits}),
        ("bpe", {"pre": "llama-bpe", "add_bos_token": False, "added": longer, "added_merges": digits}),
        ("spm", {}), ("spm", {"added": added}), ("spm", {"add_space_prefix": False, "added": added}),
        ("spm", {"add_bos_token": False, "add_eos_token": True}),
    ]:
        vocab = json.loads(json.dumps(bpe if base == "bpe" else spm))
        vocab.update({k: v for k, v in changes.items() if not k.startswith("added")})
        vocab.setdefault("merges", []).extend(changes.get("added_merges", []))
        extra = changes.get("added", {})
        vocab["tokens"] += list(extra)
        vocab["token_type"] += list(extra.values())
        if not vocab["merges"]:
            del vocab["merges"]
        if "scores" in vocab:
            vocab["scores"] += [-1000.0] * len(extra)
        specials = list(extra) + (["<|im_end|>"] if base == "bpe" else ["<s>", "</s>", "<unk>", "<0x41>"])
        with tempfile.TemporaryDirectory() as tmp:
            path = str(Path(tmp) / "vocab.gguf")
            write_gguf(path, vocab)
            rows = [(t, n % 2 == 0, p) for n, t in enumerate(texts(rng, specials)) for p in (True, False)]
            variants.append({"base": base, "changes": changes, "rows": tokenize(path, rows)})
    write("variants.json", variants)


main()
