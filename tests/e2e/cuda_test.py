"""Training on emulated CUDA devices, over an emulated NCCL or with one device for all ranks, has the same losses as on
processors. After two steps, no device memory and no pinned memory is allocated, and all copies, also those into
checkpoints, use pinned memory."""

import json
import os
from pathlib import Path

from runs import PROGRAM, losses, prepare, run

DEVICES = Path(os.environ["CONCLAVE_CUDA_PROGRAM"])
RANKS = ["mpirun", "--oversubscribe", "-n", "2"]
STEPS = 12


def train(program, recipe, directory, *options, says=""):
    """Trains; returns for each rank the counts of device allocations, of pinned allocations and of pageable copies."""
    counts = Path(f"{directory}.counts")
    os.environ.update(CONCLAVE_CUDA_COUNTS=str(counts), CONCLAVE_CUDA_MEMORY="160")
    sets = [f"--set={option}" for option in (*options, f"run.directory={directory}", "run.log_every=1")]
    said = run([*RANKS, program, "train", recipe, "--device", "cuda" if program == DEVICES else "cpu", *sets])
    assert f"threads each, on {'cuda' if program == DEVICES else 'cpu'}" in said, said
    assert not says or said.count(says) == 1, said
    assert ("  moe " in said) == (program != DEVICES), f"times of layers are measured on processors only: {said}"
    return counts.read_text().splitlines() if counts.exists() else []


def assert_close(first, second, tolerance=1e-4):
    assert set(losses(first)) == set(losses(second)), (losses(first), losses(second))
    for step, loss in losses(first).items():
        assert abs(loss - losses(second)[step]) <= tolerance * max(1, abs(loss)), (step, loss, losses(second)[step])


def main():
    prepare()
    plain = ["moe.expert=2 feed_forward, 2 gated", "moe.shared_experts=1", "train.epsilon=1e-5"]
    plain += ["train.batch_tokens=96", "train.learning_rate=5e-3"]  # small, as emulated devices are slow
    mixed = [*plain, "moe.balancer=grad_norm"]  # at the end, the selection is calibrated on 64 batches
    train(PROGRAM, "tiny.toml", "processors", f"train.steps={STEPS}", *mixed)
    all_steps = train(DEVICES, "tiny.toml", "devices", f"train.steps={STEPS}", "checkpoint.every=3", *mixed)
    assert_close("processors", "devices")
    assert losses("devices")[STEPS] < 0.8 * losses("devices")[1], "it learns nothing"
    two_steps = train(DEVICES, "tiny.toml", "two", "train.steps=2", *mixed)
    assert len(two_steps) == 2 and sorted(all_steps) == sorted(two_steps), (two_steps, all_steps)

    # One device for both ranks: messages pass through host memory.
    os.environ["CONCLAVE_CUDA_BUS_ID"] = "0000:01:00.0"
    shares = "conclave: warning: ranks 0, 1 share device 0000:01:00.0 on "
    six_steps = train(DEVICES, "tiny.toml", "shared", "train.steps=6", *plain, says=shares)
    train(PROGRAM, "tiny.toml", "processors_six", "train.steps=6", *plain)
    assert_close("processors_six", "shared")
    two_steps = train(DEVICES, "tiny.toml", "shared_two", "train.steps=2", *plain, says=shares)
    assert len(two_steps) == 2 and sorted(six_steps) == sorted(two_steps), (two_steps, six_steps)
    del os.environ["CONCLAVE_CUDA_BUS_ID"]

    # Products in bf16 give nearly the same losses.
    larger = [*plain, "train.batch_tokens=256"]
    train(PROGRAM, "tiny.toml", "processors_two", "train.steps=2", *larger)
    rounded = [*larger, "run.precision=bf16"]
    train(DEVICES, "tiny.toml", "rounded", "train.steps=2", "run.trace_step=2", *rounded, says=", on cuda, products in bf16")
    assert_close("processors_two", "rounded", 2e-2)
    events = json.loads(Path("rounded/trace-00000002.json").read_text())["traceEvents"]
    assert {(0, "forward"), (1, "backward"), (1, "communication")} <= {(event["pid"], event.get("cat")) for event in events}, events
    for step, loss in losses("processors_two").items():
        assert abs(loss - losses("rounded")[step]) > 1e-6 * loss, (step, loss, "nothing was rounded")
    train(PROGRAM, "tiny.toml", "not_rounded", "train.steps=2", *rounded, says="products in f32, as run.precision")
    assert losses("processors_two") == losses("not_rounded")

    # Too little memory for the model, and for batches.
    for mebibytes, problem in ("0", ": the device has 0 B free, and "), ("66", " more do not fit, "):
        environment = {**os.environ, "CONCLAVE_CUDA_MEMORY": mebibytes}
        advice = "; lower train.batch_tokens (and "
        run([DEVICES, "train", "tiny.toml", "--device", "cuda"], status=1, says=[problem, advice], env=environment)

    # Evaluates the checkpoint of the processors on devices.
    here = run([*RANKS, PROGRAM, "eval", "processors"])
    there = run([*RANKS, DEVICES, "eval", "processors", "--device", "cuda"])
    assert here.split('"accuracy":')[1][:8] == there.split('"accuracy":')[1][:8], (here, there)


if __name__ == "__main__":
    main()
