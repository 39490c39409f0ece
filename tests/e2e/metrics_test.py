"""The metrics of a run are lines of JSON with a falling loss, and TensorBoard shows the same values."""

import json
import os
import subprocess
import sys
from pathlib import Path

trained = Path(os.environ["CONCLAVE_TRAINED"])
check = Path(os.environ["CONCLAVE_SOURCE"], "tests/recipes/tensorboard_check.py")

lines = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
losses = [line["train/loss"] for line in lines if "train/loss" in line]
assert len(losses) == 10, f"20 steps, every second one logged, give {len(losses)} losses"
assert losses[-1] < losses[0], losses
for line in lines:
    if "moe/utilization" in line:
        assert 0 < line["moe/utilization"] <= 1, line
tests = [line for line in lines if "test/accuracy" in line]
assert tests, "no test accuracy"
for name in ("test/utilization", "test/batch_utilization"):
    assert 0 < tests[-1][name] <= 1, tests[-1]
subprocess.run([sys.executable, check, trained], check=True)
