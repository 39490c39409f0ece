"""Reads a run's event files with TensorBoard's own reader and compares them with metrics.jsonl.

    pip install tensorboard 'setuptools<81'
    python tests/recipes/tensorboard_check.py runs/quick

Every metric of every line must be a scalar of that step, value (rounded to float32) and time, arrays as
NAME/0, NAME/1, ..., and TensorBoard must have nothing else. The reader checks both CRCs of every record.
"""

import json
import math
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.util import tensor_util


def float32(value):
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def expected_scalars(directory):
    """{tag: [(step, time, value or None)]} from metrics.jsonl."""
    scalars = {}
    for line in (directory / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        step, time = record.pop("step"), record.pop("time")
        for name, value in record.items():
            elements = (
                {f"{name}/{i}": v for i, v in enumerate(value)} if isinstance(value, list) else {name: value}
            )
            for tag, element in elements.items():
                scalars.setdefault(tag, []).append((step, time, element))
    return scalars


def found_scalars(directory):
    """{tag: [(step, time, value)]} as TensorBoard reads the event files; it may hold scalars as tensors."""
    everything = {event_accumulator.TENSORS: 0, event_accumulator.SCALARS: 0}
    events = event_accumulator.EventAccumulator(str(directory), size_guidance=everything).Reload()
    scalars = {}
    for tag in events.Tags()["scalars"]:
        scalars[tag] = [(e.step, e.wall_time, e.value) for e in events.Scalars(tag)]
    for tag in events.Tags()["tensors"]:
        scalars[tag] = [
            (e.step, e.wall_time, tensor_util.make_ndarray(e.tensor_proto).item()) for e in events.Tensors(tag)
        ]
    return scalars


def same(expected, found):
    (step, time, value), (found_step, found_time, found_value) = expected, found
    if step != found_step or abs(time - found_time) > 1e-3:
        return False
    return not math.isfinite(found_value) if value is None else float32(value) == found_value


def main():
    directory = Path(sys.argv[1])
    expected, found = expected_scalars(directory), found_scalars(directory)
    if expected.keys() != found.keys():
        sys.exit(f"tags differ: {sorted(expected.keys() ^ found.keys())}")
    for tag, points in expected.items():
        if len(points) != len(found[tag]):
            sys.exit(f"{tag}: {len(points)} points in metrics.jsonl, {len(found[tag])} in TensorBoard")
        for ours, theirs in zip(points, found[tag]):
            if not same(ours, theirs):
                sys.exit(f"{tag}: {ours} in metrics.jsonl, {theirs} in TensorBoard")
    points = sum(map(len, expected.values()))
    print(f"{len(expected)} tags, {points} points: TensorBoard and metrics.jsonl agree")


if __name__ == "__main__":
    main()
