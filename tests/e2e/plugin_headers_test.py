"""A header that plug-ins include does not change without a decision about CONCLAVE_PLUGIN_ABI."""

import os
import re
import shutil
import sys
from pathlib import Path

from runs import run

SOURCE = Path(os.environ["CONCLAVE_SOURCE"])
CHECK = [sys.executable, SOURCE / "scripts/plugin_headers.py"]


def main():
    run(CHECK)

    copy, header, number = [*CHECK, "--root", "copy"], Path("copy/parallel/moe/expert.h"), Path("copy/core/plugin.h")
    for room in ("autograd", "core", "federated", "parallel", "tests/plugin"):
        shutil.copytree(SOURCE / room, Path("copy", room))
    header.write_text("// Another comment.\n" + header.read_text().replace("\n}", "\n\n}"))
    run(copy)
    header.write_text(header.read_text() + "inline int added = 1;\n")
    says = ["parallel/moe/expert.h. Plug-ins that were compiled before", "core/plugin.h by one", "plugin_headers.py --update"]
    run(copy, status=1, says=says)
    run([*copy, "--update"], status=1, says=says)
    run([*copy, "--update", "--same_abi"])
    run(copy)
    header.write_text(header.read_text() + "inline int another = 1;\n")
    raised = lambda found: f"{found[1]}{int(found[2]) + 1}"
    number.write_text(re.sub(r"(define CONCLAVE_PLUGIN_ABI )(\d+)", raised, number.read_text()))
    run(copy, status=1, says=["and was ", "plugin_headers.py --update"])
    run([*copy, "--update"])
    run(copy)


if __name__ == "__main__":
    main()
