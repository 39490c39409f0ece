"""Reads the counts of a CONCLAVE_COVERAGE build after its tests. Prints for each file of the CUDA code how many lines
ran and which did not, and the instances of kernels that were never launched. For scripts/coverage.
    coverage.py BUILD"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WHOLE = re.compile(r"core/cuda/[^/]+|core/kernels/([^/]+\.cu|cuda_[^/]+\.h)|parallel/(nccl|staged|device)_\w+\.(cpp|h)")
HALF = re.compile(r"core/kernels/[^/]+\.cpp")  # only the calls of the CUDA twins count here
KERNEL = re.compile(r"(?:void )?([\w:]+)\[abi:emulated_global\](.*)\(.*\)")
HANDS_OVER = re.compile(r"if constexpr \(kBuiltWithCuda\)[^;]*;")


def arguments_of(template):
    """The template arguments at the start: "<double, 1>" of "<double, 1>(long, double*)"; "" if there are none."""
    depth = 0
    for at, letter in enumerate(template):
        depth += (letter == "<") - (letter == ">")
        if depth == 0:
            return template[: at + 1] if letter == ">" else ""
    return ""


def notes_of(build):
    """The .gcno files of a build, which the compiler writes. The tests write a .gcda file beside those of which they ran
    something; gcov counts the lines of the others as 0 runs. A .gcno without an object file is of an earlier build."""
    return sorted(notes for notes in build.rglob("*.gcno") if notes.with_suffix(".o").exists())


def counts_of(notes):
    """Counts of one object file: {file: {line: runs}} and {kernel: threads that ran it}."""
    said = subprocess.run(["gcov", "--json-format", "--stdout", notes.name], cwd=notes.parent, capture_output=True, check=True)
    result, kernels = defaultdict(lambda: defaultdict(int)), {}
    for text in said.stdout.splitlines():
        told = json.loads(text)
        for file in told["files"]:
            path = os.path.relpath(Path(told["current_working_directory"], file["file"]).resolve(), ROOT)
            for line in file["lines"]:
                result[path][line["line_number"]] += line["count"]
            for function in file["functions"]:
                name = re.sub(r"\(anonymous namespace\)::|conclave::|kernels::cuda::|kernels::", "", function["demangled_name"])
                if (kernel := KERNEL.fullmatch(name)) and "{lambda" not in name:
                    kernels[f"{path}: {kernel.group(1)}{arguments_of(kernel.group(2))}"] = function["execution_count"]
    return result, kernels


def lines_that_count(path, lines):
    if WHOLE.fullmatch(path):
        return set(lines)
    if not HALF.fullmatch(path):
        return set()
    text = (ROOT / path).read_text()
    handing_over = set()
    for found in HANDS_OVER.finditer(text):
        handing_over.update(range(1 + text.count("\n", 0, found.start()), 2 + text.count("\n", 0, found.end())))
    return set(lines) & handing_over


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n    ")[0])
    parser.add_argument("build", type=Path)
    build = parser.parse_args().build.resolve()
    if not any(build.rglob("*.gcda")):
        sys.exit(f"coverage: nothing was counted in {build}; scripts/coverage builds it and runs its tests")
    runs, launched = defaultdict(lambda: defaultdict(int)), Counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for counted, kernels in pool.map(counts_of, notes_of(build)):
            for kernel, count in kernels.items():  # the linker keeps one of an instance in several files
                launched[kernel] += count
            for path, lines in counted.items():
                for line, count in lines.items():
                    runs[path][line] += count
    total = missing = 0
    for path in sorted(runs):
        counting = lines_that_count(path, runs[path])
        if not counting:
            continue
        never = sorted(line for line in counting if runs[path][line] == 0)
        total += len(counting)
        missing += len(never)
        print(f"{path:<44}{len(counting) - len(never):>5} of {len(counting):>5} lines  {100 * (1 - len(never) / len(counting)):6.2f} %")
        text = (ROOT / path).read_text().splitlines()
        for line in never:
            print(f"    {line}: {text[line - 1].strip()}")
    never = sorted(kernel for kernel, count in launched.items() if count == 0)
    for kernel in never:
        print(f"never launched: {kernel}")
    print(f"{total - missing} of {total} lines of CUDA code ran, and {len(launched) - len(never)} of {len(launched)} instances of kernels")
    if missing or never:
        sys.exit("coverage: see above for what no test runs")


if __name__ == "__main__":
    main()
