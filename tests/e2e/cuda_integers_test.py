"""Integer inference on two emulated CUDA devices agrees with that on processors: texts and images, ranges per row and
per tensor, also of experts. Nothing waits for ranges: no copy uses memory that is not pinned."""

import json
import os
from pathlib import Path

from e2e import images_test
from runs import PROGRAM, prepare, run, train

DEVICES = Path(os.environ["CONCLAVE_CUDA_PROGRAM"])
QUANTIZED = "quantization.enabled=true"
TENSOR = [QUANTIZED, "quantization.activations=tensor", "quantization.learned=true"]
EVERYWHERE = 'quantization.layers=["linear", "experts", "heads", "convolutions", "depthwise"]'


def loss(program, checkpoint, *options, ranks=1):
    ranked = ["mpirun", "--oversubscribe", "-n", ranks] if ranks > 1 else []
    examples = ["--split", "train"] if checkpoint == "images" else ["--data", "some.jsonl"]
    command = [*ranked, program, "eval", checkpoint, *examples, *options]
    return json.loads(run(command).splitlines()[-1])["loss"]


def compare(checkpoint, *numbers, apart):
    here = loss(PROGRAM, checkpoint, "--device", "cpu")
    for ranks in numbers:
        there = loss(DEVICES, checkpoint, "--device", "cuda", ranks=ranks)
        rounded = loss(DEVICES, checkpoint, "--device", "cuda", "--set=quantization.inference=rounded", ranks=ranks)
        print(f"{checkpoint}, {ranks} ranks: {here} by processors, {there} on devices, rounded {rounded}")
        assert abs(here - there) <= apart * max(1, abs(here)), (here, there)
        assert 0 < abs(there - rounded) < 2e-3, (there, rounded)


def pageable_copies(times):
    """Of an evaluation of the same texts so many times, in which experts get their rows in several rounds: tables of a
    round are still to be copied when the host writes those of the next."""
    Path("some.jsonl").write_text(times * "".join(Path("texts.jsonl").read_text().splitlines(keepends=True)[:120]))
    counts = Path(f"counts{times}")
    rounds = ["--set=moe.capacity_factor=0.25", "--set=quantization.inference=rounded"]
    os.environ["CONCLAVE_CUDA_COUNTS"] = str(counts)
    there = loss(DEVICES, "tensor", "--device", "cuda", *rounds, ranks=2)
    del os.environ["CONCLAVE_CUDA_COUNTS"]
    here = loss(PROGRAM, "tensor", "--device", "cpu", *rounds, ranks=2)
    assert abs(here - there) <= 1e-4 * max(1, abs(here)), (here, there)
    return sorted(line.split()[2] for line in counts.read_text().splitlines())


def main():
    os.environ["CONCLAVE_CUDA_MEMORY"] = "160"
    prepare()
    Path("some.jsonl").write_text("".join(Path("texts.jsonl").read_text().splitlines(keepends=True)[:150]))
    for name, options in {"token": [QUANTIZED], "tensor": [*TENSOR, EVERYWHERE]}.items():
        train(1, name, "train.steps=12", *options)
        # 3e-9 in one of two trained models, and 4.8e-5 in the other, of which a layer rounds one number the other way:
        # on processors, integers and rounded numbers differ as much. Which model it is depends on OpenBLAS's kernels.
        compare(name, 2, apart=1e-4)
    once, twice = pageable_copies(1), pageable_copies(2)
    assert len(once) == 2 and once == twice, (once, twice)
    images_test.prepare()
    images_test.train(1, "images", QUANTIZED, EVERYWHERE, "image.norm=batch", "train.steps=6")
    # Measured on seven models after 4 to 10 steps: losses differ by 3e-7 in one, and by 0.3e-5 to 4e-5 in those where
    # one layer rounds a number the other way. Rounded numbers instead of integers give the same differences.
    compare("images", 1, apart=1e-4)


if __name__ == "__main__":
    main()
