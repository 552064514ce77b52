#!/usr/bin/env python3
"""Perplexity of a text by llama.cpp, through llama-cpp-python, computed as llama-perplexity does it: to check `aprgpu perplexity`.

The text is cut into windows of --window tokens, each run from an empty cache with the begin-of-text token first where the
vocabulary adds one; the second half of a window counts. With --base the KL divergence from another model over the same
positions, and the share of positions with the same best token.

    pip install llama-cpp-python numpy
    python tools/llama_perplexity.py model.gguf text.txt --window 256 [--base other.gguf]
"""

import argparse
import ctypes
import json

import llama_cpp
import numpy as np


class Model:
    def __init__(self, path, window, threads, kv):
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit(f"{path}: llama.cpp does not load it")
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.size = llama_cpp.llama_vocab_n_tokens(self.vocab)
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = window
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = {"f32": 0, "f16": 1}[kv]
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp gives no context")

    def tokens(self, text):
        encoded = text.encode()
        ids = (llama_cpp.llama_token * (len(encoded) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, encoded, len(encoded), ids, len(ids), True, False)
        return list(ids[:count])

    def log_probabilities(self, tokens):
        """[positions, vocabulary] of one window from an empty cache."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        tokens = list(tokens)
        if llama_cpp.llama_vocab_get_add_bos(self.vocab):
            tokens[0] = llama_cpp.llama_vocab_bos(self.vocab)
        batch = llama_cpp.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
            batch.seq_id[i][0] = 0
        status = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise SystemExit(f"llama_decode: {status}")
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), (len(tokens), self.size))
        logits = logits.astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def standard_error(values):
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--window", type=int, default=512)
    parser.add_argument("--base", help="the model that divergence is measured from")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv", choices=["f16", "f32"], default="f16")
    args = parser.parse_args()

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    model = Model(args.model, args.window, args.threads, args.kv)
    base = Model(args.base, args.window, args.threads, args.kv) if args.base else None
    with open(args.text, encoding="utf-8") as file:
        tokens = model.tokens(file.read())
    losses, divergences, same = [], [], []
    for start in range(0, len(tokens) // args.window * args.window, args.window):
        window = tokens[start : start + args.window]
        counted = range(args.window // 2, args.window - 1)
        found = model.log_probabilities(window)[counted]
        losses.extend(-found[i, window[at + 1]] for i, at in enumerate(counted))
        if base:
            truth = base.log_probabilities(window)[counted]
            divergences.extend((np.exp(truth) * (truth - found)).sum(axis=1))
            same.extend(truth.argmax(axis=1) == found.argmax(axis=1))
    perplexity = float(np.exp(np.mean(losses)))
    report = {"perplexity": perplexity, "error": perplexity * standard_error(losses), "positions": len(losses)}
    if base:
        report |= {
            "mean_kl": float(np.mean(divergences)),
            "kl_error": standard_error(divergences),
            "median_kl": float(np.median(divergences)),
            "max_kl": float(np.max(divergences)),
            "same_top": float(np.mean(same)),
        }
    print(json.dumps(report | {"llama_cpp_python": llama_cpp.__version__}))


if __name__ == "__main__":
    main()
