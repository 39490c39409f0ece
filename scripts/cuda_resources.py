"""Compiles the CUDA kernels for the supported GPUs, with warnings as errors, and compares the GPU resources of each
with the checked-in table. Fails if a kernel newly spills registers or needs more than its row says. Also compiles the
host code with the toolkit's headers, as the tests compile it with those of the emulated device.
    cuda_resources.py [--nvcc PATH] [--update]"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "core/kernels/cuda_resources.tsv"
ARCHITECTURES = ("80", "90")  # A100, H100; later GPUs translate the PTX for H100
FOLDER = ROOT / "build/cuda_resources"  # always the same folder, for ccache
FIGURES = ("registers", "shared bytes", "spilled bytes")


def batches(sources, count):
    """Divides the files into `count` lists of about equal numbers of bytes."""
    lists = [[] for _ in range(count)]
    for source in sorted(sources, key=lambda source: -source.stat().st_size):
        min(lists, key=lambda some: sum(file.stat().st_size for file in some)).append(source)
    return [sorted(some) for some in lists if some]


def compiled(nvcc, sources):
    """The output of ptxas for files, or None if they do not compile. They are compiled together, as headers take most
    of the time."""
    together = FOLDER / f"{sources[0].stem}.cu"
    together.write_text("".join(f'#include "{source.relative_to(ROOT)}"\n' for source in sources))
    options = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    options.append(f"-gencode=arch=compute_{ARCHITECTURES[-1]},code=compute_{ARCHITECTURES[-1]}")
    command = [*(["ccache"] if shutil.which("ccache") else []), nvcc, "-std=c++20", "-DCONCLAVE_CUDA=1", *options,
               "-Xptxas=-v", "-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror,-Wno-subobject-linkage", "-I.",
               "-c", str(together), "-o", str(together.with_suffix(".o"))]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        print(done.stdout)
        return None
    return subprocess.run(["c++filt"], input=done.stdout, stdout=subprocess.PIPE, text=True, check=True).stdout


def host_code_compiles(nvcc, source):
    """Whether a file of host code, which calls CUDA's libraries, compiles with the toolkit's headers."""
    toolkit = Path(nvcc).resolve().parent.parent / "include"
    done = subprocess.run([os.environ.get("CXX", "g++"), "-std=c++20", "-fsyntax-only", "-DCONCLAVE_CUDA=1", "-Wall", "-Wextra", "-Werror",
                           "-I.", f"-I{toolkit}", source.relative_to(ROOT)],
                          cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="")
    return done.returncode == 0


def short(symbol):
    """The names of a kernel and of the function that it applies, without namespaces and types."""
    name = re.sub(r"\(anonymous namespace\)::|\w+::|^void ", "", symbol)
    kernel = re.match(r"\w+", name).group()
    applied = re.search(r"[<, ]([A-Z]\w+)[<>(]", name)
    return f"{kernel} {applied.group(1)}" if applied else kernel


def resources(said):
    """The maxima over all instances of a kernel: {(kernel, gpu): (registers, shared, spilled)}."""
    most = defaultdict(lambda: (0, 0, 0))
    for line in said.splitlines():
        if entry := re.search(r"Compiling entry function '(.+)' for '(sm_\d+)'", line):
            key, spilled = (short(entry.group(1)), entry.group(2)), 0
        elif spills := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = max(map(int, spills.groups()))
        elif used := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            now = (int(used.group(1)), int(shared.group(1)) if shared else 0, spilled)
            most[key] = tuple(map(max, most[key], now))
    return most


def read_table():
    """The compiler's version and the figures of the table."""
    version, _, *rows = [line.split("\t") for line in TABLE.read_text().splitlines()]
    return version[0], {(kernel, gpu): tuple(map(int, figures)) for kernel, gpu, *figures in rows}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n    ")[0])
    parser.add_argument("--nvcc", default=shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc")
    parser.add_argument("--update", action="store_true", help="write the table anew")
    arguments = parser.parse_args()
    sources = sorted((ROOT / "core").rglob("*.cu"))
    host_sources = sorted((ROOT / "core/cuda").glob("*.cpp"))
    FOLDER.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        said = [pool.submit(compiled, arguments.nvcc, some) for some in batches(sources, 4)]
        host_code = list(pool.map(lambda source: host_code_compiles(arguments.nvcc, source), host_sources))
        said = [text.result() for text in said]
    if None in said or not all(host_code):
        sys.exit("cuda_resources: not all files compile")
    measured = resources("\n".join(said))
    told = subprocess.run([arguments.nvcc, "--version"], stdout=subprocess.PIPE, text=True, check=True).stdout
    version = "nvcc " + re.search(r"V([0-9.]+)", told).group(1)
    if arguments.update:
        rows = [("kernel", "gpu", *FIGURES), *((*key, *figures) for key, figures in sorted(measured.items()))]
        TABLE.write_text("\n".join([version, *("\t".join(map(str, row)) for row in rows)]) + "\n")
    spilled = sum(figures[2] > 0 for figures in measured.values())
    print(f"{len(sources)} files, and {len(host_sources)} of the host's; {len(measured) // len(ARCHITECTURES)} kernels for {len(ARCHITECTURES)} GPUs by {version}; "
          f"registers at most {max(figures[0] for figures in measured.values())}, {spilled} spill")
    of_version, table = read_table()
    if version != of_version:
        print(f"{TABLE.name} was written by {of_version}: not compared")
        return
    wrong = [f"{key}: there is no row for it" for key in measured.keys() - table.keys()]
    wrong += [f"{key}: there is no such kernel" for key in table.keys() - measured.keys()]
    for key, figures in measured.items():
        for what, now, row in zip(FIGURES, figures, table.get(key, figures)):
            if now > row:
                wrong.append(f"{key}: {now} {what}, {row} in the table")
    if wrong:
        sys.exit("\n".join(sorted(wrong)) + f"\ncuda_resources: see above; scripts/cuda_resources.py --update writes {TABLE.name} anew")


if __name__ == "__main__":
    main()
