"""One text of 128 tokens at a time: Conclave, PyTorch (eager), and ONNX Runtime with Conclave's export, alternating on the
same cores, for scripts/bench_peers. ONNX Runtime has the f32 graph, that graph as its own tool quantizes it, and Conclave's
INT8 graph; INT8 is compared with the faster of the latter two.

    conclave recipe show recipes/quick.toml --set model.bigrams=0 --set moe.balancer=bias > all.toml
    python latency.py build/release/conclave all.toml --threads 2

Conclave's model is trained for a few steps, to have a checkpoint to export. PyTorch has its own random weights
(torch_moe.py), which take the same time. All get tokens and return probabilities. Prints milliseconds, as medians over
the rounds, and how many times faster Conclave is.
"""

import argparse
import os
import re
import statistics
import subprocess
import tempfile
import time
import tomllib
from pathlib import Path

import numpy
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from torch_moe import inference_model

TOKENS, REQUESTS = 128, 300
INT8_PEERS = ["ONNX Runtime INT8, its own", "ONNX Runtime INT8, our export"]
FIGURE = re.compile(r"one text of (\d+) tokens, (\w+) \.+ median ([\d.]+) ms, p99 ([\d.]+) ms")


def timed(work):
    """Median and 99th percentile of the time, in milliseconds."""
    for _ in range(50):
        work()
    times = []
    for _ in range(REQUESTS):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    times.sort()
    return statistics.median(times), times[len(times) * 99 // 100]


def torch_work(recipe, threads):
    torch.set_num_threads(threads)
    model = inference_model(recipe, 26)
    tokens = torch.randint(recipe["data"]["vocabulary"], (1, TOKENS))

    def work():
        with torch.inference_mode():
            return model(tokens, None)[0].softmax(-1)

    return work


def onnx_work(path, threads):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    inputs = {"input_ids": numpy.random.default_rng(1).integers(0, 4000, (1, TOKENS)),
              "attention_mask": numpy.ones((1, TOKENS), numpy.int64)}
    return lambda: session.run(["probabilities"], inputs)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("conclave", help="the program")
    parser.add_argument("recipe", help="complete, as `conclave recipe show` prints it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with open(arguments.recipe, "rb") as file:
        recipe = tomllib.load(file)
    if recipe["model"]["bigrams"] > 0:
        raise SystemExit("latency: only recipes without model.bigrams, which the twin looks up beforehand")
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}

    def conclave(*command):
        return subprocess.run([arguments.conclave, *map(str, command)], env=environment, check=True, capture_output=True,
                              text=True).stdout

    with tempfile.TemporaryDirectory() as folder:
        run, f32, int8, own = (Path(folder, name) for name in ("run", "f32.onnx", "int8.onnx", "own.onnx"))
        conclave("train", arguments.recipe, f"--set=run.directory={run}", "--set=train.steps=40",
                 f"--set=data.max_length={TOKENS}")
        recipe["data"]["max_length"] = TOKENS
        conclave("export", run, f32)
        conclave("export", run, int8, "--set=quantization.enabled=true", "--set=quantization.start_step=0")
        quantize_dynamic(f32, own, weight_type=QuantType.QInt8)
        others = {"PyTorch f32 (eager)": torch_work(recipe, arguments.threads),
                  "ONNX Runtime f32": onnx_work(f32, arguments.threads),
                  INT8_PEERS[0]: onnx_work(own, arguments.threads),
                  INT8_PEERS[1]: onnx_work(int8, arguments.threads)}
        found = {}
        for _ in range(arguments.rounds):
            said = conclave("bench", "latency", "--checkpoint", run, "--repetitions", REQUESTS // 100)
            for tokens, kind, *times in FIGURE.findall(said):
                assert int(tokens) == TOKENS, said
                found.setdefault(f"Conclave, {kind}", []).append(tuple(map(float, times)))
            for name, work in others.items():
                found.setdefault(name, []).append(timed(work))
    medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in found.items()}
    medians["ONNX Runtime INT8, faster"] = [min(times) for times in zip(*(medians[name] for name in INT8_PEERS))]
    print(f"{'one text of 128 tokens':30} {'median':>10} {'p99':>10}   Conclave's f32 / INT8 is faster (median; p99)")
    for name, times in medians.items():
        faster = "; ".join(" / ".join(f"{times[i] / medians[f'Conclave, {kind}'][i]:.2f} x" for kind in ("f32", "INT8"))
                           for i in range(2))
        print(f"{name:30} {times[0]:7.3f} ms {times[1]:7.3f} ms   {faster}")
    print(f"PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}, {arguments.threads} threads (target: 1.8 x)")


if __name__ == "__main__":
    main()
