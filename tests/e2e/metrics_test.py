"""The metrics of a run are lines of JSON with a falling loss, and TensorBoard shows the same values. The trace of a step
has what both ranks did, each function within the part of the step that it belongs to."""

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

events = json.loads((trained / "trace-00000007.json").read_text())["traceEvents"]
spans = [event for event in events if event["ph"] == "X"]


def begin(span):
    return round(span["ts"], 3)  # a nanosecond


def end(span):
    return round(span["ts"] + span["dur"], 3)


assert {event["pid"] for event in spans} == {0, 1}, "two ranks"
for rank in 0, 1:
    mine = [span for span in spans if span["pid"] == rank]
    parts = {span["name"]: span for span in mine if span["cat"] == "step"}
    assert {"step", "next batch", "forward", "backward", "optimizer", "balancers"} <= parts.keys(), parts.keys()
    for span in mine:  # some functions are computed once more in backward
        parts_of = {"forward": ["forward", "backward"], "backward": ["backward"]}.get(span["cat"], ["step"])
        assert any(begin(parts[part]) <= begin(span) and end(span) <= end(parts[part]) for part in parts_of), (span, parts)
    around = []
    for span in sorted(mine, key=lambda span: (begin(span), -end(span))):
        while around and end(around[-1]) <= begin(span):
            around.pop()
        assert not around or end(span) <= end(around[-1]), f"one is neither within the other nor beside it: {span}, {around[-1]}"
        around.append(span)
    for name, kind, where in ("attention", "forward", ""), ("attention", "backward", ""), ("router", "forward", ".moe"):
        places = [span["args"]["in"] for span in mine if (span["name"], span["cat"]) == (name, kind)]
        assert sorted(places) == [f"layers.0{where}", f"layers.1{where}"], (name, kind, places)
    assert any(span["name"] == "wait" for span in mine), "no communication"
