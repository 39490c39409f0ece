"""Images on two emulated CUDA devices: classifying, captioning and generating have the same losses as on processors."""

import os
from pathlib import Path

from e2e.images_test import prepare, train
from e2e.tasks_test import TASKS
from runs import assert_same_losses, losses

DEVICES = Path(os.environ["CONCLAVE_CUDA_PROGRAM"])


def main():
    os.environ["CONCLAVE_CUDA_MEMORY"] = "160"
    prepare()
    for norm in ("group", "batch"):
        options = ["train.steps=6", f"image.norm={norm}"]
        train(2, f"{norm}_cpu", *options, device="cpu", says=["threads each, on cpu"])
        train(2, f"{norm}_cuda", *options, program=DEVICES, device="cuda", says=["threads each, on cuda"])
        assert len(losses(f"{norm}_cpu")) == 6
        assert_same_losses(f"{norm}_cpu", f"{norm}_cuda")
    # With two batches in a step, the second reuses host memory that may still be copied for the first one's gradients.
    options = [*TASKS, "train.steps=3", "train.accumulate=2", "moe.balancer=aux_loss", "checkpoint.every=0"]
    train(2, "tasks_cpu", *options, device="cpu")
    train(2, "tasks_cuda", *options, program=DEVICES, device="cuda")
    for task in ("classify", "caption", "generate"):
        assert_same_losses("tasks_cpu", "tasks_cuda", task=task)


if __name__ == "__main__":
    main()
