"""Depthwise convolutions by Conclave and by PyTorch, alternating on the same cores: for scripts/bench_peers.

    python torch_convolution.py build/release/conclave --threads 2

`conclave bench convolution` describes the measured operations; PyTorch computes the same with both layouts of images.
Prints milliseconds, as medians over the rounds, and how many times faster Conclave is than PyTorch's faster layout.
"""

import argparse
import os
import re
import statistics
import subprocess
import time

import torch
from torch.nn import functional as F

FIGURE = re.compile(r"(depthwise (\d+) x \d+, stride (\d+), (\d+) images (\d+) x \d+ x (\d+), (\w+)) \.+ ([\d.]+) ms")
LAYOUTS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}


def milliseconds(work):
    work()
    start = time.perf_counter()
    work()
    times = max(int(0.05 / (time.perf_counter() - start)), 1)
    start = time.perf_counter()
    for _ in range(times):
        work()
    return 1e3 * (time.perf_counter() - start) / times


def torch_milliseconds(window, stride, images, side, channels, way, layout):
    x = torch.randn(images, channels, side, side).to(memory_format=layout)
    weight = torch.randn(channels, 1, window, window)

    def forward():
        return F.conv2d(x, weight, None, stride, window // 2, groups=channels)

    if way == "forward":
        with torch.no_grad():
            return milliseconds(forward)
    for leaf in x, weight:
        leaf.requires_grad_()
    y = forward()
    dy = torch.randn_like(y)
    return milliseconds(lambda: torch.autograd.grad(y, (x, weight), dy, retain_graph=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("conclave", help="the program")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
    found = {}
    for _ in range(arguments.rounds):
        said = subprocess.run([arguments.conclave, "bench", "convolution"], env=environment, check=True,
                              capture_output=True, text=True).stdout
        for name, *sizes, way, ours in FIGURE.findall(said):
            times = found.setdefault(name, {"Conclave": [], **{layout: [] for layout in LAYOUTS}})
            times["Conclave"].append(float(ours))
            for layout, memory_format in LAYOUTS.items():
                times[layout].append(torch_milliseconds(*map(int, sizes), way, memory_format))
    if not found:
        raise SystemExit("torch_convolution: `conclave bench convolution` did not print what was expected")
    print(f"{'milliseconds':60} {'Conclave':>10} {'PyTorch':>10} {'channels_last':>14} {'faster':>7}")
    for name, times in found.items():
        ours, *theirs = [statistics.median(values) for values in times.values()]
        print(f"{name:60} {ours:10.3f} {theirs[0]:10.3f} {theirs[1]:14.3f} {min(theirs) / ours:7.2f}")
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads")


if __name__ == "__main__":
    main()
