#!/usr/bin/env python3
"""Seconds from the start of a program to its first token, and its peak of memory: aprgpu and llama.cpp in turn.

    pip install llama-cpp-python
    python tools/start_time.py --aprgpu target/release/aprgpu -t 2 --pairs 5 model.gguf >> benches/record/<cpu>/start.jsonl

Both read the same file from a warm cache, take the same five tokens of a prompt and make one more. For aprgpu the whole
process counts, from its start to its end; for llama.cpp only what comes after Python's own start and imports. The peak is
the process's resident set (for llama.cpp Python's 40 MB are in it); mapped pages of the file count as long as they are held.
"""

import argparse
import ctypes
import datetime
import json
import os
import statistics
import subprocess
import sys
import time


def llama_child(model, threads):
    import llama_cpp

    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    start = time.perf_counter()
    llama_cpp.llama_backend_init()
    loaded = llama_cpp.llama_model_load_from_file(model.encode(), llama_cpp.llama_model_default_params())
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = 512
    params.n_threads = params.n_threads_batch = threads
    context = llama_cpp.llama_init_from_model(loaded, params)
    tokens = (llama_cpp.llama_token * 5)(1, 2, 3, 4, 5)
    if llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(tokens, 5)) != 0:
        raise SystemExit("llama_decode failed")
    llama_cpp.llama_synchronize(context)
    print(time.perf_counter() - start)


def measure(command, inside):
    """Seconds and the peak in bytes of one run; `inside` takes the seconds from what it prints."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - start
    if status != 0:
        raise SystemExit(f"{command[0]} failed: {status}")
    return (float(printed) if inside else elapsed), usage.ru_maxrss * 1024


def cpu_info():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--aprgpu", default="target/release/aprgpu")
    parser.add_argument("-t", "--threads", type=int, default=os.cpu_count())
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--llama-child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.llama_child:
        return llama_child(args.model, args.threads)
    threads = str(args.threads)
    ours = [args.aprgpu, "run", args.model, "Hello there, my friend", "-n", "1", "--backend", "cpu", "--ctx", "512"]
    ours += ["--threads", threads, "--temperature", "0"]
    theirs = [sys.executable, __file__, args.model, "--llama-child", "-t", threads]
    runs = {"aprgpu": [], "llama.cpp": []}
    load = os.getloadavg()
    with open(args.model, "rb") as file:  # the cache is warm for whoever comes first
        while file.read(1 << 24):
            pass
    for pair in range(args.pairs):
        order = ["aprgpu", "llama.cpp"] if pair % 2 == 0 else ["llama.cpp", "aprgpu"]
        for name in order:
            runs[name].append(measure(ours if name == "aprgpu" else theirs, name != "aprgpu"))
    a, b = ([seconds for seconds, _ in runs[name]] for name in ("aprgpu", "llama.cpp"))
    result = {
        "test": "start to first token",
        "test_time": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "model": os.path.basename(args.model),
        "cpu_info": cpu_info(),
        "n_threads": args.threads,
        "load_average": load,
        "load_average_after": os.getloadavg(),
        "a_seconds": a,
        "b_seconds": b,
        "ratio_median": statistics.median(x / y for x, y in zip(a, b)),
        "a_peak_bytes": max(peak for _, peak in runs["aprgpu"]),
        "b_peak_bytes": max(peak for _, peak in runs["llama.cpp"]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
