"""Compares the headers that plug-ins include with tests/plugin/headers.txt: whether their code has changed, comments and
layout apart, since CONCLAVE_PLUGIN_ABI (core/plugin.h) was last raised. The headers: those that the examples in tests/plugin
include, and what these include in turn.
    scripts/plugin_headers.py                      for a test: fails after a change, and says what to do
    scripts/plugin_headers.py --update             writes tests/plugin/headers.txt, after the number was raised
    scripts/plugin_headers.py --update --same_abi  the same if plug-ins that were compiled before survive the change, or if
                                                   no version with this number has been released"""

import argparse
import hashlib
import re
import sys
from pathlib import Path

ABI = re.compile(r"^#define CONCLAVE_PLUGIN_ABI (\d+)$", re.MULTILINE)


def headers(root):
    """Paths from the root, sorted."""
    found, waiting = set(), sorted(root.glob("tests/plugin/*.cpp"))
    while waiting:
        for name in re.findall(r'^#include "([^"]+)"', waiting.pop().read_text(), re.MULTILINE):
            if name not in found:
                found.add(name)
                waiting.append(root / name)
    return sorted(found)


def code_hash(text):
    """Of the code without comments and layout, and without the number."""
    code = re.sub(r"/\*.*?\*/|//[^\n]*", " ", ABI.sub("", text), flags=re.DOTALL)
    return hashlib.sha256(re.sub(r"\s+", " ", code).encode()).hexdigest()[:16]


def state(root):
    """(the number, {header: hash})"""
    return int(ABI.search((root / "core/plugin.h").read_text())[1]), {h: code_hash((root / h).read_text()) for h in headers(root)}


def recorded(text):
    """The same, of a text that `written` made. Other lines, which a merge may leave, are ignored."""
    number = re.search(r"^CONCLAVE_PLUGIN_ABI (\d+)$", text, re.MULTILINE)[1]
    return int(number), dict(re.findall(r"^(\S+) ([0-9a-f]{16})$", text, re.MULTILINE))


def written(abi, hashes):
    return "\n".join([f"CONCLAVE_PLUGIN_ABI {abi}", *(f"{header} {code}" for header, code in hashes.items())]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--same_abi", action="store_true")
    options = parser.parse_args()
    file = options.root / "tests/plugin/headers.txt"
    (abi, now), (old_abi, before) = state(options.root), recorded(file.read_text())
    changed = sorted(header for header in now.keys() | before.keys() if now.get(header) != before.get(header))
    if abi == old_abi and changed and not (options.update and options.same_abi):
        sys.exit(
            f"plugin_headers: changed since CONCLAVE_PLUGIN_ABI became {abi}: {', '.join(changed)}. Plug-ins that were compiled "
            "before may not survive this. Increase the number in core/plugin.h by one and run `python3 "
            "scripts/plugin_headers.py --update`; or, if they survive, run that with --same_abi."
        )
    if options.update:
        file.write_text(written(abi, now))
    elif abi != old_abi:
        sys.exit(f"plugin_headers: CONCLAVE_PLUGIN_ABI is {abi} and was {old_abi}; run `python3 scripts/plugin_headers.py --update`")


if __name__ == "__main__":
    main()
