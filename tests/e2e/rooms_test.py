"""Dependencies point one way: no room (folder of sources) includes a header of a room that needs it, directly or by others, and
none includes one of a higher top-level room."""

import graphlib
import os
import re
import shutil
from collections import defaultdict
from pathlib import Path

SOURCE = Path(os.environ["CONCLAVE_SOURCE"])
# A top-level room, and those that its sources may include.
ALLOWED = {
    "core": set(),
    "data": {"core"},
    "autograd": {"core"},
    "parallel": {"core", "autograd"},
    "federated": {"core", "autograd", "parallel"},
    "recipes": {"core", "data", "autograd", "parallel", "federated"},
}
OF_FEDERATED = "files of federated/ itself are its basis (random_source.h), and others are rounds that use its rooms"
# Includes that would be a cycle, with the reason for each.
KNOWN = {
    ("core", "core/cuda"): "a Tensor or an Arena of a device is in memory that core/cuda allocates",
    ("core/cuda", "core/kernels"): "filling memory and rounding a product's operands are kernels, too",
    ("federated", "federated/privacy"): OF_FEDERATED,
    ("federated", "federated/secure_aggregation"): OF_FEDERATED,
    ("federated", "federated/strategies"): OF_FEDERATED,
}


def includes(root):
    """{room: {room that it includes: "file includes header", one of them}}"""
    found = defaultdict(dict)
    for top in ALLOWED:
        for file in sorted((root / top).rglob("*")):
            if file.suffix not in {".h", ".cpp", ".cu"}:
                continue
            room = str(file.parent.relative_to(root))
            for header in re.findall(r'^#include "([^"]+/[^"/]+)"', file.read_text(), re.MULTILINE):
                other = str(Path(header).parent)
                if other != room:
                    found[room].setdefault(other, f"{file.relative_to(root)} includes {header}")
    return found


def mistakes(root):
    """What is against the rule, in words."""
    found, said = includes(root), []
    for room, others in found.items():
        top = room.split("/")[0]
        said += [f"{why}: {top} may include {sorted(ALLOWED[top])}"
                 for other, why in others.items() if other.split("/")[0] not in ALLOWED[top] | {top}]
    said += [f"{room} does not include {other}: remove it from KNOWN" for room, other in KNOWN if other not in found[room]]
    try:
        graphlib.TopologicalSorter(
            {room: [other for other in others if (room, other) not in KNOWN] for room, others in found.items()}).prepare()
    except graphlib.CycleError as error:
        rooms = error.args[1][::-1]
        said.append("a cycle of rooms: " + "; ".join(found[room][other] for room, other in zip(rooms, rooms[1:])))
    return said


def main():
    assert not mistakes(SOURCE), "\n".join(mistakes(SOURCE))

    for room in ALLOWED:
        shutil.copytree(SOURCE / room, Path("copy", room), ignore=shutil.ignore_patterns("*.png"))
    for name, header, mistake in (
        ("recipes/settings/recipe.h", "recipes/training/trainer.h", "recipes/settings/recipe.h includes recipes/training/trainer.h"),
        ("parallel/communicator.h", "federated/policy.h", "parallel may include ['autograd', 'core']"),
    ):
        file = Path("copy", name)
        before = file.read_text()
        file.write_text(f'{before}\n#include "{header}"\n')
        found = mistakes(Path("copy"))
        assert any(mistake in one for one in found), found
        file.write_text(before)


if __name__ == "__main__":
    main()
