"""Training on images on two CUDA devices, which are emulated: the losses are those of processors."""

import os
from pathlib import Path

from e2e.images_test import prepare, train
from runs import losses

DEVICES = Path(os.environ["CONCLAVE_CUDA_PROGRAM"])


def main():
    os.environ["CONCLAVE_CUDA_MEMORY"] = "512"
    prepare()
    for norm in ("group", "batch"):
        options = ["train.steps=6", f"image.norm={norm}"]
        train(2, f"{norm}_cpu", *options)
        train(2, f"{norm}_cuda", *options, program=DEVICES, says=["threads each, on cuda"])
        here, there = losses(f"{norm}_cpu"), losses(f"{norm}_cuda")
        assert len(here) == len(there) == 6, (here, there)
        worst = max(abs(loss - there[step]) / max(1, abs(loss)) for step, loss in here.items())
        print(f"{norm} normalization: losses at most {worst:.1e} apart")
        assert worst <= 1e-4, (here, there)


if __name__ == "__main__":
    main()
