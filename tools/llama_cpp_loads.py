#!/usr/bin/env python3
"""Does llama.cpp load what aprgpu writes, and compute the same?

    pip install llama-cpp-python gguf numpy
    tools/llama_cpp_loads.py exports FIXTURES [--mixes q4_k_m,q8_0] [--models coder,qwen3]
        converts and quantizes every Hugging Face folder FIXTURES/*/hf and every FIXTURES/*/*.gguf (by way of APR),
        loads each result in llama.cpp, and compares with a file of the same type that llama.cpp's own quantizer made
        of the same source: greedy tokens, logits
    tools/llama_cpp_loads.py refused FOLDER
        asks llama.cpp about the broken files that `APRGPU_DUMP=FOLDER cargo test --test validate` left: which ones it
        refuses, and which ones it loads without a word
    tools/llama_cpp_loads.py same A.gguf B.gguf
        compares two files

Exits with 1 where a file does not load or differs. Uses target/release/aprgpu, or the program named by $APRGPU.
"""
import argparse
import ctypes
import multiprocessing
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PROMPTS = ["def fibonacci(n):\n", "The quick brown fox"]
NEW_TOKENS = 16
MIXES = {
    "f32": 0, "f16": 1, "bf16": 32, "q4_0": 2, "q4_1": 3, "q5_0": 8, "q5_1": 9, "q8_0": 7,
    "q4_k_s": 14, "q4_k_m": 15, "q5_k_s": 16, "q5_k_m": 17, "q6_k": 18,
}
# Where llama.cpp aborts, that is an answer; a debugger's view of it is none.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
APRGPU = os.environ.get("APRGPU", str(pathlib.Path(__file__).resolve().parent.parent / "target/release/aprgpu"))


def aprgpu(*arguments):
    done = subprocess.run([APRGPU, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"aprgpu {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stderr


# llama.cpp calls it until the process ends.
LOG = []


def quiet():
    import llama_cpp

    if not LOG:
        LOG.append(llama_cpp.llama_log_callback(lambda *_: None))
        llama_cpp.llama_log_set(LOG[0], ctypes.c_void_p(0))


def run_in_llama_cpp(path, pipe):
    """Loads a file; sends what it computes, or why it does not load."""
    try:
        import numpy
        import llama_cpp

        quiet()
        model = llama_cpp.Llama(str(path), n_ctx=256, n_threads=2, logits_all=True, verbose=False, seed=0)
        results = []
        for prompt in PROMPTS:
            tokens = model.tokenize(prompt.encode(), add_bos=True, special=True)
            model.reset()
            model.eval(tokens)
            # One pass over the prompt, so that both files take the same kernels.
            logits = numpy.array(model.scores[: len(tokens)], dtype=numpy.float32)
            written = []
            for _ in range(NEW_TOKENS):
                last = model.scores[model.n_tokens - 1]
                written.append(int(numpy.argmax(last)))
                model.eval([written[-1]])
            results.append((tokens, logits, written))
        model.close()
        pipe.send(("ok", results))
    except BaseException as error:  # noqa: BLE001: whatever it is, it is the answer
        pipe.send(("error", f"{type(error).__name__}: {error}"))


def ask(path):
    """In a process of its own: llama.cpp may abort."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.Process(target=run_in_llama_cpp, args=(path, sender))
    child.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = ("error", "the process died")
    child.join()
    return answer


def quantize_with_llama_cpp(source, target, mix):
    import llama_cpp

    quiet()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = MIXES[mix]
    parameters.nthread = 2
    parameters.allow_requantize = True
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters))
    if code != 0:
        raise RuntimeError(f"llama.cpp does not quantize {source} to {mix}")


def compare(ours, theirs):
    """A sentence, and whether both files are the same model."""
    import numpy

    (state, found), (their_state, expected) = ask(ours), ask(theirs)
    if state != "ok":
        return f"does not load: {found}", False
    if their_state != "ok":
        return f"llama.cpp's own file does not load: {expected}", False
    worst, same_tokens, total = 0.0, 0, 0
    for (tokens, logits, written), (their_tokens, their_logits, their_written) in zip(found, expected):
        if tokens != their_tokens:
            return "the prompt has other tokens", False
        error = float(numpy.sum((logits - their_logits) ** 2) / numpy.sum(their_logits**2))
        worst = max(worst, error)
        same_tokens += sum(a == b for a, b in zip(written, their_written))
        total += len(their_written)
    identical = pathlib.Path(ours).read_bytes() == pathlib.Path(theirs).read_bytes()
    how = "the same bytes" if identical else "other bytes"
    sentence = f"{same_tokens}/{total} greedy tokens, logits NMSE {worst:.1e}, {how}"
    return sentence, same_tokens == total and worst == 0.0


def exports(fixtures, mixes, models):
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for hf in sorted(fixtures.glob("*/hf")):
            name = hf.parent.name
            if models and name not in models:
                continue
            # What llama.cpp quantizes is the plain export, whose tensors are copies of the folder's.
            plain = folder / "plain.gguf"
            aprgpu("convert", hf, plain)
            for mix in mixes:
                ours, theirs = folder / "ours.gguf", folder / "theirs.gguf"
                aprgpu("quantize", hf, ours, "--to", mix)
                quantize_with_llama_cpp(plain, theirs, mix)
                sentence, good = compare(ours, theirs)
                failures += not good
                print(f"{'ok  ' if good else 'FAIL'} {name} {mix}: {sentence}", flush=True)
        for gguf in sorted(fixtures.glob("*/*.gguf")):
            if models and gguf.parent.name not in models:
                continue
            apr, back = folder / "there.apr", folder / "back.gguf"
            aprgpu("convert", gguf, apr)
            aprgpu("convert", apr, back)
            sentence, good = compare(back, gguf)
            failures += not good
            print(f"{'ok  ' if good else 'FAIL'} {gguf.name} by way of APR: {sentence}", flush=True)
        for apr in sorted(fixtures.glob("apr-written/*.apr")):
            if models:
                continue
            ours = folder / "ours.gguf"
            told = aprgpu("convert", apr, ours).strip().splitlines()
            state, found = ask(ours)
            failures += state != "ok"
            what = "loads and runs" if state == "ok" else found
            print(f"{'ok  ' if state == 'ok' else 'FAIL'} {apr.name} as GGUF: {what} ({told[0]})", flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    return failures


def refused(folder):
    loaded = 0
    for path in sorted(folder.glob("*.gguf")):
        state, found = ask(path)
        loaded += state == "ok"
        what = "LOADS without a word" if state == "ok" else f"refused ({found[:60]})"
        print(f"{path.stem}: {what}", flush=True)
    print(f"{loaded} files load although aprgpu refuses them: what it says of them is not about loading")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("exports")
    command.add_argument("fixtures", type=pathlib.Path)
    command.add_argument("--mixes", default=",".join(mix for mix in MIXES if mix != "f32"))
    command.add_argument("--models", default="")
    command = commands.add_parser("refused")
    command.add_argument("folder", type=pathlib.Path)
    command = commands.add_parser("same")
    command.add_argument("a", type=pathlib.Path)
    command.add_argument("b", type=pathlib.Path)
    arguments = parser.parse_args()
    if arguments.command == "exports":
        models = [model for model in arguments.models.split(",") if model]
        failures = exports(arguments.fixtures, arguments.mixes.split(","), models)
    elif arguments.command == "refused":
        failures = refused(arguments.folder)
    else:
        sentence, good = compare(arguments.a, arguments.b)
        print(sentence)
        failures = not good
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
