#!/usr/bin/env python3
"""Times llama.cpp through llama-cpp-python, with llama-bench's options and its JSON fields.

For machines that have the Python package and no llama-bench. It does what llama-bench does: random tokens, one warm-up of
each kind, the cache cleared before each repetition, the positions of --depth filled outside of the clock; a prompt goes
through llama_decode in pieces of -ub with logits for its last token; generation is one llama_decode per token, followed by
llama_synchronize, without sampling.

    pip install llama-cpp-python
    aprbench versus model.gguf --command "python tools/llama_bench.py"
"""

import argparse
import ctypes
import datetime
import json
import os
import random
import statistics
import time

import llama_cpp


def decode(context, tokens, position, ubatch):
    """Runs tokens from a position on; logits for the last one."""
    for start in range(0, len(tokens), ubatch):
        part = tokens[start : start + ubatch]
        batch = llama_cpp.llama_batch_init(len(part), 0, 1)
        batch.n_tokens = len(part)
        for i, token in enumerate(part):
            batch.token[i] = token
            batch.pos[i] = position + start + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = 0
            batch.logits[i] = start + i + 1 == len(tokens)
        status = llama_cpp.llama_decode(context, batch)
        llama_cpp.llama_batch_free(batch)
        if status != 0:
            raise SystemExit(f"llama_decode: {status}")
    llama_cpp.llama_synchronize(context)


def clear(context):
    llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), False)


def cpu_info():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")


def measure(context, vocab, args, prompt, gen):
    tokens = [random.randrange(vocab) for _ in range(args.depth + max(prompt, gen))]
    samples = []
    for repetition in range(args.reps + 1):
        clear(context)
        if args.depth:
            decode(context, tokens[: args.depth], 0, args.ubatch)
        start = time.perf_counter_ns()
        if prompt:
            decode(context, tokens[args.depth :][:prompt], args.depth, args.ubatch)
        else:
            for i in range(gen):
                decode(context, [tokens[args.depth + i]], args.depth + i, args.ubatch)
        elapsed = time.perf_counter_ns() - start
        if repetition > 0:  # the first is the warm-up
            samples.append(elapsed)
    rates = [(prompt or gen) * 1e9 / ns for ns in samples]
    deviation = lambda values: statistics.stdev(values) if len(values) > 1 else 0.0
    return {
        "n_prompt": prompt,
        "n_gen": gen,
        "n_depth": args.depth,
        "test_time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "avg_ns": int(statistics.mean(samples)),
        "stddev_ns": int(deviation(samples)),
        "avg_ts": statistics.mean(rates),
        "stddev_ts": deviation(rates),
        "samples_ns": samples,
        "samples_ts": rates,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-p", "--n-prompt", dest="prompt", type=int, default=512)
    parser.add_argument("-n", "--n-gen", dest="gen", type=int, default=128)
    parser.add_argument("-d", "--n-depth", dest="depth", type=int, default=0)
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("-r", "--repetitions", dest="reps", type=int, default=5)
    parser.add_argument("-ub", "--ubatch-size", dest="ubatch", type=int, default=512)
    parser.add_argument("-fa", "--flash-attn", dest="flash", type=int, default=1)
    parser.add_argument("-ngl", "--n-gpu-layers", dest="layers", type=int, default=0)
    parser.add_argument("-o", "--output", choices=["json"], default="json")
    args = parser.parse_args()

    random.seed(1)
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = args.layers
    model = llama_cpp.llama_model_load_from_file(args.model.encode(), params)
    if not model:
        raise SystemExit(f"{args.model}: llama.cpp does not load it")
    vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))

    params = llama_cpp.llama_context_default_params()
    params.n_ctx = args.depth + max(args.prompt, args.gen)
    params.n_batch = params.n_ctx
    params.n_ubatch = args.ubatch
    params.n_threads = params.n_threads_batch = args.threads
    params.flash_attn_type = 1 if args.flash else 0
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise SystemExit("llama.cpp gives no context")

    text = ctypes.create_string_buffer(256)
    llama_cpp.llama_model_desc(model, text, 256)
    common = {
        "build_commit": f"llama-cpp-python {llama_cpp.__version__}",
        "cpu_info": cpu_info(),
        "gpu_info": "",
        "backends": "CPU" if args.layers == 0 else "GPU",
        "model_filename": args.model,
        "model_type": text.value.decode(),
        "model_size": llama_cpp.llama_model_size(model),
        "model_n_params": llama_cpp.llama_model_n_params(model),
        "n_batch": params.n_batch,
        "n_ubatch": args.ubatch,
        "n_threads": args.threads,
        "type_k": "f16",
        "type_v": "f16",
        "n_gpu_layers": args.layers,
        "flash_attn": bool(args.flash),
    }
    tests = [(args.prompt, 0)] * (args.prompt > 0) + [(0, args.gen)] * (args.gen > 0)
    records = [common | measure(context, vocab, args, prompt, gen) for prompt, gen in tests]
    print(json.dumps(records, indent=1))


if __name__ == "__main__":
    main()
