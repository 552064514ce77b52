#!/usr/bin/env python3
"""How fast are aprgpu's encoders beside ggml's, per thread, on the same values in the same minutes?

    pip install llama-cpp-python numpy
    tools/encoder_bench.py [--rounds 7] [--rows 96] [--record benches/record/CPU/encoders.jsonl]

Both encode the same rows of 4096 on one thread, in turn, type by type; the first round does not count. The ratio is that of
the pairs: above 1 aprgpu is faster. Where the bytes differ there is an error and no figure. ggml is the library in the
llama-cpp-python wheel; it is called as `llama-quantize` calls it, which checks every chunk that it has encoded
(ggml_validate_row_data), as aprgpu does. `bare` is the ratio without that check, which aprgpu cannot leave out.
"""
import argparse
import ctypes
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zlib

COLS = 4096
TYPES = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
ROOT = pathlib.Path(__file__).resolve().parent.parent
APRBENCH = os.environ.get("APRBENCH", str(ROOT / "target/release/aprbench"))


def ggml():
    import llama_cpp

    folder = pathlib.Path(llama_cpp.__file__).parent / "lib"
    library = ctypes.CDLL(str(next(folder.glob("libggml-base.so*"))))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]
    library.ggml_validate_row_data.restype = ctypes.c_bool
    library.ggml_validate_row_data.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
    return library, llama_cpp.__version__


def main():
    import numpy

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--record", type=pathlib.Path)
    arguments = parser.parse_args()
    library, version = ggml()
    random = numpy.random.default_rng(11)
    values = (random.standard_normal((arguments.rows, COLS)) * 0.02).astype(numpy.float32)
    values[:, ::997] *= 30
    importance = (((numpy.arange(COLS) * 7919) % 1000 + 1) / 512).astype(numpy.float32)
    out = ctypes.create_string_buffer(arguments.rows * COLS * 2)
    load_before = os.getloadavg()

    def theirs(code, weights):
        pointer = weights.ctypes.data if weights is not None else None
        clock = time.perf_counter()
        size = library.ggml_quantize_chunk(code, values.ctypes.data, out, 0, arguments.rows, COLS, pointer)
        bare = time.perf_counter() - clock
        if not library.ggml_validate_row_data(code, out, size):
            sys.exit("ggml finds its own blocks invalid")
        seconds = time.perf_counter() - clock
        return seconds, zlib.crc32(out.raw[:size]), bare

    pairs = {}
    with tempfile.NamedTemporaryFile(suffix=".f32") as file:
        values.tofile(file.name)
        for turn in range(arguments.rounds + 1):
            for name, code in TYPES.items():
                # Q8_0 makes no use of an importance matrix.
                for weights in [None, importance] if name != "Q8_0" else [None]:
                    command = [APRBENCH, "encode", "--type", name, "--input", file.name, "-r", "1", "--json"]
                    command += ["--importance"] if weights is not None else []
                    measured = {}
                    for who in ("ours", "theirs") if turn % 2 else ("theirs", "ours"):
                        if who == "ours":
                            record = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
                            measured[who] = (record["seconds"][0], record["crc32"])
                        else:
                            # Once to warm up, as aprbench does.
                            theirs(code, weights)
                            measured[who] = theirs(code, weights)
                    if measured["ours"][1] != measured["theirs"][1]:
                        sys.exit(f"{name}: the bytes differ, so the speed does not count")
                    if turn > 0:
                        key = (name, weights is not None)
                        times = (measured["ours"][0], measured["theirs"][0], measured["theirs"][2])
                        pairs.setdefault(key, []).append(times)
    count = values.size / 1e6
    records = []
    print(f"{'type':10} {'ours':>8} {'ggml':>8}  ratio of the pairs (million values/s, one thread)")
    for (name, weighted), times in pairs.items():
        ratios = [b / a for a, b, _ in times]
        bare = statistics.median(c / a for a, _, c in times)
        ours, ggml_rate = (count / statistics.median(t[side] for t in times) for side in (0, 1))
        label = name + (" +imatrix" if weighted else "")
        verdict = "" if statistics.median(ratios) >= 1 else "  SLOWER"
        middle = statistics.median(ratios)
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{label:14} {ours:8.1f} {ggml_rate:8.1f}  {middle:.2f} {spread}  bare {bare:.2f}{verdict}")
        records.append({
            "type": name, "importance": weighted, "values": int(values.size), "threads": 1,
            "ours_seconds": [a for a, _, _ in times], "ggml_seconds": [b for _, b, _ in times], "ratio": middle,
            "ggml_seconds_without_check": [c for _, _, c in times], "ratio_without_check": bare,
        })
    if arguments.record:
        commit = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=10"], capture_output=True, text=True
        ).stdout.strip()
        head = {
            "what": "encoders", "commit": commit, "ggml": f"llama-cpp-python {version}", "machine": platform.machine(),
            "kernel": platform.release(), "load_before": load_before[0], "load_after": os.getloadavg()[0],
        }
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        with open(arguments.record, "w") as file:
            for record in records:
                file.write(json.dumps(head | record) + "\n")


if __name__ == "__main__":
    main()
