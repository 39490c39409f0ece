"""Images on two emulated CUDA devices: classifying, captioning and generating have the same losses as on processors. A
service of all three tasks plans their memory within a small device."""

import os
from pathlib import Path

from e2e.images_test import prepare, train
from e2e.serve_tasks_test import FILES, write_images
from e2e.tasks_test import TASKS
from runs import assert_same_losses, losses
from serving import base64_of, serving

DEVICES = Path(os.environ["CONCLAVE_CUDA_PROGRAM"])


def answers(service):
    """Of all tasks, the largest captions first: what the service wrote, and how many pixels it drew."""
    images = [{"image": base64_of(name)} for name in FILES[:2]]
    captions = [service.post("caption", {**image, "beam": beam})["caption"] for image in images for beam in (8, 1)]
    drawn = service.post("generate", {"text": "ankle boot", "count": 8, "steps": 2})["images"]
    return captions, [service.post("classify", image)["class"] for image in images], len(drawn)


def main():
    os.environ["CONCLAVE_CUDA_MEMORY"] = "160"
    prepare()
    for norm in ("group", "batch"):
        options = ["train.steps=6", f"image.norm={norm}", "train.ema=0.9"]
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
    write_images()
    small = ["--batch-tokens=64", "--max-batch=4"]
    with serving("tasks_cuda", "--device=cuda", *small, program=DEVICES) as service:
        there = answers(service)
        service.end()
    with serving("tasks_cuda", "--device=cpu", *small) as service:
        here = answers(service)
        service.end()
    assert here == there, (here, there)


if __name__ == "__main__":
    main()
