"""The first steps of the default recipe on two CUDA devices, emulated or not, over NCCL, have the same losses as on
processors. Batches are smaller than the recipe's, whose steps take half a minute on emulated devices."""

import os
from pathlib import Path

from runs import PROGRAM, losses, stop_after

DEVICES = Path(os.environ["CONCLAVE_CUDA_PROGRAM"])
SOURCE = Path(os.environ["CONCLAVE_SOURCE"])
STEPS = 2 if DEVICES.name == "emulated_conclave" else 6
# An epsilon above rounding errors: otherwise Adam makes full-size steps from gradients that are only rounding errors.
OPTIONS = ["train.batch_tokens=128", "train.epsilon=1e-5", "run.log_every=1", "model.bigrams=0"]


def first_losses(program, device):
    sets = [f"--set={option}" for option in (*OPTIONS, f"run.directory={device}")]
    training = [program, "train", SOURCE / "recipes/quick.toml", "--device", device, *sets]
    stop_after(STEPS, [SOURCE / "scripts/run_ranks", "2", *training], device)
    return {step: loss for step, loss in losses(device).items() if step <= STEPS}


def main():
    os.environ["CONCLAVE_CUDA_MEMORY"] = "512"
    here, there = first_losses(PROGRAM, "cpu"), first_losses(DEVICES, "cuda")
    assert len(here) == len(there) == STEPS, (here, there)
    worst = max(abs(loss - there[step]) / max(1, abs(loss)) for step, loss in here.items())
    print(f"quick.toml, {STEPS} steps: losses at most {worst:.1e} apart, the last {here[STEPS]:.4f} of {here[1]:.4f}")
    assert worst <= 1e-4, (here, there)


if __name__ == "__main__":
    main()
