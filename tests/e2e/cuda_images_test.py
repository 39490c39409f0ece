"""Training on images on two CUDA devices, which are emulated: the losses are those of processors."""

import os
from pathlib import Path

from e2e.images_test import prepare, train
from runs import assert_same_losses, losses

DEVICES = Path(os.environ["CONCLAVE_CUDA_PROGRAM"])


def main():
    os.environ["CONCLAVE_CUDA_MEMORY"] = "512"
    prepare()
    for norm in ("group", "batch"):
        options = ["train.steps=6", f"image.norm={norm}"]
        train(2, f"{norm}_cpu", *options)
        train(2, f"{norm}_cuda", *options, program=DEVICES, says=["threads each, on cuda"])
        assert len(losses(f"{norm}_cpu")) == 6
        assert_same_losses(f"{norm}_cpu", f"{norm}_cuda")


if __name__ == "__main__":
    main()
